"""The daemon killed at any instant and started again: it has lost no GOOD that a client saw, and knows what is true."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.daemon.killing import Way, kill_again_and_again

KILLS = 20
"""`make test-slow` does it 300 times."""


@pytest.mark.parametrize("way", ["control", "helper"])
def test_killed_at_any_instant_it_forgets_nothing(tmp_path: Path, way: Way) -> None:
    outcome = kill_again_and_again(tmp_path, way, KILLS, 20260301)
    assert outcome.seen > 0
    assert outcome.interrupted > 0
