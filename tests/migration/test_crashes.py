"""A daemon is killed before and after every row and every command, on either side: what is left is one guest's claim.

Enumerated: each test runs the scenario once for every instant there is, with a crash at that instant.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from pyproxy.migration.phases import DestinationPhase, SourcePhase
from tests.migration.test_moves import holds_at
from tests.migration.world import GUEST, K, World, at_rest, registered

BYSTANDER = 0xB57A
Scenario = Callable[[World], None]


def moves(world: World) -> None:
    """The hypervisor starts the guest at the destination if that has the claims, else at the source."""
    s, d = world.s, world.d
    s.act(lambda: s.engine.migrate(GUEST, "d"))
    world.run()
    if s.phase is SourcePhase.ARMED:
        s.guest_stops()
        world.run()
        (d if world.verified(s) else s).guest_starts()
    world.run()


def comes_back(world: World) -> None:
    """The hypervisor's migration fails after the destination has the claims."""
    s = world.s
    s.act(lambda: s.engine.migrate(GUEST, "d"))
    world.run()
    if s.phase is SourcePhase.ARMED:
        s.guest_stops()
        world.run()
        s.guest_starts()
    world.run()


def comes_back_at_once(world: World) -> None:
    """The hypervisor's migration fails while the destination takes the claims over."""
    s, d = world.s, world.d
    s.act(lambda: s.engine.migrate(GUEST, "d"))
    world.run()
    if s.phase is SourcePhase.ARMED:
        s.guest_stops()
        for _ in range(3):
            s.act(s.work.step)  # drained, captured, offered
            if not s.up:
                s.start()
        if d.phase is not None:
            d.act(lambda: d.work.step())  # begun
        s.guest_starts()
    world.run()


def is_given_up(world: World) -> None:
    """The destination's hypervisor asks for the guest, and gives up once its claims are there."""
    s, d = world.s, world.d
    d.act(lambda: d.engine.invite(GUEST, None))
    world.run()
    if s.phase is SourcePhase.ARMED:
        s.guest_stops()
        world.run()
        if world.verified(s) and d.act(lambda: d.engine.withdraw(GUEST)):
            world.run()
        s.guest_starts()
    world.run()


@pytest.mark.parametrize(
    ("scenario", "kind"),
    [
        *((moves, kind) for kind in (5, 7, None)),
        *((comes_back, kind) for kind in (5, 7, None)),
        (comes_back_at_once, 5),
        (is_given_up, 5),
    ],
)
def test_a_daemon_killed_at_every_instant(tmp_path: Path, scenario: Scenario, kind: int | None) -> None:
    reached: set[str] = set()
    for instant in count():
        with World(tmp_path / str(instant)) as world:
            world.claim(world.s, kind)
            by = world.by[0]
            world.join(by, BYSTANDER)
            world.crash_at = instant
            scenario(world)
            if world.s.phase is SourcePhase.ARMED:
                # Killed before it heard that the guest stopped: nothing has moved, and the guest goes on here.
                assert world.s.running
                world.s.engine.cancel(GUEST)
                world.run()
            if world.crashed is None:
                break
            where = f"instant {instant}, {world.crashed}"
            reached.add(world.crashed)
            assert at_rest(world), where
            assert world.s.running != world.d.running
            side = world.d if world.d.running else world.s
            assert side.open, where
            assert registered(world.units[0]).pop(str(by.initiator)) == BYSTANDER, where
            world.leave(by, BYSTANDER)
            holds_at(world, side, kind, key=K)
    assert reached == {
        f"{side} {when} {what}" for side in "sd" for when in ("before", "after") for what in ("a row", "a command")
    }
    assert instant > 60


@pytest.mark.parametrize("killed", ["s", "d"])
def test_killed_while_the_guest_is_held(tmp_path: Path, killed: str) -> None:
    """Gates stay as they were: a guest that may not be served is not served after a restart either."""
    with World(tmp_path) as world:
        world.claim(world.s, 5)
        world.migrate(world.s, finish=False)
        side = world.s if killed == "s" else world.d
        side.crash()
        side.start()
        assert not world.s.open
        assert not world.d.open
        world.run()
        assert world.d.work.phase is DestinationPhase.VERIFIED
        world.d.guest_starts()
        world.run()
        holds_at(world, world.d, 5)
        side.crash()
        side.start()
        assert (world.s.open, world.d.open) == (False, True)
