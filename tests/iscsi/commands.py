"""Commands as the standards print them, for the disk of the test target."""

from __future__ import annotations

import struct

from pyproxy.device.base import Device
from pyproxy.scsi.command import Command, Result

BLOCK = 512
TEST_UNIT_READY = Command(bytes(6))
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT = range(5)
CONFLICT = 0x18


def read(lba: int, blocks: int, *, timeout_ms: int = 60_000) -> Command:
    """READ (10)."""
    return Command(struct.pack(">BxIxHx", 0x28, lba, blocks), data_in=blocks * BLOCK, timeout_ms=timeout_ms)


def write(lba: int, data: bytes | list[bytes | memoryview], *, timeout_ms: int = 60_000) -> Command:
    """WRITE (10)."""
    size = len(data) if isinstance(data, bytes) else sum(len(part) for part in data)
    return Command(struct.pack(">BxIxHx", 0x2A, lba, size // BLOCK), data, timeout_ms=timeout_ms)


def pr_out(action: int, *, key: int = 0, sa_key: int = 0, kind: int = 0) -> Command:
    """PERSISTENT RESERVE OUT."""
    return Command(struct.pack(">BBB2xIx", 0x5F, action, kind, 24), struct.pack(">QQ8x", key, sa_key))


def keys(device: Device) -> list[int]:
    """READ KEYS."""
    result = device.execute(Command(bytes.fromhex("5e00 0000000000 1000 00"), data_in=0x1000))
    assert result.good
    (length,) = struct.unpack_from(">I", result.data, 4)
    return [key for (key,) in struct.iter_unpack(">Q", result.data[8 : 8 + length])]


def attention(result: Result) -> str | None:
    """``29/00`` of a unit attention; None for anything else."""
    sense = result.decoded_sense
    if sense is None or not sense.is_unit_attention:
        return None
    return f"{sense.asc:02x}/{sense.ascq:02x}"
