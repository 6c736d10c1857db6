"""The benchmarks run and record what they measured. Nothing here judges a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import floor
from bench.interleave import interleave, medians
from bench.report import Measurement, load, main, record, table

ROOT = Path(__file__).parents[3]


def test_every_benchmark_runs_and_is_recorded(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--quick", "-q", f"--basetemp={tmp_path / 'pytest'}"],
        cwd=ROOT,
        env={**os.environ, "PYPROXY_BENCH_RESULTS": str(tmp_path / "results")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    recorded = load(tmp_path / "results")
    assert {"CDB parse, 1M mixed stream", "CDB parse, 4K hot set"} <= {each.name for each in recorded}
    assert [each.name for each in recorded if each.goal == 1.3] == [
        "CDB parse, 1M mixed stream",
        "CDB parse, 4K hot set",
    ]
    assert any("snooped" in each.name for each in recorded)
    assert any(each.name.startswith("lanes") for each in recorded)
    for each in recorded:
        assert each.value > 0
        assert each.name in done.stdout
    assert (tmp_path / "results" / "pytest-benchmark" / "benchmark.json").exists()


def test_record_and_load(tmp_path: Path) -> None:
    record("b: lower", 3.0, 2.0, "ns", 1.3, directory=tmp_path, details={"rounds": 5})
    record("A higher", 50.0, 100.0, "IOPS", 2.5, better="higher", directory=tmp_path)
    record("no floor", 7.0, None, "us", directory=tmp_path)
    (tmp_path / "foreign.json").write_text(json.dumps({"benchmarks": []}))
    (tmp_path / "list.json").write_text("[]")
    higher, lower, bare = load(tmp_path)
    assert (higher.name, higher.ratio, higher.met) == ("A higher", 2.0, True)
    assert (lower.name, lower.ratio, lower.met, lower.details) == ("b: lower", 1.5, False, {"rounds": 5})
    assert (bare.name, bare.ratio, bare.met) == ("no floor", None, None)
    document = json.loads((tmp_path / "b-lower.json").read_text())
    assert document == {
        "format": "pyproxy-bench-1",
        "name": "b: lower",
        "value": 3.0,
        "floor": 2.0,
        "ratio": 1.5,
        "unit": "ns",
        "goal": 1.3,
        "met": False,
        "better": "lower",
        "details": {"rounds": 5},
    }


def test_record_replaces_an_older_figure(tmp_path: Path) -> None:
    record("same", 1.0, None, "ns", directory=tmp_path)
    record("same", 2.0, None, "ns", directory=tmp_path)
    assert [each.value for each in load(tmp_path)] == [2.0]


def test_results_directory_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYPROXY_BENCH_RESULTS", str(tmp_path / "elsewhere"))
    record("here", 1.0, 2.0, "ns", 1.0)
    main()
    assert capsys.readouterr().out.splitlines()[1].split() == ["here", "(ns)", "1", "2", "0.5", "1", "met"]


def test_table() -> None:
    lines = table(
        [Measurement("rate", 12345.6, 20000.0, "IOPS", 1.05, "higher"), Measurement("time", 55.25, None, "us")]
    ).splitlines()
    assert lines[0].split() == ["measured", "floor", "ratio", "goal"]
    assert lines[1].split() == ["rate", "(IOPS)", "12,346", "20,000", "1.62", "1.05", "MISSED"]
    assert lines[2].split() == ["time", "(us)", "55.2"]


def test_subjects_are_called_in_turn() -> None:
    calls: list[str] = []
    times = interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3)
    assert "".join(calls) == "ab" * 4
    assert {name: len(each) for name, each in times.items()} == {"a": 3, "b": 3}
    assert medians({"a": [30, 10, 20]}, 10) == {"a": 2.0}


def test_floor_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(floor, "SOURCES", tmp_path)
    (tmp_path / "tiny.c").write_text("int main(void) { return 7; }\n")
    program = floor.build_program("tiny")
    assert subprocess.run([program], check=False).returncode == 7
    before = program.stat().st_mtime_ns
    assert floor.build_program("tiny") == program
    assert program.stat().st_mtime_ns == before
    (tmp_path / "tiny.c").write_text("int main(void) { return 8; }\n")
    assert floor.build_program("tiny") != program


def test_floor_that_cannot_be_compiled_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(floor, "SOURCES", tmp_path)
    (tmp_path / "broken.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(floor.FloorError, match=r"(?s)refuses .*broken\.c.*nothing"):
        floor.build_program("broken")
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(floor.FloorError, match="no C compiler 'no-such-compiler'; install gcc or set CC"):
        floor.build_program("broken")
