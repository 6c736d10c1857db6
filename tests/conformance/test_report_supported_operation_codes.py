"""REPORT SUPPORTED OPERATION CODES (SPC-4 6.35), as a guest sees it whose reservations migrate and one whose do not."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest

from tests.conformance.counterparts import counterpart_of
from tests.conformance.initiator import GOOD, INVALID_FIELD_IN_CDB, Initiator

ALL, OPERATION_CODE, SERVICE_ACTION = 0b000, 0b001, 0b010
RCTD = 0x80


class Described(NamedTuple):
    """One command descriptor: ``timeouts`` is the length of its timeouts descriptor, None without one."""

    opcode: int
    action: int
    has_action: bool
    timeouts: int | None


@pytest.fixture(params=[True, False], ids=["migrated", "verbatim"])
def migrate_pr(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def report(options: int, opcode: int = 0, action: int = 0, count: int = 0xFFFF) -> str:
    return f"a30c {options:02x} {opcode:02x} {action:04x} {count:08x} 0000"


def listed(first: Initiator, options: int = ALL) -> list[Described]:
    data = first.fetch(report(options))
    assert struct.unpack_from(">I", data)[0] == len(data) - 4
    found, at = [], 4
    while at < len(data):
        opcode, action, flags = struct.unpack_from(">BxHxBxx", data, at)
        at += 8
        timeouts = None
        if flags & 0x02:
            timeouts = struct.unpack_from(">H", data, at)[0]
            at += 2 + timeouts
        found.append(Described(opcode, action, bool(flags & 0x01), timeouts))
    return found


@counterpart_of("ReportSupportedOpcodes.Simple")
def test_commands_are_listed_once(first: Initiator) -> None:
    assert first.says(report(ALL, count=1024), data_in=1024) == GOOD
    commands = [(one.opcode, one.action) for one in listed(first)]
    assert len(set(commands)) == len(commands)
    assert {0x00, 0x12, 0x28, 0x2A, 0x5E, 0x5F, 0xA3} <= {opcode for opcode, _ in commands}


@counterpart_of("ReportSupportedOpcodes.OneCommand")
def test_asking_for_one_wants_a_service_action_where_there_are_some(first: Initiator) -> None:
    for one in listed(first):
        by_opcode, by_action = (
            first.says(report(option, one.opcode, one.action), data_in=0xFFFF)
            for option in (OPERATION_CODE, SERVICE_ACTION)
        )
        expected = (INVALID_FIELD_IN_CDB, GOOD) if one.has_action else (GOOD, INVALID_FIELD_IN_CDB)
        assert (by_opcode, by_action) == expected, f"{one.opcode:02X}h/{one.action:02X}h"


@counterpart_of("ReportSupportedOpcodes.OneCommand")
def test_every_listed_command_has_its_own_usage_data(first: Initiator) -> None:
    for one in listed(first):
        option = SERVICE_ACTION if one.has_action else OPERATION_CODE
        data = first.fetch(report(option, one.opcode, one.action))
        size = int.from_bytes(data[2:4])
        assert (data[1] & 0x07, size, data[4]) == (0x03, len(data) - 4, one.opcode)
        assert size in (6, 10, 12, 16)
        if one.has_action:
            assert data[5] & 0x1F == one.action


@counterpart_of("ReportSupportedOpcodes.RCTD")
def test_no_timeouts_unless_asked_for(first: Initiator) -> None:
    assert {one.timeouts for one in listed(first)} == {None}


@counterpart_of("ReportSupportedOpcodes.RCTD")
def test_timeouts_where_asked_for(first: Initiator) -> None:
    assert {one.timeouts for one in listed(first, ALL | RCTD)} == {0x0A}


@counterpart_of("ReportSupportedOpcodes.SERVACTV")
def test_no_service_action_without_servactv(first: Initiator) -> None:
    assert all(one.has_action or one.action == 0 for one in listed(first))
