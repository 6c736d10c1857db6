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
from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.scsi import ScsiDriver
from pyproxy.frontend.api import ApiError
from pyproxy.frontend.virtio_scsi.event import CHANGE, EventKind
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
        "size",
        WEB + '[[guest.unit]]\nlun = 7\nemulated = { size = "1MiB" }\n',
        WEB + '[[guest.unit]]\nlun = 7\nemulated = { size = "2MiB" }\n',
        "",
        ["guest web LUN 7: emulated.size is 2097152 bytes"],
        [],
    ),
    (
        "smaller",
        WEB + '[[guest.unit]]\nlun = 7\nemulated = { size = "2MiB" }\n',
        WEB + '[[guest.unit]]\nlun = 7\nemulated = { size = "1MiB" }\n',
        "",
        [],
        [f"guest web LUN 7: emulated {LATER}"],
    ),
    (
        "larger and with other blocks",
        WEB + '[[guest.unit]]\nlun = 7\nemulated = { size = "1MiB" }\n',
        WEB + '[[guest.unit]]\nlun = 7\nemulated = { size = "2MiB", block_size = 4096 }\n',
        "",
        [],
        [f"guest web LUN 7: emulated {LATER}"],
    ),
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


@pytest.mark.parametrize("file", ["", ', path = "{directory}/disk"'])
def test_an_emulated_unit_grows_below_its_guest(start: Start, tmp_path: Path, file: str) -> None:
    """The guest gets the event and the unit attention at once, and what it wrote before is there."""

    def guest(size: str) -> str:
        path = file.format(directory=tmp_path)
        unit = f'[[guest.unit]]\nlun = 0\nemulated = {{ size = "{size}", serial = "growing"{path} }}\n'
        return f'[[guest]]\nname = "web"\nvhost_user = {{ socket = "{tmp_path}/web.sock" }}\n{unit}'

    daemon = start(guest("1MiB"))
    with contextlib.closing(ScsiDriver(FrontEnd.connect(tmp_path / "web.sock"))) as driver:
        driver.start(extra=CHANGE)
        assert driver.execute(bytes(6)).sense[12] == 0x29
        data = os.urandom(512)
        last, beyond = bytes.fromhex("2a 00 000007ff 00 0001 00"), bytes.fromhex("2a 00 00000fff 00 0001 00")
        assert driver.execute(last, data).status == 0
        assert driver.execute(beyond, data).sense[12:14] == b"\x21\x00"
        write_config(tmp_path, guest("2MiB"))
        told = hang_up(daemon, "SIGHUP: 1 changes applied, 0 kept")
        assert "SIGHUP: guest web LUN 0: emulated.size is 2097152 bytes" in told
        assert any("its capacity is 2097152 bytes in blocks of 512 now, it was 1048576 bytes" in one for one in told)
        (event,) = driver.events(1)
        assert (event.kind, event.reason) == (EventKind.PARAM_CHANGE, 0x2A | 0x09 << 8)
        assert driver.execute(bytes(6)).sense[12:14] == b"\x2a\x09"
        assert driver.execute(beyond, data).status == 0
        capacity = driver.execute(bytes.fromhex("25 00000000000000000000"), data_in=8).data
        assert capacity == bytes.fromhex("00000fff 00000200")
        assert driver.execute(bytes.fromhex("28 00 000007ff 00 0001 00"), data_in=512).data == data
        driver.stop()
    assert daemon.stop()[0] == 0


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
