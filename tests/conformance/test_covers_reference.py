"""Every test of iscsi-test-cu that LIO passes has a counterpart here, which the emulated unit passes.

The verdicts on LIO are recorded by ``python -m tests.vm.record_reference``. Where a test of ours stands for one of the
tool's it says so itself (``counterpart_of``); what has none is listed below with the reason.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conformance.counterparts import COUNTERPARTS

HERE = Path(__file__).parent
REFERENCE = HERE.parent / "vm" / "reference" / "iscsi-test-cu-lio.json"

_NO_ORWRITE = "the unit has no ORWRITE, an optional command; test_mandatory has how it is refused"
_NO_WRITE_ATOMIC = "the unit has no WRITE ATOMIC, an optional command; test_mandatory has how it is refused"
WITHOUT_COUNTERPART = {
    **dict.fromkeys((f"OrWrite.{name}" for name in ("Simple", "BeyondEol", "ZeroBlocks", "Protect")), _NO_ORWRITE),
    **dict.fromkeys((f"OrWrite.{name}" for name in ("DpoFua", "Verify")), _NO_ORWRITE),
    **dict.fromkeys((f"WriteAtomic16.{name}" for name in ("Simple", "BeyondEol", "ZeroBlocks")), _NO_WRITE_ATOMIC),
    **dict.fromkeys((f"WriteAtomic16.{name}" for name in ("WriteProtect", "DpoFua", "VPD")), _NO_WRITE_ATOMIC),
}

NOT_RECORDED = {"CompareAndWrite.MiscompareSense", "Inquiry.VPDPageCodesSorted", "ReportLuns.Simple"}
"""Tests of newer releases of the tool than the recorded verdicts are of."""


@pytest.fixture(scope="module")
def counterparts() -> dict[str, list[str]]:
    for file in HERE.glob("test_*.py"):
        importlib.import_module(f"{__package__}.{file.stem}")
    return COUNTERPARTS


def recorded(*verdicts: str) -> Iterator[str]:
    document = json.loads(REFERENCE.read_text(encoding="utf-8"))
    for transport in ("sg", "iscsi"):
        for suite, tests in document[transport].items():
            for name, verdict in tests.items():
                if not verdicts or verdict in verdicts:
                    yield f"{suite}.{name}"


def test_what_lio_passes_has_a_counterpart(counterparts: dict[str, list[str]]) -> None:
    passed = set(recorded("passed", "either"))
    assert len(passed) > 90
    assert sorted(passed - set(counterparts)) == []


def test_what_lio_fails_or_lacks_has_a_counterpart_or_a_reason(counterparts: dict[str, list[str]]) -> None:
    assert sorted(set(recorded()) - set(counterparts) - set(WITHOUT_COUNTERPART)) == []


def test_no_name_is_made_up(counterparts: dict[str, list[str]]) -> None:
    assert sorted(set(counterparts) - set(recorded()) - NOT_RECORDED) == []
    assert set(WITHOUT_COUNTERPART) <= set(recorded()) - set(counterparts)


def test_every_counterpart_is_run(counterparts: dict[str, list[str]]) -> None:
    for tests in counterparts.values():
        for test in tests:
            module, _, name = test.rpartition(".")
            assert module.startswith(f"{__package__}.test_")
            assert name.startswith("test_")
