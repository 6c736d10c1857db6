"""Every pass-through engine moves data intact, however it is cut up and however many commands run at once."""

import os
import subprocess
import threading

import pytest

from _fastpath.sgio import DIRECTION_IN, DIRECTION_OUT, Batch
from tests.vm.guest.sg_support import (
    ENGINES,
    TEST_UNIT_READY,
    debug_disk,  # noqa: F401 (a fixture)
    engine_on,
    medium_by_sg_dd,
    pieces,
    read_cdb,
    run_one,
    write_cdb,
)

GOOD = (0, b"", 0, 0, 0)
BLOCKS = 160
WRITE_10 = ["2a", "00", "00", "00", "02", "00", "00", "00", "08", "00"]
SPLITS = {
    "one": [81920],
    "two": [4096, 77824],
    "odd sizes": [1, 511, 4095, 4097, 33, 81920 - 1 - 511 - 4095 - 4097 - 33],
    "guest pages": [4096] * 20,
    "1024 pieces": [80] * 1024,
    "more pieces than the kernel takes": [64] * 1280,
}


@pytest.fixture(params=["scsi_debug", "lio"])
def nodes(request):
    if request.param == "lio":
        return request.getfixturevalue("lio")(2).nexuses[0].nodes
    return request.getfixturevalue("debug_disk")


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("split", SPLITS)
def test_scattered_data_arrive_as_others_read_them(nodes, kind, split, tmp_path):
    written = os.urandom(BLOCKS * 512)
    with engine_on(kind, nodes) as engine:
        result = run_one(engine, write_cdb(64, BLOCKS), data_out=pieces(written, SPLITS[split]))
        assert result[:5] == GOOD
        assert result[6] == 0
        assert medium_by_sg_dd(nodes, 64, BLOCKS, tmp_path) == written
        received = bytearray(BLOCKS * 512)
        result = run_one(engine, read_cdb(64, BLOCKS), data_in=pieces(received, SPLITS[split]))
        assert result[:5] == GOOD
        assert bytes(received) == written


@pytest.mark.parametrize("kind", ENGINES)
def test_bytes_written_by_others_are_read(nodes, kind, tmp_path):
    written = os.urandom(8 * 512)
    (tmp_path / "data").write_bytes(written)
    subprocess.run(
        ["sg_raw", "-s", "4096", "-i", str(tmp_path / "data"), str(nodes.sg), *WRITE_10],
        check=True,
        capture_output=True,
    )
    received = bytearray(8 * 512)
    with engine_on(kind, nodes) as engine:
        # A view that is neither aligned to a page nor to a block.
        padded = bytearray(3 + 4096)
        assert run_one(engine, read_cdb(0x200, 8), data_in=[memoryview(padded)[3:]])[:5] == GOOD
        assert run_one(engine, read_cdb(0x200, 8), data_in=[received])[:5] == GOOD
    assert bytes(padded[3:]) == bytes(received) == written


@pytest.mark.parametrize("kind", ["sync-sd", "bsg"])
def test_an_unaligned_megabyte_goes_through_nodes_that_map_pages(lio, kind, tmp_path):
    """257 segments for a host that takes 256: the node says EINVAL and the engine copies once."""
    nodes = lio(2).nexuses[0].nodes
    written = os.urandom(1 << 20)
    source, target = bytearray(b"\0" * 9 + written), bytearray(9 + (1 << 20))
    with engine_on(kind, nodes) as engine:
        assert run_one(engine, write_cdb(0, 2048), data_out=[memoryview(source)[9:]])[:5] == GOOD
        assert run_one(engine, read_cdb(0, 2048), data_in=[memoryview(target)[9:]])[:5] == GOOD
    assert target[9:] == written
    assert medium_by_sg_dd(nodes, 0, 2048, tmp_path) == written


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("size", [1, 2, 64, 1000])
def test_a_batch_of_any_size_is_executed_whole(nodes, kind, size, tmp_path):
    written = os.urandom(size * 512)
    with engine_on(kind, nodes) as engine:
        batch = Batch(size)
        for number in range(size):
            batch.add(write_cdb(number, 1), DIRECTION_OUT, written[number * 512 : number * 512 + 512], 30_000)
        engine.run(batch)
        assert [batch.result(number)[:5] for number in range(size)] == [GOOD] * size
        assert medium_by_sg_dd(nodes, 0, size, tmp_path) == written
        batch.clear()
        received = [bytearray(512) for _ in range(size)]
        for number in range(size):
            batch.add(read_cdb(number, 1), DIRECTION_IN, received[number], 30_000)
        engine.run(batch)
        assert b"".join(received) == written


@pytest.mark.parametrize("kind", ENGINES)
def test_several_threads_run_batches_at_once(nodes, kind):
    """More callers than the engine has slots or threads, each with its own part of the medium."""
    callers, size = 12, 24
    failures = []

    def call(caller):
        data = [os.urandom(512) for _ in range(size)]
        received = [bytearray(512) for _ in range(size)]
        batch = Batch(size)
        for turn in range(3):
            for number in range(size):
                batch.add(write_cdb(caller * size + number, 1), DIRECTION_OUT, data[number], 60_000)
            engine.run(batch)
            batch.clear()
            for number in range(size):
                batch.add(read_cdb(caller * size + number, 1), DIRECTION_IN, received[number], 60_000)
            engine.run(batch)
            if [bytes(block) for block in received] != data:
                failures.append((caller, turn))
            batch.clear()

    with engine_on(kind, nodes, parallel=2) as engine:
        threads = [threading.Thread(target=call, args=(caller,)) for caller in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


@pytest.mark.parametrize("kind", ENGINES)
def test_a_batch_can_be_run_again(nodes, kind):
    with engine_on(kind, nodes) as engine:
        batch = Batch(8)
        for _ in range(8):
            batch.add(TEST_UNIT_READY)
        for _ in range(20):
            engine.run(batch)
            assert [batch.result(number)[0] for number in range(8)] == [0] * 8
