"""Source and destination are one I_T nexus behind two nodes: nothing may be moved, whatever is known of their names."""

from __future__ import annotations

import pytest

from pyproxy.migration.restore import RestoreReport
from pyproxy.reservation.classify import Decision
from pyproxy.reservation.facts import Nexus
from tests.property.takeover_world import K, Scenario, Tap, World

NAMES = {"whole": 1, "any-port": None, "unnamed": 0}


def _restore(world: World, name: str) -> RestoreReport:
    world.destination = Tap(world.s, world.instant, full_status=world.scenario.full)
    nexus = None if name == "unnamed" else Nexus(world.s.initiator, NAMES[name])
    return world.restore(destination_nexus=nexus)


@pytest.mark.parametrize("sharing", [0, 1])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("full", [True, False], ids=["full", "blind"])
@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
@pytest.mark.parametrize("kind", [1, 6, 7, None])
def test_guest_keeps_everything(kind: int | None, alive: bool, full: bool, name: str, sharing: int) -> None:
    world = World(Scenario(kind, alive, full, None, sharing))
    report = _restore(world, name)
    assert world.key_of(world.s) == K, world.trail
    assert kind is None or world.holds(world.s), world.trail
    assert world.bystanders() == world.bystanders_before, world.trail
    assert report.decision in (Decision.SAME_NEXUS, Decision.DESTINATION_BUSY, Decision.ALREADY_DONE), world.trail
    if full and (name != "unnamed" or not sharing):
        assert report.decision is Decision.SAME_NEXUS, world.trail


def test_other_port_of_the_same_initiator_is_another_nexus() -> None:
    """Without the target port, READ FULL STATUS shows the initiator registered, but not through this path."""
    world = World(Scenario(1, True, True))
    other = world.unit.nexus(world.s.initiator, 2)
    world.destination = Tap(other, world.instant, full_status=True)
    report = world.restore(destination_nexus=Nexus(world.s.initiator))
    assert report.decision is Decision.TAKEN_OVER, world.trail
    assert (world.key_of(other), world.holds(other)) == (K, True)
    assert world.key_of(world.s) is None
