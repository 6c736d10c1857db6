"""What a daemon tells Prometheus, read by a real one."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.daemon.documents import StatusDocument
from pyproxy.daemon.metrics.catalogue import METRICS
from pyproxy.daemon.metrics.collector import DaemonCollector
from pyproxy.daemon.metrics.exporter import FRESH_SECONDS
from pyproxy.daemon.sources import Sources
from tests.rig.ports import free_port
from tests.rig.prometheus import Prometheus
from tests.rig.tgt import TgtTarget
from tests.unit.daemon.conftest import Daemon, start_in
from tests.unit.daemon.disk_load import REGION, DiskLoad
from tests.unit.daemon.test_disk_guests import driving, guest
from tests.unit.migration.transport.scene import Authority
from tests.unit.plane.scene import until

DEPLOY = Path(__file__).parents[3] / "deploy" / "prometheus"
DASHBOARD = DEPLOY.parent / "grafana" / "pyproxy.json"
READ = bytes.fromhex("2800000000000000 0800")
WRITE = bytes.fromhex("2a00000000000000 0800")
EMULATED = 'emulated = { size = "16MiB" }'


def metrics(port: int, more: str = "") -> str:
    return f'[metrics]\nlisten = "127.0.0.1:{port}"\n{more}'


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def daemon(tmp_path: Path, port: int) -> Iterator[Daemon]:
    with contextlib.ExitStack() as stack:
        yield start_in(tmp_path, guest(tmp_path, "web", EMULATED) + metrics(port), stack)


def scrape(port: int, path: str = "/metrics", accept: str = "") -> tuple[str, str]:
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept} if accept else {})
    with urllib.request.urlopen(asked, timeout=30) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def test_names_types_and_help_pass_promtool(daemon: Daemon, tmp_path: Path, port: int) -> None:
    with driving(tmp_path, "web") as driver:
        assert driver.execute_past_attentions(READ, data_in=4096).status == 0
    kind, text = scrape(port)
    assert kind.startswith("text/plain")
    checked = subprocess.run(
        [shutil.which("promtool") or "promtool", "check", "metrics"], input=text, capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    told = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    assert told == {metric.shown for metric in METRICS}
    assert len(told) == len(METRICS)
    assert 'pyproxy_commands_total{class="read",guest="web",lun="0"} 1.0' in text
    openmetrics, other = scrape(port, accept="application/openmetrics-text; version=1.0.0")
    assert openmetrics.startswith("application/openmetrics-text")
    assert other.endswith("# EOF\n")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        scrape(port, "/nothing")


def test_prometheus_stores_what_the_load_counted(daemon: Daemon, tmp_path: Path, port: int) -> None:
    """Commands, bytes and malformed requests, exactly, after a load; and no alert fires meanwhile."""
    (tmp_path / "prom").mkdir()
    with Prometheus(tmp_path / "prom", [f"127.0.0.1:{port}"], DEPLOY / "pyproxy.rules.yml") as prometheus:
        with driving(tmp_path, "web") as driver:
            load = DiskLoad(driver, random.Random(20261127))
            load.run(5.0)
            load.settle()
            reads, writes = 300, 200
            prometheus.until_scraped_again()
            before = {
                name: prometheus.value(f'pyproxy_ring_{name}_total{{guest="web"}}')
                for name in ("requests", "malformed")
            }
            moved = {
                name: prometheus.value(f'pyproxy_ring_bytes_total{{guest="web",direction="{name}"}}')
                for name in ("read", "write")
            }
            before["written"] = prometheus.value('pyproxy_commands_total{class="write"}')
            of_unit = 'pyproxy_command_bytes_total{direction="%s"}'
            before["read"], before["data"] = prometheus.value(of_unit % "read"), prometheus.value(of_unit % "write")
            assert (before["read"], before["data"]) == (moved["read"], moved["write"])
            assert before["requests"] == sum(load.answers.values())
            assert moved["write"] % REGION == 24 * load.tried % REGION
            for _ in range(reads):
                assert driver.execute(READ, data_in=4096).status == 0
            for _ in range(writes):
                assert driver.execute(WRITE, data_out=bytes(4096)).status == 0
            prometheus.until_scraped_again()
            assert prometheus.value("pyproxy_ring_requests_total") == before["requests"] + reads + writes
            assert prometheus.value("sum(pyproxy_ring_commands_total)") == before["requests"] + reads + writes
            bytes_total = 'pyproxy_ring_bytes_total{direction="%s"}'
            assert prometheus.value(bytes_total % "read") == moved["read"] + 4096 * reads
            assert prometheus.value(bytes_total % "write") == moved["write"] + 4096 * writes
            assert prometheus.value('pyproxy_commands_total{class="write"}') == before["written"] + writes
            assert prometheus.value("sum(pyproxy_commands_total)") == before["requests"] + reads + writes
            assert prometheus.value("sum(pyproxy_command_statuses_total)") == prometheus.value(
                "sum(pyproxy_commands_total)"
            )
            assert prometheus.value(of_unit % "read") == before["read"] + 4096 * reads
            assert prometheus.value(of_unit % "write") == before["data"] + 4096 * writes
            assert prometheus.value("pyproxy_ring_malformed_total") == before["malformed"] == 0
            assert prometheus.value("pyproxy_front_end_connections") == 1
            assert prometheus.value("pyproxy_registered") == 1
            assert prometheus.firing() == set()
        daemon.process.kill()
        until(lambda: bool(prometheus.query('ALERTS{alertname="PyproxyDown"}')), "it fires after a minute")


def test_every_panel_of_the_dashboard_has_data(tmp_path: Path, port: int) -> None:
    """Its queries, on what Prometheus stored of a guest on a device, whose migration was refused."""
    more = f'[migration]\n[[peer]]\nname = "host-b"\naddress = "{tmp_path}/none.sock"\n'
    (tmp_path / "prom").mkdir()
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(TgtTarget(tmp_path))
        backing = f'iscsi = {{ url = "{target.url}", initiator = "iqn.2026-01.org.example:web" }}'
        daemon = start_in(tmp_path, guest(tmp_path, "web", backing) + metrics(port) + more, stack)
        assert daemon.run("migrate", "web", "--to", "host-b").returncode == 1
        prometheus = stack.enter_context(Prometheus(tmp_path / "prom", [f"127.0.0.1:{port}"]))
        with driving(tmp_path, "web") as driver:
            prometheus.until_scraped_again()
            load = DiskLoad(driver, random.Random(20261127))
            load.run(2.0)
            load.settle()
            prometheus.until_scraped_again()
        prometheus.until_scraped_again()
        panels = [one for one in json.loads(DASHBOARD.read_bytes())["panels"] if one["type"] != "row"]
        assert len(panels) > 15
        for panel in panels:
            found = []
            for one in panel["targets"]:
                text = one["expr"].replace('"$host"', '".*"').replace('"$guest"', '".*"')
                found.append(prometheus.query(text.replace("$__rate_interval", "30s")))
            assert any(found), panel["title"]


def test_the_dashboard_is_what_its_builder_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(DASHBOARD.with_name("build.py")), "--check"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_only_clients_of_the_authority(tmp_path: Path, port: int) -> None:
    authority = Authority(tmp_path / "ca")
    own, client, foreign = authority.issue("localhost"), authority.issue("prometheus"), Authority(tmp_path / "f")
    lines = f'certificate = "{own.certificate}"\nkey = "{own.key}"\nclient_ca = "{own.ca}"\n'
    with contextlib.ExitStack() as stack:
        start_in(tmp_path, guest(tmp_path, "web", EMULATED) + metrics(port, lines), stack)

        def get(credentials: object) -> bytes:
            context = ssl.create_default_context(cafile=str(own.ca))
            if credentials is not None:
                context.load_cert_chain(credentials.certificate, credentials.key)  # type: ignore[attr-defined]
            with urllib.request.urlopen(f"https://localhost:{port}/metrics", context=context, timeout=30) as answer:
                return bytes(answer.read())

        assert b"pyproxy_build_info" in get(client)
        for wrong in (None, foreign.issue("prometheus")):
            with pytest.raises((urllib.error.URLError, OSError)):
                get(wrong)


@pytest.mark.parametrize(("detail", "budget"), [("false", 40), ("true", 110)])
def test_a_unit_has_so_many_series(tmp_path: Path, port: int, detail: str, budget: int) -> None:
    """On a device, whose latency is counted: tgt."""
    with TgtTarget(tmp_path) as target, contextlib.ExitStack() as stack:
        backing = f'iscsi = {{ url = "{target.url}", initiator = "iqn.2026-01.org.example:web" }}'
        start_in(tmp_path, guest(tmp_path, "web", backing) + metrics(port, f"detail = {detail}\n"), stack)
        driver = stack.enter_context(driving(tmp_path, "web"))
        assert driver.execute_past_attentions(READ, data_in=4096).status == 0
        assert driver.execute(WRITE, data_out=bytes(4096)).status == 0
        assert driver.execute(bytes(6)).status == 0
        # What a cluster's node does: registers, reserves, finds a command refused, looks who is there.
        for cdb, key in (("5f000000000000001800", 0), ("5f010500000000001800", 1)):
            parameters = key.to_bytes(8) + (1 - key).to_bytes(8) + bytes(8)
            assert driver.execute(bytes.fromhex(cdb), data_out=parameters).status == 0
        assert driver.execute(bytes.fromhex("28007fffffff00000800"), data_in=4096).status == 2
        assert driver.execute(bytes.fromhex("5e000000000000001800"), data_in=24).status == 0
        _, text = scrape(port)
    samples = [line for line in text.splitlines() if 'lun="0"' in line]
    assert len(samples) <= budget
    (count,) = [line for line in samples if "duration_seconds_count" in line and ("all" in line or "read" in line)]
    assert float(count.split()[-1]) >= (1 if detail == "true" else 3)
    assert any(line.startswith("pyproxy_command_duration_seconds_bucket") for line in samples)


def test_many_scrapers_cost_one_collection(daemon: Daemon, port: int) -> None:
    answers: list[str] = []
    threads = [threading.Thread(target=lambda: answers.append(scrape(port)[1])) for _ in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    took = {line for text in answers for line in text.splitlines() if line.startswith("pyproxy_collect_duration")}
    assert len(answers) == len(threads)
    assert len(took) <= 2
    assert FRESH_SECONDS <= 1.0


def test_a_port_that_is_taken(tmp_path: Path, port: int) -> None:
    with (
        socket.create_server(("127.0.0.1", port)),
        contextlib.ExitStack() as stack,
        pytest.raises(AssertionError, match="metrics cannot be served: Address already in use"),
    ):
        start_in(tmp_path, guest(tmp_path, "web", EMULATED) + metrics(port), stack)


def test_a_status_that_fails_is_no_half_answer() -> None:
    class Locked(Sources):
        def __init__(self) -> None:
            self.started = 0.0

        def status(self) -> StatusDocument:
            raise OSError("the store is locked")

    collector = DaemonCollector(Locked(), detail=False)
    with pytest.raises(OSError, match="locked"):
        list(collector.collect())


@pytest.mark.parametrize("words", [("check", "rules", "pyproxy.rules.yml"), ("check", "config", "prometheus.yml")])
def test_the_deployed_files_pass_promtool(words: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *words], cwd=DEPLOY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_fire_when_they_should() -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", "pyproxy.rules.test.yml"], cwd=DEPLOY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
