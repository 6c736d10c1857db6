"""Two daemons hand a guest over, of which one is killed on the way: source and destination, every type there is."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.vm.migrating.hosts import DaemonHost
from tests.vm.migrating.killed import WRITE, K, MovingGuest
from tests.vm.rig.sg_direct import SgNode, past_attentions
from tests.vm.rig.takeover import CONFLICT, shown
from tests.vm.rig.tgt import create_tgt_unit

LIO_TYPES = (5, 1, 7, 3, None, 8, 6)
TGT_TYPES = (5, 1, 3, 6)
"""A PREEMPT under type 7 or 8 can free what tgt goes on using."""
Holds = Callable[[DaemonHost, int | None], None]


def kill_while_moving(home: Path, nodes: Sequence[Path], types: Sequence[int | None], holds: Holds, first: int) -> None:
    """Move a guest once with each type, killing the one daemon and the other in turn; ``first``: 0 the source.

    ``holds`` looks whether a host has the claim, and no other.
    """
    draw = random.Random(20261127 + first)
    with contextlib.ExitStack() as stack:
        hosts = [
            DaemonHost(home, name, peer, f'device = "{node}"')
            for name, peer, node in (("a", "b", nodes[0]), ("b", "a", nodes[1]))
        ]
        for host in hosts:
            stack.callback(host.kill)
            host.start()
        guest = MovingGuest(hosts[0])
        stack.callback(guest.stops)
        guest.starts(hosts[0])
        phases = set()
        for number, kind in enumerate(types):
            source, destination = guest.host, hosts[1] if guest.host is hosts[0] else hosts[0]
            victim = (source, destination)[(number + first) % 2]
            guest.claims(kind)
            # A source that is killed at once has nothing to go on with.
            delay = draw.uniform(0.3 if victim is source else 0.0, 1.5)
            phase = guest.moves(destination, victim, delay)
            phases.add(phase)
            print(f"type {kind}: {victim.name} killed {delay:.2f} s after the stop, the source was {phase}")
            holds(guest.host, kind)
            guest.gives_up()
        assert phases - {"cancelled"}
        for host in hosts:
            assert "failed inside pyproxy" not in host.told()


def kept_out(other: SgNode) -> bool:
    """Whether a write of somebody else ends with RESERVATION CONFLICT."""
    return past_attentions(lambda: other.execute(WRITE, data_out=bytes(512))).status == CONFLICT


@pytest.mark.vm_timeout(900)
def test_on_lio(lio, tmp_path):
    """It is where its claims are, at one host, with nothing left at the other, and others are kept out as before."""
    unit = lio.fresh(3)
    near, far, other = unit.nexuses
    nexus_of = {"a": near, "b": far}

    def holds(host: DaemonHost, kind: int | None) -> None:
        found = shown(unit)
        assert found.registered == {nexus_of[host.name].initiator: K}
        assert found.type == kind
        assert kept_out(other.direct) is (kind is not None)

    kill_while_moving(tmp_path, [near.sg, far.sg], LIO_TYPES, holds, first=0)


@pytest.mark.vm_timeout(900)
@pytest.mark.parametrize("first", [0, 1], ids=["source first", "destination first"])
def test_on_tgt(tmp_path, first):
    """Which forgets a registration with its session: the kernel's, which outlives the daemon."""
    unit = create_tgt_unit(3, tmp_path)
    try:
        near, far, other = unit.nexuses
        node_of = {"a": near.direct, "b": far.direct}

        def holds(host: DaemonHost, kind: int | None) -> None:
            assert other.direct.keys() == [K]
            for name, node in node_of.items():
                # Only the key's own nexus may register it anew, which changes nothing.
                again = past_attentions(lambda one=node: one.persistent_reserve_out(0, key=K, sa_key=K))
                assert (again.status == 0) is (name == host.name)
            assert kept_out(other.direct) is (kind is not None)

        kill_while_moving(tmp_path, [near.sg, far.sg], TGT_TYPES, holds, first)
    finally:
        unit.remove()
