"""The data plane beside the least its work can cost: a copy loop, a bare ring, one shared word.

The driver and the worker are two threads; where the machine has no second processor to spare the figures across threads
say more about the machine, so the same commands are also measured in one thread, pass by pass.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from _fastpath.block_port import BlockPort
from _fastpath.controller import F_INDIRECT_DESC, F_VERSION_1, Controller
from _fastpath.gate import NexusGate
from _fastpath.guest_memory import GuestMemory
from _fastpath.medium import Medium
from _fastpath.vring_driver import DriverMemory, DriverQueue
from bench.conftest import Bench
from bench.counting import instructions
from bench.floor import build_library
from bench.report import record
from pyproxy.policy import verdicts

MEDIUM = 64 << 20
DEPTH = 128
READ_10, WRITE_10 = 0x28, 0x2A


class Nobody:
    """A handler that nothing should reach."""

    def execute(
        self, target: int, lun: int, cdb: bytes, data_out: bytes, data_in: int
    ) -> tuple[int, int, bytes, bytes, int]:
        raise AssertionError(f"command {cdb[0]:02X}h left the fast path")

    def control(self, request: bytes) -> bytes:
        raise AssertionError(request)

    def inspect(self, target: int, lun: int, cdb: bytes, kind: int, asc: int, ascq: int) -> None:
        raise AssertionError(cdb)

    def queue_broken(self, index: int, reason: str) -> None:
        raise AssertionError(reason)


@contextmanager
def plane(data_size: int, queues: int = 1, *, poll_us: int = 1000) -> Iterator[tuple[Controller, list[DriverQueue]]]:
    """An emulated unit of 64 MiB, written once, behind ``queues`` request queues with a worker each."""
    memory = DriverMemory((2 << 20) * queues + data_size * DEPTH * queues)
    medium = Medium(MEDIUM, 512)
    with Controller(Nobody(), 2 + queues, poll_us=poll_us, workers=queues) as controller:
        controller.set_features(F_VERSION_1 | F_INDIRECT_DESC)
        controller.set_memory(GuestMemory([memory.region()]))
        rings = [DriverQueue(memory, DEPTH, data_size=data_size) for _ in range(queues)]
        for number, ring in enumerate(rings):
            controller.start_queue(2 + number, **ring.start_arguments())
            controller.set_enabled(2 + number, True)
        controller.attach(0, 0, BlockPort(medium, NexusGate()), verdicts=verdicts())
        blocks = data_size // 512
        rings[0].run(
            MEDIUM // data_size, depth=DEPTH, opcode=WRITE_10, blocks=blocks, span=MEDIUM // 512, sequential=True
        )
        yield controller, rings


def copying(block: int, count: int) -> Callable[[], object]:
    """Copy ``count`` random blocks of a medium of the same size into as many buffers."""
    library = build_library("plane")
    medium = (ctypes.c_uint8 * MEDIUM)()
    ctypes.memset(medium, 1, MEDIUM)
    ring = (ctypes.c_uint8 * (block * DEPTH))()

    def copy() -> None:
        library.floor_copy(
            medium, ctypes.c_uint64(MEDIUM // block), ctypes.c_uint32(block), ring, DEPTH, ctypes.c_uint64(count)
        )

    return copy


# The goal is a share of the copy loop's rate: 0.65 of it is a ratio of 1 / 0.65.
@pytest.mark.parametrize(("block", "share"), [(4096, 0.65), (512, 0.3)])
def test_random_reads(bench: Bench, block: int, share: float) -> None:
    count = 2_000 if bench.quick else 100_000
    kind = {"depth": DEPTH, "opcode": READ_10, "blocks": block // 512, "span": MEDIUM // 512}
    with plane(block) as (controller, rings):

        def across() -> None:
            rings[0].run(count, **kind)

        def stepped() -> None:
            controller.hold()
            try:
                rings[0].run(count, stepped=controller, **kind)
            finally:
                controller.release()

        one_thread = "driver and worker in one thread"
        measured = bench.compare(
            f"virtio-scsi {block} B random reads at depth {DEPTH}, floor: memcpy",
            across,
            copying(block, count),
            others={one_thread: stepped},
            operations=count,
            unit="ns per command",
            rounds=15,
            goal=1 / share,
        )
        name = f"virtio-scsi {block} B random reads, {one_thread}, floor: memcpy"
        bench.measured.append(record(name, measured.details[one_thread], measured.floor, measured.unit, measured.goal))


def test_round_trip(bench: Bench) -> None:
    """TEST UNIT READY alone, there and back, between two threads that both poll."""
    count = 200 if bench.quick else 20_000
    library = build_library("plane")
    rounds = ctypes.c_uint64(count)
    with plane(512) as (_, rings):
        bench.compare(
            "virtio-scsi TEST UNIT READY at depth 1, floor: bare ring",
            lambda: rings[0].run(count, depth=1),
            lambda: library.floor_echo(rounds),
            others={"shared word ping-pong": lambda: library.floor_ping_pong(rounds)},
            operations=count,
            unit="ns per command",
            rounds=15,
            goal=2.0,
        )


def test_two_queues(bench: Bench) -> None:
    """Two queues with a worker each beside one: what a second pair of threads adds, for information."""
    import threading

    count = 1_000 if bench.quick else 50_000
    kind = {"depth": DEPTH, "opcode": READ_10, "blocks": 8, "span": MEDIUM // 512}
    with plane(4096, 2) as (_, rings):

        def both() -> None:
            threads = [threading.Thread(target=ring.run, args=(count // 2,), kwargs=kind) for ring in rings]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        bench.compare(
            "virtio-scsi 4096 B random reads on 2 queues, floor: 1 queue",
            both,
            lambda: rings[0].run(count, **kind),
            operations=count,
            unit="ns per command",
            rounds=9,
        )


COUNTED = """
import sys
from bench.test_plane import counted
counted(int(sys.argv[1]), sys.argv[2] == "on", int(sys.argv[3]), sys.argv[4] == "read")
"""


def counted(commands: int, snooped: bool, opcode: int, read: bool = False) -> None:
    """Run commands pass by pass in this thread, for an instruction counter; ``read`` the counters now and then."""
    memory = DriverMemory(4 << 20)
    medium = Medium(1 << 20, 512)
    with Controller(Nobody(), 3, poll_us=0) as controller:
        controller.set_features(F_VERSION_1 | F_INDIRECT_DESC)
        controller.set_memory(GuestMemory([memory.region()]))
        ring = DriverQueue(memory, DEPTH, data_size=4096)
        controller.start_queue(2, **ring.start_arguments())
        controller.set_enabled(2, True)
        table = verdicts(migrate_pr=snooped)
        controller.attach(0, 0, BlockPort(medium, NexusGate()), verdicts=table, waiting=bytearray(1))
        for _ in range(CHUNKS):
            controller.hold()
            ring.run(commands // CHUNKS, depth=DEPTH, opcode=opcode, span=2048, stepped=controller)
            controller.release()
            if read:
                controller.counts()
                controller.traffic()


CHUNKS = 10


def per_command(commands: int, snooped: str, opcode: int, directory: Path, counters: str = "leave") -> float:
    """Instructions per command inside the worker's passes."""
    words = str(commands), snooped, str(opcode), counters
    return instructions("*worker_worker_pass", COUNTED, *words, directory=directory) / commands


def test_instructions_with_and_without_snooping(bench: Bench, tmp_path: Path) -> None:
    """A command that is no reservation costs the same whether reservations are followed or not, to within 1%."""
    commands = 2_000 if bench.quick else 20_000
    followed, verbatim = (per_command(commands, snooped, READ_10, tmp_path) for snooped in ("on", "off"))
    measurement = record(
        "virtio-scsi READ(10) with PR snooping, floor: without",
        followed,
        verbatim,
        "instructions per command",
        1.01,
    )
    assert measurement.met
    bench.measured.append(measurement)
    bench.benchmark.pedantic(lambda: None, rounds=1)  # type: ignore[no-untyped-call]


def test_reading_the_counters_costs_the_workers_nothing(bench: Bench, tmp_path: Path) -> None:
    """A scrape takes no lock of theirs and stops none of them: the same instructions per command."""
    commands = 2_000 if bench.quick else 20_000
    read, left = (per_command(commands, "on", READ_10, tmp_path, counters) for counters in ("read", "leave"))
    measurement = record(
        "virtio-scsi READ(10) while counters are read, floor: without", read, left, "instructions per command", 1.01
    )
    assert measurement.met
    bench.measured.append(measurement)
    bench.benchmark.pedantic(lambda: None, rounds=1)  # type: ignore[no-untyped-call]
