"""The socket: who may connect, one front end at a time, the same path after a restart, draining, dialing."""

from __future__ import annotations

import os
import socket
import threading
import time

import pytest

from pyproxy.connected import PeerPolicy
from pyproxy.driver.front_end import ClosedError, FrontEnd
from pyproxy.frontend.listener import Listener
from pyproxy.frontend.vhost_user import message as wire
from pyproxy.frontend.vhost_user.dialer import VhostUserDialer
from pyproxy.frontend.vhost_user.message import MemoryRegion, Message, Request, VringDescriptor, VringState
from pyproxy.frontend.vhost_user.server import VhostUserServer
from tests.unit.vhost_user.recording_plane import RecordingController
from tests.unit.vhost_user.talk import address_of, open_descriptors

SECONDS = 60.0


def until(condition, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"{what} never happened"
        time.sleep(0.005)


class Draining(RecordingController):
    """Rings whose commands in flight end when they are let to."""

    def __init__(self) -> None:
        super().__init__()
        self.draining = threading.Event()
        self.release = threading.Event()

    def stop_queue(self, index: int) -> int:
        self.draining.set()
        assert self.release.wait(SECONDS)
        return super().stop_queue(index)


@pytest.fixture
def controller() -> Draining:
    return Draining()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scsi.sock"


@pytest.fixture
def server(controller, path):
    made = VhostUserServer("guest g", Listener.bind(path), 3, controller.plane())
    made.start()
    yield made
    controller.release.set()
    assert made.stop(SECONDS)


def start_a_ring(end: FrontEnd) -> None:
    end.negotiate()
    end.set_features(end.features)
    descriptor = os.memfd_create("ram")
    os.ftruncate(descriptor, 1 << 21)
    end.tell(
        Request.SET_MEM_TABLE,
        wire.encode_memory_table([MemoryRegion(0, 1 << 21, 0x7F00_0000_0000, 0)]),
        (descriptor,),
    )
    end.tell(Request.SET_VRING_NUM, VringState(2, 8).encode())
    end.tell(Request.SET_VRING_ADDR, address_of(2).encode())
    end.tell(Request.SET_VRING_KICK, VringDescriptor(2, True).encode(), (descriptor,))
    os.close(descriptor)


def test_one_front_end_after_another(server, path):
    for number in range(3):
        end = FrontEnd.connect(path)
        assert end.negotiate() == 3
        assert server.counts().connections == 1
        end.close()
        until(lambda count=number + 1: server.counts().closed == {"end-of-stream": count}, "the end")
    assert server.counts().accepted == 3


def test_a_second_front_end_is_turned_away_and_the_first_goes_on(server, path, caplog):
    first = FrontEnd.connect(path)
    first.negotiate()
    for _ in range(3):
        second = FrontEnd.connect(path)
        with pytest.raises(ClosedError):
            second.negotiate()
        second.close()
    assert first.get_u64(Request.GET_QUEUE_NUM) == 3
    assert server.counts().refused_connections == 3
    assert caplog.text.count("another front end is connected") == 1
    first.close()


def test_the_next_one_waits_for_the_commands_of_one_that_is_gone(server, path, controller):
    first = FrontEnd.connect(path)
    start_a_ring(first)
    first.close()
    assert controller.draining.wait(SECONDS)
    second = FrontEnd.connect(path)
    second.send(Message(Request.GET_FEATURES))
    second.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        second.receive()
    controller.release.set()
    second.socket.settimeout(SECONDS)
    assert second.receive().request == Request.GET_FEATURES
    assert server.counts().refused_connections == 0
    second.close()


def test_get_vring_base_is_answered_after_draining(server, path, controller):
    end = FrontEnd.connect(path)
    start_a_ring(end)
    end.send(Message(Request.GET_VRING_BASE, VringState(2, 0).encode()))
    assert controller.draining.wait(SECONDS)
    end.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        end.receive()
    controller.base = 9
    controller.release.set()
    end.socket.settimeout(SECONDS)
    assert VringState.decode(end.receive().payload) == VringState(2, 9)
    end.close()


def test_stopping_drains_and_frees_the_path(server, path, controller):
    end = FrontEnd.connect(path)
    start_a_ring(end)
    ended: list[bool] = []
    stopping = threading.Thread(target=lambda: ended.append(server.stop(SECONDS)))
    stopping.start()
    assert controller.draining.wait(SECONDS)
    until(lambda: not path.exists(), "the path being removed")
    assert not ended
    controller.release.set()
    stopping.join(SECONDS)
    assert ended == [True]
    assert server.counts().closed == {"stopping": 1}
    with pytest.raises(ClosedError):
        end.get_u64(Request.GET_FEATURES)
    end.close()
    again = VhostUserServer("guest g", Listener.bind(path), 3, controller.plane())
    again.start()
    end = FrontEnd.connect(path)
    start_a_ring(end)
    end.close()
    assert again.stop(SECONDS)


def test_stopping_says_when_commands_do_not_end(server, path, controller, caplog):
    end = FrontEnd.connect(path)
    start_a_ring(end)
    assert server.stop(0.1) is False
    assert "commands of process" in caplog.text
    controller.release.set()
    assert server.stop(SECONDS)
    end.close()


def test_a_violation_ends_that_connection_alone(server, path, caplog):
    before = open_descriptors()
    for _ in range(3):
        end = FrontEnd.connect(path)
        end.negotiate()
        end.send(Message(Request.SET_VRING_KICK, VringDescriptor(1, True).encode()))
        with pytest.raises(ClosedError):
            end.receive()
        end.close()
    until(lambda: server.counts().closed == {"wrong-descriptors": 3}, "the end")
    assert caplog.text.count("SET_VRING_KICK: came with 0 descriptors, expected 1") == 1
    end = FrontEnd.connect(path)
    assert end.negotiate() == 3
    end.close()
    until(lambda: open_descriptors() == before, "every descriptor being closed")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x01\0\0\0\0\0\0\0\0\0\0\0", "malformed-message"),
        (b"\x01\0\0\0\x01\0\0\0\xff\xff\0\0", "malformed-message"),
        (b"\x02\0\0\0\x01\0\0\0\x08\0\0\0\0\0", "truncated-message"),
        (b"\x02", "truncated-message"),
        (b"", "end-of-stream"),
    ],
)
def test_how_streams_end(server, path, data, reason):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        client.settimeout(SECONDS)
        assert client.recv(1) == b""
    until(lambda: server.counts().closed == {reason: 1}, reason)


def test_nine_descriptors(server, path):
    before = open_descriptors()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
        socket.send_fds(client, [Message(Request.SET_OWNER).encode()], [client.fileno()] * 9)
        client.settimeout(SECONDS)
        assert client.recv(1) == b""
    until(lambda: server.counts().closed == {"malformed-message": 1}, "the end")
    until(lambda: open_descriptors() == before, "every descriptor being closed")


def test_the_peers_user_is_checked(path, controller, caplog):
    server = VhostUserServer(
        "guest g", Listener.bind(path), 3, controller.plane(), peers=PeerPolicy(frozenset({4711}), frozenset({4712}))
    )
    server.start()
    for _ in range(2):
        end = FrontEnd.connect(path)
        with pytest.raises(ClosedError):
            end.negotiate()
        end.close()
    assert server.counts().refused_peers == 2
    assert caplog.text.count("may not use its vhost-user socket (allowed: users 4711, groups 4712)") == 1
    assert server.stop()


def test_starting_twice_and_stopping_before_starting(path, controller):
    server = VhostUserServer("guest g", Listener.bind(path), 3, controller.plane())
    assert server.stop()
    server = VhostUserServer("guest g", Listener.bind(path), 3, controller.plane())
    server.start()
    with pytest.raises(RuntimeError, match="was started before"):
        server.start()
    assert server.stop()
    assert server.stop()


def test_a_data_plane_that_fails_is_logged_and_undone(server, path, controller, caplog):
    controller.fail["set_features"] = RuntimeError("the worker is gone")
    end = FrontEnd.connect(path)
    end.negotiate()
    end.protocol = 0
    end.send(Message(Request.SET_FEATURES, wire.encode_u64(1 << 30)))
    with pytest.raises(ClosedError):
        end.receive()
    until(lambda: server.counts().closed == {"failed": 1}, "the end")
    assert "SET_FEATURES: the worker is gone" in caplog.text
    end.close()


def test_dialing_waits_for_somebody_who_listens_and_comes_back(path, controller):
    controller.release.set()
    dialer = VhostUserDialer("guest g", path, 3, controller.plane())
    dialer.start()
    with pytest.raises(RuntimeError, match="was started before"):
        dialer.start()
    for number in range(3):
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(os.fspath(path))
            listening.listen(1)
            end = FrontEnd.accept(listening, SECONDS)
            start_a_ring(end)
            end.close()
        until(lambda count=number + 1: dialer.counts().closed == {"end-of-stream": count}, "the end")
        path.unlink()
    assert dialer.stop(SECONDS)
    assert controller.started == {}


def test_dialing_stops_while_it_serves(path, controller):
    controller.release.set()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen(1)
        dialer = VhostUserDialer("guest g", path, 3, controller.plane())
        dialer.start()
        end = FrontEnd.accept(listening, SECONDS)
        start_a_ring(end)
        assert dialer.stop(SECONDS)
        assert controller.started == {}
        with pytest.raises(ClosedError):
            end.get_u64(Request.GET_FEATURES)
        end.close()
    assert dialer.stop(SECONDS)


def test_dialing_what_cannot_be_dialed(tmp_path, controller, caplog):
    dialer = VhostUserDialer("guest g", tmp_path / "no" / "such" / "x", 3, controller.plane())
    dialer.start()
    plain = tmp_path / "plain"
    plain.write_text("", encoding="ascii")
    other = VhostUserDialer("guest h", plain / "x", 3, controller.plane())
    other.start()
    until(lambda: "guest h: cannot connect to" in caplog.text, "the complaint")
    assert "Not a directory; it is tried again" in caplog.text
    assert dialer.stop(SECONDS)
    assert other.stop(SECONDS)
