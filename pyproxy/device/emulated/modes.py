"""Mode pages of the unit and the commands MODE SENSE and MODE SELECT (SPC-4 6.11 to 6.14, 7.5; SBC-4 6.5)."""

from __future__ import annotations

from typing import Final

from pyproxy.device.emulated.call import Call
from pyproxy.device.emulated.outcome import check_condition
from pyproxy.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    MODE_PARAMETERS_CHANGED,
    PARAMETER_LIST_LENGTH_ERROR,
    SAVING_PARAMETERS_NOT_SUPPORTED,
)

_READ_WRITE_ERROR_RECOVERY: Final = 0x01
_CACHING: Final = 0x08
_CONTROL: Final = 0x0A
_INFORMATIONAL_EXCEPTIONS: Final = 0x1C
_ALL_PAGES: Final = 0x3F
_ALL_SUBPAGES: Final = 0xFF

_CURRENT, _CHANGEABLE, _DEFAULT, _SAVED = range(4)

_DEFAULTS: Final = {
    _READ_WRITE_ERROR_RECOVERY: bytes.fromhex("010ac0000000000000000000"),  # AWRE, ARRE
    _CACHING: bytes.fromhex("0812" + "00" * 18),
    _CONTROL: bytes.fromhex("0a0a001000400000ffff0000"),  # unrestricted reordering, TAS
    _INFORMATIONAL_EXCEPTIONS: bytes.fromhex("1c0a08000000000000000000"),  # DEXCPT
}
_MASKS: Final = {
    _READ_WRITE_ERROR_RECOVERY: bytes(12),
    _CACHING: bytes.fromhex("000004" + "00" * 17),  # WCE
    _CONTROL: bytes.fromhex("000004003840000000000000"),  # D_SENSE, UA_INTLCK_CTRL and SWP, TAS
    _INFORMATIONAL_EXCEPTIONS: bytes(12),
}

_WRITE_PROTECT: Final = 0x80
_DPOFUA: Final = 0x10
_WCE: Final = 0x04
_UA_INTLCK_RESERVED: Final = 0x10


class ModePages:
    """Current values, shared by all nexuses; nothing can be saved.

    ``write_cache`` is the default of WCE: whether a write may be acknowledged before it is on stable storage.
    """

    def __init__(self, *, write_cache: bool) -> None:
        self._defaults = {code: bytes(page) for code, page in _DEFAULTS.items()}
        if write_cache:
            caching = bytearray(self._defaults[_CACHING])
            caching[2] |= _WCE
            self._defaults[_CACHING] = bytes(caching)
        self._current = dict(self._defaults)

    @property
    def wce(self) -> bool:
        """Write cache enabled."""
        return bool(self._current[_CACHING][2] & _WCE)

    @property
    def d_sense(self) -> bool:
        """Sense data in descriptor format."""
        return bool(self._current[_CONTROL][2] & 0x04)

    @property
    def ua_intlck_ctrl(self) -> int:
        """UA_INTLCK_CTRL: 0 a reported unit attention is cleared; 2 and 3 only REQUEST SENSE clears it."""
        return self._current[_CONTROL][4] >> 4 & 0x03

    @property
    def swp(self) -> bool:
        """Software write protect."""
        return bool(self._current[_CONTROL][4] & 0x08)

    @property
    def tas(self) -> bool:
        """Commands aborted by another nexus end with TASK ABORTED."""
        return bool(self._current[_CONTROL][5] & 0x40)

    def reset(self) -> None:
        """Return to the defaults, as nothing was saved (SPC-4 5.9)."""
        self._current = dict(self._defaults)

    def pages(self, control: int, code: int, subpage: int) -> bytes:
        """Return the bytes of a page, or of all; raises Refused for a page that does not exist or a saved value."""
        if control == _SAVED:
            raise check_condition(SAVING_PARAMETERS_NOT_SUPPORTED)
        everything = code == _ALL_PAGES and subpage in (0, _ALL_SUBPAGES)
        if not everything and (code not in self._current or subpage not in (0, _ALL_SUBPAGES)):
            raise check_condition(INVALID_FIELD_IN_CDB)
        codes = sorted(self._current) if everything else [code]
        return b"".join(self._values(control, one) for one in codes)

    def _values(self, control: int, code: int) -> bytes:
        if control == _CHANGEABLE:
            return self._current[code][:2] + _MASKS[code][2:]
        return self._defaults[code] if control == _DEFAULT else self._current[code]

    def select(self, raw: bytes) -> bool:
        """Check all the pages in ``raw`` and then take them over; whether anything changed. Raises Refused."""
        chosen = dict(self._current)
        position = 0
        while position < len(raw):
            if len(raw) - position < 2:
                raise check_condition(PARAMETER_LIST_LENGTH_ERROR)
            code = raw[position] & 0x3F
            current = self._current.get(code)
            if raw[position] & 0x40 or current is None or raw[position + 1] != current[1]:
                raise check_condition(INVALID_FIELD_IN_PARAMETER_LIST.with_field_pointer(position))
            page = raw[position : position + len(current)]
            if len(page) < len(current):
                raise check_condition(PARAMETER_LIST_LENGTH_ERROR)
            chosen[code] = current[:2] + _changed(current, page, _MASKS[code])
            position += len(current)
        if chosen[_CONTROL][4] & 0x30 == _UA_INTLCK_RESERVED:
            raise check_condition(INVALID_FIELD_IN_PARAMETER_LIST)
        changed = chosen != self._current
        self._current = chosen
        return changed


def _changed(current: bytes, wanted: bytes, mask: bytes) -> bytes:
    for now, new, changeable in zip(current[2:], wanted[2:], mask[2:], strict=True):
        if (now ^ new) & ~changeable:
            raise check_condition(INVALID_FIELD_IN_PARAMETER_LIST)
    return wanted[2:]


def _block_descriptor(call: Call, *, long: bool) -> bytes:
    blocks, size = call.unit.blocks, call.unit.block_size
    if long:
        return blocks.to_bytes(8) + bytes(4) + size.to_bytes(4)
    return min(blocks, 0xFFFFFFFF).to_bytes(4) + b"\0" + size.to_bytes(3)


def mode_sense(call: Call) -> None:
    """MODE SENSE (6) and (10)."""
    cdb = call.cdb
    ten = len(cdb) == 10
    long = ten and bool(cdb[1] & 0x10)
    modes = call.unit.modes
    pages = modes.pages(cdb[2] >> 6, cdb[2] & 0x3F, cdb[3])
    descriptor = b"" if cdb[1] & 0x08 else _block_descriptor(call, long=long)
    parameter = _DPOFUA | (_WRITE_PROTECT if modes.swp else 0)
    if ten:
        head = bytes([0, parameter, long and bool(descriptor), 0]) + len(descriptor).to_bytes(2)
        body = head + descriptor + pages
        call.reply(len(body).to_bytes(2) + body, int.from_bytes(cdb[7:9]))
        return
    body = bytes([0, parameter, len(descriptor)]) + descriptor + pages
    call.reply(bytes([len(body)]) + body, cdb[4])


def mode_select(call: Call) -> None:
    """MODE SELECT (6) and (10); the other nexuses learn of a change by 2A/01."""
    cdb = call.cdb
    ten = len(cdb) == 10
    length = int.from_bytes(cdb[7:9]) if ten else cdb[4]
    if cdb[1] & 0x01 or (not cdb[1] & 0x10 and length):
        # Nothing can be saved (SP), and pages in a vendor's own format (PF=0) are not known here.
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(1, 0 if cdb[1] & 0x01 else 4, in_cdb=True))
    raw = call.parameter_list(length)
    if not raw:
        return
    header = 8 if ten else 4
    if len(raw) < header:
        raise check_condition(PARAMETER_LIST_LENGTH_ERROR)
    descriptor_length = int.from_bytes(raw[6:8]) if ten else raw[3]
    long = ten and bool(raw[4] & 0x01)
    if len(raw) < header + descriptor_length:
        raise check_condition(PARAMETER_LIST_LENGTH_ERROR)
    if descriptor_length:
        _check_block_descriptor(call, raw[header : header + descriptor_length], long=long)
    if call.unit.modes.select(raw[header + descriptor_length :]):
        call.unit.modes_changed(call.nexus, MODE_PARAMETERS_CHANGED)


def _check_block_descriptor(call: Call, descriptor: bytes, *, long: bool) -> None:
    """Accept only what is already so: the capacity and the block length are fixed."""
    same = _block_descriptor(call, long=long)
    if len(descriptor) != len(same):
        raise check_condition(INVALID_FIELD_IN_PARAMETER_LIST)
    width = 8 if long else 4
    blocks = int.from_bytes(descriptor[:width])
    all_ones = (1 << 8 * width) - 1
    length_at = 12 if long else 5
    fits = blocks in (0, all_ones, int.from_bytes(same[:width]))
    if not fits or descriptor[length_at:] != same[length_at:]:
        raise check_condition(INVALID_FIELD_IN_PARAMETER_LIST)
