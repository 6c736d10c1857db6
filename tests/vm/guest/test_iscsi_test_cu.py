"""libiscsi's conformance suites on LIO: the verdicts are those on record in tests/vm/reference.

The record is what the emulated unit is measured by (tests/conformance). ``python -m tests.vm.record_reference``
makes it anew.
"""

from __future__ import annotations

import json

import pytest

from tests.vm.record_reference import REFERENCE, settled
from tests.vm.rig.iscsi_target import create_target
from tests.vm.rig.iscsi_test_cu import BLOCK_SUITES, INITIATORS, RESERVATION_SUITES, run_suite


@pytest.fixture(scope="module")
def record():
    return json.loads(REFERENCE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def iscsi_target():
    target = create_target(INITIATORS)
    yield target
    target.remove()


@pytest.mark.parametrize("suite", [*RESERVATION_SUITES, *BLOCK_SUITES])
def test_sg_node(lio, record, suite):
    unit = lio(2)
    verdicts, output = run_suite(suite, str(unit.nexuses[0].sg))
    print(output)
    assert verdicts == record["sg"][suite]
    assert unit.registered == {}


@pytest.mark.parametrize("suite", RESERVATION_SUITES)
def test_two_iscsi_initiators(iscsi_target, record, suite):
    """Only over iSCSI does the tool run its tests that need a second I_T nexus."""
    verdicts, output = run_suite(suite, iscsi_target.url)
    print(output)
    assert settled(suite, verdicts) == record["iscsi"][suite]
