"""Two daemons far from each other, by a link that loses: a guest moves; and whoever may not ask is refused."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from pyproxy.migration.checkpoint import Unit
from pyproxy.migration.messages import Abort, Close, Execute, PathFacts, Prepare, Progress, Request
from pyproxy.migration.peer import PeerError, PeerRefusedError
from pyproxy.migration.transport.client import Address, HttpPeer
from pyproxy.migration.transport.tls import Credentials
from tests.unit.migration.transport.scene import Authority
from tests.vm.migrating.hosts import GUEST, DaemonHost, Way
from tests.vm.migrating.killed import K, MovingGuest
from tests.vm.rig.distance import ADDRESSES, NAMES, Distance, within
from tests.vm.rig.nodes import wait_for
from tests.vm.rig.takeover import shown

PORT = 4420
DELAY_MS, LOSS = 100, 5
KIND = 5


def way(number: int, credentials: Credentials) -> Way:
    listen = f"""
listen = "{ADDRESSES[number]}:{PORT}"
certificate = "{credentials.certificate}"
key = "{credentials.key}"
ca = "{credentials.ca}"
"""
    return Way(listen, f"{ADDRESSES[1 - number]}:{PORT}", ("ip", "netns", "exec", NAMES[number]))


def ask(credentials: Credentials, request: Request) -> object:
    """Ask host b from host a's side of the link."""
    address = Address(ADDRESSES[1], PORT, None)

    def call() -> object:
        with contextlib.closing(HttpPeer("b", address, "a", credentials)) as peer:
            return peer.call(request)

    return within(NAMES[0], call)


@pytest.mark.vm_timeout(900)
def test_a_long_and_bad_link(lio, tmp_path: Path) -> None:
    unit = lio.fresh(3)
    near, far, _ = unit.nexuses
    authority, foreign = Authority(tmp_path / "ca"), Authority(tmp_path / "foreign")
    credentials = [authority.issue("a"), authority.issue("b")]
    with contextlib.ExitStack() as stack:
        stack.enter_context(Distance(delay_ms=DELAY_MS, loss=LOSS))
        a, b = (
            DaemonHost(tmp_path, name, peer, f'device = "{nexus.sg}"', way=way(number, credentials[number]))
            for number, (name, peer, nexus) in enumerate((("a", "b", near), ("b", "a", far)))
        )
        for host in (a, b):
            stack.callback(host.kill)
            host.start()
        guest = MovingGuest(a)
        stack.callback(guest.stops)
        guest.starts(a)
        guest.claims(KIND)

        for host, nexus in ((b, far), (a, near), (b, far)):
            source = guest.host
            source.arm(host.name)
            guest.stops()
            host.until_phase("verified", "serving")
            guest.starts(host)
            assert guest.writes()
            source.until_phase("released")
            moved = host.until_phase("committed")
            found = shown(unit)
            assert found.registered == {nexus.initiator: K}
            assert found.type == KIND

        before = (shown(unit), b.migration())
        number, epoch = str(moved["migration"]), int(str(moved["epoch"]))
        now = datetime.now(UTC)
        day = timedelta(days=1)
        wrong = foreign.issue("a")
        wrong.ca.write_bytes(authority.ca.cert_pem.bytes())
        for who, told in (
            (wrong, "certificate is not accepted"),
            (authority.issue("a", not_before=now - 9 * day, not_after=now - day), "certificate has expired"),
            (authority.issue("host-c"), "host-c"),
        ):
            with pytest.raises(PeerError):
                ask(who, Close(migration=number, guest=GUEST, epoch=epoch, committed=False))
            wait_for(lambda told=told: told in b.told(), f"{told!r} in the log", 60)
        # What host a said itself, once more: each is answered by what has become of it, or refused.
        for again in (
            Abort(migration=number, guest=GUEST, epoch=epoch),
            Close(migration=number, guest=GUEST, epoch=epoch, committed=False),
        ):
            answer = ask(credentials[0], again)
            assert isinstance(answer, Progress)
            assert answer.phase == "committed"
        unregister = Execute(
            migration=number,
            guest=GUEST,
            epoch=epoch,
            lun=0,
            sequence=0,
            cdb="5f000000000000001800",
            data_out="00" * 24,
        )
        unit_there = PathFacts(lun=0, unit=Unit(name="any", designators=[]))
        prepare = Prepare(migration=number, guest=GUEST, epoch=epoch, boot_id="any", units=[unit_there])
        for old, reason in ((unregister, "not-lending"), (prepare, "over")):
            with pytest.raises(PeerRefusedError) as refused:
                ask(credentials[0], old)
            assert refused.value.reason == reason
        assert (shown(unit), b.migration()) == before
        assert guest.writes()
