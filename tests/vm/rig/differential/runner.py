"""Compares the sequences in chunks, each once, behind tcm_loop and behind iSCSI, and sums up what was met.

PREEMPT AND ABORT is compared over iSCSI only, since tcm_loop's ports never finish it (see ``tests.vm.rig.lio``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyproxy.device.emulated import EmulatedUnit
from tests.vm.rig.differential.comparison import Comparison, Difference, Disagreement, Tally, shortest
from tests.vm.rig.differential.generator import sequence
from tests.vm.rig.differential.sides import EmulatedSide, LioSide
from tests.vm.rig.iscsi_nexuses import create_iscsi_unit
from tests.vm.rig.lio import LioUnit, create_unit

SIZE_MIB = 16
CHUNK = 100
LOOP_CHUNKS = range(20)
ISCSI_CHUNKS = range(20, 24)


class Runner:
    """One unit of LIO and the emulated one beside it, which keeps its state in ``file``."""

    def __init__(self, unit: LioUnit, file: Path, listed: Sequence[Difference], *, abort: bool) -> None:
        self._unit = unit
        self._emulated = EmulatedUnit(SIZE_MIB << 20, path=file)
        self._comparison = Comparison(LioSide(unit), EmulatedSide(self._emulated, unit), listed)
        self._abort = abort
        self._done: set[int] = set()

    @property
    def tally(self) -> Tally:
        return self._comparison.tally

    def compare(self, chunk: int) -> None:
        """Compare the chunk's sequences; AssertionError tells the first unlisted disagreement in few commands."""
        if chunk in self._done:
            return
        self._done.add(chunk)
        for number in range(chunk * CHUNK, (chunk + 1) * CHUNK):
            steps = sequence(number, abort=self._abort)
            try:
                self._comparison.compare(steps)
                continue
            except Disagreement:
                pass
            few, found = shortest(self._comparison, steps)
            listing = "\n".join(f"  {position:2} {step}" for position, step in enumerate(few, start=1))
            raise AssertionError(
                f"sequence {number}: LIO and the emulated unit disagree in a way that is not listed\n"
                f"{listing}\n  -> {found.observation}"
            )

    def close(self) -> None:
        self._emulated.close()
        self._unit.remove()


def loop_runner(listed: Sequence[Difference]) -> Runner:
    return Runner(create_unit(3, size_mib=SIZE_MIB), Path("/var/target/emulated-loop"), listed, abort=False)


def iscsi_runner(listed: Sequence[Difference]) -> Runner:
    return Runner(create_iscsi_unit(3, SIZE_MIB), Path("/var/target/emulated-iscsi"), listed, abort=True)


def summary(loop: Runner, iscsi: Runner) -> dict[str, Any]:
    """Run every chunk that has not been run, and count."""
    for chunk in LOOP_CHUNKS:
        loop.compare(chunk)
    for chunk in ISCSI_CHUNKS:
        iscsi.compare(chunk)
    tallies = (loop.tally, iscsi.tally)
    return {
        "sequences": sum(tally.sequences for tally in tallies),
        "commands": sum(tally.commands for tally in tallies),
        "left_out": sum(tally.left_out for tally in tallies),
        "fresh_starts": sum(tally.restarts for tally in tallies),
        "differences": dict(sorted((loop.tally.differences + iscsi.tally.differences).items())),
    }
