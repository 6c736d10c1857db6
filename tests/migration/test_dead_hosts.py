"""A host dies for good in the middle of a migration, and the operator says so: the other goes on alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest

from pyproxy.migration.phases import DestinationPhase, SourcePhase
from pyproxy.scsi.command import Command
from pyproxy.scsi.constants import Status
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import ParameterList
from tests.migration.test_moves import WRITE, holds_at
from tests.migration.world import GUEST, K, World, registered


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


BYSTANDER = 0xB57A


@pytest.mark.parametrize(
    ("kind", "named"), [(5, True), (7, True), (None, True), (3, False), (8, False)], ids=["5", "7", "none", "3?", "8?"]
)
def test_the_destination_dies_at_any_instant(tmp_path: Path, kind: int | None, named: bool) -> None:
    """Before and after each of its rows and commands, those it sends through the source too; nothing of it is left."""
    for world in dying_destinations(tmp_path, kind, named=named):
        with_own_word(world)
        s = world.s
        assert s.phase in (SourcePhase.RECLAIMED, SourcePhase.CANCELLED), (world.crashed, s.work.text)
        s.guest_starts()
        assert s.open
        assert registered(world.units[0]) == {str(s.ports[0]): K, str(world.by[0].initiator): BYSTANDER}, world.crashed
        reservation = world.units[0].reservations.reservation
        assert (None if reservation is None else int(reservation.type)) == kind
        if reservation is not None and not reservation.type.all_registrants:
            assert reservation.holder is not None
            assert reservation.holder.initiator == s.ports[0]
        assert world.units[0].reservations.aptpl
        assert world.guest(s, 0, WRITE, bytes(512)).good, "the guest hears nothing of what was ours"
        state = s.host.unit(GUEST, 0).state
        assert (state.key, None if state.type is None else int(state.type), state.fresh) == (K, kind, True)


def dying_destinations(
    directory: Path, kind: int | None, *, named: bool = True, key: int = BYSTANDER, only: int | None = None
) -> Iterator[World]:
    """A world for each instant at which the destination can die while it takes the claim over, or for one of them."""
    directory.mkdir(exist_ok=True)
    for instant in count() if only is None else (only,):
        with World(directory / str(instant), named=named) as world:
            world.claim(world.s, kind)
            world.join(world.by[0], key)
            world.s.engine.migrate(GUEST, "d")
            world.s.guest_stops()
            world.crash_in(instant)
            for _ in range(60):
                if not world.s.up:
                    world.s.start()
                if not world.d.up or world.verified(world.s):
                    break
                world.s.act(world.s.work.step)
                if world.d.up and world.d.phase is not None:
                    world.d.act(world.d.work.step)
            if world.crashed is None:
                assert instant > 100
                return
            if world.d.up:
                continue
            world.crash_at = None
            world.cut = True
            yield world


def with_own_word(world: World, *, ruled_out: bool = False) -> None:
    """The operator says that the destination is dead, where the source needs somebody's word."""
    s = world.s
    if s.phase in (SourcePhase.ARMED, SourcePhase.DRAINING, SourcePhase.CAPTURING):
        s.engine.cancel(GUEST)
    else:
        while not s.act(lambda: s.engine.cancel(GUEST, destination_dead=True, fence_ruled_out=ruled_out)):
            s.start()
    for _ in range(10):
        if not s.up:
            s.start()
        s.act(s.work.step)


def test_the_source_is_killed_while_it_makes_up_for_a_dead_destination(tmp_path: Path) -> None:
    """At each of its instants too; only a PREEMPT of unknown fate needs the operator's word that nobody fenced."""
    cases: dict[str, int] = {}
    for world in dying_destinations(tmp_path / "all", 5):
        left = registered(world.units[0])
        here, there = left.get(str(world.s.ports[0])), left.get(str(world.d.ports[0]))
        if there == K and here is not None:
            cases.setdefault("same key" if here == K else "random key", int(world.directory.name))
    assert set(cases) == {"same key", "random key"}
    asked = 0
    for name, only in cases.items():
        for instant in count():
            with closing(dying_destinations(tmp_path / f"{name} {instant}", 5, only=only)) as found:
                world = next(found)
                world.crashed = None
                world.crash_in(instant)
                with_own_word(world)
                if "no node fenced" in world.s.work.text:
                    asked += 1
                    with_own_word(world, ruled_out=True)
                assert world.s.phase is SourcePhase.RECLAIMED, (name, instant, world.s.work.text)
                left = registered(world.units[0])
                assert left == {str(world.s.ports[0]): K, str(world.by[0].initiator): BYSTANDER}
                if world.crashed is None:
                    assert instant > 10
                    break
    assert asked >= len(cases)


@pytest.mark.parametrize("kind", [5, None])
def test_a_fence_meets_a_dead_destination(tmp_path: Path, kind: int | None) -> None:
    """Another node fences the guest while the destination is dead: it stays fenced, whoever has its key then."""
    for world in dying_destinations(tmp_path, kind):
        assert world.by[0].execute(preempt(BYSTANDER, K)).status in (Status.GOOD, Status.RESERVATION_CONFLICT)
        fenced = K not in registered(world.units[0]).values()
        with_own_word(world)
        assert world.s.phase in (SourcePhase.RECLAIMED, SourcePhase.CANCELLED), (world.crashed, world.s.work.text)
        assert fenced
        assert registered(world.units[0]) == {str(world.by[0].initiator): BYSTANDER}, world.crashed
        world.s.guest_starts()
        answer = world.s.host.unit(GUEST, 0).execute(Command(bytes(6)))
        assert answer.decoded_sense is not None
        assert answer.decoded_sense.code in ((6, 0x2A, 3), (6, 0x2A, 5))


def test_others_share_the_key_of_a_dead_destination(tmp_path: Path) -> None:
    """They keep it; the dead nexus' registration stays, and the operator is told. A claim it has all of stays there."""
    for world in dying_destinations(tmp_path, 5, key=K):
        gone = str(world.s.ports[0]) not in registered(world.units[0])
        with_own_word(world)
        if gone:
            assert world.s.phase is SourcePhase.RECLAIMING
            assert "have the other nexuses use keys of their own" in world.s.work.text
            continue
        assert world.s.phase in (SourcePhase.RECLAIMED, SourcePhase.CANCELLED), (world.crashed, world.s.work.text)
        left = registered(world.units[0])
        assert left[str(world.s.ports[0])] == left[str(world.by[0].initiator)] == K
        reservation = world.units[0].reservations.reservation
        assert reservation is not None
        assert reservation.holder is not None
        assert reservation.holder.initiator == world.s.ports[0]


def preempt(key: int, victim: int) -> Command:
    return Command(PrOut(4, 0, 5, 24).encode(), ParameterList(key, victim).encode())


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
