"""Bounded reads of untrusted bytes and checked writes of fields; every SCSI codec goes through here.

All multi-byte fields are big-endian (SPC-4 3.6.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from pyproxy.scsi.errors import DecodeError

if TYPE_CHECKING:
    from pyproxy.scsi.sense import Sense

Buffer: TypeAlias = bytes | bytearray | memoryview

COMPUTED: Final = -1
"""For a length field of a value: take it from the content. The value then shows the computed length."""


class Cursor:
    """Reads fields in order and never past the end.

    ``what`` names the structure in error messages. ``sense`` is attached to each DecodeError, for parameter
    lists that a device server checks. The bytes are copied once, so that a guest cannot change them between
    two reads.
    """

    __slots__ = ("_base", "_data", "_position", "sense", "what")

    def __init__(self, data: Buffer, what: str, *, sense: Sense | None = None, base: int = 0) -> None:
        self._data = bytes(data)
        self._position = 0
        self._base = base
        self.what = what
        self.sense = sense

    @property
    def offset(self) -> int:
        """Offset in bytes of the next read, counted from the start of the outermost structure."""
        return self._base + self._position

    @property
    def remaining(self) -> int:
        """How many bytes are left to read."""
        return len(self._data) - self._position

    def error(self, message: str) -> DecodeError:
        """Build (not raise) a DecodeError about this structure."""
        return DecodeError(f"{self.what}: {message}", sense=self.sense)

    def take(self, size: int, field: str) -> bytes:
        """Return the next ``size`` bytes; raises DecodeError when fewer are left."""
        if size < 0 or size > self.remaining:
            raise self.error(f"{field} at offset {self.offset} needs {size} bytes, {self.remaining} are left")
        start = self._position
        self._position = start + size
        return self._data[start : self._position]

    def take_at_most(self, size: int) -> bytes:
        """Return the next ``size`` bytes, or what is left of them where the data is cut short."""
        start = self._position
        self._position = min(start + max(size, 0), len(self._data))
        return self._data[start : self._position]

    def skip(self, size: int, field: str = "reserved bytes") -> None:
        """Pass over ``size`` bytes; raises DecodeError when fewer are left."""
        self.take(size, field)

    def u8(self, field: str) -> int:
        """Read one byte."""
        return self.take(1, field)[0]

    def u16(self, field: str) -> int:
        """Read two bytes, big-endian."""
        return int.from_bytes(self.take(2, field))

    def u32(self, field: str) -> int:
        """Read four bytes, big-endian."""
        return int.from_bytes(self.take(4, field))

    def u64(self, field: str) -> int:
        """Read eight bytes, big-endian."""
        return int.from_bytes(self.take(8, field))


def unsigned(value: int, size: int, field: str) -> bytes:
    """Encode ``value`` as ``size`` bytes, big-endian; raises ValueError when it does not fit."""
    return bits(value, 8 * size, field).to_bytes(size)


def bits(value: int, width: int, field: str) -> int:
    """Return ``value`` if it fits ``width`` bits; raises ValueError otherwise."""
    if not 0 <= value < 1 << width:
        raise ValueError(f"{field} is {value}, expected 0 to {(1 << width) - 1} ({width} bits)")
    return value


def fixed_text(value: str, size: int, field: str) -> bytes:
    """Encode left-aligned text padded with spaces to ``size`` bytes (SPC-4 4.3.1); ValueError when it does not fit."""
    try:
        raw = value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"{field} {value!r} has characters outside ISO 8859-1, expected ASCII") from None
    if len(raw) > size:
        raise ValueError(f"{field} {value!r} is {len(raw)} bytes long, expected at most {size}")
    return raw.ljust(size, b" ")
