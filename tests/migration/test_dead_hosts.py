"""A host dies for good in the middle of a migration, and the operator says so: the other goes on alone."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from pyproxy.migration.phases import DestinationPhase, SourcePhase
from tests.migration.test_moves import WRITE, holds_at
from tests.migration.world import GUEST, World, registered


def stops_and_steps(world: World, steps: int) -> bool:
    """Begin a move and let both sides do so many steps; False where there were fewer to do."""
    world.s.engine.migrate(GUEST, "d")
    world.s.guest_stops()
    for _ in range(steps):
        if world.s.phase is SourcePhase.OFFERED and world.verified(world.s):
            return False
        world.s.act(world.s.work.step)
        world.d.act(world.d.work.step)
    return True


@pytest.mark.parametrize("kind", [5, 7, None])
def test_the_destination_dies_at_any_step(tmp_path: Path, kind: int | None) -> None:
    for steps in count(1):
        with World(tmp_path / str(steps)) as world:
            world.claim(world.s, kind)
            more = stops_and_steps(world, steps)
            world.d.crash()
            world.cut = True
            if world.s.phase in (SourcePhase.DRAINING, SourcePhase.CAPTURING):
                world.s.engine.cancel(GUEST)  # nothing was offered: the source needs nobody's word
            else:
                before = world.s.phase
                world.s.engine.cancel(GUEST)
                for _ in range(5):
                    world.s.act(world.s.work.step)
                assert world.s.phase is SourcePhase.ABORTING, before
                assert not world.s.open, "a timeout proves nothing"
                world.s.engine.cancel(GUEST, destination_dead=True)
            for _ in range(10):
                world.s.act(world.s.work.step)
            assert world.s.phase in (SourcePhase.RECLAIMED, SourcePhase.CANCELLED), (steps, world.s.work.text)
            world.s.guest_starts()
            assert world.s.open
            assert registered(world.units[0]) == {str(world.s.ports[0]): 0x1122334455667788}
            assert world.guest(world.s, 0, WRITE, bytes(512)).good
            assert world.guest(world.s, 0, bytes(6)).good, "the guest hears nothing of what was ours"
        if not more:
            break
    assert steps > 4


@pytest.mark.parametrize("kind", [5, 7, None])
def test_the_destination_dies_after_it_has_served(tmp_path: Path, kind: int | None) -> None:
    with World(tmp_path) as world:
        world.claim(world.s, kind)
        world.migrate(world.s)
        world.d.guest_stops()
        world.d.crash()
        world.cut = True
        assert not world.s.open
        world.s.engine.cancel(GUEST, destination_dead=True)
        for _ in range(5):
            world.s.act(world.s.work.step)
        assert world.s.phase is SourcePhase.RECLAIMED, world.s.work.text
        world.s.guest_starts()
        assert world.s.open
        assert registered(world.units[0]) == {str(world.s.ports[0]): 0x1122334455667788}
        assert world.guest(world.s, 0, WRITE, bytes(512)).good


@pytest.mark.parametrize("kind", [5, 7, None])
def test_the_source_dies_after_it_has_offered(tmp_path: Path, kind: int | None) -> None:
    for steps in count(3):
        with World(tmp_path / str(steps)) as world:
            world.claim(world.s, kind)
            more = stops_and_steps(world, steps)
            assert world.d.phase is not DestinationPhase.PREPARED
            world.s.crash()
            world.cut = True
            for _ in range(5):
                world.d.act(world.d.work.step)
            if world.d.phase is not DestinationPhase.VERIFIED:
                assert not world.d.open
                world.d.engine.source_dead(GUEST)
                for _ in range(5):
                    world.d.act(world.d.work.step)
            assert world.d.phase is DestinationPhase.VERIFIED, (steps, world.d.work.text)
            world.d.guest_starts()
            world.d.act(world.d.work.step)
            assert world.d.open
            holds_only(world, kind)
        if not more:
            break


def holds_only(world: World, kind: int | None) -> None:
    """As ``holds_at``, but the source is dead and cannot be looked at."""
    world.cut = False
    world.s.start()
    world.run()
    holds_at(world, world.d, kind)
