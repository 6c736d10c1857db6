"""What every benchmark uses: how much to measure, where to record it, and the table of ratios at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.interleave import interleave, medians
from bench.report import Measurement, load, record, results_directory, table


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="few rounds and no virtual machine: shows that the benchmarks work"
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    here = Path(__file__).parent
    # An instruction counter is slow, and its figures are not quicker to have by fewer rounds.
    if config.getoption("--quick") and collection_path in (here / "vm", here / "test_guard.py"):
        return True
    return None


@dataclass
class Bench:
    """Measures a subject beside its floor and records the figure."""

    benchmark: BenchmarkFixture
    quick: bool
    measured: list[Measurement]

    def rounds(self, full: int) -> int:
        return 3 if self.quick else full

    def compare(
        self,
        name: str,
        subject: Callable[[], object],
        floor: Callable[[], object],
        *,
        operations: int,
        unit: str,
        rounds: int,
        goal: float | None = None,
        others: dict[str, Callable[[], object]] | None = None,
        per: float = 1.0,
    ) -> Measurement:
        """Time subject, floor and others in turn; ``unit`` is ``per`` nanoseconds per operation.

        pytest-benchmark's own table shows the subject; the ratio comes from the interleaved rounds.
        """
        rounds = self.rounds(rounds)
        subjects = {"subject": subject, "floor": floor, **(others or {})}
        figures = {key: value / per for key, value in medians(interleave(subjects, rounds), operations).items()}
        self.benchmark.extra_info.update(figures)
        self.benchmark.pedantic(subject, rounds=rounds, iterations=1)  # type: ignore[no-untyped-call]
        details: dict[str, Any] = {key: value for key, value in figures.items() if key not in ("subject", "floor")}
        details |= {"rounds": rounds, "operations per round": operations}
        measurement = record(name, figures["subject"], figures["floor"], unit, goal, details=details)
        self.measured.append(measurement)
        return measurement


_measured: list[Measurement] = []


@pytest.fixture
def bench(benchmark: BenchmarkFixture, request: pytest.FixtureRequest) -> Bench:
    return Bench(benchmark, bool(request.config.getoption("--quick")), _measured)


@pytest.fixture
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    measurements = load()
    if not measurements:
        return
    terminalreporter.section("measured beside its floor")
    terminalreporter.write_line(table(measurements))
    terminalreporter.write_line(f"{len(_measured)} of them in this run; JSON in {results_directory()}")
