"""Whether two hosts see the same logical unit: the designators of VPD page 83h compared (SPC-4 7.8.6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote_from_bytes

from pyproxy.scsi.cursor import Buffer
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.vpd import Association, Designator, DesignatorType, DeviceIdentification

UNIDENTIFIED: Final = "unidentified"
"""Name of a logical unit that has no designator at all."""

_NAA_SIZES: Final = {0x2: 8, 0x3: 8, 0x5: 8, 0x6: 16}
_NAA_LOCALLY_ASSIGNED = 0x3
_EUI_SIZES: Final = (8, 12, 16)
_VENDOR_ID_SIZE = 8
_SAFE: Final = "._-:"


@dataclass(frozen=True, slots=True)
class _Name:
    """A designator brought into comparable form: ``kind`` is what may be compared, ``rank`` how good it is."""

    rank: int
    kind: str
    value: str
    unique: bool

    def __str__(self) -> str:
        return f"{self.kind.partition('/')[0]}.{self.value}"


@dataclass(frozen=True, slots=True)
class LogicalUnitIdentity:
    """The designators of one logical unit; only those associated with the logical unit itself count."""

    designators: tuple[Designator, ...]

    @classmethod
    def from_vpd83(cls, data: Buffer) -> Self:
        """Read a whole VPD page 83h; DecodeError when it is cut or malformed, since half a name may be another's."""
        page = DeviceIdentification.decode(data)
        if not page.complete:
            size = len(bytes(data))
            raise DecodeError(f"VPD page 83h: {size} bytes are not the whole page; read as much as it announces")
        return cls(page.designators)

    @property
    def name(self) -> str:
        """The best designator as text: ``naa.HEX``, ``eui.HEX``, ``uuid.HEX``, ``scsi.NAME``, ``t10.VENDOR...``.

        Bytes outside letters, digits and ``._-:`` are percent-encoded, so different units have different names.
        """
        return next((str(name) for name in self._names()), UNIDENTIFIED)

    @property
    def unique(self) -> bool:
        """Whether some designator is world-wide unique."""
        return any(name.unique for name in self._names())

    def matches(self, other: LogicalUnitIdentity) -> bool:
        """Whether both are the same logical unit.

        They must share a world-wide unique designator, and of no kind of unique designator that both
        have may all differ: a clone that kept one name betrays itself by another.
        """
        mine, theirs = self._unique_by_kind(), other._unique_by_kind()
        common = mine.keys() & theirs.keys()
        return bool(common) and all(mine[kind] & theirs[kind] for kind in common)

    def _names(self) -> list[_Name]:
        """Usable designators of the logical unit, best first, in an order that does not depend on the device's."""
        found = (_read(one) for one in self.designators if one.association == Association.LOGICAL_UNIT)
        return sorted((name for name in found if name is not None), key=lambda name: (name.rank, name.value))

    def _unique_by_kind(self) -> dict[str, set[str]]:
        kinds: dict[str, set[str]] = {}
        for name in self._names():
            if name.unique:
                kinds.setdefault(name.kind, set()).add(name.value)
        return kinds


def _read(designator: Designator) -> _Name | None:
    """Bring a designator into comparable form; None where it is malformed, blank, or names no unit."""
    value = designator.value
    match designator.type:
        case DesignatorType.NAA:
            return _read_naa(value)
        case DesignatorType.EUI_64 if len(value) in _EUI_SIZES and any(value):
            return _Name(3, f"eui/{len(value)}", value.hex(), unique=True)
        case DesignatorType.UUID if len(value) == 18 and value[0] >> 4 == 1 and any(value[2:]):
            return _Name(4, "uuid", value[2:].hex(), unique=True)
        case DesignatorType.SCSI_NAME_STRING:
            folded = value.rstrip(b"\0 ").decode(errors="surrogateescape").casefold()
            text = folded.encode(errors="surrogateescape")
            return _Name(5, "scsi", quote_from_bytes(text, safe=_SAFE), unique=True) if text else None
        case DesignatorType.T10_VENDOR_ID:
            text = value.rstrip(b"\0 ")
            # Without a vendor specific part every unit of that vendor would be one.
            unique = bool(value[_VENDOR_ID_SIZE:].strip(b"\0 "))
            return _Name(6 if unique else 8, "t10", quote_from_bytes(text, safe=_SAFE), unique) if text else None
        case DesignatorType.MD5_LOGICAL_UNIT if len(value) == 16:
            return _Name(8, "md5", value.hex(), unique=False)
        case DesignatorType.VENDOR_SPECIFIC:
            text = value.rstrip(b"\0 ")
            return _Name(9, "vendor", quote_from_bytes(text, safe=_SAFE), unique=False) if text else None
    return None


def _read_naa(value: bytes) -> _Name | None:
    if not value:
        return None
    naa = value[0] >> 4
    blank = not any(value[1:]) and not value[0] & 0x0F
    if _NAA_SIZES.get(naa) != len(value) or blank:
        return None
    if naa == _NAA_LOCALLY_ASSIGNED:
        return _Name(7, "naa/3", value.hex(), unique=False)
    return _Name({0x6: 0, 0x5: 1, 0x2: 2}[naa], f"naa/{naa:x}", value.hex(), unique=True)
