"""What workers leave to Python: PR commands, policy, unit attentions, task management, events, failures."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator

import pytest

from _fastpath.controller import EVENTS_MISSED, Controller
from _fastpath.verdict import Verdicts
from pyproxy.policy import verdicts
from pyproxy.scsi.command import Command
from pyproxy.scsi.transport_id import SasTransportId
from tests.unit.plane.scene import (
    BAD_TARGET,
    CHECK,
    CONFLICT,
    FAILURE,
    GOOD,
    OK,
    RESPONSE,
    TEST_UNIT_READY,
    NexusHandler,
    Scene,
    read_10,
    until,
    write_10,
)

READ_KEYS = bytes.fromhex("5e 00 00 00 00 00 00 10 00 00")
REGISTER = bytes.fromhex("5f 00 00 00 00 00 00 00 18 00")
KEY = bytes.fromhex("00000000 00c0ffee")


@pytest.fixture
def scene() -> Iterator[Scene]:
    with Scene() as made:
        yield made


def test_reservation_commands_go_through_python_and_back(scene: Scene) -> None:
    assert scene.execute(REGISTER, data_out=bytes(8) + KEY + bytes(8))[:2] == (OK, GOOD)
    slot = scene.queue.submit(READ_KEYS, data_in=4096)
    assert scene.queue.wait() == (slot, RESPONSE + 16)
    response, status, _, residual, _ = scene.queue.response(slot)
    assert (response, status, residual) == (OK, GOOD, 4096 - 16)
    assert scene.queue.data_of(slot, 16) == struct.pack(">II", 1, 8) + KEY
    assert [cdb for _, _, cdb in scene.handler.executed] == [REGISTER, READ_KEYS]
    assert scene.controller.counts()["python"] == 2


def test_a_reservation_of_another_is_a_conflict(scene: Scene) -> None:
    other = scene.unit.nexus(SasTransportId(bytes.fromhex("5001405000000002")))
    assert other.execute(Command(bytes.fromhex("5f060000000000001800"), data_out=bytes(8) + KEY + bytes(8))).good
    assert other.execute(Command(bytes.fromhex("5f010100000000001800"), data_out=KEY + bytes(16))).good
    assert scene.execute(write_10(0, 1), data_out=bytes(512))[:3] == (OK, CONFLICT, b"")
    assert scene.execute(read_10(0, 1), data_in=512)[:2] == (OK, GOOD)


def test_a_waiting_unit_attention_is_looked_at_before_every_command() -> None:
    waiting = bytearray(1)
    with Scene(waiting=waiting) as scene:
        scene.good(TEST_UNIT_READY)
        assert scene.handler.executed == []
        waiting[0] = 1
        scene.good(TEST_UNIT_READY)
        scene.good(read_10(0, 1), data_in=512)
        assert len(scene.handler.executed) == 2
        waiting[0] = 0
        scene.good(TEST_UNIT_READY)
        assert len(scene.handler.executed) == 2


def test_what_the_policy_denies_is_for_python() -> None:
    with Scene(verdicts=verdicts()) as scene:
        scene.good(TEST_UNIT_READY)
        scene.good(read_10(0, 1), data_in=512)
        assert scene.handler.executed == []
        send_diagnostic = bytes.fromhex("1d0400000000")
        scene.execute(send_diagnostic)
        assert scene.handler.executed == [(0, 0, send_diagnostic)]
    with Scene(verdicts=Verdicts()) as scene:
        scene.good(TEST_UNIT_READY)
        assert scene.handler.executed == [(0, 0, TEST_UNIT_READY)]


def test_cdbs_reach_python_with_their_own_length() -> None:
    with Scene(attach=False) as scene:
        scene.handler.nexus = None
        scene.controller.attach(3, 300, None)
        for cdb, wanted in (
            (bytes.fromhex("00 00 00 00 00 00 FF FF"), 6),
            (read_10(0, 1) + b"\xff", 10),
            (bytes.fromhex("A0") + bytes(20), 12),
            (bytes.fromhex("88") + bytes(20), 16),
            (bytes.fromhex("C0 01"), 16),
            (bytes.fromhex("C0") + bytes(18) + b"\x07", 20),
            (bytes.fromhex("7F") + bytes(6) + b"\x18\x00\x09", 32),
        ):
            scene.execute(cdb, target=3, lun=300)
            target, lun, got = scene.handler.executed[-1]
            assert (target, lun, len(got)) == (3, 300, wanted)
            assert got == cdb.ljust(32, b"\0")[:wanted]


def test_a_handler_that_fails_is_a_failure_for_the_guest(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.handler.nexus = None
    response, status, sense, _, residual = scene.execute(READ_KEYS, data_in=64)
    assert (response, status, sense, residual) == (FAILURE, 0, b"", 64)
    assert "target 0 LUN 0: command 5Eh could not be executed" in caplog.text
    assert scene.controller.counts()["handler_failures"] == 1


def test_data_is_copied_before_python_looks_at_it(scene: Scene) -> None:
    """The parameter list the handler judges is the one that is forwarded, whatever the guest does meanwhile."""
    seen = []
    original = scene.handler.execute

    def execute(target: int, lun: int, cdb: bytes, data_out: bytes, data_in: int) -> tuple[int, int, bytes, bytes, int]:
        at = scene.queue.data - scene.memory.guest
        scene.memory.view()[at : at + 24] = b"\xff" * 24
        seen.append(data_out)
        return original(target, lun, cdb, data_out, data_in)

    scene.handler.execute = execute  # type: ignore[method-assign]
    parameters = bytes(8) + KEY + bytes(8)
    assert scene.execute(REGISTER, data_out=parameters)[:2] == (OK, GOOD)
    assert seen == [parameters]


def test_a_reply_that_is_too_long_is_cut_at_the_guests_buffer(scene: Scene) -> None:
    scene.handler.execute = lambda *_: (OK, GOOD, b"s" * 200, b"d" * 200, 0)  # type: ignore[method-assign]
    slot = scene.queue.submit(READ_KEYS, data_in=64)
    assert scene.queue.wait() == (slot, RESPONSE + 64)
    assert scene.queue.response(slot)[2] == b"s" * 96
    assert scene.queue.data_of(slot, 65) == b"d" * 64 + b"\0"


def test_others_go_on_while_python_is_busy(scene: Scene) -> None:
    go_on = threading.Event()
    original = scene.handler.execute

    def slow(*arguments: object) -> tuple[int, int, bytes, bytes, int]:
        assert go_on.wait(60)
        return original(*arguments)  # type: ignore[arg-type]

    scene.handler.execute = slow  # type: ignore[method-assign]
    slot = scene.queue.submit(READ_KEYS, data_in=64)
    for _ in range(20):
        scene.good(read_10(0, 1), data_in=512)
    go_on.set()
    assert scene.queue.wait() == (slot, RESPONSE + 8)


def test_stop_waits_for_python(scene: Scene) -> None:
    go_on = threading.Event()
    original = scene.handler.execute

    def slow(*arguments: object) -> tuple[int, int, bytes, bytes, int]:
        assert go_on.wait(60)
        return original(*arguments)  # type: ignore[arg-type]

    scene.handler.execute = slow  # type: ignore[method-assign]
    slot = scene.queue.submit(READ_KEYS, data_in=64)
    until(lambda: scene.controller.counts()["python"] == 1, "the command is taken")
    results: list[int] = []
    stopping = threading.Thread(target=lambda: results.append(scene.controller.stop_queue(2)))
    stopping.start()
    stopping.join(0.1)
    assert results == []
    go_on.set()
    stopping.join(60)
    assert results == [1]
    assert scene.queue.used_element() == (slot, RESPONSE + 8)


def test_a_handler_must_not_wait_for_itself(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    scene.handler.execute = lambda *_: scene.controller.stop_queue(2)  # type: ignore[method-assign,return-value]
    assert scene.execute(READ_KEYS, data_in=64)[0] == FAILURE
    assert "a handler cannot wait" in caplog.text


# --- units that come and go ---


def test_units_are_attached_and_detached() -> None:
    with Scene(attach=False) as scene:
        assert scene.execute(TEST_UNIT_READY)[0] == BAD_TARGET
        scene.controller.attach(0, 5, None)
        assert scene.execute(TEST_UNIT_READY, lun=5)[:2] == (OK, GOOD)
        assert scene.execute(TEST_UNIT_READY, lun=0)[:2] == (OK, GOOD)  # absent: the handler's to answer
        assert [lun for _, lun, _ in scene.handler.executed] == [5, 0]
        with pytest.raises(ValueError, match="attached already"):
            scene.controller.attach(0, 5, None)
        scene.controller.detach(0, 5)
        assert scene.execute(TEST_UNIT_READY, lun=5)[0] == BAD_TARGET
        with pytest.raises(ValueError, match="not attached"):
            scene.controller.detach(0, 5)
        with pytest.raises(ValueError, match="within"):
            scene.controller.attach(256, 0, None)
        with pytest.raises(ValueError, match="16383"):
            scene.controller.attach(0, 16384, None)
        with pytest.raises(ValueError, match="2 bytes"):
            scene.controller.attach(0, 5, None, waiting=bytearray(2))
        with pytest.raises(TypeError, match="Port"):
            scene.controller.attach(0, 5, object())  # type: ignore[arg-type]
        scene.controller.attach(0, 5, None)


# --- control queue ---


def tmf(subtype: int, lun: int = 0, tag: int = 0, target: int = 0) -> bytes:
    return struct.pack("<II", 0, subtype) + bytes([1, target, 0x40, lun, 0, 0, 0, 0]) + struct.pack("<Q", tag)


def ask(scene: Scene, request: bytes, answer: int) -> bytes:
    slot = scene.queues[0].control(request, answer)
    assert scene.queues[0].wait()[0] == slot
    return scene.queues[0].data_of(slot, answer, 64)


def test_control_requests_are_answered(scene: Scene) -> None:
    assert ask(scene, tmf(5), 1) == b"\0"
    assert ask(scene, struct.pack("<I", 1) + bytes(12), 5) == bytes(5)
    assert scene.handler.controls == [tmf(5), struct.pack("<I", 1) + bytes(12)]


def test_control_requests_that_fail_are_rejected(scene: Scene) -> None:
    def fail(_: bytes) -> bytes:
        raise RuntimeError("no")

    scene.handler.control = fail  # type: ignore[method-assign]
    assert ask(scene, tmf(1), 1) == b"\x0b"
    assert ask(scene, struct.pack("<I", 2) + bytes(12), 5) == bytes(4) + b"\x0b"


def test_malformed_control_requests(scene: Scene) -> None:
    assert ask(scene, b"\0\0", 1) == b"\xee"
    ask(scene, tmf(5)[:20], 1)
    assert scene.handler.controls == [tmf(5)[:20]]


def test_task_management_comes_after_the_commands_sent_before() -> None:
    """Both those that wait in the ring and those that Python has must have ended."""
    with Scene(requests=3, workers=2) as scene:
        order: list[str] = []
        original = scene.handler.execute

        def execute(*arguments: object) -> tuple[int, int, bytes, bytes, int]:
            order.append("command")
            return original(*arguments)  # type: ignore[arg-type]

        def control(_: bytes) -> bytes:
            order.append("control")
            return b"\0"

        scene.handler.execute = execute  # type: ignore[method-assign]
        scene.handler.control = control  # type: ignore[method-assign]
        for _ in range(20):
            order.clear()
            for queue in (2, 3, 4):
                scene.queues[queue].submit(READ_KEYS, data_in=64)
            slot = scene.queues[0].control(tmf(1), 1)
            assert scene.queues[0].wait()[0] == slot
            assert order == ["command"] * 3 + ["control"]
            for queue in (2, 3, 4):
                scene.queues[queue].wait()


# --- event queue ---

RESCAN = struct.pack("<I", 1) + bytes([1, 0, 0, 7, 0, 0, 0, 0]) + struct.pack("<I", 1)


def test_events_need_buffers(scene: Scene) -> None:
    events = scene.queues[1]
    assert scene.controller.send_event(RESCAN) is False
    for _ in range(2):
        events.event_buffer()
    assert scene.controller.send_event(RESCAN) is True
    slot, length = events.wait()
    assert length == 16
    assert events.data_of(slot, 16) == struct.pack("<I", 1 | EVENTS_MISSED) + RESCAN[4:]
    assert scene.controller.send_event(RESCAN) is True
    slot, _ = events.wait()
    assert events.data_of(slot, 16) == RESCAN
    assert scene.controller.send_event(RESCAN) is False
    with pytest.raises(ValueError, match="16 bytes"):
        scene.controller.send_event(b"")


def test_a_buffer_too_small_for_an_event_is_given_back(scene: Scene) -> None:
    scene.queues[1].event_buffer(15)
    assert scene.controller.send_event(RESCAN) is False
    assert scene.queues[1].wait()[1] == 0
    scene.queues[1].event_buffer(16)
    assert scene.controller.send_event(RESCAN) is True
    slot, _ = scene.queues[1].wait()
    assert scene.queues[1].data_of(slot, 4) == struct.pack("<I", 1 | EVENTS_MISSED)


def test_no_event_without_a_queue() -> None:
    with Controller(NexusHandler(None), 3) as controller:
        assert controller.send_event(RESCAN) is False


def test_close_is_final_and_may_be_repeated() -> None:
    scene = Scene()
    scene.good(TEST_UNIT_READY)
    scene.close()
    scene.controller.close()
    assert scene.controller.closed
    with pytest.raises(ValueError, match="closed"):
        scene.controller.start_queue(2, **scene.queue.start_arguments())
    assert scene.execute is not None
    assert CHECK == 2
