"""What a regression is: a ratio that grew by more than its kind repeats to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench import compare
from bench.report import Measurement, record

PARSE = "guard: parse"
RING = "guard: ring"
TIMED = "handover"


def run(directory: Path, base: dict[str, float], *, parse: float = 1.0, ring: float = 3.5, timed: float = 2.0) -> int:
    """Compare results with these ratios with a stored run."""
    results = directory / "results"
    for name, value, unit in (
        (PARSE, parse, "instructions per CDB"),
        (RING, ring, "instructions"),
        (TIMED, timed, "ms"),
    ):
        record(name, value * 100, 100, unit, directory=results)
    stored = directory / "base.json"
    stored.write_text(json.dumps({"format": compare.FORMAT, "ratios": base}))
    return compare.main([str(stored), "--results", str(results)])


BASE = {PARSE: 1.0, RING: 3.5, TIMED: 2.0}


@pytest.mark.parametrize(
    ("now", "status"),
    [
        ({}, 0),
        ({"parse": 1.029}, 0),
        ({"parse": 1.1}, 1),
        ({"ring": 3.85}, 1),
        ({"parse": 0.8, "ring": 3.0}, 0),
        ({"timed": 2.5}, 0),
        ({"timed": 2.7}, 1),
    ],
)
def test_growth_beyond_what_is_allowed_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], now: dict[str, float], status: int
) -> None:
    assert run(tmp_path, BASE, **now) == status
    assert ("WORSE" in capsys.readouterr().out) == bool(status)


def test_what_is_not_measured_any_more_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, {**BASE, "gone": 1.0}) == 1
    assert "MISSING  gone" in capsys.readouterr().out


def test_a_directory_of_results_is_a_base_too(tmp_path: Path) -> None:
    run(tmp_path, BASE)
    assert compare.main([str(tmp_path / "results"), "--results", str(tmp_path / "results")]) == 0


def test_wrong_use(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        compare.main([])
    with pytest.raises(SystemExit, match="2"):
        compare.main([str(tmp_path / "none.json")])
    assert "make it with: python -m bench.compare --save" in capsys.readouterr().err
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="is no baseline"):
        compare.ratios(tmp_path / "other.json")


def test_only_ratios_are_compared(tmp_path: Path) -> None:
    """A machine of half the speed has the same ratios."""
    slow = [Measurement(PARSE, 200, 200, "instructions per CDB"), Measurement("no floor", 5, None, "ms")]
    found, missing = compare.compare({PARSE: 1.0}, slow, instructions=0.03, time=0.3)
    assert [(one.change, one.worse) for one in found] == [(0.0, False)]
    assert missing == []
