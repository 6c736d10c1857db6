"""The emulated unit against LIO on thousands of generated command sequences.

``lio_differences`` lists where they may differ, ``tests/vm/rig/differential`` makes the sequences and compares.
"""

from __future__ import annotations

import json

import pytest

from tests.vm.guest.lio_differences import DIFFERENCES
from tests.vm.rig.differential import runner
from tests.vm.rig.differential.comparison import ATTENTIONS, GENERATION


@pytest.fixture(scope="module")
def loop():
    made = runner.loop_runner(DIFFERENCES)
    yield made
    made.close()


@pytest.fixture(scope="module")
def iscsi():
    made = runner.iscsi_runner(DIFFERENCES)
    yield made
    made.close()


@pytest.mark.parametrize("chunk", runner.LOOP_CHUNKS)
def test_sequences(loop, chunk):
    loop.compare(chunk)


@pytest.mark.parametrize("chunk", runner.ISCSI_CHUNKS)
def test_sequences_with_abort(iscsi, chunk):
    iscsi.compare(chunk)


@pytest.mark.vm_timeout(900)
def test_every_listed_difference_occurs(loop, iscsi):
    """An entry of the list that no sequence meets is stale: LIO or the emulated unit has changed."""
    found = runner.summary(loop, iscsi)
    print(json.dumps(found, indent=2))
    listed = {difference.name for difference in DIFFERENCES} | {GENERATION, ATTENTIONS}
    assert listed - found["differences"].keys() == set(), "listed, but never met"
    assert found["sequences"] == 100 * (len(runner.LOOP_CHUNKS) + len(runner.ISCSI_CHUNKS)) >= 2000
    assert found["commands"] >= 40_000
