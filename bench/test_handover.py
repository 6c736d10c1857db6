"""A guest's handover between two daemons, on emulated units whose every command takes 2 ms longer: one unit and many.

Both daemons run in this process, with real stores and JSON between them, so that the processor time is that of both.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.conftest import Bench
from bench.report import Measurement, record
from pyproxy.migration.engine import THREADS
from pyproxy.migration.phases import SourcePhase
from pyproxy.scsi.command import Command
from tests.migration.world import GUEST, Side, World

COMMAND_SECONDS = 0.002
WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
MANY = 256
GOAL = 4.0
"""Times as long for many units as for one."""


class Handover:
    """What one handover took: seconds from the stop of the guest to its claims being read back at the other host."""

    def __init__(self, directory: Path, units: int) -> None:
        self.commands = 0
        with World(directory, units=units, threads=THREADS) as world:
            world.claim(world.s, WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
            world.failing = self._slow
            assert world.s.act(lambda: world.s.engine.migrate(GUEST, "d"))
            self.commands = 0
            began, processor = time.monotonic(), time.process_time()
            world.s.guest_stops()
            while not world.verified(world.s):
                assert world.s.phase is not SourcePhase.RECLAIMED
                assert time.monotonic() < began + 300
                time.sleep(0.0005)
            self.seconds = time.monotonic() - began
            self.processor = time.process_time() - processor
            world.d.guest_starts()

    def _slow(self, _side: Side, _command: Command) -> None:
        self.commands += 1
        time.sleep(COMMAND_SECONDS)


def test_handover(bench: Bench, benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    many = 8 if bench.quick else MANY
    ones = [Handover(tmp_path / f"one{number}", 1) for number in range(bench.rounds(5))]
    one = sorted(ones, key=lambda found: found.seconds)[len(ones) // 2]
    all_of_them: list[Handover] = []
    benchmark.pedantic(
        lambda: all_of_them.append(Handover(tmp_path / f"many{len(all_of_them)}", many)), rounds=1, iterations=1
    )  # type: ignore[no-untyped-call]
    (found,) = all_of_them
    details = {
        "units": many,
        "commands for one unit": one.commands,
        "commands per unit": found.commands / many,
        "processor ms per unit": 1000 * found.processor / many,
        "processor ms for one unit": 1000 * one.processor,
    }
    measurement: Measurement = record(
        f"handover of {many} units, 2 ms per command, floor: one unit",
        1000 * found.seconds,
        1000 * one.seconds,
        "ms",
        GOAL,
        details=details,
    )
    bench.measured.append(measurement)
    print(details, measurement)
    assert found.commands == pytest.approx(many * one.commands, rel=0.1)
