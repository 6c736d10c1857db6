"""How large a logical unit is, asked of the device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyproxy.device.base import Device, UnexpectedReplyError, describe_failure, execute_past_attentions
from pyproxy.scsi.capacity import ReadCapacity10, ReadCapacity16
from pyproxy.scsi.command import DEFAULT_TIMEOUT_MS, Command
from pyproxy.scsi.sense import INVALID_COMMAND_OPERATION_CODE, INVALID_FIELD_IN_CDB, Sense

_READ_CAPACITY_10: Final = bytes([0x25, *bytes(9)])
_READ_CAPACITY_16: Final = bytes([0x9E, 0x10, *bytes(8), 0, 0, 0, 32, 0, 0])
_UNKNOWN: Final = (INVALID_COMMAND_OPERATION_CODE.code, INVALID_FIELD_IN_CDB.code)


@dataclass(frozen=True, slots=True)
class Capacity:
    """``size`` and ``block_size`` in bytes."""

    size: int
    block_size: int

    def __str__(self) -> str:
        return f"{self.size} bytes in blocks of {self.block_size}"


def read_capacity(
    device: Device,
    on_unit_attention: Callable[[Sense], None] | None = None,
    *,
    timeout_ms: int = DEFAULT_TIMEOUT_MS,
) -> Capacity:
    """READ CAPACITY (16), or (10) where the device knows no other (SBC-4 5.20, 5.21).

    Each unit attention eaten goes to ``on_unit_attention``. Raises UnexpectedReplyError, DecodeError, TransportError.
    """
    long = Command(_READ_CAPACITY_16, data_in=32, timeout_ms=timeout_ms)
    result = execute_past_attentions(device, long, on_unit_attention)
    if result.good:
        found = ReadCapacity16.decode(result.data)
        return Capacity(found.size, found.block_size)
    sense = result.decoded_sense
    if sense is None or sense.code not in _UNKNOWN:
        raise UnexpectedReplyError(f"{device.name}: READ CAPACITY (16) ended with {describe_failure(result)}")
    short = Command(_READ_CAPACITY_10, data_in=8, timeout_ms=timeout_ms)
    result = execute_past_attentions(device, short, on_unit_attention)
    if not result.good:
        raise UnexpectedReplyError(f"{device.name}: READ CAPACITY (10) ended with {describe_failure(result)}")
    small = ReadCapacity10.decode(result.data)
    return Capacity((small.last_lba + 1) * small.block_size, small.block_size)
