"""The daemon killed 300 times, half of them with the guest on its control socket and half on its helper socket."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.unit.daemon.killing import Outcome, Way, kill_again_and_again

KILLS = 75
RUNS: tuple[tuple[Way, int], ...] = (("control", 1), ("control", 2), ("helper", 3), ("helper", 4))


def test_killed_300_times_it_forgets_nothing(tmp_path: Path) -> None:
    def run(way: Way, seed: int) -> Outcome:
        directory = tmp_path / f"{way}-{seed}"
        directory.mkdir()
        return kill_again_and_again(directory, way, KILLS, seed)

    # Most of a round is waiting, for the processor to start a daemon or for the moment to kill it.
    with ThreadPoolExecutor(len(RUNS)) as threads:
        outcomes = list(threads.map(run, *zip(*RUNS, strict=True)))
    print(f"{KILLS * len(RUNS)} kills: {outcomes}")
    # How much a guest gets done between two kills is the machine's; that it got something done in each run is not.
    for outcome in outcomes:
        assert outcome.seen > 0
        assert outcome.interrupted > 0
