"""Compares ratios with a stored run and fails where one has become worse: ``python -m bench.compare BASE``.

BASE is a JSON file made by ``--save``, or a directory of results. Only ratios to floors of the same run are compared:
absolute figures of two machines say nothing of the code. What counts instructions may grow by ``--instructions`` (3 %),
what takes time by ``--time`` (30 %): counts repeat to within a thousandth, times of shared machines do not.

    python -m bench.compare bench/baselines/guard.json             measure what guards, then compare
    python -m bench.compare BASE --results DIRECTORY               compare what was measured before
    python -m bench.compare --save bench/baselines/guard.json      measure and store

Exit status: 0 nothing is worse, 1 something is, 2 wrong use.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bench.report import Measurement, load, results_directory

FORMAT = "pyproxy-bench-baseline-1"


@dataclass(frozen=True, slots=True)
class Compared:
    """One figure then and now; ``change`` is by what part the ratio has grown."""

    name: str
    before: float
    now: float
    allowed: float

    @property
    def change(self) -> float:
        return self.now / self.before - 1

    @property
    def worse(self) -> bool:
        return self.change > self.allowed


def compare(
    before: dict[str, float], now: list[Measurement], *, instructions: float, time: float
) -> tuple[list[Compared], list[str]]:
    """Return what both have, and the names of what was not measured now."""
    found = {one.name: one for one in now if one.ratio is not None}
    compared = [
        Compared(name, ratio, float(found[name].ratio or 0.0), instructions if _counts(found[name]) else time)
        for name, ratio in before.items()
        if name in found
    ]
    return compared, sorted(set(before) - set(found))


def _counts(one: Measurement) -> bool:
    return one.unit.startswith("instructions")


def ratios(base: Path) -> dict[str, float]:
    """Read a stored run."""
    if base.is_dir():
        return {one.name: one.ratio for one in load(base) if one.ratio is not None}
    document: dict[str, Any] = json.loads(base.read_text(encoding="utf-8"))
    if document.get("format") != FORMAT:
        raise ValueError(f"{base} is no baseline; make one with: python -m bench.compare --save {base}")
    return {str(name): float(ratio) for name, ratio in document["ratios"].items()}


def measure() -> Path:
    """Run what guards against regressions and return where its results are."""
    results = results_directory()
    for stale in results.glob("guard-*.json"):
        stale.unlink()
    here = Path(__file__).parent
    status = pytest.main(
        [str(here / "test_guard.py"), f"--rootdir={here.parent}", "-q", "-p", "no:cacheprovider", "--benchmark-disable"]
    )
    if status:
        raise SystemExit(int(status))
    return results


def main(words: list[str]) -> int:
    """Measure, compare, tell."""
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description="Compare ratios with a stored run.")
    parser.add_argument("base", nargs="?", type=Path, help="a file made by --save, or a directory of results")
    parser.add_argument("--save", type=Path, help="measure and store as this file instead of comparing")
    parser.add_argument("--results", type=Path, help="compare these results instead of measuring")
    parser.add_argument("--instructions", type=float, default=0.03, help="how much counts may grow  [0.03]")
    parser.add_argument("--time", type=float, default=0.30, help="how much times may grow  [0.30]")
    asked = parser.parse_args(words)
    if (asked.base is None) == (asked.save is None):
        parser.error("name a stored run, or a file to --save to")
    if asked.base is not None and not asked.base.exists():
        parser.error(f"there is no {asked.base}; make it with: python -m bench.compare --save {asked.base}")
    before = {} if asked.base is None else ratios(asked.base)
    now = load(asked.results or measure())
    if asked.save is not None:
        kept = {one.name: one.ratio for one in now if one.ratio is not None and one.name.startswith("guard:")}
        asked.save.parent.mkdir(parents=True, exist_ok=True)
        asked.save.write_text(json.dumps({"format": FORMAT, "ratios": kept}, indent=2, sort_keys=True) + "\n", "utf-8")
        sys.stdout.write(f"{len(kept)} ratios are in {asked.save}\n")
        return 0
    compared, missing = compare(before, now, instructions=asked.instructions, time=asked.time)
    for one in compared:
        told = "WORSE" if one.worse else "ok"
        sys.stdout.write(f"{told:5}  {one.before:8.4f} -> {one.now:8.4f}  {one.change:+7.2%}  {one.name}\n")
    for name in missing:
        sys.stdout.write(f"MISSING  {name}\n")
    return 1 if missing or any(one.worse for one in compared) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
