"""Which commands a guest may send to a logical unit: an allow list by operation code and service action.

What is left out destroys more than the guest's own data or reaches beyond its logical unit: formatting, sanitizing,
firmware download, third-party copies that name other units, commands that change target ports, aliases, access
controls or defect lists, ATA pass-through, and everything vendor specific or unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from _fastpath.cdb import LANE_PR, ParsedCdb, parse
from _fastpath.optable import SERVICE_ACTION_OPCODES
from _fastpath.verdict import VARIABLE_LENGTH, Verdicts
from pyproxy.scsi.sense import INVALID_COMMAND_OPERATION_CODE, INVALID_FIELD_IN_CDB, Sense

ANY: Final = -1
"""In the table: the operation code with every service action the parser knows."""

ALLOWED: Final[dict[int, frozenset[int]]] = {
    0x00: frozenset({ANY}),  # TEST UNIT READY
    0x03: frozenset({ANY}),  # REQUEST SENSE
    0x08: frozenset({ANY}),  # READ(6)
    0x0A: frozenset({ANY}),  # WRITE(6)
    0x12: frozenset({ANY}),  # INQUIRY
    0x15: frozenset({ANY}),  # MODE SELECT(6)
    0x16: frozenset({ANY}),  # RESERVE(6)
    0x17: frozenset({ANY}),  # RELEASE(6)
    0x1A: frozenset({ANY}),  # MODE SENSE(6)
    0x1B: frozenset({ANY}),  # START STOP UNIT
    0x1C: frozenset({ANY}),  # RECEIVE DIAGNOSTIC RESULTS
    0x1E: frozenset({ANY}),  # PREVENT ALLOW MEDIUM REMOVAL
    0x25: frozenset({ANY}),  # READ CAPACITY(10)
    0x28: frozenset({ANY}),  # READ(10)
    0x2A: frozenset({ANY}),  # WRITE(10)
    0x2E: frozenset({ANY}),  # WRITE AND VERIFY(10)
    0x2F: frozenset({ANY}),  # VERIFY(10)
    0x34: frozenset({ANY}),  # PRE-FETCH(10)
    0x35: frozenset({ANY}),  # SYNCHRONIZE CACHE(10)
    0x37: frozenset({ANY}),  # READ DEFECT DATA(10)
    0x3C: frozenset({ANY}),  # READ BUFFER(10)
    0x41: frozenset({ANY}),  # WRITE SAME(10)
    0x42: frozenset({ANY}),  # UNMAP
    0x4D: frozenset({ANY}),  # LOG SENSE
    0x55: frozenset({ANY}),  # MODE SELECT(10)
    0x56: frozenset({ANY}),  # RESERVE(10)
    0x57: frozenset({ANY}),  # RELEASE(10)
    0x5A: frozenset({ANY}),  # MODE SENSE(10)
    0x5E: frozenset({ANY}),  # PERSISTENT RESERVE IN
    0x5F: frozenset({ANY}),  # PERSISTENT RESERVE OUT
    0x7F: frozenset(  # READ, VERIFY, WRITE, WRITE AND VERIFY, WRITE SAME, ORWRITE, WRITE ATOMIC, GET LBA STATUS (32)
        {0x0009, 0x000A, 0x000B, 0x000C, 0x000D, 0x000E, 0x000F, 0x0012}
    ),
    0x83: frozenset({0x10, 0x11}),  # POPULATE TOKEN, WRITE USING TOKEN
    0x84: frozenset({0x03, 0x05, 0x06, 0x07}),  # RECEIVE COPY OPERATING PARAMETERS, STATUS, DATA, ROD TOKEN INFORMATION
    0x88: frozenset({ANY}),  # READ(16)
    0x89: frozenset({ANY}),  # COMPARE AND WRITE
    0x8A: frozenset({ANY}),  # WRITE(16)
    0x8B: frozenset({ANY}),  # ORWRITE(16)
    0x8C: frozenset({ANY}),  # READ ATTRIBUTE
    0x8E: frozenset({ANY}),  # WRITE AND VERIFY(16)
    0x8F: frozenset({ANY}),  # VERIFY(16)
    0x90: frozenset({ANY}),  # PRE-FETCH(16)
    0x91: frozenset({ANY}),  # SYNCHRONIZE CACHE(16)
    0x93: frozenset({ANY}),  # WRITE SAME(16)
    0x9A: frozenset({ANY}),  # WRITE STREAM(16)
    0x9B: frozenset({ANY}),  # READ BUFFER(16)
    0x9C: frozenset({ANY}),  # WRITE ATOMIC(16)
    0x9E: frozenset({0x10, 0x12, 0x13, 0x16, 0x17}),  # READ CAPACITY(16), GET LBA/STREAM/ELEMENT STATUS, REFERRALS
    0x9F: frozenset({0x12}),  # WRITE SCATTERED(16)
    0xA0: frozenset({ANY}),  # REPORT LUNS
    0xA2: frozenset({ANY}),  # SECURITY PROTOCOL IN
    # REPORT IDENTIFYING INFORMATION, TARGET PORT GROUPS, SUPPORTED OPERATION CODES, SUPPORTED TASK MANAGEMENT
    # FUNCTIONS, PRIORITY, TIMESTAMP, PROVISIONING INITIALIZATION PATTERN
    0xA3: frozenset({0x05, 0x0A, 0x0C, 0x0D, 0x0E, 0x0F, 0x1D}),
    0xA8: frozenset({ANY}),  # READ(12)
    0xAA: frozenset({ANY}),  # WRITE(12)
    0xAB: frozenset({ANY}),  # READ MEDIA SERIAL NUMBER
    0xAE: frozenset({ANY}),  # WRITE AND VERIFY(12)
    0xAF: frozenset({ANY}),  # VERIFY(12)
    0xB7: frozenset({ANY}),  # READ DEFECT DATA(12)
}
"""Operation code to the service actions a guest may use."""

_PERSISTENT_RESERVE: Final = (0x5E, 0x5F)


class Denial(StrEnum):
    """Why a command is answered without asking the device."""

    TRUNCATED = "cdb-truncated"
    NOT_ALLOWED = "operation-not-allowed"


@dataclass(frozen=True, slots=True)
class Denied:
    """A named reason and the sense the guest gets with CHECK CONDITION."""

    reason: Denial
    sense: Sense


_TRUNCATED: Final = Denied(Denial.TRUNCATED, INVALID_FIELD_IN_CDB)
_NOT_ALLOWED: Final = Denied(Denial.NOT_ALLOWED, INVALID_COMMAND_OPERATION_CODE)


def deny(parsed: ParsedCdb, *, rawio: bool = False) -> Denied | None:
    """Decide whether a guest's command may reach the device; None lets it pass.

    ``rawio`` lets everything pass whose CDB is whole. Service actions of PERSISTENT RESERVE that are not known pass:
    the device has to answer those (SPC-4 6.15.1).
    """
    if not parsed.valid:
        return _TRUNCATED
    if rawio:
        return None
    allowed = ALLOWED.get(parsed.opcode)
    if allowed is None:
        return _NOT_ALLOWED
    if ANY in allowed:
        return None if not parsed.unknown or parsed.opcode in _PERSISTENT_RESERVE else _NOT_ALLOWED
    return None if parsed.service_action in allowed else _NOT_ALLOWED


_REPORT_LUNS: Final = 0xA0
_MAINTENANCE_IN: Final = 0xA3
_REPORT_SUPPORTED_OPERATION_CODES: Final = 0x0C
_LONGEST_CDB: Final = 32
_VARIABLE_ACTIONS: Final = 0x0100
"""Service actions of operation code 7Fh from here on are vendor specific or not for block devices (SBC-4 table 33)."""


def verdicts(*, rawio: bool = False, migrate_pr: bool = True) -> Verdicts:
    """Return what workers without the GIL may send straight to a unit: what ``deny`` allows and Python need not see.

    PERSISTENT RESERVE and REPORT LUNS, which tells of all of a guest's units, are always for Python; so is REPORT
    SUPPORTED OPERATION CODES where its answer is masked (``migrate_pr``).
    """
    table = Verdicts()
    for opcode in range(256):
        if opcode == VARIABLE_LENGTH:
            actions = range(_VARIABLE_ACTIONS)
        else:
            actions = range(32) if opcode in SERVICE_ACTION_OPCODES else range(1)
        straight = [action for action in actions if _straight(opcode, action, rawio=rawio, migrate_pr=migrate_pr)]
        if len(straight) == len(actions) or (rawio and opcode == VARIABLE_LENGTH):
            table.straight(opcode)
        else:
            for action in straight:
                table.straight(opcode, action)
    return table


def _straight(opcode: int, action: int, *, rawio: bool, migrate_pr: bool) -> bool:
    cdb = bytearray(_LONGEST_CDB)
    cdb[0] = opcode
    if opcode == VARIABLE_LENGTH:
        cdb[7] = _LONGEST_CDB - 8
        cdb[8:10] = action.to_bytes(2)
    elif opcode in SERVICE_ACTION_OPCODES:
        cdb[1] = action
    parsed = parse(cdb)
    if parsed.lane == LANE_PR or opcode == _REPORT_LUNS:
        return False
    if migrate_pr and opcode == _MAINTENANCE_IN and action == _REPORT_SUPPORTED_OPERATION_CODES:
        return False
    return deny(parsed, rawio=rawio) is None
