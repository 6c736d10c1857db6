"""A guest's claim moves between two iSCSI nexuses of tgt, which has no READ FULL STATUS to name them by."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyproxy.migration.capture import CheckpointRefusedError
from pyproxy.reservation.classify import Decision
from tests.iscsi.commands import BLOCK, CLEAR, CONFLICT, PREEMPT, REGISTER, keys, pr_out, write
from tests.iscsi.conftest import Open, eventually
from tests.iscsi.hosts import GuestHost, reservation
from tests.rig.tgt import TgtTarget
from tests.vm.rig.takeover import Watch

K, OTHERS = 0x1122334455667788, 0x0DDB1
TYPES = [1, 3, 5, 6]
ATTENTION_OF_A_PREEMPTED = "2a/03"
"""tgt's; the standard has 2A/05."""


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("dead", [False, True], ids=["source-alive", "source-dead"])
def test_the_reservation_moves_and_the_source_is_shut_out(
    target: TgtTarget, open_device: Open, tmp_path: Path, kind: int, dead: bool
) -> None:
    outsider = open_device("outsider")

    def look() -> None:
        # Between any two commands nobody else gets through.
        while (result := outsider.execute(write(9, b"\xee" * BLOCK))).status != CONFLICT:
            assert result.decoded_sense is not None, "the outsider has written"

    with GuestHost(tmp_path, 1, target) as source, GuestHost(tmp_path, 2, target) as destination:
        source.claim(K, kind)
        assert source.write(b"\x0a" * BLOCK).good
        destination.settle()
        assert destination.write().status == CONFLICT
        document = source.checkpoint()
        if dead:
            source.close()

        report = destination.restore(document, source=None if dead else source, dead=dead, watch=Watch(look))

        assert (report.decision, report.exit_status) == (Decision.TAKEN_OVER, 0), report.sentence
        assert report.procedure == ("P2" if dead else "P1")
        assert report.service_actions == (
            # tgt has no PREEMPT AND ABORT; it is asked and says so.
            ("REGISTER", "PREEMPT AND ABORT", "PREEMPT", "REGISTER") if dead else ("REGISTER", "REGISTER", "PREEMPT")
        )
        assert keys(outsider) == [K]
        assert reservation(outsider) == (K, kind)
        assert destination.settle() == []
        assert destination.write(b"\x0b" * BLOCK).good
        state = destination.unit.state
        assert (state.key, state.type, state.fresh) == (K, kind, True)

        # The source, back on its nexus, is told and shut out.
        told = source.settle()
        assert source.write(b"\x05" * BLOCK).status == CONFLICT
        assert ATTENTION_OF_A_PREEMPTED not in told, "the takeover's own PREEMPT is nothing for the guest"
        # Without READ FULL STATUS reading cannot tell whose K it is; a command that needs it can.
        assert source.pr_out(REGISTER, key=K, sa_key=K).status == CONFLICT
        assert destination.read().data == b"\x0b" * BLOCK

        # Once more changes nothing.
        again = destination.restore(document, source=None if dead else source, dead=dead)
        assert again.decision is Decision.ALREADY_DONE, again.sentence
        assert again.service_actions == ()
        assert (keys(outsider), reservation(outsider)) == ([K], (K, kind))


@pytest.mark.parametrize("kind", [7, 8])
def test_all_registrants_move_with_the_source_alone(
    target: TgtTarget, open_device: Open, tmp_path: Path, kind: int
) -> None:
    """P3 works on tgt; without the source it would leave a dangling holder there, and is refused."""
    outsider = open_device("outsider")
    with GuestHost(tmp_path, 1, target) as source, GuestHost(tmp_path, 2, target) as destination:
        source.claim(K, kind)
        document = source.checkpoint()
        refused = destination.restore(document, dead=True)
        assert refused.decision is Decision.UNSUPPORTED, refused.sentence
        assert keys(outsider) == [K]
        report = destination.restore(document, source=source)
        assert (report.decision, report.procedure) == (Decision.TAKEN_OVER, "P3"), report.sentence
        assert keys(outsider) == [K]
        destination.settle()
        source.settle()
        assert destination.write().good
        assert source.write().status == CONFLICT


def test_registered_without_a_reservation(target: TgtTarget, open_device: Open, tmp_path: Path) -> None:
    watcher = open_device("outsider")
    with GuestHost(tmp_path, 1, target) as source, GuestHost(tmp_path, 2, target) as destination:
        source.claim(K, None)
        report = destination.restore(source.checkpoint(), source=source)
        assert (report.decision, report.procedure) == (Decision.TAKEN_OVER, "P3"), report.sentence
        assert (keys(watcher), reservation(watcher)) == ([K], None)
        assert destination.unit.state.key == K


@pytest.mark.parametrize("dead", [False, True], ids=["source-alive", "source-dead"])
def test_fenced_guest_is_not_brought_back(target: TgtTarget, open_device: Open, tmp_path: Path, dead: bool) -> None:
    fencer = open_device("fencer")
    with GuestHost(tmp_path, 1, target) as source, GuestHost(tmp_path, 2, target) as destination:
        source.claim(K, 5)
        document = source.checkpoint()
        assert fencer.execute(pr_out(REGISTER, sa_key=OTHERS)).good
        assert fencer.execute(pr_out(PREEMPT, key=OTHERS, sa_key=K, kind=5)).good
        report = destination.restore(document, source=None if dead else source, dead=dead)
        assert report.decision is Decision.FENCED, report.sentence
        assert (keys(fencer), reservation(fencer)) == ([OTHERS], (OTHERS, 5))
        assert not destination.unit.state.registered


def test_shared_key_is_not_moved_where_nobody_can_tell_who_holds(
    target: TgtTarget, open_device: Open, tmp_path: Path
) -> None:
    bystander = open_device("bystander")
    with GuestHost(tmp_path, 1, target) as source:
        source.claim(K, 5)
        assert bystander.execute(pr_out(REGISTER, sa_key=K)).good
        with pytest.raises(CheckpointRefusedError, match="ambiguous-holder"):
            source.checkpoint()
        assert keys(bystander) == [K, K]


def test_lost_nexus_makes_the_state_suspect_until_it_is_read(
    target: TgtTarget, open_device: Open, tmp_path: Path
) -> None:
    with GuestHost(tmp_path, 1, target) as host:
        host.claim(K, 5)
        device = host.device
        assert device is not None
        assert host.unit.state.fresh
        device.disconnect()
        eventually(lambda: "nexus-lost" in host.unit.state.suspect, "doubt")
        # The registration is still listed, but tgt bound it to the session that is gone.
        other = open_device("other")
        assert keys(other) == [K]
        assert other.execute(pr_out(REGISTER, sa_key=OTHERS)).good
        assert other.execute(pr_out(CLEAR, key=OTHERS)).good
        host.settle()
        state = host.unit.resync()
        assert (state.registered, state.fresh) == (False, True)


@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_session_lost_in_the_middle(
    target: TgtTarget, open_device: Open, tmp_path: Path, side: str, after: int
) -> None:
    """tgt forgets what a lost session had registered: a success is one, and never do both sides hold."""
    outsider = open_device("outsider")
    with GuestHost(tmp_path, 1, target) as source, GuestHost(tmp_path, 2, target) as destination:
        source.claim(K, 5)
        destination.settle()
        document = source.checkpoint()
        losing = source if side == "source" else destination
        watch = Watch()

        def lose() -> None:
            if len(watch.changes) == after and losing.device is not None and losing.device.counts[1] == 0:
                losing.device.disconnect()

        watch.look = lose
        report = destination.restore(document, source=source, watch=watch)
        assert losing.device is not None
        assert losing.device.counts[1] == 1
        source.settle()
        destination.settle()
        writers = [host.write().good for host in (source, destination)]
        if report.decision is Decision.FENCED:
            # What the target forgot of a nexus cannot be told from a fence, which is honoured.
            assert not destination.unit.state.registered
            return
        assert outsider.execute(write(9, bytes(BLOCK))).status == CONFLICT, report.sentence
        assert writers != [True, True], report.sentence
        if report.succeeded:
            assert writers == [False, True], report.sentence
            assert keys(outsider) == [K]
