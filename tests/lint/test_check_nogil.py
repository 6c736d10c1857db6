"""The nogil check finds what it must find, and the loops that run once per command pass it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lint.check_nogil import REQUIRED, ROOT, check, declared, main

GUILTY = """
cdef int clean(int a, const char *b) noexcept nogil:
    return a + b[0] if a else a % 7

cdef void taking_the_gil(object o) noexcept nogil:
    with gil:
        print(o)

cdef class Thing:
    cdef int value

    cdef int method(
        self, int a
    ) noexcept nogil:
        with gil:
            self.value = len([a])
        return self.value

cdef int with_the_gil(object o) except -1:
    return len(o)
"""


def test_calls_into_python_are_found(tmp_path: Path) -> None:
    source = tmp_path / "guilty.pyx"
    source.write_text(GUILTY)
    assert declared(source) == ["clean", "taking_the_gil", "method"]
    faults = check(source, [*declared(source), "missing"], tmp_path)
    assert len(faults) == 3
    assert faults[0].startswith("guilty.pyx: taking_the_gil promises to run without the GIL and calls ")
    assert "PyGILState_Ensure" in faults[0]
    assert faults[1].startswith("guilty.pyx: method promises")
    assert faults[2] == "guilty.pyx: no C function found for missing"


def test_exit_status_and_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "guilty.pyx"
    source.write_text(GUILTY)
    assert main([str(source), "clean"]) == 0
    assert main([str(source), "method"]) == 1
    assert "guilty.pyx: method promises" in capsys.readouterr().err


@pytest.mark.parametrize("stem", REQUIRED)
def test_loops_of_the_fast_path(stem: str, tmp_path: Path) -> None:
    source = ROOT / "_fastpath" / f"{stem}.pyx"
    assert set(REQUIRED[stem]) <= set(declared(source))
    assert check(source, REQUIRED[stem], tmp_path) == []
