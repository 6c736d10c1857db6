"""RESERVE (6) and RELEASE (6) (SPC-2 7.16, 7.21)."""

from __future__ import annotations

import pytest

from pyproxy.device.emulated import EmulatedNexus, EmulatedUnit
from tests.conformance.counterparts import counterpart_of
from tests.conformance.initiator import CONFLICT, GOOD, Initiator

RESERVE, RELEASE = "16 00 0000 00 00", "17 00 0000 00 00"
MODE_SENSE = "1a 00 3f 00 ff 00"


@pytest.fixture(params=[True, False], ids=["migrated", "verbatim"])
def migrate_pr(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def nexus_of(initiator: Initiator) -> EmulatedNexus:
    device = initiator.unit.device
    assert isinstance(device, EmulatedNexus)
    return device


@counterpart_of("Reserve6.Simple")
def test_reserve_and_release(first: Initiator) -> None:
    assert first.says(RESERVE) == GOOD
    assert first.says(RELEASE) == GOOD


@counterpart_of("Reserve6.2Initiators")
def test_holder_may_reserve_again(first: Initiator) -> None:
    assert [first.says(RESERVE), first.says(RESERVE)] == [GOOD, GOOD]


@counterpart_of("Reserve6.2Initiators")
def test_another_cannot_reserve(first: Initiator, second: Initiator) -> None:
    assert first.says(RESERVE) == GOOD
    assert second.says(RESERVE) == CONFLICT


@counterpart_of("Reserve6.2Initiators")
def test_release_by_another_does_nothing(first: Initiator, second: Initiator) -> None:
    assert first.says(RESERVE) == GOOD
    assert second.says(RELEASE) == GOOD
    assert second.says(RESERVE) == CONFLICT


@counterpart_of("Reserve6.2Initiators")
def test_mode_sense_is_the_holders(first: Initiator, second: Initiator) -> None:
    assert first.says(RESERVE) == GOOD
    assert first.says(MODE_SENSE, data_in=255) == GOOD
    assert second.says(MODE_SENSE, data_in=255) == CONFLICT


@counterpart_of("Reserve6.2Initiators")
def test_after_release_another_can_reserve(first: Initiator, second: Initiator) -> None:
    assert first.says(RESERVE) == GOOD
    assert first.says(RELEASE) == GOOD
    assert second.says(RESERVE) == GOOD
    assert second.says(RELEASE) == GOOD


@counterpart_of("Reserve6.Logout", "Reserve6.ITNexusLoss")
def test_losing_the_nexus_ends_it(first: Initiator, second: Initiator) -> None:
    assert first.says(RESERVE) == GOOD
    assert second.says(RESERVE) == CONFLICT
    nexus_of(first).lose()
    assert second.says(RESERVE) == GOOD


@counterpart_of("Reserve6.LUNReset")
def test_logical_unit_reset_ends_it(first: Initiator, second: Initiator) -> None:
    assert first.says(RESERVE) == GOOD
    nexus_of(first).logical_unit_reset()
    assert second.drain() == ["06/29/03"]
    assert second.says(RESERVE) == GOOD


@counterpart_of("Reserve6.TargetWarmReset")
def test_reset_of_the_unit_ends_it(first: Initiator, second: Initiator, disk: EmulatedUnit) -> None:
    assert first.says(RESERVE) == GOOD
    disk.reset()
    second.drain()
    assert second.says(RESERVE) == GOOD


@counterpart_of("Reserve6.TargetColdReset")
def test_power_cycle_ends_it(first: Initiator, second: Initiator, disk: EmulatedUnit) -> None:
    assert first.says(RESERVE) == GOOD
    disk.power_cycle()
    assert second.drain() == ["06/29/01"]
    assert second.says(RESERVE) == GOOD
