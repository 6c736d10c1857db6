"""Batches and engines without a SCSI device: limits, ownership of buffers, closing, forking, many threads."""

import array
import errno
import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from _fastpath.sgio import DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, MAX_TRANSFER, Batch, Engine
from _fastpath.sgio_async import AsyncEngine
from _fastpath.sgio_bsg import BsgEngine
from _fastpath.sgio_sync import SyncEngine

TEST_UNIT_READY = bytes(6)


def open_descriptors():
    listed = [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]
    # The one that listed them is closed again.
    return {fd for fd in listed if Path(f"/proc/self/fd/{fd}").exists()}


def threads_of_this_process():
    return list(Path("/proc/self/task").iterdir())


@pytest.fixture
def null():
    fd = os.open("/dev/null", os.O_RDWR)
    yield fd
    os.close(fd)


def test_a_command_that_was_not_run_was_not_executed():
    batch = Batch(2)
    assert batch.add(TEST_UNIT_READY) == 0
    assert batch.add(TEST_UNIT_READY) == 1
    assert (len(batch), batch.capacity) == (2, 2)
    assert batch.result(1) == (0, b"", 0, 0, 0, 0, errno.EINVAL)
    assert not batch.fate_unknown(1)


@pytest.mark.parametrize("length", [0, 1, 5, 33, 252])
def test_a_cdb_has_6_to_32_bytes(length):
    with pytest.raises(ValueError, match=f"a CDB has 6 to 32 bytes, this one has {length}"):
        Batch(1).add(bytes(length))


def test_what_a_batch_refuses():
    batch = Batch(1)
    with pytest.raises(ValueError, match="direction 3 is none of"):
        batch.add(TEST_UNIT_READY, 3)
    with pytest.raises(ValueError, match="without data direction was given 4 bytes"):
        batch.add(TEST_UNIT_READY, DIRECTION_NONE, b"data")
    with pytest.raises(BufferError):
        batch.add(TEST_UNIT_READY, DIRECTION_IN, b"cannot be written to")
    with pytest.raises(TypeError):
        batch.add(TEST_UNIT_READY, DIRECTION_OUT, ["text"])
    with pytest.raises(TypeError):
        batch.add(None)
    with pytest.raises(ValueError, match="timeout -1 ms"):
        batch.add(TEST_UNIT_READY, timeout_ms=-1)
    with pytest.raises(ValueError, match="timeout 2147483648 ms"):
        batch.add(TEST_UNIT_READY, timeout_ms=1 << 31)
    assert len(batch) == 0
    batch.add(TEST_UNIT_READY)
    with pytest.raises(IndexError, match="already holds its 1 commands"):
        batch.add(TEST_UNIT_READY)
    for index in (-1, 1):
        with pytest.raises(IndexError, match="the batch holds 1 commands"):
            batch.result(index)
    for capacity in (0, -1, 1 << 31):
        with pytest.raises((ValueError, OverflowError)):
            Batch(capacity)


def test_a_transfer_is_less_than_256_mib():
    page = bytearray(1 << 20)
    batch = Batch(2)
    with pytest.raises(ValueError, match=f"more than {MAX_TRANSFER} bytes"):
        batch.add(TEST_UNIT_READY, DIRECTION_IN, [page] * 256)
    page.append(0)  # its buffer was let go
    with pytest.raises(ValueError, match=f"more than {MAX_TRANSFER} bytes"):
        batch.add(TEST_UNIT_READY, DIRECTION_OUT, [memoryview(page)[: 1 << 20]] * 300)
    batch.add(TEST_UNIT_READY, DIRECTION_OUT, [memoryview(page)[: 1 << 20]] * 255)


def test_buffers_are_held_until_the_batch_is_cleared_or_gone():
    first, second = bytearray(10), bytearray(20)
    batch = Batch(2)
    batch.add(TEST_UNIT_READY, DIRECTION_IN, [first, second, bytearray()])
    batch.add(TEST_UNIT_READY, DIRECTION_OUT, memoryview(first))
    with pytest.raises(BufferError):
        first.append(0)
    batch.clear()
    first.append(0)
    assert len(batch) == 0
    batch.add(TEST_UNIT_READY, DIRECTION_IN, second)
    del batch
    second.append(0)


def test_a_failed_add_lets_go_of_what_it_took():
    good = bytearray(10)
    batch = Batch(1)
    with pytest.raises(BufferError):
        batch.add(TEST_UNIT_READY, DIRECTION_IN, [good, b"not writable"])
    good.append(0)
    batch.add(TEST_UNIT_READY, DIRECTION_IN, good)


def test_any_contiguous_buffer_will_do():
    batch = Batch(3)
    batch.add(array.array("B", TEST_UNIT_READY), DIRECTION_IN, array.array("I", [0] * 4))
    assert batch.result(0)[4] == 16
    batch.add(memoryview(bytearray(12))[:6], DIRECTION_OUT, (part for part in (b"abc", b"de")))
    assert batch.result(1)[4] == 5
    with pytest.raises(BufferError):
        batch.add(TEST_UNIT_READY, DIRECTION_OUT, memoryview(bytes(10))[::2])


@pytest.mark.parametrize("engine_type", [SyncEngine, BsgEngine])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("size", [1, 2, 64, 1000])
def test_what_the_kernel_refuses_was_not_executed(null, engine_type, threads, size):
    batch = Batch(size)
    for _ in range(size):
        batch.add(TEST_UNIT_READY, DIRECTION_IN, [bytearray(3), bytearray(4)])
    with engine_type(null, threads) as engine:
        for _ in range(3):
            engine.run(batch)
            for index in range(size):
                assert batch.result(index) == (0, b"", 0, 0, 7, 0, errno.ENOTTY)
                assert not batch.fate_unknown(index)


@pytest.mark.parametrize("engine_type", [SyncEngine, BsgEngine])
def test_many_threads_run_batches_while_workers_come_and_go(null, engine_type):
    turns = []

    def call():
        batch = Batch(64)
        for _ in range(64):
            batch.add(TEST_UNIT_READY, DIRECTION_OUT, b"12345")
        for _ in range(100):
            engine.run(batch)
            turns.append({batch.result(index)[6] for index in range(64)})

    with engine_type(null, 3) as engine:
        threads = [threading.Thread(target=call) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert turns == [{errno.ENOTTY}] * 1200


def test_closing_waits_for_those_who_run_and_refuses_those_who_come_later(null):
    engine = SyncEngine(null, 2, label="/dev/sg9")
    refused = threading.Event()

    def call():
        batch = Batch(32)
        for _ in range(32):
            batch.add(TEST_UNIT_READY)
        try:
            while True:
                engine.run(batch)
        except ValueError as error:
            assert str(error) == "/dev/sg9: the engine is closed; open the device again"  # noqa: PT017
            assert batch.result(0)[6] == errno.EBADF
            refused.set()

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    engine.close()
    engine.close()
    for thread in threads:
        thread.join(30)
    assert refused.is_set()


def test_an_engine_has_its_own_descriptor(null):
    copy = os.dup(null)
    with SyncEngine(copy, 2) as engine:
        os.close(copy)
        batch = Batch(1)
        batch.add(TEST_UNIT_READY)
        engine.run(batch)
        assert batch.result(0)[6] == errno.ENOTTY


def test_descriptors_are_given_back_and_not_inherited(null):
    before = open_descriptors()
    engine = SyncEngine(null, 4)
    opened = open_descriptors() - before
    assert opened
    assert all(fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC for fd in opened)
    engine.close()
    assert open_descriptors() == before
    with pytest.raises(OSError, match="/dev/null: cannot open a slot of the asynchronous engine"):
        AsyncEngine("/dev/null")
    assert open_descriptors() == before


def test_threads_end_with_the_engine(null):
    before = len(threads_of_this_process())
    engine = SyncEngine(null, 6)
    assert len(threads_of_this_process()) == before + 5
    del engine
    assert len(threads_of_this_process()) == before


def test_a_forked_child_is_refused(null):
    batch = Batch(4)
    for _ in range(4):
        batch.add(TEST_UNIT_READY)
    engine = SyncEngine(null, 3, label="/dev/sg9")
    child = os.fork()
    if child == 0:
        try:
            engine.run(batch)
        except RuntimeError as error:
            refused = "/dev/sg9: opened before a fork; open the device again in this process" in str(error)
            engine.close()
            with SyncEngine(null, 2) as own:
                own.run(batch)
            os._exit(5 if refused and batch.result(0)[6] == errno.ENOTTY else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
    engine.run(batch)
    engine.close()


def test_signals_reach_python_and_not_the_workers(null):
    def blocked(task):
        lines = (task / "status").read_text().splitlines()
        return next(line.split()[1] for line in lines if line.startswith("SigBlk"))

    before = {task.name for task in threads_of_this_process()}
    with SyncEngine(null, 2):
        (worker,) = [task for task in threads_of_this_process() if task.name not in before]
        # All but SIGKILL, SIGSTOP and the two the C library needs for itself.
        deadline = time.monotonic() + 10
        while blocked(worker) != "fffffffe7ffbfeff":  # a new thread starts with others
            assert time.monotonic() < deadline, blocked(worker)
        assert int(blocked(Path("/proc/self")), 16) & (1 << 14) == 0


def test_wrong_numbers_of_threads_and_slots(null):
    for threads in (0, -1, 65):
        with pytest.raises(ValueError, match="threads is not between 1 and 64"):
            SyncEngine(null, threads)
    for slots in (0, 65):
        with pytest.raises(ValueError, match="slots is not between 1 and 64"):
            AsyncEngine("/dev/null", slots)
    with pytest.raises(OSError, match="Bad file descriptor"):
        SyncEngine(1 << 20)
    with pytest.raises(FileNotFoundError):
        AsyncEngine("/dev/there-is-no-such-node")


@pytest.mark.parametrize("engine_type", [Engine, SyncEngine, BsgEngine, AsyncEngine])
def test_an_engine_that_was_never_opened_runs_nothing(engine_type):
    engine = engine_type.__new__(engine_type)
    batch = Batch(1)
    engine.run(batch)  # nothing to do
    batch.add(TEST_UNIT_READY)
    with pytest.raises(ValueError, match="the engine is closed"):
        engine.run(batch)
    engine.close()
