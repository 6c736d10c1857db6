"""A guest moves between two hosts and back, as a hypervisor moves it; nothing fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from pyproxy.migration.engine import MigrationError
from pyproxy.migration.messages import LONGEST_TEXT, Invite, Progress, Withdraw
from pyproxy.migration.peer import PeerRefusedError
from pyproxy.migration.phases import DestinationPhase, SourceEvent, SourcePhase
from pyproxy.scsi.command import Command
from pyproxy.scsi.constants import Status
from tests.migration.world import TYPES, K, Side, World, at_rest, registered

WRITE = bytes([0x2A, 0, 0, 0, 0, 0, 0, 0, 1, 0])


def holds_at(world: World, side: Side, kind: int | None, *, key: int = K) -> None:
    """The guest has its claim at ``side`` and nowhere else, and was told nothing that was ours."""
    for lun, unit in enumerate(world.units):
        assert registered(unit) == {str(side.ports[lun]): key}
        reservation = unit.reservations.reservation
        assert (None if reservation is None else int(reservation.type)) == kind
        if reservation is not None and not reservation.type.all_registrants:
            assert reservation.holder is not None
            assert reservation.holder.initiator == side.ports[lun]
        assert unit.reservations.aptpl
        assert world.guest(side, lun, WRITE, bytes(512)).good
        state = side.host.unit("web1", lun).state
        assert (state.key, None if state.type is None else int(state.type), state.fresh) == (key, kind, True)
        left = side.other.host.unit("web1", lun).state
        assert not left.registered


@pytest.mark.parametrize("kind", [*TYPES, None])
@pytest.mark.parametrize("named", [True, False])
def test_there_and_back(tmp_path: Path, kind: int | None, named: bool) -> None:
    with World(tmp_path, units=2, named=named) as world:
        world.claim(world.s, kind)
        for source in (world.s, world.d, world.s, world.d):
            world.migrate(source, finish=False)
            assert world.verified(source)
            assert not world.s.open
            assert not world.d.open
            source.other.guest_starts()
            world.run()
            assert at_rest(world)
            assert source.other.open
            assert not source.open
            holds_at(world, source.other, kind)
            if kind is not None:
                conflict = world.units[0].nexus(source.ports[0])
                assert conflict.execute(Command(WRITE, bytes(512))).status in (
                    Status.RESERVATION_CONFLICT,
                    Status.CHECK_CONDITION,
                )


def test_a_guest_without_registration(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.migrate(world.s)
        assert at_rest(world)
        assert world.d.open
        assert not world.s.open
        assert registered(world.units[0]) == {}
        world.claim(world.d, 5)
        world.migrate(world.d)
        holds_at(world, world.s, 5)


@pytest.mark.parametrize("kind", [5, 7, None])
def test_two_daemons_with_one_nexus(tmp_path: Path, kind: int | None) -> None:
    with World(tmp_path, shared_nexus=True) as world:
        world.claim(world.s, kind)
        generation = world.units[0].reservations.generation
        for source in (world.s, world.d):
            world.migrate(source)
            assert at_rest(world)
            assert (source.other.open, source.open) == (True, False)
            assert world.units[0].reservations.generation == generation, "nothing changed on the unit"
            assert registered(world.units[0]) == {str(world.s.ports[0]): K}
            state = source.other.host.unit("web1", 0).state
            assert (state.key, state.type, state.fresh) == (K, kind, True)


@pytest.mark.parametrize("kind", [*TYPES, None])
@pytest.mark.parametrize("instant", ["stopped", "verified"])
def test_the_guest_goes_on_at_the_source(tmp_path: Path, kind: int | None, instant: str) -> None:
    with World(tmp_path, units=2) as world:
        world.claim(world.s, kind)
        if instant == "stopped":
            world.s.engine.migrate("web1", "d")
            world.s.guest_stops()
        else:
            world.migrate(world.s, finish=False)
            assert world.verified(world.s)
        world.s.guest_starts()
        world.run()
        assert at_rest(world)
        assert world.s.work.phase in (SourcePhase.RECLAIMED, SourcePhase.CANCELLED)
        assert world.d.work.phase in (DestinationPhase.CLOSED, DestinationPhase.CANCELLED)
        assert world.s.open
        holds_at(world, world.s, kind)
        world.migrate(world.s)
        holds_at(world, world.d, kind)


def test_the_operator_cancels(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.claim(world.s, 5)
        world.s.engine.migrate("web1", "d")
        world.s.engine.cancel("web1")
        world.run()
        assert (world.s.work.phase, world.d.work.phase) == (SourcePhase.CANCELLED, DestinationPhase.CLOSED)
        assert (world.s.open, world.d.open) == (True, False)
        holds_at(world, world.s, 5)
        world.migrate(world.s, finish=False)
        world.s.engine.cancel("web1")
        world.run()
        assert at_rest(world)
        assert (world.s.open, world.d.open) == (True, False)
        holds_at(world, world.s, 5)


def test_a_hypervisor_that_goes_on_though_the_handover_was_called_off(tmp_path: Path) -> None:
    """The guest starts where its claims are not: it is not served there, but where it was, once it is back."""
    with World(tmp_path) as world:
        world.claim(world.s, 5)
        world.s.engine.migrate("web1", "d")
        world.s.guest_stops()
        world.s.engine.cancel("web1")
        world.d.guest_starts()
        world.run()
        assert not world.d.open
        world.d.guest_stops()
        world.s.guest_starts()
        world.run()
        holds_at(world, world.s, 5)


def test_the_operator_lets_a_host_serve_that_was_not_needed(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.s.engine.migrate("web1", "d")
        world.s.engine.cancel("web1")
        world.run()
        assert not world.d.open
        with pytest.raises(MigrationError, match="have not come here"):
            world.d.engine.source_dead("web1")
        world.d.engine.cancel("web1")
        world.run()
        assert world.d.open
        world.d.crash()
        world.d.start()
        assert world.d.open


def test_armed_from_where_it_goes_to(tmp_path: Path) -> None:
    with World(tmp_path, units=2) as world:
        world.claim(world.s, 5)
        for source in (world.s, world.d):
            destination = source.other
            destination.engine.invite("web1", None)
            assert (source.phase, destination.phase) == (SourcePhase.ARMED, DestinationPhase.PREPARED)
            assert source.work.record.migration == destination.work.record.migration
            destination.engine.invite("web1", source.name)
            assert len(source.engine.works()) == len(destination.engine.works()), "armed once"
            source.guest_stops()
            world.run()
            destination.guest_starts()
            world.run()
            assert at_rest(world)
            holds_at(world, destination, 5)


@pytest.mark.parametrize("cut", [False, True], ids=["", "cut"])
def test_nobody_lets_it_go(tmp_path: Path, cut: bool) -> None:
    """No peer serves the guest, or none answers: the hypervisor is not to begin."""
    with World(tmp_path) as world:
        if not cut:
            world.migrate(world.s)
            world.d.running = False
            world.s.engine.invite("web1", None)
            world.s.engine.withdraw("web1")
            world.run()
        world.cut = cut
        what = "s does not answer" if cut else "not served on this host"
        with pytest.raises(MigrationError, match=what):
            world.d.engine.invite("web1", "s")
        world.cut = False
        with pytest.raises(MigrationError, match="there is no peer q"):
            world.d.engine.invite("web1", "q")
        world.run()
        assert at_rest(world)


def test_a_source_whose_word_is_lost(tmp_path: Path) -> None:
    """It is armed and the destination does not hear it: what was armed is withdrawn."""
    with World(tmp_path) as world:
        world.lose = lambda request: isinstance(request, Invite)
        with pytest.raises(MigrationError, match="is lost"):
            world.d.engine.invite("web1", None)
        world.lose = lambda _: False
        world.run()
        assert at_rest(world)
        assert world.s.open
        world.d.engine.invite("web1", None)
        assert world.s.phase is SourcePhase.ARMED


def test_an_invitation_of_another(tmp_path: Path) -> None:
    """The number of a migration is the guest's and the peer's it was begun with."""
    with World(tmp_path) as world:
        world.d.engine.invite("web1", None)
        number = world.s.work.record.migration
        again = world.s.engine.serve("d", Invite(migration=number, guest="web1"))
        assert isinstance(again, Progress)
        assert again.phase == SourcePhase.ARMED
        for peer, guest in (("e", "web1"), ("d", "web2")):
            with pytest.raises(PeerRefusedError, match="is not one of guest"):
                world.s.engine.serve(peer, Invite(migration=number, guest=guest))
        with pytest.raises(PeerRefusedError, match="there is no guest web2"):
            world.s.engine.serve("d", Invite(migration="1" * 32, guest="web2"))
        with pytest.raises(PeerRefusedError, match="is not one of guest"):
            world.s.engine.serve("d", Withdraw(migration=number, guest="web1", epoch=99))


@pytest.mark.parametrize("when", ["armed", "stopped", "verified"])
def test_the_hypervisor_gives_up_at_the_destination(tmp_path: Path, when: str) -> None:
    with World(tmp_path) as world:
        world.claim(world.s, 5)
        world.d.engine.invite("web1", None)
        if when != "armed":
            world.s.guest_stops()
        if when == "verified":
            world.run()
            assert world.verified(world.s)
        world.d.engine.withdraw("web1")
        world.run()
        assert at_rest(world)
        assert world.s.open
        if when != "armed":
            world.s.guest_starts()
        holds_at(world, world.s, 5)
        world.d.engine.withdraw("web1")


def test_a_guest_that_has_arrived_is_not_withdrawn(tmp_path: Path) -> None:
    """libvirt tells the same when a guest is shut down long after it came."""
    with World(tmp_path) as world:
        world.claim(world.s, 5)
        world.d.engine.invite("web1", None)
        world.s.guest_stops()
        world.run()
        world.d.guest_starts()
        world.d.engine.withdraw("web1")
        world.run()
        world.d.engine.withdraw("web1")
        world.run()
        assert at_rest(world)
        holds_at(world, world.d, 5)


@pytest.mark.parametrize("at_the_end", ["s", "d"])
def test_a_guest_without_virtqueues(tmp_path: Path, at_the_end: str) -> None:
    """The operator says that it has stopped; where it goes on its first command tells."""
    with World(tmp_path) as world:
        world.claim(world.s, 5)
        world.s.engine.migrate("web1", "d")
        world.s.engine.hand_over("web1")
        world.s.engine.hand_over("web1")
        world.run()
        assert world.s.work.ready
        world.s.engine.hand_over("web1")
        side = world.s if at_the_end == "s" else world.d
        assert not side.gates.gate("web1").enter(0.01), "it waits"
        world.s.running, world.d.running = side is world.s, side is world.d
        world.run()
        assert at_rest(world)
        assert side.gates.gate("web1").enter(0.01)
        side.gates.gate("web1").leave()
        holds_at(world, side, 5)


@pytest.mark.parametrize("named", [True, False])
def test_a_takeover_that_fails_gives_back_what_it_heard(tmp_path: Path, named: bool) -> None:
    """The unit grows while the destination looks at it through the source's nexus: the guest hears of it there."""
    with World(tmp_path, named=named) as world:
        world.claim(world.s, 5)
        world.s.engine.migrate("web1", "d")
        world.s.guest_stops()
        for _ in range(3):
            world.s.act(world.s.work.step)
        assert world.s.phase is SourcePhase.OFFERED
        world.units[0].grow(1 << 17)
        host = world.units[0].nexus(world.d.ports[0])
        assert host.execute(Command(bytes(6))).decoded_sense is not None
        world.join(host, 0xBAD)
        world.run()
        assert world.s.phase is SourcePhase.RECLAIMED
        assert world.d.phase is DestinationPhase.CLOSED
        world.s.guest_starts()
        told = world.s.host.unit("web1", 0).execute(Command(bytes(6))).decoded_sense
        assert told is not None
        assert told.code == (6, 0x2A, 9)
        assert world.guest(world.s, 0, WRITE, bytes(512)).good, "once"


def test_what_is_refused_before_anything_changes(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        world.claim(world.s, 5)
        engine = world.s.engine
        with pytest.raises(MigrationError, match="there is no peer x; the peers: d"):
            engine.migrate("web1", "x")
        with pytest.raises(MigrationError, match="is not being migrated"):
            engine.cancel("web1")
        world.join(world.units[0].nexus(world.d.ports[0]), 0xF0E)
        with pytest.raises(MigrationError, match="nexus is registered already"):
            engine.migrate("web1", "d")
        world.run()
        assert world.s.open
        assert world.s.phase is SourcePhase.CANCELLED
        world.leave(world.units[0].nexus(world.d.ports[0]), 0xF0E)
        engine.migrate("web1", "d")
        with pytest.raises(MigrationError, match="let it end or cancel it"):
            engine.migrate("web1", "d")
        engine.cancel("web1")
        world.run()
        holds_at(world, world.s, 5)


def test_old_and_foreign_requests(tmp_path: Path) -> None:
    """What was recorded on the wire does nothing when it is sent again."""
    with World(tmp_path) as world:
        world.claim(world.s, 5)
        world.migrate(world.s)
        requests = [request for near, request in world.log if near == "s"]
        lent = [request for near, request in world.log if near == "d"]
        before = world.units[0].reservations
        for request in requests:
            try:
                answer = world.d.engine.serve("s", request)
            except PeerRefusedError:
                continue
            assert answer.phase == "committed"
        for request in lent:
            with pytest.raises(PeerRefusedError):
                world.s.engine.serve("d", request)
        for request in requests[1:]:
            with pytest.raises(PeerRefusedError, match="is not one of guest"):
                world.d.engine.serve("x", request)
        assert world.units[0].reservations == before
        assert (world.s.open, world.d.open) == (False, True)
        holds_at(world, world.d, 5)


def test_what_is_told_at_length_is_read_back(tmp_path: Path) -> None:
    """A record that is not could keep the daemon from starting: many units have much to say."""
    with World(tmp_path) as world:
        world.s.engine.migrate("web1", "d")
        work = world.s.work
        units = tuple(replace(unit, sentence="x" * 10_000) for unit in work.record.units)
        work.feed(SourceEvent.CANCEL, "y" * 10_000, text="z" * 10_000, units=units)
        work.say("z" * 10_000)
        assert len(work.progress().text) == LONGEST_TEXT
        world.s.crash()
        world.s.start()
        record = world.s.work.record
        assert {len(record.text), len(record.trail[-1].why), len(record.units[0].sentence)} == {LONGEST_TEXT}
