"""Runs every benchmark: ``python -m bench [--quick] [pytest options]``; results go to bench/results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bench.report import results_directory


def main(arguments: list[str]) -> int:
    """Measure and print; returns pytest's exit status. Results of earlier runs are dropped first."""
    results = results_directory()
    for stale in results.glob("*.json"):
        stale.unlink()
    own_table = results / "pytest-benchmark"
    own_table.mkdir(parents=True, exist_ok=True)
    return pytest.main(
        [
            str(Path(__file__).parent),
            f"--rootdir={Path(__file__).parents[1]}",
            f"--benchmark-json={own_table / 'benchmark.json'}",
            "--benchmark-columns=min,median,max,rounds",
            "-p",
            "no:cacheprovider",
            *arguments,
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
