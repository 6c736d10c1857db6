"""What a scrape costs: 1,000 units of 100 guests, from a real daemon, beside writing down as many samples."""

from __future__ import annotations

import contextlib
import time
import urllib.request
from pathlib import Path

from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Bench
from bench.report import record
from pyproxy.daemon.metrics.exporter import FRESH_SECONDS
from tests.rig.ports import free_port
from tests.unit.daemon.conftest import start_in

LIMIT_SECONDS = 1.0


class Ready(Collector):
    """Families that are there already."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def test_scrape(bench: Bench, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    guests, units = (4, 5) if bench.quick else (100, 10)
    port = free_port()
    text = f'[metrics]\nlisten = "127.0.0.1:{port}"\n'
    for number in range(guests):
        text += f'[[guest]]\nname = "g{number}"\nvhost_user = {{ socket = "{tmp_path}/g{number}.sock", queues = 1 }}\n'
        for lun in range(units):
            text += f'[[guest.unit]]\nlun = {lun}\nemulated = {{ size = "1MiB" }}\n'
    took: list[float] = []
    with contextlib.ExitStack() as stack:
        start_in(tmp_path, text, stack)
        body = b""

        def scrape() -> None:
            nonlocal body
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                body = answer.read()
            took.append(time.perf_counter() - began)

        benchmark.pedantic(  # type: ignore[no-untyped-call]
            scrape, setup=lambda: time.sleep(FRESH_SECONDS * 1.1), rounds=bench.rounds(9)
        )
    floor_took: list[float] = []
    ready = Ready(list(text_string_to_metric_families(body.decode())))
    for _ in range(bench.rounds(9)):
        began = time.perf_counter()
        generate_latest(ready)  # type: ignore[arg-type]
        floor_took.append(time.perf_counter() - began)
    median, floor = (sorted(times)[len(times) // 2] for times in (took, floor_took))
    measurement = record(
        f"scrape of {guests * units} units, floor: writing the samples down",
        median * 1e3,
        floor * 1e3,
        "ms",
        details={"samples": body.count(b"\n"), "bytes": len(body), "slowest": max(took) * 1e3},
    )
    bench.measured.append(measurement)
    assert max(took) < LIMIT_SECONDS
