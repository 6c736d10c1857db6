"""libiscsi's conformance suites through the whole stack, on the SG node of a disk that is pyproxy's."""

from __future__ import annotations

import json

import pytest

from tests.vm.record_reference import REFERENCE
from tests.vm.rig.iscsi_test_cu import BLOCK_SUITES, RESERVATION_SUITES, run_suite


@pytest.fixture(scope="module")
def record():
    return json.loads(REFERENCE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("suite", [*RESERVATION_SUITES, *BLOCK_SUITES])
def test_the_emulated_unit_fails_nothing_that_lio_passes(disks, record, suite):
    verdicts, output = run_suite(suite, *(str(disk.sg) for disk in disks.shared))
    print(output)
    failed = {name for name, verdict in verdicts.items() if verdict == "failed"}
    passed_by_lio = {name for name, verdict in record["sg"][suite].items() if verdict == "passed"}
    assert not failed & passed_by_lio
