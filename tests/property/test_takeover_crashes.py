"""A takeover that is killed at any instant and repeated ends with the claim on the destination, and only there."""

from __future__ import annotations

import pytest

from pyproxy.reservation.classify import Decision
from tests.property.takeover_world import Crash, Scenario, World, crash_instants, scenarios


@pytest.mark.parametrize("scenario", [*scenarios(), *scenarios(alive=(True,), sharing=(1, 2))], ids=str)
def test_without_a_crash_the_claim_moves_and_a_repetition_changes_nothing(scenario: Scenario) -> None:
    world = World(scenario)
    world.assert_taken_over(world.restore())
    registrations = dict(world.unit.reservations.registrations)
    reservation, generation = world.unit.reservations.reservation, world.unit.reservations.generation
    again = world.restore()
    assert again.decision is Decision.ALREADY_DONE
    assert "already done" in again.sentence
    assert dict(world.unit.reservations.registrations) == registrations
    assert world.unit.reservations.reservation == reservation
    assert world.unit.reservations.generation == generation


@pytest.mark.parametrize("scenario", [*scenarios(), *scenarios(alive=(True,), sharing=(1,))], ids=str)
def test_killed_at_every_instant_and_repeated(scenario: Scenario) -> None:
    for instant in crash_instants(scenario):
        world = World(scenario, crash_at=instant)
        report = world.restore_until_done()
        if report.decision is Decision.UNDECIDED:
            # Only where nothing on the device can tell this PREEMPT from another node's.
            assert not scenario.alive
            assert scenario.kind in (None, 7, 8)
            report = world.restore_until_done(fence_ruled_out=True)
        world.assert_taken_over(report)


@pytest.mark.parametrize(
    "scenario", [Scenario(5, True, False), Scenario(8, True, True), Scenario(3, False, False)], ids=str
)
def test_killed_twice(scenario: Scenario) -> None:
    instants = crash_instants(scenario)
    for first in instants[::2]:
        for second in range(first + 1, instants[-1] + 10, 5):
            world = World(scenario, crash_at=first)
            with pytest.raises(Crash):
                world.restore()
            world.crash_at = second
            world.assert_taken_over(world.restore_until_done())
