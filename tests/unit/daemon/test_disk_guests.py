"""Guests' disks while the daemon is killed or stopped under load, or a guest cuts its memory short."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.memory import GuestRam
from pyproxy.driver.scsi import ScsiDriver
from tests.rig.tgt import TgtTarget
from tests.unit.daemon.conftest import Daemon, start_in
from tests.unit.daemon.disk_load import DiskLoad

KILLS = 8


def guest(directory: Path, name: str, backing: str) -> str:
    return (
        f'[[guest]]\nname = "{name}"\nvhost_user = {{ socket = "{directory}/{name}.sock", queues = 2 }}\n'
        f"[[guest.unit]]\nlun = 0\n{backing}\n"
    )


@contextlib.contextmanager
def driving(directory: Path, name: str, ram: GuestRam | None = None) -> Iterator[ScsiDriver]:
    driver = ScsiDriver(FrontEnd.connect(directory / f"{name}.sock"), ram=ram, request_queues=2)
    with contextlib.closing(driver):
        driver.start()
        yield driver


def unit_status(daemon: Daemon, guest: int = 0) -> dict[str, object]:
    unit: dict[str, object] = json.loads(daemon.client.request("GET", "/status"))["guests"][guest]["units"][0]
    return unit


@pytest.fixture(params=["file", "tgt"])
def backing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f'emulated = {{ size = "16MiB", path = "{tmp_path}/unit.img" }}'
        return
    with TgtTarget(tmp_path) as target:
        yield f'iscsi = {{ url = "{target.url}", initiator = "iqn.2026-01.org.example:web" }}'


def generation(load: DiskLoad) -> int:
    return int.from_bytes(load.past_attentions(bytes.fromhex("5e000000000000000800"), data_in=8).data[:4])


def test_a_daemon_killed_under_load_answers_everything_once(tmp_path: Path, backing: str) -> None:
    """The front end connects again: what was under way is answered once, PERSISTENT RESERVE OUT done at most once."""
    draw = random.Random(20261127)
    guests = guest(tmp_path, "web", backing)
    interrupted = 0
    with contextlib.ExitStack() as stack:
        daemon = start_in(tmp_path, guests, stack)
        driver = stack.enter_context(driving(tmp_path, "web"))
        load = DiskLoad(driver, draw, aptpl="path" in backing)
        load.run(0.1)
        for _ in range(KILLS):
            killer = threading.Timer(draw.uniform(0.05, 0.3), daemon.process.send_signal, (signal.SIGKILL,))
            killer.start()
            load.run(0.5)
            daemon.process.wait()
            interrupted += driver.pending
            daemon = start_in(tmp_path, guests, stack)
            driver.reconnect(FrontEnd.connect(tmp_path / "web.sock"))
            load.settle()
            assert unit_status(daemon)["error"] is None
            if "path" in backing:
                # tgt forgets the nexus with its session and tells of no key whose it is: only the guest can, below.
                assert unit_status(daemon)["open_intents"] == 0
        load.run(0.3)
        load.settle()
        load.check_all()
        if "iscsi" in backing:
            # tgt counts across the daemon's lives.
            assert load.answers["claim good"] <= generation(load) <= load.tried
        told = unit_status(daemon)
        assert (told["key"], told["open_intents"]) == (f"{load.key:#018x}", 0)
        driver.stop()
        assert daemon.stop()[0] == 0
    assert interrupted > KILLS
    print(dict(load.answers))
    assert load.answers["write good"] > 100
    assert load.answers["claim good"] > KILLS


def test_a_planned_restart_under_load_costs_no_error(tmp_path: Path, backing: str) -> None:
    draw = random.Random(20261128)
    guests = guest(tmp_path, "web", backing)
    with contextlib.ExitStack() as stack:
        daemon = start_in(tmp_path, guests, stack)
        driver = stack.enter_context(driving(tmp_path, "web"))
        load = DiskLoad(driver, draw, aptpl="path" in backing)
        for _ in range(3):
            stopper = threading.Timer(0.2, daemon.process.send_signal, (signal.SIGTERM,))
            stopper.start()
            load.run(0.6)
            assert daemon.process.wait(60) == 0
            daemon = start_in(tmp_path, guests, stack)
            driver.reconnect(FrontEnd.connect(tmp_path / "web.sock"))
            load.run(0.2)
        load.settle()
        load.check_all()
        driver.stop()
    print(dict(load.answers))
    assert not [kind for kind in load.answers if kind.endswith("failed")]


def test_a_guest_that_cuts_its_memory_short_loses_its_own_connection_alone(tmp_path: Path) -> None:
    """As often as it likes; another guest's commands go on all the while."""
    disks = 'emulated = { size = "16MiB" }'
    with contextlib.ExitStack() as stack:
        daemon = start_in(tmp_path, guest(tmp_path, "bad", disks) + guest(tmp_path, "good", disks), stack)
        good = stack.enter_context(driving(tmp_path, "good"))
        load = DiskLoad(good, random.Random(1))
        for _ in range(3):
            with driving(tmp_path, "bad", GuestRam(seal=False)) as bad:
                bad.execute(bytes(6))
                ticket = bad.submit(bytes.fromhex("28000000000000080000"), data_in=4096)
                bad.wait(ticket)
                bad.submit(bytes.fromhex("28000000000000080000"), data_in=4096, kick=False)
                os.ftruncate(bad.ram.descriptors[0], 0)
                bad.queues[2].notify()
                load.run(0.3)
                assert bad.front_end.socket.recv(1) == b"", "the connection is closed"
        load.settle()
        load.check_all()
        assert daemon.process.poll() is None
        good.stop()
        status, told = daemon.stop()
    assert status == 0
    assert "guest bad" in told


def cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_32_idle_guests_cost_next_to_nothing(tmp_path: Path) -> None:
    """Under 200 MiB in all and 1 % of a core, with every guest's rings running."""
    names = [f"guest{number}" for number in range(32)]
    with contextlib.ExitStack() as stack:
        disks = 'emulated = { size = "1GiB" }'
        daemon = start_in(tmp_path, "".join(guest(tmp_path, name, disks) for name in names), stack)
        for name in names:
            driver = stack.enter_context(driving(tmp_path, name))
            for _ in range(3):
                driver.execute(bytes(6))
        time.sleep(2)
        process, began, used = daemon.process.pid, time.monotonic(), cpu_seconds(daemon.process.pid)
        time.sleep(10)
        share = (cpu_seconds(process) - used) / (time.monotonic() - began)
        (resident,) = [
            int(line.split()[1]) for line in Path(f"/proc/{process}/status").read_text().splitlines() if "VmRSS" in line
        ]
        print(f"32 guests: {resident / 1024:.0f} MiB, {100 * share:.2f} % of a core")
        assert resident < 200 << 10
        assert share < 0.01
