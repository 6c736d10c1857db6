"""One initiator of the conformance tests: commands as the standards print them, answers in short.

Initiator ── GuestUnit (policy open) ── EmulatedNexus ── EmulatedUnit
"""

from __future__ import annotations

import struct

from pyproxy.scsi.command import Command, Result
from pyproxy.unit import GuestUnit
from tests.unit.emulated.initiator import said

GOOD = "00"
CONFLICT = "18"
INVALID_OPERATION_CODE = "02 05/20/00"
LBA_OUT_OF_RANGE = "02 05/21/00"
INVALID_FIELD_IN_CDB = "02 05/24/00"
MISCOMPARE = "02 0e/1d/00"
WRITE_PROTECTED = "02 07/27/02"

BLOCK = 512
BLOCKS = 32768
"""Logical blocks of the unit: 16 MiB, as of the one that the verdicts on LIO are of."""

COUNTS = range(1, 257)
"""How many blocks a command moves where the tests try them all."""

DPO, FUA = 0x10, 0x08


def cdb(opcode: int, length: int, lba: int, blocks: int, flags: int = 0, group: int = 0) -> bytes:
    """A CDB of 6, 10, 12 or 16 bytes with an LBA and a length; ``flags`` is byte 1, ``group`` the group number."""
    if length == 6:
        return struct.pack(">IBx", opcode << 24 | lba, blocks & 0xFF)
    layout = {10: ">BBIBHx", 12: ">BBIIBx", 16: ">BBQIBx"}[length]
    last = (group, blocks) if length == 10 else (blocks, group)
    return struct.pack(layout, opcode, flags, lba, *last)


def far_beyond(length: int) -> tuple[int, int]:
    """The two addresses far beyond the end that the tests use: the highest bit, and every bit of the field."""
    bits = 64 if length == 16 else 32
    return 1 << bits - 1, (1 << bits) - 1


class Initiator:
    """An initiator port whose pending unit attentions are reported."""

    def __init__(self, unit: GuestUnit) -> None:
        self.unit = unit
        self.drain()

    def send(self, cdb: bytes | str, data_out: bytes = b"", data_in: int = 0) -> Result:
        raw = bytes.fromhex(cdb) if isinstance(cdb, str) else cdb
        return self.unit.execute(Command(raw, data_out=data_out, data_in=data_in))

    def says(self, cdb: bytes | str, data_out: bytes = b"", data_in: int = 0) -> str:
        """``00``, ``18``, or ``02 05/24/00``: status and, with CHECK CONDITION, sense key, ASC and ASCQ."""
        return said(self.send(cdb, data_out, data_in))

    def fetch(self, cdb: bytes | str, count: int = 0xFFFF) -> bytes:
        """The data of a command that must end with GOOD."""
        result = self.send(cdb, data_in=count)
        assert said(result) == GOOD
        return result.data

    def drain(self) -> list[str]:
        """Report all pending unit attentions by TEST UNIT READY; which they were."""
        seen = []
        while (answer := self.says(bytes(6))).startswith("02 06/"):
            seen.append(answer[3:])
        return seen

    # --- the medium ---

    def read(self, lba: int, blocks: int) -> bytes:
        data = self.fetch(cdb(0x88, 16, lba, blocks), blocks * BLOCK)
        assert len(data) == blocks * BLOCK
        return data

    def write(self, lba: int, data: bytes) -> None:
        assert self.says(cdb(0x8A, 16, lba, len(data) // BLOCK), data) == GOOD

    # --- what the unit says of itself ---

    def inquire(self, page: int | None = None, count: int = 0xFFFF) -> bytes:
        """Standard INQUIRY data, or a vital product data page."""
        return self.fetch(struct.pack(">BBBHx", 0x12, page is not None, page or 0, count), count)

    def mode_page(self, page: int, count: int = 255) -> bytes:
        """What MODE SENSE (6) returns for the current values of a page (3Fh: of all), without block descriptors."""
        return self.fetch(struct.pack(">BBBBBx", 0x1A, 0x08, page, 0, count), count)

    def supports_dpo_and_fua(self) -> bool:
        """DPOFUA of the device-specific parameter (SBC-4 6.5.1)."""
        return bool(self.mode_page(0x3F)[2] & 0x10)

    def usage(self, opcode: int) -> bytes:
        """Which bits of a command's CDB are used: REPORT SUPPORTED OPERATION CODES of one command (SPC-4 6.35.3)."""
        data = self.fetch(f"a30c 01 {opcode:02x} 0000 0000ffff 0000")
        assert data[1] & 0x07 == 0x03, f"operation code {opcode:02X}h is not supported"
        return data[4 : 4 + int.from_bytes(data[2:4])]

    # --- reservations ---

    def persistent_reserve_out(self, action: int, *, key: int = 0, sa_key: int = 0, kind: int = 0) -> str:
        body = struct.pack(">QQ8x", key, sa_key)
        return self.says(struct.pack(">BBB2xIx", 0x5F, action, kind, len(body)), body)

    def register(self, key: int) -> None:
        """REGISTER AND IGNORE EXISTING KEY."""
        assert self.persistent_reserve_out(0x06, sa_key=key) == GOOD

    def unregister(self, key: int) -> None:
        assert self.persistent_reserve_out(0x00, key=key) == GOOD

    def reserve(self, key: int, kind: int) -> None:
        assert self.persistent_reserve_out(0x01, key=key, kind=kind) == GOOD

    def release(self, key: int, kind: int) -> None:
        assert self.persistent_reserve_out(0x02, key=key, kind=kind) == GOOD

    def keys(self) -> tuple[int, list[int]]:
        """READ KEYS: PRGENERATION and the registered keys."""
        data = self.fetch("5e00 0000000000 4000 00", 0x4000)
        generation, length = struct.unpack_from(">II", data)
        assert length == len(data) - 8
        return generation, [key for (key,) in struct.iter_unpack(">Q", data[8:])]

    def reservation(self) -> tuple[int, int] | None:
        """READ RESERVATION: key and type, None when there is none."""
        data = self.fetch("5e01 0000000000 4000 00", 0x4000)
        if data[4:8] == bytes(4):
            return None
        assert (len(data), data[4:8], data[21] >> 4) == (24, bytes([0, 0, 0, 0x10]), 0)
        return struct.unpack_from(">Q", data, 8)[0], data[21] & 0x0F
