"""The 8-byte LUN field of virtio-scsi (virtio 1.2, 5.6.6.1): a target and one of its logical units, or REPORT LUNS.

01  target  40|lun>>8  lun  00 00 00 00     single level; byte 2 may be 00 for LUNs below 256
C1  01      00 ...                          the REPORT LUNS well known logical unit
"""

from __future__ import annotations

from typing import Final, NamedTuple

FIELD_SIZE: Final = 8
LARGEST_TARGET: Final = 255
LARGEST_LUN: Final = 16383

REPORT_LUNS_LUN: Final = 0xC101
"""Stands for the well known logical unit in an Address; no other LUN is that large."""

_SINGLE_LEVEL: Final = 0x01
_FLAT: Final = 0x40
_METHOD: Final = 0xC0
_WELL_KNOWN_FIELD: Final = bytes([0xC1, 0x01, 0, 0, 0, 0, 0, 0])


class Address(NamedTuple):
    """Where a request goes within its controller."""

    target: int
    lun: int


WELL_KNOWN: Final = Address(0, REPORT_LUNS_LUN)
"""The REPORT LUNS well known logical unit, which belongs to no target; 0 stands for none."""


def decode_lun(field: bytes) -> Address | None:
    """Read a request's LUN field; None for a form that addresses nothing (answered BAD_TARGET)."""
    if len(field) != FIELD_SIZE:
        raise ValueError(f"a LUN field has {FIELD_SIZE} bytes, got {len(field)}")
    if field == _WELL_KNOWN_FIELD:
        return WELL_KNOWN
    if field[0] != _SINGLE_LEVEL or any(field[4:]):
        return None
    method = field[2] & _METHOD
    if method == _FLAT:
        return Address(field[1], (field[2] & ~_METHOD) << 8 | field[3])
    return Address(field[1], field[3]) if field[2] == 0 else None


def encode_lun(address: Address) -> bytes:
    """Return a request's LUN field, always in flat addressing as Linux has it."""
    if address == WELL_KNOWN:
        return _WELL_KNOWN_FIELD
    check_address(address)
    return bytes([_SINGLE_LEVEL, address.target, _FLAT | address.lun >> 8, address.lun & 0xFF, 0, 0, 0, 0])


def encode_event_lun(address: Address) -> bytes:
    """Return an event's LUN field.

    Linux takes bytes 2 and 3 for the number as REPORT LUNS has it, so a LUN below 256 is without the 40h.
    """
    check_address(address)
    method = _FLAT if address.lun > 0xFF else 0
    return bytes([_SINGLE_LEVEL, address.target, method | address.lun >> 8, address.lun & 0xFF, 0, 0, 0, 0])


def check_address(address: Address) -> None:
    """Insist on a target and a LUN that the field has room for; raises ValueError."""
    if not 0 <= address.target <= LARGEST_TARGET:
        raise ValueError(f"target {address.target}, expected 0 to {LARGEST_TARGET}")
    if not 0 <= address.lun <= LARGEST_LUN:
        raise ValueError(f"LUN {address.lun}, expected 0 to {LARGEST_LUN}")
