"""The medium below the commands: ranges, buffers, isolation, the gate (_fastpath.medium)."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from _fastpath.gate import (
    ACCESS_ALWAYS,
    ACCESS_READ,
    ACCESS_WRITE,
    ADMIT_ATTENTION,
    ADMIT_CONFLICT,
    ADMIT_GO,
    ADMIT_NOT_READY,
    GATE_ATTENTION,
    GATE_EXCLUSIVE_ACCESS,
    GATE_NOT_READY,
    GATE_PRIVILEGED,
    GATE_RESERVED,
    GATE_SPC2_CONFLICT,
    NexusGate,
)
from _fastpath.medium import Medium

MIB = 1 << 20
SIZE = 128 * MIB


@pytest.fixture(params=["memory", "file"])
def medium(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Medium]:
    if request.param == "memory":
        yield Medium(SIZE, 512)
        return
    descriptor = os.open(tmp_path / "medium", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, SIZE)
    medium = Medium(SIZE, 512, descriptor)
    yield medium
    medium.close()
    os.close(descriptor)


@pytest.fixture
def gate() -> NexusGate:
    return NexusGate()


OUTSIDE = [(SIZE, 512), (SIZE - 512, 1024), (1 << 63, 512), ((1 << 64) - 512, 512), (512, (1 << 64) - 512)]


@pytest.mark.parametrize(("offset", "length"), OUTSIDE)
def test_outside_the_medium(medium: Medium, gate: NexusGate, offset: int, length: int) -> None:
    block = bytes(512)
    actions = [
        lambda: medium.read(gate, 0, offset, length),
        lambda: medium.read_into(gate, 0, offset, length, bytearray(512)),
        lambda: medium.write(gate, 0, offset, length, block),
        lambda: medium.write_and_compare(gate, 0, offset, length, block),
        lambda: medium.compare(gate, 0, offset, length, block),
        lambda: medium.compare_same(gate, 0, offset, length, block),
        lambda: medium.compare_and_write(gate, 0, offset, length, 2 * block),
        lambda: medium.verify(gate, 0, offset, length),
        lambda: medium.write_same(gate, 0, offset, length, block),
        lambda: medium.unmap(gate, 0, offset, length),
    ]
    for action in actions:
        with pytest.raises(OSError, match=r"\[Errno \d+\]") as failed:
            action()
        assert failed.value.errno in (errno.ERANGE, errno.EINVAL)


def test_buffers_that_are_too_small(medium: Medium, gate: NexusGate) -> None:
    for action in (
        lambda: medium.read_into(gate, 0, 0, 1024, [bytearray(512), bytearray(511)]),
        lambda: medium.write(gate, 0, 0, 1024, [bytes(512), bytes(511)]),
        lambda: medium.compare(gate, 0, 0, 1024, bytes(1023)),
        lambda: medium.compare_and_write(gate, 0, 0, 1024, bytes(2047)),
        lambda: medium.compare_same(gate, 0, 0, 1024, bytes(511)),
        lambda: medium.write_same(gate, 0, 0, 1024, bytes(1024)),
        lambda: medium.write(gate, 0, 0, 1024, []),
    ):
        with pytest.raises(OSError, match=r"\[Errno \d+\]") as failed:
            action()
        assert failed.value.errno == errno.EINVAL
    with pytest.raises((BufferError, TypeError)):
        medium.read_into(gate, 0, 0, 4, [memoryview(b"only read")])


def test_against_a_byte_array(medium: Medium, gate: NexusGate) -> None:
    """Random actions, compared with the same on a bytearray."""
    chance = random.Random(4)
    start, span = 61 * MIB, 6 * MIB
    model, mapped = bytearray(span), [False] * (span // 512)
    for _ in range(300):
        offset = chance.randrange(0, span, 512)
        length = min(span - offset, 512 * chance.choice([1, 2, 7, 8, 64, 2049, 5000]))
        blocks = slice(offset // 512, (offset + length) // 512)
        whole = slice(offset, offset + length)
        match chance.randrange(5):
            case 0:
                model[whole] = data = chance.randbytes(length)
                cut = chance.randrange(length)
                medium.write(gate, 0, start + offset, length, [data[:cut], data[cut:]], chance.random() < 0.1)
                mapped[blocks] = [True] * (length // 512)
            case 1:
                block = chance.randbytes(512)
                model[whole] = block * (length // 512)
                medium.write_same(gate, 0, start + offset, length, block)
                mapped[blocks] = [True] * (length // 512)
            case 2:
                model[whole] = bytes(length)
                medium.unmap(gate, 0, start + offset, length)
                mapped[blocks] = [False] * (length // 512)
            case 3:
                assert medium.read(gate, 0, start + offset, length) == model[whole]
            case 4:
                data = bytearray(model[whole])
                assert medium.compare(gate, 0, start + offset, length, data) == -1
                wrong = chance.randrange(length)
                data[wrong] ^= 0x80
                assert medium.compare(gate, 0, start + offset, length, data) == wrong
    assert medium.read(gate, 0, start, span) == model
    block, end = start // 512, (start + span) // 512
    while block < end:
        run, state = medium.allocation(block, end - block)
        assert mapped[block - start // 512 : block + run - start // 512] == [state] * run
        block += run


def test_allocation_of_nothing(medium: Medium) -> None:
    assert medium.allocation(5, 3) == (3, False)
    for block, limit in [(SIZE // 512, 1), (0, 0), (1 << 60, 1)]:
        with pytest.raises(OSError, match="range"):
            medium.allocation(block, limit)


def test_memory_is_taken_only_when_written(gate: NexusGate) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    medium = Medium(1 << 42, 512)
    medium.read(gate, 0, (1 << 42) - MIB, MIB)
    assert resident() - before < 32 * MIB
    medium.write_same(gate, 0, 0, 64 * MIB, b"x" * 512)
    assert resident() - before > 60 * MIB
    medium.unmap(gate, 0, 0, 64 * MIB)
    assert resident() - before < 40 * MIB


def test_after_close(medium: Medium, gate: NexusGate) -> None:
    medium.close()
    medium.close()
    for action in (lambda: medium.read(gate, 0, 0, 512), lambda: medium.flush(), lambda: medium.unmap(gate, 0, 0, 512)):
        with pytest.raises(OSError, match=r"\[Errno \d+\]") as failed:
            action()
        assert failed.value.errno == errno.ENODEV


@pytest.mark.parametrize(("size", "block_size"), [(0, 512), (511, 512), (512, 4096), (1 << 20, 1024), (1 << 63, 512)])
def test_sizes(size: int, block_size: int) -> None:
    with pytest.raises(ValueError, match="block size"):
        Medium(size, block_size)


# --- the gate ---


@pytest.mark.parametrize(
    ("flags", "always", "read", "write"),
    [
        (0, "GO", "GO", "GO"),
        (GATE_RESERVED, "GO", "GO", "CONFLICT"),
        (GATE_RESERVED | GATE_EXCLUSIVE_ACCESS, "GO", "CONFLICT", "CONFLICT"),
        (GATE_RESERVED | GATE_PRIVILEGED, "GO", "GO", "GO"),
        (GATE_RESERVED | GATE_EXCLUSIVE_ACCESS | GATE_PRIVILEGED, "GO", "GO", "GO"),
        (GATE_PRIVILEGED, "GO", "GO", "GO"),
        (GATE_SPC2_CONFLICT, "CONFLICT", "CONFLICT", "CONFLICT"),
        (GATE_ATTENTION | GATE_RESERVED | GATE_SPC2_CONFLICT, "ATTENTION", "ATTENTION", "ATTENTION"),
        (GATE_NOT_READY, "NOT_READY", "NOT_READY", "NOT_READY"),
        (GATE_NOT_READY | GATE_RESERVED, "NOT_READY", "NOT_READY", "CONFLICT"),
    ],
)
def test_admission(gate: NexusGate, flags: int, always: str, read: str, write: str) -> None:
    verdicts = {"GO": ADMIT_GO, "CONFLICT": ADMIT_CONFLICT, "ATTENTION": ADMIT_ATTENTION, "NOT_READY": ADMIT_NOT_READY}
    gate.flags = flags
    assert gate.flags == flags
    assert [gate.admit(access) for access in (ACCESS_ALWAYS, ACCESS_READ, ACCESS_WRITE)] == [
        verdicts[one] for one in (always, read, write)
    ]


def test_abort_waits_for_those_inside(gate: NexusGate) -> None:
    token = gate.enter()
    assert gate.in_flight == 1
    ended: list[int] = []
    aborting = threading.Thread(target=lambda: ended.append(gate.abort()))
    aborting.start()
    while not gate.aborted(token):
        time.sleep(0)
    later = gate.enter()
    assert not gate.aborted(later)
    assert not ended
    gate.leave(token)
    aborting.join(10)
    assert (ended, gate.in_flight) == ([1], 1)
    gate.leave(later)


def test_an_aborted_action_stops(medium: Medium, gate: NexusGate) -> None:
    token = gate.enter()
    gate.leave(token)
    gate.abort()
    for action in (
        lambda: medium.write(gate, token, 0, 512, bytes(512)),
        lambda: medium.read(gate, token, 0, 512),
        lambda: medium.compare(gate, token, 0, 512, bytes(512)),
        lambda: medium.write_same(gate, token, 0, 512, bytes(512)),
        lambda: medium.unmap(gate, token, 0, 512),
    ):
        with pytest.raises(OSError, match=r"\[Errno \d+\]") as failed:
            action()
        assert failed.value.errno == errno.ECANCELED


def test_the_generation_wraps(gate: NexusGate) -> None:
    for number in range(1, 5):
        gate.abort()
        assert gate.generation == number


def test_growing_keeps_what_is_there_and_adds_zeros(medium: Medium, tmp_path: Path) -> None:
    gate = NexusGate()
    data = os.urandom(MIB)
    medium.write(gate, 0, SIZE - MIB, MIB, data)
    if (tmp_path / "medium").exists():
        os.truncate(tmp_path / "medium", 2 * SIZE)
    medium.grow(2 * SIZE)
    assert medium.size == 2 * SIZE
    assert medium.read(gate, 0, SIZE - MIB, MIB) == data
    assert medium.read(gate, 0, SIZE, MIB) == bytes(MIB)
    medium.write(gate, 0, 2 * SIZE - MIB, MIB, data)
    assert medium.read(gate, 0, 2 * SIZE - MIB, MIB) == data
    assert medium.allocation(SIZE // 512, 1 << 30) == ((SIZE - MIB) // 512, False)
    assert medium.allocation((2 * SIZE - MIB) // 512, 1 << 30) == (MIB // 512, True)
    with pytest.raises(OSError, match="Invalid argument"):
        medium.grow(SIZE)
    with pytest.raises(ValueError, match="multiple of the block size"):
        medium.grow(2 * SIZE + 1)


def test_growing_beside_reads_and_writes(medium: Medium, tmp_path: Path) -> None:
    """The memory may move below them."""
    pattern = os.urandom(MIB)
    stop = threading.Event()
    failed: list[str] = []

    def use(at: int) -> None:
        gate = NexusGate()
        while not stop.is_set():
            medium.write(gate, 0, at, MIB, pattern)
            if medium.read(gate, 0, at, MIB) != pattern:
                failed.append(f"at {at}")

    threads = [threading.Thread(target=use, args=(index * 4 * MIB,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for size in range(SIZE, SIZE + 64 * MIB, MIB):
        if (tmp_path / "medium").exists():
            os.truncate(tmp_path / "medium", size)
        medium.grow(size)
        time.sleep(0.002)
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
