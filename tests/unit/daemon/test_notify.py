"""What the service manager is told, over a real datagram socket."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pyproxy.daemon.notify import ServiceManager


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as bound:
        bound.bind(str(tmp_path / "notify"))
        bound.settimeout(5)
        yield bound, str(tmp_path / "notify")


def test_each_message_is_one_datagram(listener: tuple[socket.socket, str]) -> None:
    bound, path = listener
    manager = ServiceManager.from_environment({"NOTIFY_SOCKET": path})
    manager.ready("serving web\nREADY=0")
    assert bound.recv(4096) == b"READY=1\nSTATUS=serving web READY=0"
    before = time.monotonic_ns() // 1000
    manager.reloading()
    name, stamp = bound.recv(4096).decode().split("\n")
    assert name == "RELOADING=1"
    assert before <= int(stamp.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    manager.alive()
    assert bound.recv(4096) == b"WATCHDOG=1"
    manager.stopping()
    assert bound.recv(4096).startswith(b"STOPPING=1\nSTATUS=")


def test_an_abstract_socket() -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as bound:
        bound.bind(f"\0pyproxy-test-{os.getpid()}")
        bound.settimeout(5)
        ServiceManager.from_environment({"NOTIFY_SOCKET": f"@pyproxy-test-{os.getpid()}"}).alive()
        assert bound.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", [None, "", "vsock:2:1234", "relative"])
def test_without_a_socket_nothing_is_told(address: str | None, caplog: pytest.LogCaptureFixture) -> None:
    environment = {"WATCHDOG_USEC": "1000000"} | ({} if address is None else {"NOTIFY_SOCKET": address})
    manager = ServiceManager.from_environment(environment)
    manager.ready("x")
    assert manager.watchdog_seconds is None
    assert bool(caplog.records) is bool(address)


def test_a_manager_that_is_gone_is_told_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    manager = ServiceManager(str(tmp_path / "gone"))
    manager.alive()
    manager.alive()
    assert len(caplog.records) == 1
    assert "the service manager cannot be told WATCHDOG=1" in caplog.text


def test_a_manager_that_does_not_read_does_not_block(listener: tuple[socket.socket, str]) -> None:
    manager = ServiceManager(listener[1])
    began = time.monotonic()
    for _ in range(2000):
        manager.alive()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("time_", "meant_for", "seconds"),
    [
        ("20000000", None, 20.0),
        ("20000000", str(os.getpid()), 20.0),
        ("20000000", "1", None),
        ("0", None, None),
        ("soon", None, None),
        (None, None, None),
    ],
)
def test_the_watchdog_time(time_: str | None, meant_for: str | None, seconds: float | None) -> None:
    given = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": time_, "WATCHDOG_PID": meant_for}
    environment = {name: value for name, value in given.items() if value is not None}
    assert ServiceManager.from_environment(environment).watchdog_seconds == seconds
