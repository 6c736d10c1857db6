"""What a guest whose reservations migrate is not offered and not allowed.

The proxy cannot translate TransportIDs, and after a takeover they would name another host's port. So service actions
and bits that carry them, or that register through other ports, are not advertised and are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pyproxy.reservation.transfer import check_condition
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PERSISTENT_RESERVE_OUT, PrOutAction
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.rsoc import SUPPORT_NONE, SupportedOpcode, drop_command
from pyproxy.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
    Sense,
)

RSOC_ALLOCATION: Final = 0xFFFF
"""Bytes asked for in the guest's place: more than any list, so that an entry behind the guest's length is found."""

_MAINTENANCE_IN: Final = 0xA3
_REPORT_SUPPORTED_OPERATION_CODES: Final = 0x0C
_SIP_C: Final = 0x08
_ATP_C: Final = 0x04
_CAPABILITIES_BYTE: Final = 2
_FLAGS_BYTE: Final = 20
_SPEC_I_PT_BIT: Final = 3
_ALL_TG_PT_BIT: Final = 2
_ALL_COMMANDS: Final = 0b000
_WITH_SERVICE_ACTION: Final = (0b010, 0b011)


class RefusalReason(StrEnum):
    """Why a PERSISTENT RESERVE OUT is answered without asking the device."""

    REGISTER_AND_MOVE = "register-and-move"
    ALL_TARGET_PORTS = "all-target-ports"
    SPECIFY_INITIATOR_PORTS = "specify-initiator-ports"
    SHORT_TRANSFER = "parameter-list-not-transferred"


@dataclass(frozen=True, slots=True)
class Refusal:
    """A named reason and the sense the guest gets with CHECK CONDITION."""

    reason: RefusalReason
    sense: Sense

    def result(self, command: Command, *, descriptor: bool = False) -> Result:
        """Return the answer, in fixed or descriptor format."""
        return check_condition(self.sense, descriptor=descriptor, command=command)


_MOVE: Final = Refusal(RefusalReason.REGISTER_AND_MOVE, INVALID_FIELD_IN_CDB.with_field_pointer(1, 4, in_cdb=True))
_SPEC_I_PT: Final = Refusal(
    RefusalReason.SPECIFY_INITIATOR_PORTS,
    INVALID_FIELD_IN_PARAMETER_LIST.with_field_pointer(_FLAGS_BYTE, _SPEC_I_PT_BIT),
)
_ALL_TG_PT: Final = Refusal(
    RefusalReason.ALL_TARGET_PORTS,
    INVALID_FIELD_IN_PARAMETER_LIST.with_field_pointer(_FLAGS_BYTE, _ALL_TG_PT_BIT),
)
_SHORT: Final = Refusal(RefusalReason.SHORT_TRANSFER, PARAMETER_LIST_LENGTH_ERROR)

_REGISTERING: Final = (PrOutAction.REGISTER, PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY)


def refuse(cdb: bytes, parameter_list: bytes) -> Refusal | None:
    """Decide whether a guest's PERSISTENT RESERVE OUT may reach the device.

    ``cdb`` has 10 bytes or more; ``parameter_list`` is what the guest sent, at most PARAMETER LIST LENGTH bytes.
    REGISTER AND MOVE is told first: its byte 20 is part of a length. With the other service actions the bits are
    ignored or judged by the device (SPC-4 6.16.3).
    """
    action = cdb[1] & 0x1F
    if action == PrOutAction.REGISTER_AND_MOVE:
        return _MOVE
    if len(parameter_list) < int.from_bytes(cdb[5:9]):
        # What the device would read beyond the transferred bytes, nobody has looked at.
        return _SHORT
    if action not in _REGISTERING or len(parameter_list) <= _FLAGS_BYTE:
        return None
    flags = parameter_list[_FLAGS_BYTE]
    if flags >> _SPEC_I_PT_BIT & 1:
        return _SPEC_I_PT
    if flags >> _ALL_TG_PT_BIT & 1:
        return _ALL_TG_PT
    return None


def mask_capabilities(data: bytes) -> bytes:
    """Clear SIP_C and ATP_C in REPORT CAPABILITIES data, however short it is."""
    if len(data) <= _CAPABILITIES_BYTE:
        return data
    masked = bytearray(data)
    masked[_CAPABILITIES_BYTE] &= 0xFF & ~(_SIP_C | _ATP_C)
    return bytes(masked)


def is_rsoc(cdb: bytes) -> bool:
    """Whether a CDB is REPORT SUPPORTED OPERATION CODES of full length."""
    return len(cdb) >= 12 and cdb[0] == _MAINTENANCE_IN and cdb[1] & 0x1F == _REPORT_SUPPORTED_OPERATION_CODES


def widen_rsoc(cdb: bytes) -> bytes:
    """Return the CDB asking for the whole answer, whatever the guest's allocation length.

    Masking moves what follows the dropped entry to the front, so that length is applied afterwards.
    """
    return cdb[:6] + RSOC_ALLOCATION.to_bytes(4) + cdb[10:]


def mask_rsoc(cdb: bytes, data: bytes) -> bytes:
    """Leave REGISTER AND MOVE out of the answer to REPORT SUPPORTED OPERATION CODES.

    ``cdb`` is the guest's, and its allocation length cuts what is returned; ``data`` is what the device answered to
    ``widen_rsoc(cdb)``, whole or truncated. The list of all commands loses the entry and its length is
    corrected; asked for that service action alone, the answer is "not supported".
    """
    allocation = int.from_bytes(cdb[6:10])
    options = cdb[2] & 0x07
    if options == _ALL_COMMANDS:
        try:
            data = drop_command(data, PERSISTENT_RESERVE_OUT, PrOutAction.REGISTER_AND_MOVE)
        except DecodeError:
            return data[:allocation]
    elif (
        options in _WITH_SERVICE_ACTION
        and cdb[3] == PERSISTENT_RESERVE_OUT
        and int.from_bytes(cdb[4:6]) == PrOutAction.REGISTER_AND_MOVE
    ):
        data = SupportedOpcode(SUPPORT_NONE).encode()[: len(data)]
    return data[:allocation]
