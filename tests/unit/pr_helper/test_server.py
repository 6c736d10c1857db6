"""The server among many clients: nobody waits for a stalled one; strangers are turned away; stopping drains."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import threading
import time
from pathlib import Path

import pytest

from pyproxy.connected import Peer, PeerPolicy
from pyproxy.frontend.listener import Listener
from pyproxy.frontend.pr_helper.server import PrHelperServer
from pyproxy.scsi.command import Command
from tests.unit.pr_helper.exchange import CLOSED, Answer, Client, parameters, prin, prout
from tests.unit.pr_helper.scene import Blocking, scene

CLIENTS = 64


@pytest.fixture
def device(guest):
    descriptor = os.open(guest.device_file(), os.O_RDWR)
    guest.guest_unit.device.execute(Command(bytes(6)))
    yield descriptor
    os.close(descriptor)


def test_64_clients_are_not_delayed_by_stalled_ones(guest, device):
    """Every fourth client stalls: in the feature word, in a CDB, in a parameter list, or without reading its answer."""
    stalled = []
    for number in range(CLIENTS // 4):
        if number % 4 == 0:
            client = Client(guest.path, features=b"\0\0")
        else:
            client = Client(guest.path)
            if number % 4 == 1:
                client.send(prin(0, 64)[:9], (device,))
            elif number % 4 == 2:
                client.send(prout(6, 24), (device,))
                client.send(parameters()[:11])
            else:
                client.send(prin(0, 64), (device,))
        stalled.append(client)
    longest = []

    def work() -> None:
        with Client(guest.path) as client:
            for _ in range(20):
                before = time.monotonic()
                assert client.ask(prin(0, 64), device).status == 0
                longest.append(time.monotonic() - before)

    threads = [threading.Thread(target=work) for _ in range(CLIENTS - len(stalled))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(longest) == 20 * len(threads)
    assert max(longest) < 5
    # The stalled ones go on where they were.
    stalled[0].send(b"\0\0")
    assert stalled[0].ask(prin(0, 64), device).status == 0
    stalled[1].send(prin(0, 64)[9:])
    assert stalled[1].answer().status == 0
    stalled[2].send(parameters()[11:])
    assert stalled[2].answer().status == 0
    assert stalled[3].answer().status == 0
    for client in stalled:
        client.close()


def test_a_client_that_never_reads_stalls_itself_only(guest, device):
    with Client(guest.path) as greedy, Client(guest.path) as other:
        greedy.socket.setblocking(False)
        try:
            for _ in range(100_000):
                socket.send_fds(greedy.socket, [prin(3, 8192)], [device])
        except OSError:
            pass
        assert other.ask(prin(0, 64), device).status == 0


def test_the_peers_user_is_checked(tmp_path, caplog):
    with scene(tmp_path, peers=PeerPolicy(frozenset({4711}), frozenset({4712}))) as guest:
        for _ in range(3):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(os.fspath(guest.path))
                client.settimeout(10)
                assert client.recv(4) == b""
        assert guest.server.counts().refused_peers == 3
    told = [record.getMessage() for record in caplog.records if "may not use its helper socket" in record.getMessage()]
    assert len(told) == 1
    assert f"process {os.getpid()} of user {os.getuid()}" in told[0]
    assert "allowed: users 4711, groups 4712" in told[0]


@pytest.mark.parametrize(
    ("peer", "allowed"),
    [
        (Peer(1, 10, 20), True),
        (Peer(1, 11, 30), True),
        (Peer(1, 11, 20, frozenset({30})), True),
        (Peer(1, 11, 20, frozenset({31})), False),
        (Peer(1, 0, 0), False),
    ],
)
def test_policies(peer, allowed):
    assert PeerPolicy(frozenset({10}), frozenset({30})).allows(peer) is allowed


def test_no_policy_means_root_and_ourselves():
    assert PeerPolicy.own().allows(Peer(1, os.geteuid(), 1))
    assert PeerPolicy.own().allows(Peer(1, 0, 0))
    assert not PeerPolicy.own().allows(Peer(1, 65533, 65533))


def test_connections_are_limited(tmp_path, caplog):
    with scene(tmp_path, max_connections=2) as guest:
        with Client(guest.path), Client(guest.path), socket.socket(socket.AF_UNIX) as third:
            third.connect(os.fspath(guest.path))
            third.settimeout(10)
            assert third.recv(4) == b""
        assert guest.server.counts().refused_connections == 1
    assert "has 2 connections, the most it may have" in caplog.text


def test_stopping_answers_what_runs_and_closes_the_rest(tmp_path):
    with scene(tmp_path, start=False) as guest:
        blocking = Blocking(guest.guest_unit.device)
        descriptor = os.open(guest.device_file(blocking), os.O_RDWR)
        server = PrHelperServer("g", Listener.bind(guest.path), guest.open_node, guest.resolve)
        server.start()
        idle, halfway, busy = Client(guest.path), Client(guest.path), Client(guest.path)
        halfway.send(prin(0, 64)[:8], (descriptor,))
        guest.guest_unit.device.execute(Command(bytes(6)))
        busy.send(prout(6, 24), (descriptor,))
        busy.send(parameters(0, 0x1234))
        assert blocking.entered.wait(10)
        stopped: list[bool] = []
        thread = threading.Thread(target=lambda: stopped.append(server.stop(20)))
        thread.start()
        assert idle.answer() == CLOSED
        assert halfway.answer() == CLOSED
        assert not stopped
        # A request that comes now is not executed any more, the one that runs is answered.
        busy.send(prin(0, 64), (descriptor,))
        blocking.release.set()
        assert busy.answer() == Answer(0)
        assert busy.answer() == CLOSED
        thread.join(20)
        assert stopped == [True]
        assert not guest.path.exists()
        assert guest.guest_unit.state.key == 0x1234
        os.close(descriptor)
        for client in (idle, halfway, busy):
            client.close()


def test_stopping_breaks_off_a_client_that_does_not_read(guest, device):
    client = Client(guest.path)
    client.socket.setblocking(False)
    try:
        for _ in range(100_000):
            socket.send_fds(client.socket, [prin(3, 8192)], [device])
    except OSError:
        pass
    started = time.monotonic()
    assert guest.server.stop(0.2)
    assert time.monotonic() - started < 10
    client.close()


def test_stopping_twice_or_before_starting(tmp_path):
    with scene(tmp_path, start=False) as guest:
        server = PrHelperServer("g", Listener.bind(guest.path), guest.open_node, guest.resolve)
        assert server.stop()
        assert server.stop()
        assert not guest.path.exists()


def test_clients_come_back_after_a_restart(tmp_path):
    with scene(tmp_path) as guest:
        descriptor = os.open(guest.device_file(), os.O_RDWR)
        guest.guest_unit.device.execute(Command(bytes(6)))
        for _ in range(3):
            with Client(guest.path) as client:
                assert client.ask(prin(0, 64), descriptor).status == 0
                assert guest.server.stop(10)
                assert client.ask(prin(0, 64), descriptor) == CLOSED
            guest.start()
        os.close(descriptor)


def test_everything_is_counted(guest, device):
    with Client(guest.path) as client:
        client.ask(prin(0, 64), device)
        client.ask(prout(6, 24), device, parameters(0, 0x1234))
        client.ask(prout(1, 24, 1), device, parameters(0x9999))
        client.send(bytes(16), (device,))
        assert client.answer() == CLOSED
    deadline = time.monotonic() + 10
    while guest.server.counts().connections and time.monotonic() < deadline:
        time.sleep(0.01)
    counts = guest.server.counts()
    assert (counts.connections, counts.accepted, counts.straight) == (0, 1, 0)
    assert counts.requests == {"in": 1, "out": 2}
    assert counts.replies == {0: 2, 0x18: 1}
    assert counts.closed == {"not-persistent-reserve": 1}


def test_protocol_faults_are_told_once(guest, device, caplog):
    for _ in range(5):
        with Client(guest.path) as client:
            client.send(bytes(16), (device,))
            assert client.answer() == CLOSED
    told = [
        record for record in caplog.records if record.levelno >= logging.WARNING and "closed" in record.getMessage()
    ]
    assert len(told) == 1
    assert "neither PERSISTENT RESERVE IN nor OUT" in told[0].getMessage()


def test_running_out_of_descriptors_is_survived(guest, device, caplog):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    highest = max(int(entry.name) for entry in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, before[1]))
    fillers = []
    try:
        while True:
            try:
                fillers.append(os.dup(0))
            except OSError:
                break
        for each in waiting:
            each.connect(os.fspath(guest.path))
        time.sleep(0.3)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in fillers:
            os.close(descriptor)
    for each in waiting:
        each.settimeout(10)
        assert each.recv(4) == bytes(4)
        each.close()
    assert "raise the limit of open files" in caplog.text
    with Client(guest.path) as client:
        assert client.ask(prin(0, 64), device).status == 0


def test_memory_is_flat(guest, device):
    """The path through Python; the straight path is measured in the virtual machine."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()

    with Client(guest.path) as client:
        for _ in range(500):
            client.ask(prin(0, 64), device)
        before = resident()
        for _ in range(3000):
            client.ask(prin(0, 64), device)
        assert resident() - before < 1 << 20


def test_a_connections_thread_receives_no_signal_but_its_own_faults(guest, device):
    with Client(guest.path) as client:
        assert client.ask(prin(0, 64), device).status == 0
        (thread,) = [each for each in threading.enumerate() if each.name.startswith("pr-helper-g-")]
        status = Path(f"/proc/self/task/{thread.native_id}/status").read_text(encoding="ascii")
    blocked = int(next(line for line in status.splitlines() if line.startswith("SigBlk:")).split()[1], 16)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        assert blocked >> number - 1 & 1, f"{number!r} would interrupt a command"
    for number in (signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT):
        assert not blocked >> number - 1 & 1, f"{number!r} would end the process without a word"
