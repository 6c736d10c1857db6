"""The dirty log and the inflight region as the vhost-user protocol lays them out (reference: its document)."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Iterator

import pytest

from _fastpath.controller import F_LOG_ALL
from _fastpath.guest_memory import DirtyLog
from tests.unit.plane.scene import (
    GOOD,
    OK,
    RESET,
    TEST_UNIT_READY,
    Scene,
    read_10,
    until,
    write_10,
)

PAGE = 4096
GUEST = 0x1_0000_0000
READ_KEYS = bytes.fromhex("5e 00 00 00 00 00 00 10 00 00")


class Log:
    def __init__(self, scene: Scene) -> None:
        self.size = (GUEST + scene.memory.size) // PAGE // 8
        self.descriptor = os.memfd_create("log")
        os.ftruncate(self.descriptor, self.size)
        self.log = DirtyLog(self.descriptor, 0, self.size)

    def take(self) -> set[int]:
        """Page numbers that were marked since the last look."""
        start = GUEST // PAGE // 8
        raw = os.pread(self.descriptor, self.size - start, start)
        os.pwrite(self.descriptor, bytes(len(raw)), start)
        assert os.pread(self.descriptor, start, 0) == bytes(start)
        return {GUEST // PAGE + 8 * n + bit for n, byte in enumerate(raw) for bit in range(8) if byte >> bit & 1}


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene(size=16) as made:
        yield made


def pages(*ranges: tuple[int, int]) -> set[int]:
    return {page for at, length in ranges for page in range(at // PAGE, (at + length - 1) // PAGE + 1)}


def response_of(scene: Scene, slot: int) -> tuple[int, int]:
    return scene.queue.areas + 256 * slot + 128, 108


def test_everything_that_is_written_is_logged(scene: Scene) -> None:
    log = Log(scene)
    scene.controller.set_log(log.log)
    scene.good(TEST_UNIT_READY)
    assert log.take() == set()  # not before the feature is acknowledged
    scene.controller.set_features(scene.features | F_LOG_ALL)
    slot = scene.queue.submit(read_10(0, 24), data_in=12288)
    scene.queue.wait()
    data = scene.queue.data + scene.queue.data_size * slot
    assert log.take() == pages(response_of(scene, slot), (data, 12288))
    slot = scene.queue.submit(write_10(0, 8), data_out=bytes(4096))
    scene.queue.wait()
    assert log.take() == pages(response_of(scene, slot))
    slot = scene.queue.submit(READ_KEYS, data_in=4096)
    scene.queue.wait()
    assert log.take() == pages(response_of(scene, slot), (scene.queue.data + scene.queue.data_size * slot, 8))
    control = scene.queues[0].control(bytes(24), 1)
    scene.queues[0].wait()
    assert log.take() == pages((scene.queues[0].data + scene.queues[0].data_size * control + 64, 1))
    event = scene.queues[1].event_buffer()
    scene.controller.send_event(bytes(16))
    assert log.take() == pages((scene.queues[1].data + scene.queues[1].data_size * event, 16))
    scene.controller.set_features(scene.features)
    scene.good(read_10(0, 24), data_in=12288)
    assert log.take() == set()


def test_the_used_ring_is_logged_at_its_log_address(scene: Scene) -> None:
    log = Log(scene)
    scene.controller.set_log(log.log)
    scene.controller.set_features(scene.features | F_LOG_ALL)
    elsewhere = scene.memory.guest + 77 * PAGE
    scene.controller.set_used_log(2, elsewhere)
    slot = scene.queue.submit(TEST_UNIT_READY)
    scene.queue.wait()
    until(lambda: scene.controller.counts()["sleeps"] > 0, "the worker sleeps")
    assert log.take() == pages(response_of(scene, slot), (elsewhere, 6 + 8 * 16))
    scene.controller.set_used_log(2, None)
    slot = scene.queue.submit(TEST_UNIT_READY)
    scene.queue.wait()
    assert log.take() == pages(response_of(scene, slot))


def test_a_command_taken_before_logging_began_is_logged_when_it_ends(scene: Scene) -> None:
    go_on = threading.Event()
    original = scene.handler.execute

    def slow(*arguments: object) -> tuple[int, int, bytes, bytes, int]:
        assert go_on.wait(60)
        return original(*arguments)  # type: ignore[arg-type]

    scene.handler.execute = slow  # type: ignore[method-assign]
    slot = scene.queue.submit(READ_KEYS, data_in=64)
    until(lambda: scene.controller.counts()["python"] == 1, "the command is taken")
    log = Log(scene)
    scene.controller.set_log(log.log)
    scene.controller.set_features(scene.features | F_LOG_ALL)
    go_on.set()
    scene.queue.wait()
    assert pages((scene.queue.data + scene.queue.data_size * slot, 8)) <= log.take()


def test_a_log_that_is_too_small_counts_what_it_missed(scene: Scene) -> None:
    small = os.memfd_create("log")
    os.ftruncate(small, 8)
    scene.controller.set_log(DirtyLog(small, 0, 8))
    scene.controller.set_features(scene.features | F_LOG_ALL)
    scene.good(TEST_UNIT_READY)
    assert scene.controller.counts()["log_missed"] >= 1
    scene.controller.set_log(None)
    scene.good(TEST_UNIT_READY)
    os.close(small)


# --- requests in flight across a crash ---


def region(descriptor: int, index: int, size: int) -> tuple[tuple[int, ...], list[tuple[int, int, int]]]:
    """(features, version, desc_num, last_batch_head, used_idx) and (inflight, next, counter) of each entry."""
    stride = (16 + 16 * size + 63) // 64 * 64
    raw = os.pread(descriptor, stride, index * stride)
    entries = [struct.unpack_from("<B5xHQ", raw, 16 + 16 * n) for n in range(size)]
    return struct.unpack_from("<QHHHH", raw), entries


def restart(scene: Scene, base: int = 0) -> None:
    scene.controller.start_queue(2, **(scene.queue.start_arguments() | {"base": base}))


@pytest.fixture
def tracked(scene: Scene) -> Iterator[tuple[Scene, int]]:
    """A scene whose request queue records what is in flight, and the record."""
    scene.controller.stop_queue(2)
    descriptor, offset, size = scene.controller.get_inflight(3, 16)
    assert (offset, size) == (0, 3 * 320)
    assert os.fstat(descriptor).st_size == size
    restart(scene)
    yield scene, descriptor
    os.close(descriptor)


def test_the_record_while_a_command_is_in_flight(tracked: tuple[Scene, int]) -> None:
    scene, descriptor = tracked
    go_on = threading.Event()
    original = scene.handler.execute

    def slow(*arguments: object) -> tuple[int, int, bytes, bytes, int]:
        assert go_on.wait(60)
        return original(*arguments)  # type: ignore[arg-type]

    scene.handler.execute = slow  # type: ignore[method-assign]
    scene.good(TEST_UNIT_READY)
    first = scene.queue.submit(READ_KEYS, data_in=64, slot=5)
    second = scene.queue.submit(READ_KEYS, data_in=64, slot=3)
    until(lambda: scene.controller.counts()["python"] == 2, "both are taken")
    head, entries = region(descriptor, 2, 16)
    assert head == (0, 1, 16, 0, 1)
    assert [(n, counter) for n, (busy, _, counter) in enumerate(entries) if busy] == [(second, 2), (first, 1)]
    go_on.set()
    scene.queue.wait()
    scene.queue.wait()
    until(lambda: region(descriptor, 2, 16)[0][4] == 3, "the record is level with the ring")
    assert not any(busy for busy, _, _ in region(descriptor, 2, 16)[1])


def crash(scene: Scene, descriptor: int, used: int, batch: int, entries: dict[int, tuple[int, int, int]]) -> None:
    """What a process that died leaves: a stopped queue, and a record written here."""
    stride = 320
    os.pwrite(descriptor, struct.pack("<QHHHH", 0, 1, 16, batch, used) + bytes(256), 2 * stride)
    for number, entry in entries.items():
        os.pwrite(descriptor, struct.pack("<B5xHQ", *entry), 2 * stride + 16 + 16 * number)


def test_what_was_in_flight_is_executed_first_and_in_order(tracked: tuple[Scene, int]) -> None:
    scene, descriptor = tracked
    scene.good(write_10(0, 1), data_out=b"0" * 512)
    scene.controller.stop_queue(2)
    for slot, letter in ((4, b"b"), (2, b"a"), (7, b"c")):
        scene.queue.submit(write_10(0, 1), data_out=letter * 512, slot=slot)
    # 4 was taken before 2; 7 was not taken. The ring's used index is 1 as the record says.
    crash(scene, descriptor, 1, 0, {4: (1, 0, 10), 2: (1, 0, 11)})
    available = scene.queue.available - scene.memory.guest
    ring = scene.memory.view()[available + 4 : available + 4 + 32]
    assert struct.unpack_from("<4H", bytes(ring)) == (0, 4, 2, 7)
    restart(scene, base=0)
    assert [scene.queue.wait()[0] for _ in range(3)] == [4, 2, 7]
    assert scene.good(read_10(0, 1), data_in=512) == b"c" * 512
    until(lambda: region(descriptor, 2, 16)[0][4] == 5, "the record is level with the ring")
    assert scene.controller.stop_queue(2) == 5
    counters = [counter for _, _, counter in region(descriptor, 2, 16)[1]]
    assert sorted(counters)[-2:] == [12, 13]


def test_a_batch_that_was_published_but_not_cleared_is_not_executed_again(tracked: tuple[Scene, int]) -> None:
    scene, descriptor = tracked
    for _ in range(3):
        scene.good(TEST_UNIT_READY)
    scene.controller.stop_queue(2)
    # The last two, 6 then 9, are in the used ring; the crash came before their marks were cleared.
    crash(scene, descriptor, 1, 9, {6: (1, 0, 5), 9: (1, 6, 6)})
    restart(scene)
    scene.good(TEST_UNIT_READY)
    assert scene.queue.used_element() is None
    assert scene.controller.stop_queue(2) == 4


def test_what_is_not_harmless_to_repeat_is_left_to_the_guest(tracked: tuple[Scene, int]) -> None:
    scene, descriptor = tracked
    scene.controller.stop_queue(2)
    scene.queue.submit(READ_KEYS, data_in=64, slot=0)
    scene.queue.submit(write_10(0, 1), data_out=bytes(512), slot=1)
    scene.queue.submit(bytes.fromhex("5f000000000000001800"), data_out=bytes(24), slot=2)
    crash(scene, descriptor, 0, 0, {0: (1, 0, 0), 1: (1, 0, 1), 2: (1, 0, 2)})
    restart(scene)
    for _ in range(3):
        scene.queue.wait()
    assert [scene.queue.response(slot)[:2] for slot in range(3)] == [(RESET, 0), (OK, GOOD), (RESET, 0)]
    assert scene.handler.executed == []


@pytest.mark.parametrize(
    ("used", "batch", "entries"),
    [
        pytest.param(65000, 0, {}, id="used index far away"),
        pytest.param(0, 16, {}, id="batch head out of range"),
        pytest.param(0, 3, {3: (1, 77, 0)}, id="next out of range"),
    ],
)
def test_a_record_that_contradicts_itself_breaks_the_ring(
    tracked: tuple[Scene, int], used: int, batch: int, entries: dict[int, tuple[int, int, int]]
) -> None:
    scene, descriptor = tracked
    for _ in range(2):
        scene.good(TEST_UNIT_READY)
    scene.controller.stop_queue(2)
    crash(scene, descriptor, used, batch, entries)
    restart(scene)
    until(lambda: scene.handler.broken != [], "the handler is told")
    assert scene.handler.broken == [(2, "the record of requests in flight contradicts itself")]
    scene.controller.stop_queue(2)


def test_a_region_of_another_version_or_size_breaks_the_ring(tracked: tuple[Scene, int]) -> None:
    scene, descriptor = tracked
    scene.controller.stop_queue(2)
    os.pwrite(descriptor, struct.pack("<QHH", 0, 2, 16), 640)
    restart(scene)
    until(lambda: scene.controller.broken(2), "the ring is broken")


def test_a_region_is_taken_over_by_the_next_process(tracked: tuple[Scene, int]) -> None:
    scene, descriptor = tracked
    scene.good(TEST_UNIT_READY)
    scene.controller.stop_queue(2)
    scene.controller.set_inflight(descriptor, 0, 960, 3, 16)
    restart(scene, base=1)
    scene.good(TEST_UNIT_READY)
    for arguments in ((0, 959, 3, 16), (0, 960, 3, 64), (4, 956, 1, 16), (0, 960, 0, 16), (0, 960, 1, 0)):
        with pytest.raises(ValueError, match="inflight region"):
            scene.controller.set_inflight(descriptor, *arguments)
    scene.controller.stop_queue(2)
    scene.controller.set_inflight(descriptor, 0, 960, 2, 16)
    with pytest.raises(ValueError, match="no room"):
        restart(scene)
