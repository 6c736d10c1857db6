"""Queues: start and stop, notification, hostile rings, indices that wrap, memory that changes (virtio 1.2 2.7)."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from _fastpath.controller import Controller
from _fastpath.guest_memory import GuestMemory
from _fastpath.vring_driver import DriverMemory, DriverQueue
from tests.unit.plane.scene import (
    FAILURE,
    INDIRECT,
    NEXT,
    OK,
    TEST_UNIT_READY,
    WRITE,
    NexusHandler,
    RawRing,
    Scene,
    descriptor,
    header,
    read_10,
    until,
    write_10,
)


def signalled(descriptor: int) -> int:
    """How often an eventfd was signalled since the last look; waits for nothing."""
    return os.eventfd_read(descriptor) if select.select([descriptor], [], [], 0)[0] else 0


# --- starting and stopping ---


def test_a_queue_takes_nothing_until_it_is_enabled() -> None:
    with Scene() as scene:
        scene.controller.set_enabled(2, False)
        slot = scene.queue.submit(TEST_UNIT_READY)
        assert scene.controller.counts()["requests"] == 0
        scene.controller.set_enabled(2, True)
        assert scene.queue.wait() == (slot, 108)


def test_stop_answers_what_was_taken_and_returns_where_to_go_on() -> None:
    with Scene() as scene:
        for _ in range(10):
            scene.good(TEST_UNIT_READY)
        assert scene.controller.stop_queue(2) == 10
        slot = scene.queue.submit(TEST_UNIT_READY)
        assert scene.queue.used_element() is None
        arguments = scene.queue.start_arguments() | {"base": 10}
        scene.controller.start_queue(2, **arguments)
        assert scene.queue.wait() == (slot, 108)
        assert scene.controller.stop_queue(2) == 11
        with pytest.raises(ValueError, match="not started"):
            scene.controller.stop_queue(2)


def test_work_that_was_there_before_the_start_needs_no_kick() -> None:
    with Scene(poll_us=0) as scene:
        scene.controller.stop_queue(2)
        slot = scene.queue.submit(TEST_UNIT_READY)
        os.eventfd_read(scene.queue.kick)
        scene.controller.start_queue(2, **(scene.queue.start_arguments() | {"base": 0}))
        assert scene.queue.wait() == (slot, 108)


def test_a_ring_without_kick_is_looked_at() -> None:
    with Scene(poll_us=0) as scene:
        scene.controller.stop_queue(2)
        arguments = scene.queue.start_arguments()
        os.close(arguments.pop("kick"))
        scene.controller.start_queue(2, **arguments)
        scene.good(TEST_UNIT_READY)


def test_a_kick_that_hangs_up_stops_its_ring_alone() -> None:
    with Scene(requests=2, poll_us=0) as scene:
        scene.controller.stop_queue(2)
        reader, writer = os.pipe()
        arguments = scene.queue.start_arguments()
        os.close(arguments["kick"])
        scene.controller.start_queue(2, **(arguments | {"kick": reader}))
        os.close(writer)
        scene.execute(TEST_UNIT_READY, queue=3)
        sleeps = scene.controller.counts()["sleeps"]
        scene.execute(TEST_UNIT_READY, queue=3)
        until(lambda: scene.controller.counts()["sleeps"] > sleeps, "the worker sleeps")
        assert scene.controller.counts()["sleeps"] < sleeps + 50
        assert scene.controller.stop_queue(2) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"size": 0}, "power of two"),
        ({"size": 100}, "power of two"),
        ({"size": 65536}, "power of two"),
        ({"descriptor_address": 8}, "aligned"),
        ({"available_address": 1}, "aligned"),
        ({"used_address": 2}, "aligned"),
        ({"descriptor_address": 0}, "not in the guest's memory"),
        ({"available_address": (1 << 64) - 2}, "not in the guest's memory"),
        ({"used_address": 0x7000_0000_0000 + (32 << 20) - 1024}, "not in the guest's memory"),
    ],
)
def test_rings_that_cannot_be(change: dict[str, int], reason: str) -> None:
    with Scene() as scene:
        scene.controller.stop_queue(2)
        arguments = scene.queue.start_arguments()
        with pytest.raises(ValueError, match=reason):
            scene.controller.start_queue(2, **(arguments | change))
        scene.controller.start_queue(2, **arguments)
        with pytest.raises(ValueError, match="started already"):
            scene.controller.start_queue(2, **arguments)
        scene.good(TEST_UNIT_READY)


def test_queue_numbers_that_do_not_exist() -> None:
    with Scene() as scene:
        for number in (-1, 3, 5000):
            with pytest.raises(ValueError, match=r"there is no queue|not started"):
                scene.controller.set_enabled(number, True)
            with pytest.raises(ValueError, match=r"there is no queue|not started"):
                scene.controller.set_call(number, -1)
            with pytest.raises(ValueError, match="there is no queue"):
                scene.controller.start_queue(number, **scene.queue.start_arguments())
    with pytest.raises(ValueError, match="queues"):
        Controller(NexusHandler(None), 2)


def test_descriptors_are_closed_with_their_queue() -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for _ in range(3):
        with Scene() as scene:
            scene.good(TEST_UNIT_READY)
            scene.controller.set_call(2, os.dup(scene.queue.call))
            scene.controller.set_error(2, os.dup(scene.queue.call))
        del scene
    assert descriptors() == before


def test_indices_wrap_around() -> None:
    for event_index in (False, True):
        with Scene(event_index=event_index, size=64) as scene:
            scene.controller.stop_queue(2)
            scene.controller.start_queue(2, **scene.queue.start_arguments())
            scene.queue.run(150_000, depth=64)
            scene.queue.run(500, depth=1)
            assert scene.controller.stop_queue(2) == 150_500 % 65536


def test_a_queue_of_one_descriptor() -> None:
    with Scene(size=1) as scene:
        for _ in range(5):
            scene.good(TEST_UNIT_READY)


# --- notification ---


def test_one_notification_for_a_batch() -> None:
    with Scene(poll_us=0) as scene:
        scene.queue.silent(False)
        signalled(scene.queue.call)
        for number in range(32):
            scene.queue.submit(TEST_UNIT_READY, publish=number == 31)
        for _ in range(32):
            scene.queue.wait()
        assert scene.controller.counts()["notifications"] <= 4
        assert scene.controller.counts()["kicks"] <= 1


def test_no_notification_for_a_driver_that_polls() -> None:
    with Scene() as scene:
        scene.controller.hold()
        notifications = scene.controller.counts()["notifications"]
        signalled(scene.queue.call)
        scene.controller.release()
        for _ in range(20):
            scene.good(TEST_UNIT_READY)
        scene.controller.hold()
        assert scene.controller.counts()["notifications"] == notifications
        scene.controller.release()


@pytest.fixture
def stepped() -> Iterator[Scene]:
    """A queue with event indices whose worker runs pass by pass."""
    with Scene(event_index=True, size=8) as scene:
        scene.controller.hold()
        while scene.controller.step():
            pass
        signalled(scene.queue.call)
        yield scene
        scene.controller.release()


def used_event(scene: Scene, value: int) -> None:
    at = scene.queue.available + 4 + 2 * scene.queue.size - scene.memory.guest
    scene.memory.view()[at : at + 2] = struct.pack("<H", value & 0xFFFF)


def complete(scene: Scene, count: int) -> None:
    for number in range(count):
        scene.queue.submit(TEST_UNIT_READY, publish=number == count - 1)
    scene.controller.step()
    for _ in range(count):
        assert scene.queue.used_element() is not None


def test_event_index_decides(stepped: Scene) -> None:
    used_event(stepped, 0)
    complete(stepped, 1)
    assert signalled(stepped.queue.call) == 1  # the index passed 0
    complete(stepped, 3)
    assert signalled(stepped.queue.call) == 0  # 1 to 4: 0 is behind
    used_event(stepped, 5)
    complete(stepped, 1)
    assert signalled(stepped.queue.call) == 0  # used.idx is 5, not beyond it
    complete(stepped, 1)
    assert signalled(stepped.queue.call) == 1
    used_event(stepped, 8)
    complete(stepped, 4)
    assert signalled(stepped.queue.call) == 1  # 6 to 10 passes 8
    used_event(stepped, 100)
    complete(stepped, 4)
    assert signalled(stepped.queue.call) == 0


def test_a_new_call_descriptor_is_signalled_once(stepped: Scene) -> None:
    fresh = os.eventfd(0, os.EFD_NONBLOCK)
    stepped.controller.release()
    stepped.controller.set_call(2, os.dup(fresh))
    stepped.controller.hold()
    assert signalled(fresh) >= 1
    assert signalled(stepped.queue.call) == 0
    os.close(fresh)


def test_available_event_asks_for_the_next_kick_only_when_idle() -> None:
    with Scene(event_index=True, size=8, poll_us=0) as scene:
        for _ in range(3):
            scene.good(TEST_UNIT_READY)
        at = scene.queue.used + 4 + 8 * 8 - scene.memory.guest

        def asked() -> int:
            return int(struct.unpack("<H", bytes(scene.memory.view()[at : at + 2]))[0])

        until(lambda: asked() == 3, "the worker asks to be kicked for the fourth")


def test_an_idle_worker_sleeps() -> None:
    with Scene(poll_us=100, requests=2, workers=2) as scene:
        scene.good(TEST_UNIT_READY)
        last = -1

        def settled() -> bool:
            nonlocal last
            before, last = last, scene.controller.counts()["passes"]
            return before == last

        until(settled, "no passes any more")


# --- hostile rings ---


@pytest.fixture
def ring() -> Iterator[RawRing]:
    with Scene(indirect=True, size=16, requests=2) as scene:
        made = RawRing(scene)
        made.put(made.scratch, header(TEST_UNIT_READY))
        made.table(0, descriptor(made.scratch, 51, NEXT, 1), descriptor(made.scratch + 256, 108, WRITE))
        yield made


def broken(ring: RawRing, reason: str) -> None:
    """The ring was stopped and said so; the other one goes on."""
    until(lambda: bool(ring.scene.handler.broken), "the handler is told")
    index, text = ring.scene.handler.broken[0]
    assert index == 2
    assert reason in text
    assert ring.scene.controller.broken(2)
    assert ring.scene.controller.counts()["broken_queues"] == 1
    assert ring.scene.execute(TEST_UNIT_READY, queue=3)[:2] == (OK, 0)
    ring.scene.controller.stop_queue(2)
    assert len(ring.scene.handler.broken) == 1


@pytest.mark.parametrize("jump", [17, 100, 32768, 65535])
def test_an_available_index_that_jumps(ring: RawRing, jump: int) -> None:
    ring.offer(jump=jump)
    broken(ring, "available index moved")


@pytest.mark.parametrize("head", [16, 17, 255, 65535])
def test_a_head_beyond_the_table(ring: RawRing, head: int) -> None:
    ring.offer(0, head)
    broken(ring, "outside the descriptor table")


def test_a_head_that_is_in_flight_already(ring: RawRing) -> None:
    ring.offer(0, 0)
    broken(ring, "made available again")


def test_the_error_descriptor_is_signalled(ring: RawRing) -> None:
    error = os.eventfd(0, os.EFD_NONBLOCK)
    ring.scene.controller.set_error(2, os.dup(error))
    ring.offer(99)
    broken(ring, "outside")
    assert signalled(error) == 1
    os.close(error)


def chain_is_used(ring: RawRing, length: int) -> None:
    """The chain is given back and the ring goes on."""
    ring.offer(0)
    assert ring.next_used() == (0, length)
    ring.table(0, descriptor(ring.scratch, 51, NEXT, 1), descriptor(ring.scratch + 256, 108, WRITE))
    ring.offer(0)
    assert ring.next_used() == (0, 108)
    assert not ring.scene.controller.broken(2)


BAD = 0xDEAD_0000_0000


@pytest.mark.parametrize(
    "table",
    [
        pytest.param(lambda at: [descriptor(at, 51, NEXT, 0)], id="loop of one"),
        pytest.param(lambda at: [descriptor(at, 8, NEXT, 1), descriptor(at, 8, NEXT, 0)], id="loop of two"),
        pytest.param(lambda at: [descriptor(at, 51, NEXT, 16)], id="next beyond the table"),
        pytest.param(lambda at: [descriptor(at, 51)], id="no response"),
        pytest.param(lambda at: [descriptor(at, 51, NEXT, 1), descriptor(at + 256, 107, WRITE)], id="short response"),
        pytest.param(lambda at: [descriptor(BAD, 51, NEXT, 1), descriptor(at + 256, 108, WRITE)], id="header nowhere"),
        pytest.param(lambda at: [descriptor(at, 51, NEXT, 1), descriptor(BAD, 108, WRITE)], id="response nowhere"),
        pytest.param(lambda at: [descriptor((1 << 64) - 16, 51, NEXT, 1)], id="address wraps"),
        pytest.param(lambda at: [descriptor(at, 16, INDIRECT | NEXT, 1)], id="indirect and next"),
        pytest.param(lambda at: [descriptor(at, 0, INDIRECT)], id="empty indirect table"),
        pytest.param(lambda at: [descriptor(at, 24, INDIRECT)], id="indirect table of one and a half"),
        pytest.param(lambda at: [descriptor(at, 0xFFFFFFF0, INDIRECT)], id="huge indirect table"),
        pytest.param(lambda at: [descriptor(BAD, 32, INDIRECT)], id="indirect table nowhere"),
    ],
)
def test_chains_without_a_usable_response_are_given_back_empty(ring: RawRing, table: object) -> None:
    ring.table(0, *table(ring.scratch))  # type: ignore[operator]
    chain_is_used(ring, 0)


def test_nested_indirect_tables_are_given_back_empty(ring: RawRing) -> None:
    inner = ring.scratch + 0x1000
    ring.put(inner, descriptor(inner + 64, 16, INDIRECT) + bytes(48) + descriptor(ring.scratch, 51))
    ring.table(0, descriptor(inner, 16, INDIRECT))
    chain_is_used(ring, 0)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(lambda at: [descriptor(at, 8)], id="readable after writable"),
        pytest.param(lambda at: [descriptor(BAD, 512, WRITE)], id="data nowhere"),
        pytest.param(lambda at: [descriptor(at + 1024, 8, WRITE | NEXT, 2)], id="loop behind the response"),
        pytest.param(lambda at: [descriptor(at, 0xFFFFFFFF, WRITE)], id="4 GiB of data"),
    ],
)
def test_a_bad_chain_with_a_usable_response_is_a_failure(ring: RawRing, after: object) -> None:
    at = ring.scratch
    ring.table(
        0,
        descriptor(at, 51, NEXT, 1),
        descriptor(at + 256, 108, WRITE | NEXT, 2),
        *after(at),  # type: ignore[operator]
    )
    ring.put(at + 256, b"\xee" * 108)
    ring.offer(0)
    assert ring.next_used()[0] == 0
    assert ring.get(at + 256 + 11, 1)[0] == FAILURE


def test_a_short_header_is_a_failure(ring: RawRing) -> None:
    ring.table(0, descriptor(ring.scratch, 50, NEXT, 1))
    ring.offer(0)
    assert ring.next_used() == (0, 108)
    assert ring.get(ring.scratch + 256 + 11, 1)[0] == FAILURE


def test_more_data_than_any_command_may_have_is_a_failure(ring: RawRing) -> None:
    at = ring.scratch
    ring.table(0, descriptor(at, 51, NEXT, 1), descriptor(at + 256, 108, WRITE | NEXT, 2))
    span = (30 << 20) - (at - ring.scene.memory.guest)
    for number in range(2, 6):
        ring.table(number, descriptor(at, span, WRITE | (NEXT if number < 5 else 0), number + 1))
    ring.offer(0)
    assert ring.next_used() == (0, 108)
    assert ring.get(at + 256 + 11, 1)[0] == FAILURE


def test_indirect_must_be_negotiated() -> None:
    with Scene(indirect=False, size=16) as scene:
        ring = RawRing(scene)
        ring.put(ring.scratch, descriptor(ring.scratch + 64, 51))
        ring.table(0, descriptor(ring.scratch, 16, INDIRECT))
        ring.offer(0)
        assert ring.next_used() == (0, 0)


def test_plain_descriptors_may_lead_to_an_indirect_table(ring: RawRing) -> None:
    at = ring.scratch
    ring.put(at + 0x1004, descriptor(at + 20, 31, NEXT, 1) + descriptor(at + 256, 108, WRITE))
    ring.table(0, descriptor(at, 20, NEXT, 1), descriptor(at + 0x1004, 32, INDIRECT))
    ring.offer(0)
    assert ring.next_used() == (0, 108)
    assert ring.get(at + 256 + 11, 1)[0] == OK


def test_zero_length_descriptors_are_passed_over(ring: RawRing) -> None:
    at = ring.scratch
    ring.table(
        0,
        descriptor(BAD, 0, NEXT, 1),
        descriptor(at, 51, NEXT, 2),
        descriptor(BAD, 0, WRITE | NEXT, 3),
        descriptor(at + 256, 108, WRITE),
    )
    ring.offer(0)
    assert ring.next_used() == (0, 108)


# --- memory that changes ---


def test_memory_is_replaced_under_running_queues() -> None:
    with Scene() as scene:
        scene.good(write_10(0, 1), data_out=b"m" * 512)
        more = DriverMemory(1 << 20, guest=0x10_0000, user=0x1000_0000)
        whole = GuestMemory([scene.memory.region(), more.region()])
        scene.controller.set_memory(whole)
        assert scene.good(read_10(0, 1), data_in=512) == b"m" * 512
        scene.controller.set_memory(whole.without_region(0x10_0000, 1 << 20, 0x1000_0000))
        assert scene.good(read_10(0, 1), data_in=512) == b"m" * 512
        with pytest.raises(ValueError, match="not in the new memory"):
            scene.controller.set_memory(GuestMemory([more.region()]))
        until(lambda: scene.controller.broken(2), "the queue is stopped")
        for index in (0, 1, 2):
            scene.controller.set_call(index, os.eventfd(0))
        assert scene.controller.send_event(bytes(16)) is False


def test_buffers_over_several_regions() -> None:
    """A DMA buffer may cross from one region into another that is somewhere else here."""
    with Scene(attach=True) as scene:
        first = DriverMemory(8192, guest=0x4000, user=0x4000)
        second = DriverMemory(8192, guest=0x6000, user=0x10000)
        regions = [scene.memory.region(), first.region(), second.region()]
        scene.controller.set_memory(GuestMemory(regions))
        ring = RawRing(scene)
        first.view()[8190:] = header(read_10(0, 16))[:2]
        second.view()[:49] = header(read_10(0, 16))[2:]
        scene.unit.medium.write(scene.nexus.gate, scene.nexus.gate.generation, 0, 1024, (b"x" * 700 + b"y" * 324,))
        ring.table(0, descriptor(0x5FFE, 51, NEXT, 1), descriptor(0x6000 - 808, 108 + 1024, WRITE))
        ring.offer(0)
        assert ring.next_used() == (0, 108 + 1024)
        assert bytes(first.view()[8192 - 700 : 8190]) == b"x" * 698


def test_a_guest_that_cuts_its_memory_short_loses_its_queues_and_nobody_else() -> None:
    with Scene() as victim, Scene() as neighbour:
        os.ftruncate(victim.memory.descriptor, 4096)
        os.eventfd_write(victim.queue.kick, 1)
        until(lambda: len(victim.handler.broken) == 2, "control and request queue break")
        assert all("cut short" in text for _, text in victim.handler.broken)
        neighbour.good(TEST_UNIT_READY)
        assert not neighbour.handler.broken


def test_two_workers_share_the_queues() -> None:
    with Scene(requests=4, workers=2, data_size=4096) as scene:
        for queue in (2, 3, 4, 5):
            for _ in range(10):
                assert scene.execute(write_10(queue, 1), data_out=bytes([queue]) * 512, queue=queue)[:2] == (OK, 0)
        for queue in (2, 3, 4, 5):
            other = 7 - queue if 2 <= 7 - queue <= 5 else queue
            assert scene.execute(read_10(other, 1), data_in=512, queue=queue)[3] == bytes([other]) * 512


def test_the_driver_side_checks_its_device() -> None:
    memory = DriverMemory(1 << 20)
    queue = DriverQueue(memory, 8)
    slot = queue.submit(TEST_UNIT_READY)
    assert queue.used_element() is None
    view = memory.view()
    used = queue.used - memory.guest
    view[used + 4 : used + 12] = struct.pack("<II", 5, 0)
    view[used + 2 : used + 4] = struct.pack("<H", 1)
    with pytest.raises(ValueError, match="not given"):
        queue.used_element()
    view[used + 4 : used + 12] = struct.pack("<II", slot, 12)
    assert queue.used_element() == (slot, 12)
    with pytest.raises(TimeoutError):
        queue.wait(0.01)
