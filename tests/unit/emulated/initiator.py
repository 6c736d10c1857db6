"""An initiator for tests: builds CDBs byte by byte, as the standard prints them, and shows answers in short."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from pyproxy.device.emulated import EmulatedNexus, EmulatedUnit
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.transport_id import TransportId

GOOD = "00"
CONFLICT = "18"

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, IGNORE, MOVE, REPLACE = range(9)


def said(result: Result) -> str:
    """``00``, ``18``, or ``02 05/24/00``: status and, with CHECK CONDITION, sense key, ASC and ASCQ."""
    assert result.host_status == 0, result
    if not result.sense:
        return f"{result.status:02x}"
    sense = result.decoded_sense
    assert sense is not None
    return f"{result.status:02x} {sense.key:02x}/{sense.asc:02x}/{sense.ascq:02x}"


class Initiator:
    """One nexus, its power on attention drained."""

    def __init__(self, nexus: EmulatedNexus) -> None:
        self.nexus = nexus
        self.drain()

    def send(self, cdb: str, data_out: bytes = b"", data_in: int = 0) -> Result:
        return self.nexus.execute(Command(bytes.fromhex(cdb), data_out=data_out, data_in=data_in))

    def says(self, cdb: str, data_out: bytes = b"", data_in: int = 0) -> str:
        return said(self.send(cdb, data_out, data_in))

    def fetch(self, cdb: str, count: int = 65535) -> bytes:
        result = self.send(cdb, data_in=count)
        assert said(result) == GOOD
        return result.data

    def drain(self) -> list[str]:
        """Report all pending unit attentions by TEST UNIT READY; which they were."""
        seen = []
        while (answer := self.says("000000000000")).startswith("02 06/"):
            seen.append(answer[3:])
        return seen

    def out(
        self,
        action: int,
        key: int = 0,
        sa_key: int = 0,
        kind: int = 0,
        *,
        scope: int = 0,
        flags: int = 0,
        more: bytes = b"",
    ) -> str:
        body = struct.pack(">QQ4xB3x", key, sa_key, flags) + more
        cdb = struct.pack(">BBB2xIx", 0x5F, action, scope << 4 | kind, len(body))
        return said(self.nexus.execute(Command(cdb, data_out=body)))

    def move(self, key: int, sa_key: int, to: EmulatedNexus, *, unreg: bool = False, aptpl: bool = False) -> str:
        name = to.initiator.encode()
        body = struct.pack(">QQxBHI", key, sa_key, unreg << 1 | aptpl, to.rtpi, len(name)) + name
        cdb = struct.pack(">BBB2xIx", 0x5F, MOVE, 0, len(body))
        return said(self.nexus.execute(Command(cdb, data_out=body)))

    def keys(self) -> list[int]:
        data = self.fetch("5e00 0000000000 ffff 00")
        assert struct.unpack_from(">I", data, 4)[0] == len(data) - 8
        return sorted(struct.unpack_from(f">{(len(data) - 8) // 8}Q", data, 8))

    def generation(self) -> int:
        return int(struct.unpack_from(">I", self.fetch("5e00 0000000000 ffff 00"))[0])

    def reservation(self) -> tuple[int, int] | None:
        """Key and type, None without a reservation."""
        data = self.fetch("5e01 0000000000 ffff 00")
        if data[4:8] == bytes(4):
            assert len(data) == 8
            return None
        assert data[4:8] == bytes([0, 0, 0, 0x10])
        return struct.unpack_from(">Q", data, 8)[0], data[21]

    def write(self) -> str:
        return self.says("2a 00 00000000 00 0001 00", b"\xa5" * 512)

    def read(self) -> str:
        return self.says("28 00 00000000 00 0001 00", data_in=512)


def initiators(unit: EmulatedUnit, count: int = 3) -> list[Initiator]:
    return [Initiator(unit.nexus(name(number))) for number in range(count)]


def name(number: int) -> TransportId:
    return TransportId.parse(f"naa.50014050000000{number:02x}")


def drained(all_of: Iterable[Initiator]) -> list[list[str]]:
    return [one.drain() for one in all_of]
