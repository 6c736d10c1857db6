"""Runs in the virtual machine: each pass-through engine beside a C loop of the same system calls, on the same nodes.

    python -m bench.vm.inside RESULTS_DIRECTORY [ROUNDS]

Engine and loop take turns, so that whatever the machine does meanwhile happens to both.
"""

from __future__ import annotations

import ctypes
import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns

from _fastpath.sgio import DIRECTION_IN, DIRECTION_NONE, Batch, Engine
from _fastpath.sgio_async import DEFAULT_RESERVED_SIZE, AsyncEngine
from _fastpath.sgio_bsg import BsgEngine
from _fastpath.sgio_sync import SyncEngine
from bench.floor import build_library
from bench.report import record
from tests.vm.rig import scsi_debug
from tests.vm.rig.lio import create_unit
from tests.vm.rig.nodes import Nodes
from tests.vm.rig.sg_direct import SgNode

GOAL = 1.05
COMMANDS = 512
ROUNDS = 61
PAGE = 4096
OPERATIONS = {
    "TEST UNIT READY": (bytes(6), 0),
    "READ 512 B": (bytes([0x28, 0, 0, 0, 0, 8, 0, 0, 1, 0]), 512),
    "READ 4 KiB": (bytes([0x28, 0, 0, 0, 0, 8, 0, 0, 8, 0]), 4096),
}


@dataclass(frozen=True, slots=True)
class Case:
    """An engine on a kind of node; ``depth`` threads or slots, ``batch`` commands per submission."""

    engine: str
    node: str
    depth: int
    batch: int

    def __str__(self) -> str:
        return f"{self.engine} {self.node} depth {self.depth} batch {self.batch}"


CASES = [
    Case("sync", "sg", 1, 1),
    Case("sync", "sg", 1, 64),
    Case("sync", "sg", 4, 512),
    Case("sync", "sd", 1, 64),
    Case("sync", "sd", 4, 512),
    Case("async", "sg", 1, 64),
    Case("async", "sg", 16, 512),
    Case("bsg", "bsg", 1, 64),
    Case("bsg", "bsg", 4, 512),
]


class Buffers:
    """``count`` page-aligned buffers of ``size`` bytes, one page or more apart."""

    def __init__(self, count: int, size: int) -> None:
        self._memory = ctypes.create_string_buffer(PAGE * 2 + count * max(size, 1))
        start = -ctypes.addressof(self._memory) % PAGE
        self.address = ctypes.addressof(self._memory) + start
        view = memoryview(self._memory).cast("B")[start:]
        self.views = [view[number * size : number * size + size] for number in range(count)]


def main(results: Path, rounds: int) -> None:
    """Measure every case and write the results."""
    floor = build_library("sgio")
    floor.floor_sync.restype = floor.floor_async.restype = ctypes.c_int64
    with devices() as found:
        for target, nodes in found.items():
            for case in CASES:
                for operation, (cdb, size) in OPERATIONS.items():
                    measure(floor, target, nodes, case, operation, cdb, size, results, rounds)


@contextmanager
def devices() -> Iterator[dict[str, Nodes]]:
    """A scsi_debug disk that answers at once and an LIO RAM disk, both without pending unit attentions."""
    (debug,) = scsi_debug.load(dev_size_mb=64, delay=0)
    unit = create_unit(1)
    found = {"scsi_debug": debug, "LIO": unit.nexuses[0].nodes}
    try:
        for nodes in found.values():
            direct = SgNode(nodes.sg)
            direct.drain_unit_attentions()
            direct.close()
        yield found
    finally:
        unit.remove()
        scsi_debug.unload()


def measure(
    floor: ctypes.CDLL,
    target: str,
    nodes: Nodes,
    case: Case,
    operation: str,
    cdb: bytes,
    size: int,
    results: Path,
    rounds: int,
) -> None:
    """Time one engine and its floor in turn and record microseconds per command."""
    with ExitStack() as stack:
        buffers = Buffers(case.depth, size)
        engine = stack.enter_context(open_engine(case, nodes))
        batch = Batch(case.batch)
        for number in range(case.batch):
            if size:
                batch.add(cdb, DIRECTION_IN, buffers.views[number % case.depth], 60_000)
            else:
                batch.add(cdb, DIRECTION_NONE, (), 60_000)
        loop = floor_loop(floor, case, nodes, cdb, size, buffers, stack)
        repeats = COMMANDS // case.batch

        def subject() -> int:
            start = perf_counter_ns()
            for _ in range(repeats):
                engine.run(batch)
            return perf_counter_ns() - start

        subject(), loop()
        for number in range(case.batch):
            assert batch.result(number)[::6] == (0, 0), batch.result(number)
        ours: list[int] = []
        theirs: list[int] = []
        for turn in range(rounds):
            # Who comes second finds warmer caches: take turns in that, too.
            first, second = ((subject, ours), (loop, theirs))[:: 1 if turn % 2 else -1]
            first[1].append(first[0]())
            second[1].append(second[0]())
    # The lower quartile: what else runs on the host only ever adds time, and to whole rounds.
    measurement = record(
        f"{target} {operation}, {case}",
        statistics.quantiles(ours, n=4)[0] / COMMANDS / 1000,
        statistics.quantiles(theirs, n=4)[0] / COMMANDS / 1000,
        "us per command",
        GOAL,
        details={
            "rounds": rounds,
            "commands per round": COMMANDS,
            "median": statistics.median(ours) / COMMANDS / 1000,
            "median of the floor": statistics.median(theirs) / COMMANDS / 1000,
            "median of paired ratios": statistics.median(
                mine / other for mine, other in zip(ours, theirs, strict=True)
            ),
        },
        directory=results,
    )
    print(
        f"{measurement.name}: {measurement.value:.2f} us, C {measurement.floor:.2f} us, {measurement.ratio:.3f}"
        f" (paired {measurement.details['median of paired ratios']:.3f})",
        flush=True,
    )


def open_engine(case: Case, nodes: Nodes) -> Engine:
    """The engine of a case."""
    if case.engine == "async":
        return AsyncEngine(nodes.sg, case.depth)
    fd = os.open(getattr(nodes, case.node), os.O_RDWR | os.O_NONBLOCK)
    try:
        return (BsgEngine if case.engine == "bsg" else SyncEngine)(fd, case.depth)
    finally:
        os.close(fd)


def floor_loop(
    floor: ctypes.CDLL, case: Case, nodes: Nodes, cdb: bytes, size: int, buffers: Buffers, stack: ExitStack
) -> Callable[[], int]:
    """The C loop beside a case: as many threads or descriptors, the same node, the same buffers."""
    opened = [os.open(getattr(nodes, case.node), os.O_RDWR | os.O_NONBLOCK) for _ in range(case.depth)]
    for fd in opened:
        stack.callback(os.close, fd)
    if case.engine == "async":
        import fcntl

        for fd in opened:
            fcntl.ioctl(fd, 0x2275, DEFAULT_RESERVED_SIZE.to_bytes(4, sys.byteorder))
    fds = (ctypes.c_int * case.depth)(*opened)
    data = ctypes.c_void_p(buffers.address)

    def loop() -> int:
        if case.engine == "async":
            took = floor.floor_async(fds, case.depth, COMMANDS, cdb, len(cdb), data, size)
        else:
            masked = case.batch if case.node == "sg" else 0
            bsg = int(case.engine == "bsg")
            took = floor.floor_sync(fds, case.depth, COMMANDS, cdb, len(cdb), data, size, bsg, masked)
        if took < 0:
            raise OSError(-took, f"the C loop for {case} failed: {os.strerror(-took)}")
        return int(took)

    return loop


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS)
