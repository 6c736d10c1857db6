"""Parameter data of REPORT LUNS (SPC-4 6.33) and the LUN field (SAM-5 4.7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pyproxy.scsi.cursor import COMPUTED, Buffer, Cursor, bits, unsigned
from pyproxy.scsi.errors import DecodeError

_HEADER_SIZE = 8
_LUN_SIZE = 8
_PERIPHERAL_LIMIT = 1 << 8
_FLAT_LIMIT = 1 << 14
_EXTENDED_FLAT = 0xD2


@dataclass(frozen=True, slots=True)
class ReportLuns:
    """REPORT LUNS: ``luns`` as 8-byte LUN fields; ``list_length`` in bytes, never reduced by truncation."""

    luns: tuple[bytes, ...]
    list_length: int = COMPUTED

    def __post_init__(self) -> None:
        for lun in self.luns:
            if len(lun) != _LUN_SIZE:
                raise ValueError(f"LUN field is {len(lun)} bytes long, expected 8")
        if self.list_length == COMPUTED:
            object.__setattr__(self, "list_length", _LUN_SIZE * len(self.luns))

    @property
    def complete(self) -> bool:
        """Whether every announced LUN was received."""
        return len(self.luns) >= self.list_length // _LUN_SIZE

    @property
    def allocation_length(self) -> int:
        """Allocation length in bytes that fetches everything announced."""
        return _HEADER_SIZE + self.list_length

    def encode(self) -> bytes:
        """Return the header and the LUN fields."""
        return unsigned(self.list_length, 4, "LUN list length") + bytes(4) + b"".join(self.luns)

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read whole or truncated parameter data; DecodeError when not even the 8-byte header is there."""
        cursor = Cursor(data, "REPORT LUNS parameter data")
        list_length = cursor.u32("LUN list length")
        cursor.skip(4)
        body = cursor.take_at_most(list_length)
        end = len(body) - _LUN_SIZE + 1
        return cls(tuple(body[at : at + _LUN_SIZE] for at in range(0, end, _LUN_SIZE)), list_length)


def int_to_lun(number: int) -> bytes:
    """Return the 8-byte LUN field of a single-level LUN (SAM-5 4.7.7).

    Peripheral addressing below 256, flat below 16384, else extended flat; ValueError from 16777216 on.
    """
    bits(number, 24, "LUN")
    if number < _PERIPHERAL_LIMIT:
        return bytes([0, number, 0, 0, 0, 0, 0, 0])
    if number < _FLAT_LIMIT:
        return (0x4000 | number).to_bytes(2) + bytes(6)
    return bytes([_EXTENDED_FLAT]) + number.to_bytes(3) + bytes(4)


def lun_to_int(lun: Buffer) -> int:
    """Return the number of a single-level LUN in peripheral (bus 0), flat or extended flat addressing.

    Raises DecodeError for other methods, for further levels and for well known logical units (SAM-5 4.7).
    """
    cursor = Cursor(lun, "LUN field")
    if cursor.remaining != _LUN_SIZE:
        raise cursor.error(f"got {cursor.remaining} bytes, expected 8")
    raw = cursor.take(_LUN_SIZE, "LUN")
    number, lower_levels = _single_level(raw)
    if number is None or any(lower_levels):
        raise DecodeError(f"LUN field {raw.hex()} is not a single-level LUN in peripheral (bus 0) or flat addressing")
    return number


def _single_level(raw: bytes) -> tuple[int | None, bytes]:
    if raw[0] == 0x00:
        return raw[1], raw[2:]
    if raw[0] & 0xC0 == 0x40:
        return int.from_bytes(raw[:2]) & 0x3FFF, raw[2:]
    if raw[0] == _EXTENDED_FLAT:
        return int.from_bytes(raw[1:4]), raw[4:]
    return None, b""
