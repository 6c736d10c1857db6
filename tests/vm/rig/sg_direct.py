"""SG_IO with nothing of pyproxy in between: the witness that tells the tests what the device really answers."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

SG_IO = 0x2285
SG_DXFER_NONE, SG_DXFER_TO_DEV, SG_DXFER_FROM_DEV = -1, -2, -3
SENSE_SIZE = 96
# struct sg_io_hdr of <scsi/sg.h> on 64-bit, with its padding.
_HEADER = struct.Struct("=iiBBHIQQQIIi4xQBBBBHHiIIxxxx")


@dataclass(frozen=True, slots=True)
class Reply:
    """What the kernel filled in: SCSI status, sense, host status, and the bytes received."""

    status: int
    sense: bytes
    data: bytes
    host_status: int

    @property
    def good(self) -> bool:
        return self.status == 0 and self.host_status == 0

    @property
    def key_asc_ascq(self) -> tuple[int, int, int] | None:
        """Sense key and additional sense code of fixed or descriptor sense, None without any."""
        if len(self.sense) < 4:
            return None
        if self.sense[0] & 0x7F in (0x72, 0x73):
            return self.sense[1] & 0xF, self.sense[2], self.sense[3]
        if len(self.sense) < 14:
            return None
        return self.sense[2] & 0xF, self.sense[12], self.sense[13]


def past_attentions(send: object) -> Reply:
    """Call ``send`` until its reply is no unit attention, 16 times at most; the last reply."""
    assert callable(send)
    for _ in range(16):
        reply: Reply = send()
        if reply.status != 2 or reply.key_asc_ascq is None or reply.key_asc_ascq[0] != 6:
            break
    return reply


class SgNode:
    """One /dev/sg* or /dev/sd* node, opened once."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_NONBLOCK)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def execute(self, cdb: bytes, *, data_out: bytes = b"", data_in: int = 0, timeout_ms: int = 30_000) -> Reply:
        """Send one command; OSError when the kernel does not take it."""
        command = ctypes.create_string_buffer(bytes(cdb), len(cdb))
        sense = ctypes.create_string_buffer(SENSE_SIZE)
        size = len(data_out) or data_in
        buffer = ctypes.create_string_buffer(bytes(data_out), size) if data_out else ctypes.create_string_buffer(size)
        direction = SG_DXFER_TO_DEV if data_out else SG_DXFER_FROM_DEV if data_in else SG_DXFER_NONE
        header = bytearray(
            _HEADER.pack(
                *(ord("S"), direction, len(cdb), SENSE_SIZE, 0, size),
                *(ctypes.addressof(buffer), ctypes.addressof(command), ctypes.addressof(sense)),
                *(timeout_ms, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
            )
        )
        fcntl.ioctl(self._fd, SG_IO, header)
        fields = _HEADER.unpack(header)
        status, sense_length, host_status, residual = fields[13], fields[16], fields[17], fields[19]
        received = buffer.raw[: max(0, size - residual)] if data_in else b""
        return Reply(status, sense.raw[:sense_length], received, host_status)

    def persistent_reserve_in(self, action: int, allocation_length: int = 8192) -> Reply:
        cdb = struct.pack(">BB5xHx", 0x5E, action, allocation_length)
        return self.execute(cdb, data_in=allocation_length)

    def persistent_reserve_out(
        self, action: int, *, key: int = 0, sa_key: int = 0, type_: int = 0, flags: int = 0
    ) -> Reply:
        cdb = struct.pack(">BBB2xIx", 0x5F, action, type_, 24)
        return self.execute(cdb, data_out=struct.pack(">QQ4xB3x", key, sa_key, flags))

    def keys(self) -> list[int]:
        """READ KEYS, in the device's order; raises OSError when it does not answer."""
        reply = self.drained(lambda: self.persistent_reserve_in(0))
        length = struct.unpack_from(">I", reply.data, 4)[0]
        return [key for (key,) in struct.iter_unpack(">Q", reply.data[8 : 8 + length])]

    def reservation(self) -> tuple[int, int] | None:
        """READ RESERVATION: (key, type), or None when nothing is reserved."""
        reply = self.drained(lambda: self.persistent_reserve_in(1))
        if struct.unpack_from(">I", reply.data, 4)[0] == 0:
            return None
        return struct.unpack_from(">Q", reply.data, 8)[0], reply.data[21] & 0xF

    def write(self, lba: int = 0, data: bytes = bytes(512)) -> Reply:
        return self.execute(struct.pack(">BxIxHx", 0x2A, lba, len(data) // 512), data_out=data)

    def read(self, lba: int = 0, blocks: int = 1) -> Reply:
        return self.execute(struct.pack(">BxIxHx", 0x28, lba, blocks), data_in=blocks * 512)

    def drain_unit_attentions(self, limit: int = 16) -> list[tuple[int, int, int]]:
        """TEST UNIT READY until it is no longer answered with a unit attention; what was reported."""
        seen = []
        for _ in range(limit):
            reply = self.execute(bytes(6))
            code = reply.key_asc_ascq
            if reply.status != 2 or code is None or code[0] != 6:
                return seen
            seen.append(code)
        raise OSError(errno.EIO, f"{self.path} reports one unit attention after the other: {seen}")

    def drained(self, send: object) -> Reply:
        """Call ``send`` until its reply is no unit attention; raises OSError unless it is GOOD."""
        reply = past_attentions(send)
        if not reply.good:
            raise OSError(errno.EIO, f"{self.path} answered status {reply.status:02X}h {reply.key_asc_ascq}")
        return reply
