"""What the device, the transport and the kernel say stays apart: status, sense, host status, residual, errno."""

import errno
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from _fastpath.sgio import Batch
from tests.vm.guest.sg_support import (
    ENGINES,
    TEST_UNIT_READY,
    debug_disk,  # noqa: F401 (a fixture)
    drain,
    engine_on,
    read_cdb,
    requests_issued,
    run_one,
    slow,
    write_cdb,
)
from tests.vm.rig.nodes import SCSI_DEVICES
from tests.vm.rig.sg_direct import SgNode


@pytest.fixture(params=["scsi_debug", "lio"])
def nodes(request):
    if request.param == "lio":
        return request.getfixturevalue("lio")(2).nexuses[0].nodes
    return request.getfixturevalue("debug_disk")


@pytest.mark.parametrize("kind", ENGINES)
def test_an_underrun_is_good_with_a_residual(nodes, kind):
    """And touches nothing outside the pieces it was given; LIO would, if it were given the pieces themselves."""
    memory = bytearray(b"\xee" * 16384)
    view = memoryview(memory)
    with engine_on(kind, nodes) as engine:
        status, sense, host, driver, residual, _, error = run_one(
            engine, bytes([0x12, 0, 0, 0x10, 0, 0]), data_in=[view[256:276], view[8192:12268]]
        )
    assert (status, sense, host, driver, error) == (0, b"", 0, 0, 0)
    received = memory[256:276] + memory[8192:12268]
    length = 5 + received[4]
    assert 4096 - residual == length
    assert received[8:16] in (b"LIO-ORG ", b"Linux   ")
    assert received[16:32].strip() in (b"RAMDISK-MCP", b"scsi_debug")
    assert set(memory[:256] + memory[276:8192] + memory[12268:]) == {0xEE}


@pytest.mark.parametrize("kind", ENGINES)
def test_a_parameter_list_in_pieces_arrives_whole(lio, kind):
    first = lio(2).nexuses[0]
    memory = bytearray(b"\xee" * 8192)
    memory[64:72] = bytes(8)
    memory[4096:4112] = bytes.fromhex("0123456789abcdef 0000000000000000")
    view = memoryview(memory)
    with engine_on(kind, first.nodes) as engine:
        result = run_one(
            engine, bytes.fromhex("5f 06 00 00 00 00 00 00 18 00"), data_out=[view[64:72], view[4096:4112]]
        )
    assert result[:4] == (0, b"", 0, 0)
    assert first.direct.keys() == [0x0123456789ABCDEF]


@pytest.mark.parametrize("kind", ENGINES)
def test_a_check_condition_carries_its_sense(debug_disk, kind):  # noqa: F811
    with engine_on(kind, debug_disk) as engine:
        status, sense, host, driver, _, _, error = run_one(engine, read_cdb(0x00FFFFFF, 1), data_in=[bytearray(512)])
    assert (status, host, error) == (0x02, 0, 0)
    assert sense[0] == 0x70
    assert (sense[2], sense[12], sense[13]) == (0x05, 0x21, 0x00)
    assert driver == 0x08


@pytest.mark.parametrize("kind", ENGINES)
def test_a_reservation_conflict_is_a_status_without_sense(lio, kind):
    holder, other = lio(2).nexuses
    assert holder.direct.persistent_reserve_out(0, sa_key=0xA1).good
    assert holder.direct.persistent_reserve_out(1, key=0xA1, type_=3).good
    with engine_on(kind, other.nodes) as engine:
        status, sense, host, driver, _, _, error = run_one(engine, write_cdb(0, 1), data_out=[bytes(512)])
    assert (status, sense, host, driver, error) == (0x18, b"", 0, 0, 0)


@pytest.mark.parametrize(
    ("kind", "delay_s", "timeout_ms"),
    # The disk and bsg nodes raise every timeout below 7 s to that.
    [("sync-sg", 4, 500), ("async-sg", 4, 500), ("sync-sd", 11, 7000), ("bsg", 11, 7000)],
)
def test_a_timeout_is_the_transports(debug_disk, kind, delay_s, timeout_ms):  # noqa: F811
    with engine_on(kind, debug_disk) as engine:
        with slow(delay_s):
            started = time.monotonic()
            status, sense, host, _, _, _, error = run_one(engine, TEST_UNIT_READY, timeout_ms=timeout_ms)
            took = time.monotonic() - started
        assert (status, sense, host, error) == (0, b"", 3, 0)
        assert timeout_ms / 1000 - 0.1 < took < delay_s
        drain(debug_disk)
        assert run_one(engine, TEST_UNIT_READY)[0] == 0


def test_a_command_the_kernel_does_not_end_is_given_up(debug_disk):  # noqa: F811
    """Nobody waits for ever: with no grace the engine is faster than the kernel's own error handling."""
    batch = Batch(3)
    buffers = [bytearray(512) for _ in range(2)]
    batch.add(TEST_UNIT_READY, timeout_ms=200)
    for buffer in buffers:
        batch.add(read_cdb(0, 1), 1, buffer, timeout_ms=60_000)
    with engine_on("async-sg", debug_disk, grace_ms=0) as engine:
        with slow(3):
            engine.run(batch)
            assert batch.result(0)[6] == errno.ETIMEDOUT
            assert batch.fate_unknown(0)
            assert [batch.result(number)[6] for number in (1, 2)] == [0, 0]
        drain(debug_disk)
        # The slot was closed with the command in it, and works again.
        batch = Batch(32)
        for _ in range(32):
            batch.add(TEST_UNIT_READY)
        engine.run(batch)
        assert {batch.result(number)[::6] for number in range(32)} == {(0, 0)}


@pytest.mark.parametrize(
    ("kind", "host_status", "error"),
    [("sync-sg", 0, errno.ENXIO), ("sync-sd", 0, errno.ENODEV), ("async-sg", 1, 0), ("bsg", 1, 0)],
)
def test_an_offline_device(debug_disk, kind, host_status, error):  # noqa: F811
    state = SCSI_DEVICES / debug_disk.address / "state"
    batch = Batch(1)
    batch.add(TEST_UNIT_READY)
    with engine_on(kind, debug_disk) as engine:
        state.write_text("offline\n")
        try:
            engine.run(batch)
        finally:
            state.write_text("running\n")
        assert (batch.result(0)[2], batch.result(0)[6]) == (host_status, error)
        assert not batch.fate_unknown(0)
        assert run_one(engine, TEST_UNIT_READY)[::6] == (0, 0)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_lost_path_is_a_host_status(lio, kind):
    nexus = lio(2).nexuses[0]
    with engine_on(kind, nexus.nodes) as engine:
        nexus.offline()
        status, sense, host, _, _, _, error = run_one(engine, TEST_UNIT_READY)
        nexus.online()
    assert (status, sense, host, error) == (0, b"", 0x0E, 0)


@pytest.mark.parametrize(
    ("kind", "blocks", "error"),
    # tcm_loop takes 256 segments of a page; 65535 sectors is its limit for whatever number of them.
    [
        ("sync-sg", 2056, errno.EINVAL),
        ("async-sg", 2056, errno.EINVAL),
        ("sync-sd", 2056, errno.EINVAL),
        ("bsg", 2056, errno.EINVAL),
        ("sync-sd", 65535 + 1, errno.EIO),
        ("bsg", 65535 + 1, errno.EINVAL),
    ],
)
def test_a_transfer_beyond_the_hosts_limit(lio, kind, blocks, error):
    batch = Batch(1)
    batch.add(bytes(6), 1, bytearray(blocks * 512), 30_000)
    with engine_on(kind, lio(2).nexuses[0].nodes) as engine:
        engine.run(batch)
    assert batch.result(0)[6] == error
    assert not batch.fate_unknown(0)


@pytest.mark.parametrize("kind", ENGINES)
def test_signals_do_not_issue_a_command_again(debug_disk, kind):  # noqa: F811
    """SG_IO on the generic node is interruptible; restarted by the kernel it would be a second command."""
    batch = Batch(2)
    for _ in range(2):
        batch.add(TEST_UNIT_READY, timeout_ms=20_000)
    heard = []
    previous = signal.signal(signal.SIGALRM, lambda *_: heard.append(1))
    signal.siginterrupt(signal.SIGALRM, False)
    try:
        with engine_on(kind, debug_disk, parallel=1) as engine, slow(0.5):
            before = requests_issued(debug_disk)
            signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
            engine.run(batch)
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert requests_issued(debug_disk) == before + 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert heard
    assert [batch.result(number)[::6] for number in range(2)] == [(0, 0), (0, 0)]


@pytest.mark.parametrize("kind", ENGINES)
def test_a_forked_child_is_refused_and_the_parent_goes_on(debug_disk, kind):  # noqa: F811
    with engine_on(kind, debug_disk) as engine:
        child = os.fork()
        if child == 0:
            try:
                run_one(engine, TEST_UNIT_READY)
            except RuntimeError:
                engine.close()
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert run_one(engine, TEST_UNIT_READY)[::6] == (0, 0)


def test_the_async_engine_of_other_credentials_executes_nothing(debug_disk):  # noqa: F811
    script = f"""
        import os
        from _fastpath.sgio import Batch
        from _fastpath.sgio_async import AsyncEngine
        batch = Batch(1)
        batch.add(bytes(6))
        with AsyncEngine({str(debug_disk.sg)!r}) as engine:
            os.setgid(12345)
            engine.run(batch)
            print(batch.result(0)[6], batch.fate_unknown(0))
        with AsyncEngine({str(debug_disk.sg)!r}) as engine:
            engine.run(batch)
            print(batch.result(0)[6])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False", "0"]


def test_commands_are_queued_behind_each_other(debug_disk):  # noqa: F811
    """sg puts a command at the head of the queue unless told otherwise; the last write of a block must win."""
    batch = Batch(16)
    for number in range(16):
        batch.add(write_cdb(5, 1), 2, bytes([number]) * 512, 30_000)
    with engine_on("async-sg", debug_disk) as engine:
        for _ in range(5):
            engine.run(batch)
            node = SgNode(debug_disk.sg)
            assert node.read(5).data == bytes([15]) * 512
            node.close()
