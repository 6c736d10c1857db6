"""Commands that go to a port and come back: order, results, events, task management, death."""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from _fastpath import lanes
from _fastpath.controller import F_LOG_ALL
from _fastpath.guest_memory import DirtyLog, GuestMemory
from _fastpath.sg_port import SgPort
from pyproxy.policy import verdicts
from tests.unit.plane.compiled import compiled
from tests.unit.plane.scene import (
    ABORTED,
    BAD_TARGET,
    BUSY,
    CHECK,
    CONFLICT,
    FAILURE,
    GOOD,
    OK,
    RESET,
    RESPONSE,
    TEST_UNIT_READY,
    Scene,
    read_10,
    until,
    write_10,
)

NOT_EXECUTED, UNKNOWN = 1, 2
READ_KEYS = bytes.fromhex("5e 00 00 00 00 00 00 10 00 00")
RESERVE_6 = bytes.fromhex("16 00 00 00 00 00")
SENSE = bytes.fromhex("70 00 06 00 00 00 00 0A 00 00 00 00 2A 03 00 00 00 00")


def held(**arguments: int) -> Any:
    return compiled("held_port").HeldPort(**arguments)


class Held:
    """A scene with a port that completes nothing by itself behind target 0 LUN 0."""

    def __init__(self, port: Any, **arguments: Any) -> None:
        self.port = port
        self.scene = Scene(attach=False, **arguments)
        self.scene.controller.attach(0, 0, port, verdicts=verdicts(), timeout_ms=7000)

    def started(self, count: int) -> None:
        until(lambda: bool(self.port.count >= count), f"{count} commands reach the port")

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *error: object) -> None:
        if hasattr(self.port, "let_go"):
            self.port.let_go()
        self.scene.close()


@pytest.fixture(params=[0, 100])
def rig(request: pytest.FixtureRequest) -> Iterator[Held]:
    with Held(held(), poll_us=request.param) as made:
        yield made


def test_a_command_reaches_the_port_as_the_guest_sent_it(rig: Held) -> None:
    data = os.urandom(1024)
    slot = rig.scene.queue.submit(write_10(9, 2), data_out=data, tag=0x1122334455667788)
    rig.started(1)
    assert rig.port.command(0) == (write_10(9, 2), 2, data, 1024, 1, 0x1122334455667788, 7000)
    rig.port.finish(0)
    assert rig.scene.queue.wait() == (slot, RESPONSE)
    assert rig.scene.queue.response(slot)[4] == bytes(108)


def test_completions_come_back_in_any_order(rig: Held) -> None:
    slots = [rig.scene.queue.submit(read_10(n, 1), data_in=512) for n in range(3)]
    rig.started(3)
    for number in (2, 0, 1):
        rig.port.finish(number, data=bytes([number]) * 512)
        assert rig.scene.queue.wait() == (slots[number], RESPONSE + 512)
        assert rig.scene.queue.data_of(slots[number], 512) == bytes([number]) * 512


@pytest.mark.parametrize(
    ("result", "answer"),
    [
        ({"status": CHECK, "sense": SENSE, "residual": 512}, (OK, CHECK, SENSE, 512)),
        ({"status": CONFLICT, "residual": 512}, (OK, CONFLICT, b"", 512)),
        ({"residual": 500}, (OK, GOOD, b"", 500)),
        ({"residual": -5}, (OK, GOOD, b"", 0)),
        ({"residual": 100000}, (OK, GOOD, b"", 512)),
        ({"host_status": 1}, (BAD_TARGET, 0, b"", 0)),
        ({"host_status": 2}, (BUSY, 0, b"", 0)),
        ({"host_status": 3}, (ABORTED, 0, b"", 0)),
        ({"host_status": 5}, (ABORTED, 0, b"", 0)),
        ({"host_status": 7}, (FAILURE, 0, b"", 0)),
        ({"host_status": 8}, (RESET, 0, b"", 0)),
        ({"host_status": 14}, (6, 0, b"", 0)),
        ({"host_status": 16}, (7, 0, b"", 0)),
        ({"host_status": 17}, (8, 0, b"", 0)),
        ({"host_status": 20}, (6, 0, b"", 0)),
        ({"error": errno.ENODEV, "fate": NOT_EXECUTED}, (BAD_TARGET, 0, b"", 512)),
        ({"error": errno.ENOMEM, "fate": NOT_EXECUTED}, (BUSY, 0, b"", 512)),
        ({"error": errno.EINVAL, "fate": NOT_EXECUTED}, (FAILURE, 0, b"", 512)),
        ({"error": errno.EINTR, "fate": UNKNOWN}, (RESET, 0, b"", 512)),
    ],
)
def test_results(result: dict[str, Any], answer: tuple[int, int, bytes, int]) -> None:
    with Held(held()) as rig:
        slot = rig.scene.queue.submit(read_10(0, 1), data_in=512)
        rig.started(1)
        rig.port.finish(0, **result)
        assert rig.scene.queue.wait()[0] == slot
        assert rig.scene.queue.response(slot)[:4] == answer


def test_a_port_that_is_full_is_offered_the_rest_later() -> None:
    with Held(held(room=3)) as rig:
        slots = [rig.scene.queue.submit(TEST_UNIT_READY) for _ in range(100)]
        done = []
        for number in range(100):
            rig.started(number + 1)
            assert rig.port.count <= number + 3
            rig.port.finish(number)
            done.append(rig.scene.queue.wait()[0])
        assert done == slots


def test_a_dead_port_fails_what_it_is_offered_and_gives_back_what_it_has() -> None:
    with Held(held()) as rig:
        first = rig.scene.queue.submit(TEST_UNIT_READY)
        rig.started(1)
        rig.port.die(errno.ENODEV)
        for _ in range(70):
            rig.scene.queue.submit(TEST_UNIT_READY)
        for _ in range(70):
            slot = rig.scene.queue.wait()[0]
            assert rig.scene.queue.response(slot)[0] == BAD_TARGET
        rig.port.finish(0)
        assert rig.scene.queue.wait()[0] == first
        assert rig.scene.queue.response(first)[:2] == (OK, GOOD)


def test_events_of_the_lanes_reach_the_handler(rig: Held) -> None:
    for number, (cdb, result) in enumerate(
        [
            (TEST_UNIT_READY, {"status": CHECK, "sense": SENSE}),
            (write_10(0, 0), {"status": CONFLICT}),
            (RESERVE_6, {}),
            (TEST_UNIT_READY, {}),
        ]
    ):
        rig.scene.queue.submit(cdb)
        rig.started(number + 1)
        rig.port.finish(number, **result)
        rig.scene.queue.wait()
    until(lambda: len(rig.scene.handler.events) == 3, "three events")
    assert rig.scene.handler.events == [
        (0, 0, TEST_UNIT_READY.ljust(32, b"\0"), lanes.EVENT_UNIT_ATTENTION, 0x2A, 0x03),
        (0, 0, write_10(0, 0).ljust(32, b"\0"), lanes.EVENT_CONFLICT, 0, 0),
        (0, 0, RESERVE_6.ljust(32, b"\0"), lanes.EVENT_SPC2_RESERVED, 0, 0),
    ]


def test_events_that_find_no_room_are_told_as_lost() -> None:
    with Held(held(), size=512, data_size=512) as rig:
        blocked = threading.Event()
        original = rig.scene.handler.inspect

        def inspect(*arguments: Any) -> None:
            assert blocked.wait(60)
            original(*arguments)

        rig.scene.handler.inspect = inspect  # type: ignore[method-assign]
        for _ in range(400):
            rig.scene.queue.submit(TEST_UNIT_READY)
        rig.started(400)
        for number in range(400):
            rig.port.finish(number, status=CONFLICT)
        for _ in range(400):
            rig.scene.queue.wait()
        blocked.set()
        lost = (-1, -1, b"", lanes.EVENT_OVERFLOW, 0, 0)
        until(lambda: lost in rig.scene.handler.events, "the loss is told")
        assert len(rig.scene.handler.events) < 400


def test_reservation_commands_never_reach_the_port(rig: Held) -> None:
    rig.scene.execute(READ_KEYS, data_in=64)
    rig.scene.execute(bytes.fromhex("A0 00 00 00 00 00 00 00 00 10 00 00"), data_in=16)
    assert len(rig.scene.handler.executed) == 2
    assert rig.port.count == 0


def test_task_management_waits_for_the_port(rig: Held) -> None:
    rig.scene.queue.submit(TEST_UNIT_READY)
    rig.started(1)
    request = struct.pack("<II", 0, 5) + bytes([1, 0, 0x40, 0, 0, 0, 0, 0]) + bytes(8)
    elsewhere = struct.pack("<II", 0, 5) + bytes([1, 0, 0x40, 1, 0, 0, 0, 0]) + bytes(8)
    waiting = rig.scene.queues[0].control(request, 1)
    other = rig.scene.queues[0].control(elsewhere, 1)
    assert rig.scene.queues[0].wait()[0] == other
    assert rig.scene.handler.controls == [elsewhere]
    rig.port.finish(0)
    assert rig.scene.queues[0].wait()[0] == waiting
    assert rig.scene.handler.controls == [elsewhere, request]


def test_detach_waits_for_the_port_and_lets_nothing_new_in(rig: Held) -> None:
    slot = rig.scene.queue.submit(TEST_UNIT_READY)
    rig.started(1)
    detaching = threading.Thread(target=rig.scene.controller.detach, args=(0, 0))
    detaching.start()
    sent = 1
    while not rig.scene.handler.executed:
        # Until the unit is marked, commands still reach the port.
        rig.scene.queue.submit(TEST_UNIT_READY)
        until(lambda n=sent: bool(rig.scene.handler.executed or rig.port.count > n), "somewhere")  # type: ignore[misc]
        if rig.port.count > sent:
            rig.port.finish(sent)
            sent += 1
        rig.scene.queue.wait()
    assert detaching.is_alive()
    rig.port.finish(0)
    assert rig.scene.queue.wait()[0] == slot
    detaching.join(60)
    assert not detaching.is_alive()
    assert rig.scene.execute(TEST_UNIT_READY)[0] == BAD_TARGET


def test_memory_is_not_replaced_while_a_device_writes_to_it(rig: Held) -> None:
    slot = rig.scene.queue.submit(read_10(0, 1), data_in=512)
    rig.started(1)
    replacing = threading.Thread(
        target=rig.scene.controller.set_memory, args=(GuestMemory([rig.scene.memory.region()]),)
    )
    replacing.start()
    replacing.join(0.1)
    assert replacing.is_alive()
    rig.port.finish(0, data=b"d" * 512)
    replacing.join(60)
    assert rig.scene.queue.wait()[0] == slot
    assert rig.scene.queue.data_of(slot, 512) == b"d" * 512


def test_what_a_device_may_have_written_is_logged_whole(rig: Held) -> None:
    bitmap = os.memfd_create("log")
    size = (rig.scene.memory.guest + rig.scene.memory.size) // 4096 // 8
    os.ftruncate(bitmap, size)
    slot = rig.scene.queue.submit(read_10(0, 24), data_in=12288)
    rig.started(1)
    rig.scene.controller.set_log(DirtyLog(bitmap, 0, size))
    rig.scene.controller.set_features(rig.scene.features | F_LOG_ALL)
    rig.port.finish(0, residual=12000)
    rig.scene.queue.wait()
    first = (rig.scene.queue.data + rig.scene.queue.data_size * slot) // 4096
    for page in range(first, first + 3):
        assert os.pread(bitmap, 1, page // 8)[0] >> page % 8 & 1
    os.close(bitmap)


def test_ports_of_other_workers() -> None:
    """Two units, two workers, four queues: each queue's commands reach each unit and come back."""
    ports = [held(), held()]
    with Scene(requests=4, workers=2, attach=False, data_size=4096) as scene:
        for lun, port in enumerate(ports):
            scene.controller.attach(0, lun, port, verdicts=verdicts())
        for queue in (2, 3, 4, 5):
            for lun in (0, 1):
                scene.queues[queue].submit(TEST_UNIT_READY, lun=lun, tag=queue)
        for port in ports:
            until(lambda port=port: port.count == 4, "all four queues' commands")  # type: ignore[misc]
            assert sorted(port.command(n)[5] for n in range(4)) == [2, 3, 4, 5]
            for number in range(4):
                port.finish(number)
        for queue in (2, 3, 4, 5):
            for _ in range(2):
                scene.queues[queue].wait()


# --- SgPort; real devices are in tests/vm ---


@pytest.mark.parametrize("threads", [1, 4])
def test_the_sg_port_on_something_that_is_no_scsi_device(threads: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    with SgPort(null, threads) as port, Held(port, poll_us=20) as rig:
        os.close(null)
        for _ in range(5):
            slots = {rig.scene.queue.submit(TEST_UNIT_READY) for _ in range(128)}
            assert {rig.scene.queue.wait()[0] for _ in range(128)} == slots
            assert {rig.scene.queue.response(slot)[0] for slot in slots} == {FAILURE}
        rig.scene.controller.detach(0, 0)


def test_a_closed_sg_port_is_dead() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    port = SgPort(null, 2, label="null")
    os.close(null)
    assert port.label == "null"
    with Held(port) as rig:
        port.close()
        port.close()
        assert rig.scene.execute(TEST_UNIT_READY)[0] == BAD_TARGET
    with pytest.raises(ValueError, match="threads"):
        SgPort(0, 0)


def test_the_threads_of_an_sg_port_sleep() -> None:
    null = os.open("/dev/null", os.O_RDWR)
    with SgPort(null, 3):
        os.close(null)

        def ticks() -> int:
            fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])

        last = -100

        def settled() -> bool:
            nonlocal last
            before, last = last, ticks()
            threading.Event().wait(0.2)
            return last - before <= 1

        until(settled, "no processor time is used")
