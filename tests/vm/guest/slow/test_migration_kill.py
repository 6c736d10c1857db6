"""Two daemons on LIO hand a guest over, of which one is killed on the way: every type, source and destination."""

from __future__ import annotations

import contextlib
import random

import pytest

from tests.vm.migrating.hosts import DaemonHost
from tests.vm.migrating.killed import WRITE, K, MovingGuest
from tests.vm.rig.sg_direct import past_attentions
from tests.vm.rig.takeover import CONFLICT, shown

TYPES = (5, 1, 7, 3, None, 8, 6)


@pytest.mark.vm_timeout(900)
def test_a_daemon_killed_while_a_guest_moves(lio, tmp_path):
    """It is where its claims are, at one host, with nothing left at the other, and others are kept out as before."""
    unit = lio.fresh(3)
    near, far, other = unit.nexuses
    draw = random.Random(20261127)
    with contextlib.ExitStack() as stack:
        hosts = [
            DaemonHost(tmp_path, name, peer, f'device = "{nexus.sg}"')
            for name, peer, nexus in (("a", "b", near), ("b", "a", far))
        ]
        nexus_of = dict(zip(("a", "b"), (near, far), strict=True))
        for host in hosts:
            stack.callback(host.kill)
            host.start()
        guest = MovingGuest(hosts[0])
        stack.callback(guest.stops)
        guest.starts(hosts[0])
        phases = set()
        for number, kind in enumerate(TYPES):
            source, destination = guest.host, hosts[1] if guest.host is hosts[0] else hosts[0]
            victim = (source, destination)[number % 2]
            guest.claims(kind)
            # A source that is killed at once has nothing to go on with.
            delay = draw.uniform(0.3 if victim is source else 0.0, 1.5)
            phase = guest.moves(destination, victim, delay)
            phases.add(phase)
            print(f"type {kind}: {victim.name} killed {delay:.2f} s after the stop, the source was {phase}")
            found = shown(unit)
            assert found.registered == {nexus_of[guest.host.name].initiator: K}
            assert found.type == kind
            written = past_attentions(lambda: other.direct.execute(WRITE, data_out=bytes(512)))
            assert (written.status == CONFLICT) is (kind is not None)
            guest.gives_up()
        assert phases - {"cancelled"}
        for host in hosts:
            assert "failed inside pyproxy" not in host.told()
