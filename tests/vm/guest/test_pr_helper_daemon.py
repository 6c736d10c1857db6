"""The daemon in qemu-pr-helper's place on real disks: restarts, kills, takeovers, and peers that are not allowed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.pr_helper.exchange import Answer, Client, parameters, prin, prout
from tests.vm.rig.lio import LioNexus
from tests.vm.rig.nodes import wait_for
from tests.vm.rig.operated import OperatedHost
from tests.vm.rig.takeover import CONFLICT, GUEST
from tests.vm.rig.witness import all_show

K = 0x1122334455667788
TYPE = 5
REGISTER = prout(6, 24), parameters(0, K)
RESERVE = prout(1, 24, TYPE), parameters(K)
READ_KEYS = prin(0, 64)


class HelpedHost(OperatedHost):
    """A host whose guest's PERSISTENT RESERVE comes by a helper socket; ``disk`` is what QEMU has opened."""

    def __init__(self, directory: Path, name: str, nexus: LioNexus, keys: str = "") -> None:
        self.path = directory / f"{name}.sock"
        super().__init__(directory, name, nexus, guest_keys=f'pr_helper = {{ socket = "{self.path}"{keys} }}')
        self.disk = os.open(nexus.sd, os.O_RDWR | os.O_NONBLOCK)

    def ask(self, cdb: bytes, parameter_list: bytes = b"") -> Answer:
        """One request on a connection of its own, past unit attentions."""
        with Client(self.path) as client:
            while True:
                answer = client.ask(cdb, self.disk, parameter_list)
                if answer.status != 2 or answer.sense[2] & 0x0F != 6:
                    return answer


@pytest.fixture
def hosts(lio, tmp_path) -> Iterator[list[HelpedHost]]:
    """Two hosts on two nexuses of one unit, and a third nexus."""
    unit = lio(3)
    with contextlib.ExitStack() as cleanup:
        made = [HelpedHost(tmp_path, name, nexus) for name, nexus in zip(("a", "b"), unit.nexuses, strict=False)]
        for host in made:
            cleanup.callback(os.close, host.disk)
            cleanup.callback(host.stop, signal.SIGKILL)
        yield made


def test_a_guest_keeps_its_reservation_through_restarts_kills_and_a_move(lio, hosts, tmp_path):
    unit = lio(3)
    one, two, third = unit.nexuses
    host_a, host_b = hosts
    host_a.start()
    assert host_a.ask(*REGISTER) == Answer(0)
    assert host_a.ask(*RESERVE) == Answer(0)
    all_show(unit, {one: K}, one, TYPE)
    told = host_a.status(host_a.here)
    assert (told["key"], told["reservation_type"], told["fresh"]) == (f"{K:#018x}", TYPE, True)
    assert f"guest {GUEST}: PERSISTENT RESERVE on {host_a.path}, " in host_a.here("status")[1]

    # Killed, its socket stays; the next one takes its place and still knows.
    assert host_a.stop(signal.SIGKILL) == -signal.SIGKILL
    assert host_a.path.exists()
    host_a.start()
    told = host_a.status(host_a.here)
    assert (told["key"], told["reservation_type"], told["fresh"]) == (f"{K:#018x}", TYPE, True)
    assert host_a.ask(READ_KEYS).data[8:] == K.to_bytes(8)

    # Moved to the other host, the guest goes on there by that host's socket; nothing is left here.
    file = tmp_path / "db.json"
    assert host_a.here("checkpoint", GUEST, "-o", file)[0] == 0
    host_b.start()
    status, _, err = host_b.here("restore", file, "--source", one.sg)
    assert status == 0, err
    all_show(unit, {two: K}, two, TYPE)
    assert host_b.ask(READ_KEYS).data[8:] == K.to_bytes(8)
    assert host_b.ask(prout(0, 24), parameters(K, K + 1)) == Answer(0)
    assert third.direct.write().status == CONFLICT
    assert host_a.ask(prout(2, 24, TYPE), parameters(K)).status == CONFLICT
    all_show(unit, {two: K + 1}, two, TYPE)
    for host in hosts:
        assert host.stop() == 0
        assert not host.path.exists()


def test_a_disk_of_another_path_is_refused(lio, hosts):
    """A registration belongs to one I_T nexus: through another path of the same unit it would not be the guest's."""
    host_a, _ = hosts
    host_a.start()
    other = os.open(lio(3).nexuses[1].sd, os.O_RDWR | os.O_NONBLOCK)
    try:
        with Client(host_a.path) as client:
            answer = client.ask(REGISTER[0], other, REGISTER[1])
    finally:
        os.close(other)
    assert (answer.status, answer.sense[2] & 0x0F, answer.sense[12:14]) == (2, 5, b"\x25\x00")
    assert lio(3).registered == {}
    assert "is no unit of this guest" in host_a.log.read_text()


def test_only_the_users_and_the_group_that_are_listed_may_connect(lio, tmp_path):
    host = HelpedHost(tmp_path, "a", lio(1).nexuses[0], ", group = 23456, users = [12345]")
    try:
        host.start()
        # Whatever the files' permissions let through, the peer's credentials decide.
        host.path.chmod(0o666)
        for directory in tmp_path.parents:
            if directory != Path("/"):
                directory.chmod(directory.stat().st_mode | 0o111)
        tmp_path.chmod(0o711)
        connect = (
            "import os, socket, sys; user, group, path = sys.argv[1:]; os.setgroups([]); os.setgid(int(group));"
            "os.setuid(int(user)); s = socket.socket(socket.AF_UNIX); s.connect(path); print(len(s.recv(4)))"
        )
        greeted = {}
        for user, group in (("12345", "1"), ("54321", "23456"), ("54321", "1")):
            words = [sys.executable, "-S", "-c", connect, user, group, str(host.path)]
            greeted[user, group] = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
        assert greeted == {("12345", "1"): "4", ("54321", "23456"): "4", ("54321", "1"): "0"}
        wait_for(lambda: "may not use its helper socket" in host.log.read_text(), "the complaint")
        assert "user 54321, group 1 may not use its helper socket (allowed: users 0, 12345, groups 23456)" in (
            host.log.read_text()
        )
        assert host.ask(READ_KEYS).status == 0
        assert host.stop() == 0
    finally:
        host.stop(signal.SIGKILL)
        os.close(host.disk)
