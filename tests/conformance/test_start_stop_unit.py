"""START STOP UNIT on a medium that cannot be removed (SBC-4 5.26).

The tool's own tests are of removable media and skip this unit.
"""

from __future__ import annotations

import pytest

from tests.conformance.initiator import BLOCK, GOOD, INVALID_FIELD_IN_CDB, Initiator, cdb

NOT_READY = "02 02/04/02"


def start_stop(first: Initiator, flags: int, *, immediate: bool = False) -> str:
    return first.says(f"1b {immediate:02x} 0000 {flags:02x} 00")


def test_medium_cannot_be_removed(first: Initiator) -> None:
    assert not first.inquire()[1] & 0x80, "RMB"


@pytest.mark.parametrize("flags", [0x02, 0x03], ids=["eject", "load"])
def test_ejecting_and_loading_are_refused(first: Initiator, flags: int) -> None:
    assert start_stop(first, flags) == INVALID_FIELD_IN_CDB
    assert first.says(bytes(6)) == GOOD


@pytest.mark.parametrize("condition", range(1, 16))
def test_power_conditions_are_refused(first: Initiator, condition: int) -> None:
    assert start_stop(first, condition << 4) == INVALID_FIELD_IN_CDB
    assert first.says(bytes(6)) == GOOD


@pytest.mark.parametrize("immediate", [False, True])
@pytest.mark.parametrize("no_flush", [0x00, 0x04])
def test_a_stopped_unit_is_not_ready_until_it_is_started(first: Initiator, immediate: bool, no_flush: int) -> None:
    assert start_stop(first, no_flush, immediate=immediate) == GOOD
    assert first.says(bytes(6)) == NOT_READY
    assert first.says(cdb(0x28, 10, 0, 1), data_in=BLOCK) == NOT_READY
    assert start_stop(first, no_flush | 0x01, immediate=immediate) == GOOD
    assert first.says(bytes(6)) == GOOD
