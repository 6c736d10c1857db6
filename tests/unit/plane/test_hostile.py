"""Rings, descriptors and requests that lie: nothing is touched outside the regions, nothing hangs, one queue stops."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from _fastpath.block_port import BlockPort
from _fastpath.gate import NexusGate
from _fastpath.medium import Medium
from pyproxy.policy import verdicts
from tests.fuzz.hostile import run
from tests.unit.plane.compiled import compiled

CASES = 20_000


def hostile(seed: int) -> Any:
    port = BlockPort(Medium(1 << 20, 512), NexusGate())
    return compiled("hostile").Hostile(port, verdicts(rawio=True), seed)


@pytest.mark.parametrize("seed", range(1, 4))
def test_a_hostile_driver(seed: int) -> None:
    guest = hostile(seed)
    guest.cases(CASES)
    assert guest.used > CASES  # it was not all nonsense
    assert guest.broken > CASES // 100
    assert guest.answered > CASES // 100


def test_a_driver_that_changes_its_memory_all_the_time() -> None:
    guest = hostile(99)
    scribbler = threading.Thread(target=guest.scribble)
    scribbler.start()
    try:
        guest.cases(CASES)
    finally:
        guest.enough()
        scribbler.join()
    assert guest.used > 0


def test_a_hostile_driver_under_the_address_sanitizer() -> None:
    done = run(1_000_000, 3)
    assert done.returncode == 0, done.stdout + done.stderr
    chains, messages = done.stdout.splitlines()
    assert chains.startswith("900000 cases")
    assert int(messages.split()[0]) >= 100_000
