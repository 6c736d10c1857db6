"""The daemon's helper sockets: opened as configured or by the service manager, reloaded, drained, told by status."""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.daemon.conftest import Daemon, start_in
from tests.unit.pr_helper.exchange import CLOSED, Answer, Client, parameters, prin, prout
from tests.vm.rig.nodes import wait_for

KEY = 0xC0FFEE
REGISTER = prout(6, 24), parameters(0, KEY)
READ_KEYS = prin(0, 64)
PROGRAM = "-m", "tests.unit.daemon.files_as_nodes"
GROUP = grp.getgrgid(os.getegid()).gr_name


def guest(directory: Path, name: str, helper: str = "pr_helper = {}") -> str:
    return f'[[guest]]\nname = "{name}"\n{helper}\n[[guest.unit]]\nlun = 0\ndevice = "{directory / name}.disk"\n'


Serve = Callable[..., Daemon]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start daemons over files that stand for nodes, with the guests that are given."""
    with contextlib.ExitStack() as stack:
        config = str(tmp_path / "pyproxy.toml")
        yield lambda guests: start_in(tmp_path, f"poll_seconds = 0\n{guests}", stack, (*PROGRAM, config))


@contextlib.contextmanager
def disk(directory: Path, name: str, flags: int = os.O_RDWR) -> Iterator[int]:
    descriptor = os.open(directory / f"{name}.disk", flags)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def status(daemon: Daemon, name: str) -> dict[str, Any]:
    document = json.loads(daemon.client.request("GET", "/status"))
    found: dict[str, Any] = next(one for one in document["guests"] if one["name"] == name)
    return found


def register(path: Path, descriptor: int) -> None:
    with Client(path) as client:
        assert client.ask(prin(0, 64), descriptor).status == 2  # POWER ON OCCURRED, as on a real disk
        assert client.ask(REGISTER[0], descriptor, REGISTER[1]) == Answer(0)


def test_what_comes_by_the_socket_is_tracked_durable_and_told(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(guest(tmp_path, "web"))
    path = daemon.socket.parent / "web-pr.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    with disk(tmp_path, "web") as descriptor:
        register(path, descriptor)
        told = status(daemon, "web")
        assert (told["units"][0]["key"], told["units"][0]["fresh"]) == (f"{KEY:#018x}", True)
        assert (told["pr_helper"]["socket"], told["pr_helper"]["error"]) == (str(path), None)
        assert (told["pr_helper"]["requests_in"], told["pr_helper"]["requests_out"]) == (1, 1)
        assert f"guest web: PERSISTENT RESERVE on {path}, 0 connections, 2 requests" in daemon.run("status").stdout

        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()
        assert path.exists()
        again = serve(guest(tmp_path, "web"))
        # The unit was in the killed process and has lost its registration with it: that is noticed, and told.
        assert status(again, "web")["units"][0]["key"] == f"{0:#018x}"
        with Client(path) as client:
            assert client.ask(READ_KEYS, descriptor).status == 2
        assert again.stop()[0] == 0
        assert not path.exists()


def test_each_guest_has_its_own_disk(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(guest(tmp_path, "web") + guest(tmp_path, "db"))
    path = daemon.socket.parent / "web-pr.sock"
    with disk(tmp_path, "web") as own, disk(tmp_path, "db") as others, Client(path) as client:
        assert client.ask(READ_KEYS, own).status == 2
        assert client.ask(READ_KEYS, own).status == 0
        refused = client.ask(READ_KEYS, others)
        assert (refused.status, refused.sense[2], refused.sense[12:14]) == (2, 5, b"\x25\x00")
    told = daemon.stop()[1]
    assert "is no unit of this guest; add it to the guest's units in the configuration" in told


def test_a_reload_opens_the_socket_of_a_guest_that_is_added(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(guest(tmp_path, "web"))
    path = daemon.socket.parent / "db-pr.sock"
    with daemon.config.open("a", encoding="utf-8") as file:
        file.write(guest(tmp_path, "db"))
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(path.exists, "the socket of guest db")
    with disk(tmp_path, "db") as descriptor:
        register(path, descriptor)
    assert status(daemon, "db")["units"][0]["registered"]


def test_a_socket_that_cannot_be_had_leaves_the_others_served(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run" / "web-pr.sock").write_text("precious")
    daemon = serve(guest(tmp_path, "web") + guest(tmp_path, "db") + guest(tmp_path, "ci", 'pr_helper.group = "nosuch"'))
    errors = {name: status(daemon, name)["pr_helper"]["error"] for name in ("web", "db", "ci")}
    assert "is there already and is no socket; remove it or choose another path" in errors["web"]
    assert errors["db"] is None
    assert errors["ci"] == "there is no group nosuch; make it, or correct the socket's group"
    with disk(tmp_path, "db") as descriptor:
        register(daemon.socket.parent / "db-pr.sock", descriptor)
    # What was in the way is gone: a reload tries again.
    (tmp_path / "run" / "web-pr.sock").unlink()
    daemon.process.send_signal(signal.SIGHUP)
    wait_for(lambda: status(daemon, "web")["pr_helper"]["error"] is None, "the socket of guest web")
    with disk(tmp_path, "web") as descriptor:
        register(daemon.socket.parent / "web-pr.sock", descriptor)
    assert daemon.stop()[0] == 0
    assert not (tmp_path / "run" / "db-pr.sock").exists()


def test_group_and_users_may_be_names_or_numbers(serve: Serve, tmp_path: Path) -> None:
    user = pwd.getpwuid(os.geteuid()).pw_name
    daemon = serve(
        guest(tmp_path, "web", f'pr_helper = {{ group = "{GROUP}", users = ["{user}", 65534] }}')
        + guest(tmp_path, "db", f"pr_helper = {{ group = {os.getegid()} }}")
    )
    for name in ("web", "db"):
        assert status(daemon, name)["pr_helper"]["error"] is None
        assert (daemon.socket.parent / f"{name}-pr.sock").stat().st_gid == os.getegid()


def listening_sockets(directory: Path, *names: str) -> list[socket.socket]:
    sockets = []
    for name in names:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(directory / name))
        listening.listen()
        sockets.append(listening)
    return sockets


def test_the_service_managers_sockets_are_used(tmp_path: Path) -> None:
    """As systemd starts it: descriptors from 3 on, named after the guests; one of them is nobody's."""
    sockets = listening_sockets(tmp_path, "activated-web", "activated-other")
    config = tmp_path / "pyproxy.toml"
    shell = (
        f"exec 3<&{sockets[0].fileno()} 4<&{sockets[1].fileno()}; "
        f'export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=web:other; exec "{sys.executable}" "$@"'
    )
    run = tmp_path / "run"
    config.write_text(
        f'[daemon]\nhost_name = "a"\nruntime_dir = "{run}"\nstate_dir = "{tmp_path}/state"\n{guest(tmp_path, "web")}'
    )
    process = subprocess.Popen(
        ["bash", "-c", shell, "bash", *PROGRAM, str(config)],
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=[one.fileno() for one in sockets],
    )
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line == "serving\n":
                break
        assert any("passed a socket named other, but" in line for line in lines), lines
        daemon = Daemon(process, run / "control.sock", config)
        assert status(daemon, "web")["pr_helper"]["socket"] == str(tmp_path / "activated-web")
        with disk(tmp_path, "web") as descriptor:
            register(tmp_path / "activated-web", descriptor)
        assert status(daemon, "web")["units"][0]["registered"]
        assert not (run / "web-pr.sock").exists()
        assert daemon.stop()[0] == 0
        # It is the service manager's: a client that comes now waits for the next start.
        assert (tmp_path / "activated-web").exists()
    finally:
        process.kill()
        process.communicate()
        for one in sockets:
            one.close()


def test_stopping_answers_what_runs_and_closes_the_rest(serve: Serve, tmp_path: Path) -> None:
    daemon = serve(guest(tmp_path, "web"))
    path = daemon.socket.parent / "web-pr.sock"
    with disk(tmp_path, "web") as descriptor, Client(path) as idle, Client(path) as stalled:
        register(path, descriptor)
        stalled.send(prout(1, 24, 3), (descriptor,))  # its parameter list never comes
        assert daemon.stop()[0] == 0
        assert idle.answer() == CLOSED
        assert stalled.answer() == CLOSED
