"""The alerts fire in the situations they name, each brought about for real, and in no other.

Times in the rules are made short, or the tests would take hours; nothing else of the rules is changed.
"""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.daemon.operations import MigrateRequest
from tests.rig.ports import free_port
from tests.rig.prometheus import Prometheus
from tests.rig.tgt import TgtTarget
from tests.unit.daemon.conftest import start_in
from tests.unit.daemon.disk_load import DiskLoad
from tests.unit.daemon.test_disk_guests import driving, guest
from tests.unit.daemon.test_metrics import DEPLOY, metrics
from tests.unit.daemon.test_page import KEY, RESERVE, Hosts, parameters
from tests.unit.plane.scene import until
from tests.vm.migrating.hosts import GUEST

SHORTER = ((r"for: \d+m", "for: 2s"), (r"> 300\)", "> 5)"), (r"seconds > 30", "seconds > 4"), (r"\[5m\]", "[10s]"))
PREEMPT = bytes.fromhex("5f040500000000001800")
REGISTER = bytes.fromhex("5f060000000000001800")


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    text = (DEPLOY / "pyproxy.rules.yml").read_text(encoding="utf-8")
    for long, short in SHORTER:
        text, found = re.subn(long, short, text)
        assert found, long
    file = tmp_path / "short.rules.yml"
    file.write_text(text, encoding="utf-8")
    return file


@contextlib.contextmanager
def watching(directory: Path, rules: Path, *ports: int) -> Iterator[Prometheus]:
    (directory / "prometheus").mkdir()
    with Prometheus(directory / "prometheus", [f"127.0.0.1:{port}" for port in ports], rules) as prometheus:
        prometheus.until_scraped_again()
        yield prometheus


def until_fires(prometheus: Prometheus, alert: str, *also: str) -> None:
    """Wait for an alert; no others fire but those that name the same trouble."""
    until(lambda: alert in prometheus.firing(), f"{alert} fires")
    assert prometheus.firing() <= {alert, *also}


def test_a_fenced_guest_and_the_conflicts_it_meets(tmp_path: Path, rules: Path) -> None:
    """Another guest's nexus preempts it; then it goes on writing."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(TgtTarget(tmp_path))
        backing = 'iscsi = {{ url = "{}", initiator = "iqn.2026-01.org.example:{}" }}'
        guests = "".join(guest(tmp_path, name, backing.format(target.url, name)) for name in ("web", "rival"))
        config = f"poll_seconds = 1\n{guests}{metrics(port)}"
        daemon = start_in(tmp_path, config, stack)
        prometheus = stack.enter_context(watching(tmp_path, rules, port))
        web = stack.enter_context(driving(tmp_path, "web"))
        rival = stack.enter_context(driving(tmp_path, "rival"))
        for driver, key in ((web, KEY), (rival, KEY + 1)):
            assert driver.execute_past_attentions(REGISTER, data_out=parameters(0, key)).status == 0
        assert web.execute_past_attentions(RESERVE, data_out=parameters(KEY, 0)).status == 0
        prometheus.until_scraped_again()
        assert prometheus.firing() == set()
        assert rival.execute_past_attentions(PREEMPT, data_out=parameters(KEY + 1, KEY)).status == 0
        until_fires(prometheus, "PyproxyReservationLost")
        stop = threading.Event()

        def insist() -> None:
            while not stop.wait(0.02):
                web.execute_past_attentions(bytes.fromhex("2a000000000000000100"), data_out=bytes(512))

        insisting = threading.Thread(target=insist)
        insisting.start()
        try:
            until_fires(prometheus, "PyproxyConflictStorm", "PyproxyReservationLost")
        finally:
            stop.set()
            insisting.join()
        assert daemon.process.poll() is None


def test_a_device_that_hangs_and_a_daemon_that_is_killed(tmp_path: Path, rules: Path) -> None:
    port = free_port()
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(TgtTarget(tmp_path))
        backing = f'iscsi = {{ url = "{target.url}", initiator = "iqn.2026-01.org.example:web" }}'
        daemon = start_in(tmp_path, f"poll_seconds = 1\n{guest(tmp_path, 'web', backing)}{metrics(port)}", stack)
        prometheus = stack.enter_context(watching(tmp_path, rules, port))
        target.pause()
        try:
            # The guest has nothing to ask: it is the poll that finds it.
            until_fires(prometheus, "PyproxyDeviceHung", "PyproxyStateSuspect")
            assert prometheus.value("pyproxy_device_waiting_seconds") > 4
        finally:
            target.resume()
        until(lambda: "PyproxyDeviceHung" not in prometheus.firing(), "it answers again")
        until(lambda: prometheus.firing() == set(), "all is well again")
        daemon.process.kill()
        until_fires(prometheus, "PyproxyDown")


def test_a_migration_whose_destination_is_gone(tmp_path: Path, rules: Path) -> None:
    with contextlib.ExitStack() as stack:
        hosts = Hosts(tmp_path, stack)
        prometheus = stack.enter_context(watching(tmp_path, rules, hosts.ports["host-a"]))
        hosts.reserve()
        here, there = hosts.hosts["host-a"], hosts.hosts["host-b"]
        here.arm("host-b")
        prometheus.until_scraped_again()
        assert prometheus.firing() == set()
        there.kill()
        # In a process of its own: it waits for the end of the handover.
        asking = here.begin("migrate", GUEST, "--now")
        try:
            until_fires(prometheus, "PyproxyMigrationStuck")
        finally:
            asking.kill()
            asking.communicate()
        here.operations().migrate(GUEST, MigrateRequest(action="cancel", peer_dead=True))
        until(lambda: prometheus.firing() == set(), "it was called off")


def test_a_store_whose_disk_is_full(tmp_path: Path, rules: Path) -> None:
    """A file system of its own, filled: PERSISTENT RESERVE OUT cannot be recorded and is refused."""
    port, state = free_port(), tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "none", str(state)], check=True)
    with contextlib.ExitStack() as stack:
        stack.callback(subprocess.run, ["umount", "-l", str(state)], check=True)
        start_in(tmp_path, guest(tmp_path, "web", 'emulated = { size = "16MiB" }') + metrics(port), stack)
        prometheus = stack.enter_context(watching(tmp_path, rules, port))
        driver = stack.enter_context(driving(tmp_path, "web"))
        assert driver.execute_past_attentions(REGISTER, data_out=parameters(0, KEY)).status == 0
        prometheus.until_scraped_again()
        assert prometheus.firing() == set()
        with contextlib.suppress(OSError), (state / "filler").open("wb", buffering=0) as filler:
            while filler.write(bytes(4096)):
                pass
        for number in range(200):
            answer = driver.execute_past_attentions(REGISTER, data_out=parameters(0, KEY + number))
            if answer.status:
                break
        assert answer.status == 2, "the store has room for everything"
        until_fires(prometheus, "PyproxyStoreFailing", "PyproxyStateSuspect", "PyproxyOpenIntents")
        (state / "filler").unlink()


def test_a_healthy_minute_is_silent_and_counted_exactly(tmp_path: Path, rules: Path) -> None:
    """60 s of load on a device and on an emulated unit: totals by class, status and sense key are the driver's."""
    port = free_port()
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(TgtTarget(tmp_path))
        backing = f'iscsi = {{ url = "{target.url}", initiator = "iqn.2026-01.org.example:web" }}'
        guests = guest(tmp_path, "web", backing) + guest(tmp_path, "db", 'emulated = { size = "16MiB" }')
        start_in(tmp_path, f"poll_seconds = 1\n{guests}{metrics(port)}", stack)
        prometheus = stack.enter_context(watching(tmp_path, rules, port))
        loads = {}
        for number, name in enumerate(("web", "db")):
            driver = stack.enter_context(driving(tmp_path, name))
            loads[name] = DiskLoad(driver, random.Random(number))
        fired: set[str] = set()
        for _ in range(15):
            # In turns of two seconds each: two loads of one process would only wait for each other.
            for load in loads.values():
                load.run(2.0)
            fired |= prometheus.firing()
        for name, load in loads.items():
            load.settle()
            bad = 25
            for _ in range(bad):
                # A block behind the end of the disk: CHECK CONDITION, ILLEGAL REQUEST.
                assert load.driver.execute(bytes.fromhex("28007fffffff00000800"), data_in=4096).status == 2
            load.answers["check_condition"] += bad
            prometheus.until_scraped_again()
            one = f'{{guest="{name}"}}'
            total = sum(load.answers.values())
            assert prometheus.value(f"pyproxy_ring_requests_total{one}") == total
            assert prometheus.value(f"sum(pyproxy_commands_total{one})") == total
            statuses = {
                dict(labels)["status"]: value
                for labels, value in prometheus.query(f"pyproxy_command_statuses_total{one}").items()
            }
            assert sum(statuses.values()) == total
            illegal = prometheus.value(
                f'pyproxy_command_sense_keys_total{{guest="{name}",sense_key="illegal_request"}}'
            )
            assert illegal == bad
            ended = {
                how: sum(n for what, n in load.answers.items() if what.endswith(how)) for how in ("good", "attention")
            }
            assert statuses["good"] == ended["good"]
            assert statuses["check_condition"] == bad + ended["attention"]
            keys = prometheus.value(f'sum(pyproxy_command_sense_keys_total{{guest="{name}"}})')
            assert keys == bad + ended["attention"]
            claims = f'pyproxy_pr_commands_total{{guest="{name}",action="register_and_ignore_existing_key"'
            assert prometheus.value(f'{claims},outcome="good"}}') == load.answers["claim good"]
        assert fired | prometheus.firing() == set()
