"""SIGHUP: what is applied to a running daemon, what is kept and told."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from pathlib import Path

import pytest

from pyproxy import config
from pyproxy.config import Config
from pyproxy.daemon import reload
from pyproxy.frontend.api import ApiError
from tests.unit.daemon.conftest import Daemon, Start, write_config

WEB = '[[guest]]\nname = "web"\n[[guest.unit]]\nlun = 0\ndevice = "/dev/sg1"\n'
DB = '[[guest]]\nname = "db"\n[[guest.unit]]\nlun = 0\ndevice = "/dev/sg2"\n'
LATER = "takes effect when the daemon is started again"


def parsed(guests: str, daemon: str = "", source: str = "f") -> Config:
    return config.parse(f'[daemon]\nhost_name = "h"\n{daemon}{guests}', source, {})


CASES = [
    ("nothing", WEB, WEB, "", [], []),
    ("log level", WEB, WEB, 'log_level = "debug"\n', ["daemon.log_level is debug"], []),
    ("poll", WEB, WEB, "poll_seconds = 0\n", ["daemon.poll_seconds is 0"], []),
    ("state directory", WEB, WEB, 'state_dir = "/x"\n', [], [f"daemon.state_dir {LATER}"]),
    ("guest added", WEB, WEB + DB, "", ["guest db is added"], []),
    ("guest removed", WEB + DB, WEB, "", [], [f"guest db is served on, it may be in use; without it {LATER}"]),
    ("unit added", WEB, WEB + "[[guest.unit]]\nlun = 7\nemulated = {}\n", "", ["guest web LUN 7 is added"], []),
    (
        "unit removed",
        WEB + "[[guest.unit]]\nlun = 7\nemulated = {}\n",
        WEB,
        "",
        [],
        [f"guest web LUN 7 is served on, it may be in use; without it {LATER}"],
    ),
    ("timeout", WEB, WEB + "timeout = 9\n", "", ["guest web LUN 0: timeout is 9"], []),
    ("adopt", WEB, WEB + "adopt = true\n", "", ["guest web LUN 0: adopt is true"], []),
    ("threads", WEB, WEB + "threads = 9\n", "", [], [f"guest web LUN 0: threads {LATER}"]),
    ("device", WEB, WEB.replace("sg1", "sg3"), "", [], [f"guest web LUN 0: device {LATER}"]),
    (
        "tracking",
        WEB,
        WEB.replace("[[guest.unit]]", "migrate_pr = false\n[[guest.unit]]"),
        "",
        [],
        [f"guest web: migrate_pr {LATER}"],
    ),
    (
        "helper socket",
        WEB,
        WEB.replace("[[guest.unit]]", "pr_helper = {}\n[[guest.unit]]"),
        "",
        [],
        [f"guest web: pr_helper {LATER}"],
    ),
]


@pytest.mark.parametrize(
    ("before", "after", "daemon", "applied", "kept"), [row[1:] for row in CASES], ids=[row[0] for row in CASES]
)
def test_what_is_applied_and_what_is_kept(
    before: str, after: str, daemon: str, applied: list[str], kept: list[str]
) -> None:
    running = parsed(before)
    planned = reload.plan(running, parsed(after, daemon))
    assert (list(planned.applied), list(planned.kept)) == (applied, kept)
    assert (planned.config == running) is not bool(applied)
    if not kept:
        assert planned.config == parsed(after, daemon)


def test_a_guest_under_a_new_name_does_not_get_the_unit_of_the_old(tmp_path: Path) -> None:
    planned = reload.plan(parsed(WEB), parsed(WEB.replace('"web"', '"shop"')))
    assert planned.config == parsed(WEB)
    assert len(planned.kept) == 2
    assert planned.kept[1].startswith("guest shop is not added: /dev/sg1 is already guest[0].unit[0].device")


def test_another_source_is_another_host(tmp_path: Path) -> None:
    planned = reload.plan(parsed(WEB), parsed(DB, source="built-in defaults"))
    assert planned.config == parsed(WEB)
    assert "no longer f" in planned.kept[0]


# as a process

MEMORY = '[[guest]]\nname = "web"\n[[guest.unit]]\nlun = 3\nemulated = { size = "1MiB" }\n'
MORE = '[[guest]]\nname = "db"\n[[guest.unit]]\nlun = 0\nemulated = { size = "1MiB" }\n'


def hang_up(daemon: Daemon, until: str) -> list[str]:
    """Send SIGHUP and return the messages up to the one that begins with ``until``; every line is JSON."""
    daemon.process.send_signal(signal.SIGHUP)
    assert daemon.process.stderr is not None
    told = []
    for line in daemon.process.stderr:
        told.append(json.loads(line)["message"])
        if told[-1].startswith(until):
            return told
    raise AssertionError(told)


def test_a_running_daemon_takes_over_what_it_can(start: Start, tmp_path: Path) -> None:
    daemon = start(MEMORY)
    with pytest.raises(ApiError, match="no guest db"):
        daemon.client.guest("db").unit(0).execute(bytes(6))
    write_config(tmp_path, 'poll_seconds = 5\ncontrol_socket = "/run/x"\n' + MEMORY + MORE)
    told = hang_up(daemon, "SIGHUP: 2 changes applied, 1 kept")
    assert "SIGHUP: daemon.poll_seconds is 5" in told
    assert "SIGHUP: guest db is added" in told
    assert f"SIGHUP: daemon.control_socket {LATER}" in told
    assert daemon.client.guest("db").unit(0).execute(bytes(6)).sense[12] == 0x29
    assert daemon.client.guest("web").unit(3).execute(bytes(6)).sense[12] == 0x29


def test_a_broken_configuration_changes_nothing(start: Start, tmp_path: Path) -> None:
    daemon = start(MEMORY)
    write_config(tmp_path, "poll_second = 5\n" + MEMORY)
    (told,) = hang_up(daemon, "SIGHUP: ")
    assert "the configuration has mistakes: " in told
    assert "daemon.poll_second: is not a known key" in told
    assert daemon.client.guest("web").unit(3).execute(bytes(6)).status == 2
    assert daemon.stop()[0] == 0


def test_the_service_manager_is_told(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        daemon = start(MEMORY)

        def told(*, past: bytes = b"WATCHDOG=1") -> bytes:
            while (message := manager.recv(4096)) == past:
                pass
            return message

        assert told() == b"READY=1\nSTATUS=serving web"
        assert [manager.recv(4096) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        os.kill(daemon.process.pid, signal.SIGHUP)
        assert told().startswith(b"RELOADING=1\nMONOTONIC_USEC=")
        assert told() == b"READY=1\nSTATUS=serving web"
        assert daemon.stop()[0] == 0
        assert told().startswith(b"STOPPING=1\n")
