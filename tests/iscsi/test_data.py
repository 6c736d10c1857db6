"""Data, residuals and many commands in flight, through the engine and through the port."""

from __future__ import annotations

import random
import struct
import threading
import time

import pytest

from _fastpath.sgio import DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, Batch
from pyproxy.device.base import LaneDevice, TransportError
from pyproxy.scsi.command import Command
from tests.iscsi.commands import BLOCK, TEST_UNIT_READY, read, write
from tests.iscsi.conftest import Open
from tests.rig.iscsi_proxy import IscsiProxy

MIB = 1 << 20


def pattern(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("size", [BLOCK, 8 * 1024, 256 * 1024 - BLOCK, 256 * 1024, 256 * 1024 + BLOCK, 8 * MIB])
def test_what_is_written_is_read(open_device: Open, size: int) -> None:
    """Across immediate data, the first burst (256 KiB), and bursts that the target has to ask for."""
    device = open_device()
    data = pattern(size)
    written = device.execute(write(3, data))
    assert (written.good, written.residual) == (True, 0)
    answer = device.execute(read(3, size // BLOCK))
    assert (answer.good, answer.residual) == (True, 0)
    assert answer.data == data


def test_header_digests(open_device: Open) -> None:
    device = open_device(header_digest=True)
    data = pattern(MIB)
    assert device.execute(write(0, data)).good
    assert device.execute(read(0, len(data) // BLOCK)).data == data


@pytest.mark.parametrize("pieces", [2, 7, 1024, 1025, 3000])
def test_data_in_many_pieces(open_device: Open, pieces: int) -> None:
    """Up to 1024 pieces go as they are; more, which writev refuses, in one copy."""
    device = open_device()
    data = pattern(pieces * 24 // BLOCK * BLOCK + BLOCK)
    cuts = sorted(random.Random(1).sample(range(1, len(data)), pieces - 1))
    parts = [memoryview(data)[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    assert device.execute(write(0, [*parts])).good
    received = [bytearray(len(part)) for part in parts]
    answer = device.execute(Command(read(0, len(data) // BLOCK).cdb, data_in=received))
    assert (answer.good, answer.data, answer.residual) == (True, b"", 0)
    assert b"".join(received) == data


def test_underflow(open_device: Open) -> None:
    """The device has less than was asked for: what is missing is the residual, what came is the data."""
    device = open_device()
    answer = device.execute(Command(bytes.fromhex("12 00 00 00 ff 00"), data_in=255))
    assert answer.good
    assert len(answer.data) == 255 - answer.residual == answer.data[4] + 5


def test_overflow(open_device: Open) -> None:
    """The device has more than there is room for: what fits arrives, the rest is a negative residual."""
    answer = open_device().execute(Command(read(0, 4).cdb, data_in=BLOCK))
    assert answer.status == 0
    assert (len(answer.data), answer.residual) == (BLOCK, -3 * BLOCK)


def test_data_out_that_is_short(open_device: Open) -> None:
    """A WRITE of four blocks with data for one: the target decides, nothing beyond the buffer is read."""
    device = open_device()
    answer = device.execute(Command(write(8, bytes(4 * BLOCK)).cdb, pattern(BLOCK)))
    assert answer.residual <= 0
    assert device.execute(TEST_UNIT_READY).good


def test_long_cdb_is_answered_not_sent(open_device: Open) -> None:
    """The library carries 16 bytes; the guest is told what a target says that does not know the command."""
    device = open_device()
    answer = device.execute(Command(bytes.fromhex("7f") + bytes(31), data_in=BLOCK))
    assert answer.status == 0x02
    assert answer.sense == bytes.fromhex("70 00 05 00 00 00 00 0a 00 00 00 00 20 00 00 00 00 00")
    assert answer.residual == BLOCK


def test_both_directions_are_refused(open_device: Open) -> None:
    with pytest.raises(ValueError, match="both directions"):
        open_device().execute(Command(bytes(16), b"out", data_in=4))


@pytest.mark.parametrize("depth", [1, 3, 32, 128])
def test_batches_larger_than_the_depth(open_device: Open, depth: int) -> None:
    """Fifty batches take seconds at worst: a lost wake-up would cost one each."""
    device = open_device(depth=depth)
    began = time.monotonic()
    for _ in range(50):
        results = device.execute_batch([TEST_UNIT_READY] * 150)
        assert [result.status for result in results] == [0] * 150
    assert time.monotonic() - began < 40


def test_batch_keeps_order_and_data(open_device: Open) -> None:
    device = open_device(depth=16)
    blocks = [pattern(BLOCK * (1 + n % 9), n) for n in range(120)]
    where = [n * 16 for n in range(120)]
    assert all(
        result.good for result in device.execute_batch([write(a, b) for a, b in zip(where, blocks, strict=True)])
    )
    commands = [read(a, len(b) // BLOCK) for a, b in zip(where, blocks, strict=True)]
    assert [result.data for result in device.execute_batch(commands)] == blocks


def test_batch_with_one_refused_by_the_device(open_device: Open) -> None:
    results = open_device().execute_batch([read(0, 1), read(1 << 24, 1), read(1, 1)])
    assert [result.status for result in results] == [0, 2, 0]


def test_lanes(open_device: Open) -> None:
    device = open_device()
    assert isinstance(device, LaneDevice)
    reserve_in = Command(bytes.fromhex("5e00 0000000000 0100 00"), data_in=256)
    outcome = device.execute_lanes([TEST_UNIT_READY, reserve_in, read(0, 1)])
    assert outcome.outcomes[1] is None
    assert outcome.events == []
    assert [one.status for one in outcome.outcomes if not isinstance(one, TransportError | None)] == [0, 0]


def test_many_threads_on_one_session(open_device: Open) -> None:
    device = open_device(depth=5)
    failures: list[object] = []

    def work(number: int) -> None:
        try:
            for turn in range(40):
                data = pattern(BLOCK * 3, 1000 * number + turn)
                lba = number * 1000 + turn * 3
                assert device.execute(write(lba, data)).good
                first, second = device.execute_batch([read(lba, 3), TEST_UNIT_READY])
                assert first.data == data
                assert second.good
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert time.monotonic() - began < 50
    assert device.counts[3] == 0


# --- the port ---


def test_port_moves_data(open_device: Open) -> None:
    device = open_device(depth=8)
    data = [pattern(BLOCK * 8, n) for n in range(100)]
    port = device.port()
    out = Batch(100)
    for n, part in enumerate(data):
        out.add(write(n * 8, part).cdb, DIRECTION_OUT, part)
    port.run(out)
    received = [bytearray(BLOCK * 8) for _ in data]
    back = Batch(100)
    for n, room in enumerate(received):
        back.add(read(n * 8, 8).cdb, DIRECTION_IN, room)
    port.run(back)
    assert [out.result(n)[0] for n in range(100)] == [0] * 100
    assert [bytes(room) for room in received] == data


def test_port_reports_what_the_engine_reports(open_device: Open) -> None:
    device = open_device()
    cases: list[tuple[bytes, int, int]] = [
        (bytes(6), DIRECTION_NONE, 0),
        (bytes.fromhex("12 00 00 00 ff 00"), DIRECTION_IN, 255),
        (read(0, 4).cdb, DIRECTION_IN, BLOCK),
        (read(1 << 24, 1).cdb, DIRECTION_IN, BLOCK),
        (bytes.fromhex("7f") + bytes(31), DIRECTION_IN, BLOCK),
        (bytes.fromhex("ff") + bytes(15), DIRECTION_NONE, 0),
    ]
    found = []
    for run in (device.engine.run, device.port().run):
        batch = Batch(len(cases))
        rooms = [bytearray(size) for _, _, size in cases]
        for (cdb, direction, size), room in zip(cases, rooms, strict=True):
            batch.add(cdb, direction, room if size else ())
        run(batch)
        results = [batch.result(n) for n in range(len(cases))]
        found.append([(result[:5], result[6], bytes(room)) for result, room in zip(results, rooms, strict=True)])
    assert found[0] == found[1]


def test_port_and_threads_share_a_session(open_device: Open) -> None:
    """A worker polls through the port while others execute commands and the keeper looks in: nobody waits in vain."""
    device = open_device(depth=6)
    port = device.port()
    stop = threading.Event()
    failures: list[object] = []

    def execute() -> None:
        try:
            while not stop.is_set():
                assert device.execute(TEST_UNIT_READY).good
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=execute) for _ in range(3)]
    for thread in threads:
        thread.start()
    batch = Batch(40)
    for _ in range(40):
        batch.add(bytes(6))
    began = time.monotonic()
    try:
        for _ in range(100):
            port.run(batch)
            assert [batch.result(n)[0] for n in range(40)] == [0] * 40
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert time.monotonic() - began < 50


def test_second_port_is_refused(open_device: Open) -> None:
    device = open_device()
    device.port()
    with pytest.raises(RuntimeError, match="has a port already"):
        device.port()


def test_port_of_a_closed_device_is_dead(open_device: Open) -> None:
    device = open_device()
    port = device.port()
    device.close()
    batch = Batch(1)
    batch.add(bytes(6))
    with pytest.raises(ValueError, match="closed"):
        port.run(batch)
    assert batch.result(0)[6] == 9  # EBADF
    assert not batch.fate_unknown(0)


def test_large_lun_goes_out_in_flat_space_addressing(proxy: IscsiProxy, open_device: Open) -> None:
    with pytest.raises(TransportError, match="no logical unit 300"):
        open_device(portal=proxy.portal, lun=300)
    luns = {struct.unpack_from(">H", pdu.header, 8)[0] for pdu in proxy.sent if pdu.opcode == 0x01}
    assert luns == {0x4000 | 300}
