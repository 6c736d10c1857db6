"""What a target answers itself, in place of a logical unit: the list of its LUNs, and LUNs where there is nothing.

SAM-5 5.11 lets INQUIRY, REPORT LUNS and REQUEST SENSE through to a LUN without a logical unit; everything else ends
with LOGICAL UNIT NOT SUPPORTED. The REPORT LUNS well known logical unit (SPC-4 8.2) answers those and TEST UNIT READY.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pyproxy.reservation.transfer import answer, check_condition
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import Status
from pyproxy.scsi.inquiry import StandardInquiry
from pyproxy.scsi.report_luns import ReportLuns, int_to_lun
from pyproxy.scsi.sense import (
    INVALID_COMMAND_OPERATION_CODE,
    INVALID_FIELD_IN_CDB,
    LOGICAL_UNIT_NOT_SUPPORTED,
    NO_SENSE,
    Sense,
)

TEST_UNIT_READY: Final = 0x00
REQUEST_SENSE: Final = 0x03
INQUIRY: Final = 0x12
REPORT_LUNS: Final = 0xA0

_SELECT_ADDRESSED: Final = 0x00
_SELECT_WELL_KNOWN: Final = 0x01
_SELECT_ALL: Final = 0x02
_SHORTEST_LIST: Final = 16
_WELL_KNOWN_LUN: Final = bytes([0xC1, 0x01, 0, 0, 0, 0, 0, 0])

_NOT_SUPPORTED_QUALIFIER: Final = 0b011
_NO_DEVICE_TYPE: Final = 0x1F
_WELL_KNOWN_TYPE: Final = 0x1E

_NOTHING: Final = StandardInquiry(
    qualifier=_NOT_SUPPORTED_QUALIFIER,
    peripheral_device_type=_NO_DEVICE_TYPE,
    vendor="PYPROXY",
    product="NO LOGICAL UNIT",
    revision="1",
)
_WELL_KNOWN_UNIT: Final = StandardInquiry(
    peripheral_device_type=_WELL_KNOWN_TYPE, vendor="PYPROXY", product="REPORT LUNS", revision="1"
)


def report_luns(command: Command, luns: Sequence[int]) -> Result:
    """Answer REPORT LUNS (SPC-4 6.33) for a target with these LUNs."""
    cdb = command.cdb
    select, allocation = cdb[2], int.from_bytes(cdb[6:10])
    if select > _SELECT_ALL or allocation < _SHORTEST_LIST:
        return check_condition(INVALID_FIELD_IN_CDB, command=command)
    fields = []
    if select != _SELECT_ADDRESSED:
        fields.append(_WELL_KNOWN_LUN)
    if select != _SELECT_WELL_KNOWN:
        fields += [int_to_lun(lun) for lun in luns]
    return answer(command, ReportLuns(tuple(fields)).encode()[:allocation])


def answer_for_nothing(command: Command, luns: Sequence[int]) -> Result:
    """Answer a command to a LUN of an existing target where there is no logical unit."""
    opcode = command.cdb[0]
    if opcode == REPORT_LUNS:
        return report_luns(command, luns)
    if opcode == INQUIRY:
        return _inquiry(command, _NOTHING)
    if opcode == REQUEST_SENSE:
        return _request_sense(command, LOGICAL_UNIT_NOT_SUPPORTED)
    return check_condition(LOGICAL_UNIT_NOT_SUPPORTED, command=command)


def answer_for_well_known(command: Command, luns: Sequence[int]) -> Result:
    """Answer a command to the REPORT LUNS well known logical unit."""
    opcode = command.cdb[0]
    if opcode == REPORT_LUNS:
        return report_luns(command, luns)
    if opcode == INQUIRY:
        return _inquiry(command, _WELL_KNOWN_UNIT)
    if opcode == REQUEST_SENSE:
        return _request_sense(command, NO_SENSE)
    if opcode == TEST_UNIT_READY:
        return Result(Status.GOOD)
    return check_condition(INVALID_COMMAND_OPERATION_CODE, command=command)


def _inquiry(command: Command, data: StandardInquiry) -> Result:
    if command.cdb[1] or command.cdb[2]:
        # There are no vital product data of what is not there.
        return check_condition(INVALID_FIELD_IN_CDB, command=command)
    return answer(command, data.encode()[: int.from_bytes(command.cdb[3:5])])


def _request_sense(command: Command, sense: Sense) -> Result:
    return answer(command, sense.encode(bool(command.cdb[1] & 1))[: command.cdb[4]])
