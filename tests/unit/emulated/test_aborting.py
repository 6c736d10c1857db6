"""PREEMPT AND ABORT, task management and commands under way (SPC-4 5.13.11.5, SAM-5 5.6)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.device.base import TransportError
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.command import Command, Result
from tests.unit.emulated.initiator import (
    CONFLICT,
    GOOD,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    RESERVE,
    Initiator,
    initiators,
)

MIB = 1 << 20
DID_ABORT = 5
WRITE_SAME_TO_END = Command(bytes.fromhex("41 00 00000000 00 0000 00"), data_out=b"\x5a" * 512)


class Writer(threading.Thread):
    """Repeats a long command until it does not end well."""

    def __init__(self, initiator: Initiator, command: Command = WRITE_SAME_TO_END) -> None:
        super().__init__(daemon=True)
        self.initiator, self.command = initiator, command
        self.last: Result | None = None
        self.start()
        while not initiator.nexus.gate.in_flight:
            time.sleep(0)

    def run(self) -> None:
        while (last := self.initiator.nexus.execute(self.command)).good:
            pass
        self.last = last

    def ended(self) -> Result:
        self.join(10)
        assert not self.is_alive()
        assert self.last is not None
        return self.last


@pytest.fixture
def large(tmp_path: Path) -> Iterator[EmulatedUnit]:
    unit = EmulatedUnit(128 * MIB)
    yield unit
    unit.close()


def contest(unit: EmulatedUnit, *, tas: bool) -> tuple[Initiator, Initiator, Initiator]:
    """a holds type 5, b and c are registered."""
    a, b, c = initiators(unit)
    for key, one in enumerate((a, b, c), 1):
        one.out(REGISTER, sa_key=key)
    a.out(RESERVE, key=1, kind=5)
    page = bytes([0x0A, 0x0A, 0, 0x10, 0, 0x40 if tas else 0, 0, 0, 0xFF, 0xFF, 0, 0])
    assert a.says("15 10 0000 10 00", bytes(4) + page) == GOOD
    for one in (a, b, c):
        one.drain()
    return a, b, c


def test_with_tas_the_victims_command_ends_task_aborted(large: EmulatedUnit) -> None:
    a, b, _c = contest(large, tas=True)
    writer = Writer(a)
    assert b.out(PREEMPT_AND_ABORT, key=2, sa_key=1, kind=5) == GOOD
    assert a.nexus.gate.in_flight == 0
    assert writer.ended().status in (0x40, 0x02)
    if writer.ended().status == 0x40:
        assert a.drain() == ["06/2a/05"]
    assert a.write() == CONFLICT


def test_without_tas_the_victim_learns_of_it_afterwards(large: EmulatedUnit) -> None:
    a, b, _c = contest(large, tas=False)
    for _ in range(20):
        writer = Writer(a)
        assert b.out(PREEMPT_AND_ABORT, key=2, sa_key=1, kind=5) == GOOD
        last = writer.ended()
        if last.host_status == DID_ABORT:
            assert (last.status, last.sense) == (0, b"")
            assert a.drain() == ["06/2a/05", "06/2f/00"]
            return
        a.drain()
        a.out(REGISTER, sa_key=1)
        a.out(PREEMPT, key=1, sa_key=2, kind=5)
        b.drain()
        b.out(REGISTER, sa_key=2)
    raise AssertionError("no command was under way in 20 attempts")


def test_nothing_of_the_victim_is_written_after_good(large: EmulatedUnit) -> None:
    a, b, _c = contest(large, tas=True)
    for _ in range(5):
        writer = Writer(a)
        assert b.out(PREEMPT_AND_ABORT, key=2, sa_key=1, kind=1) == GOOD
        zeros = Command(bytes.fromhex("41 00 00000000 00 0000 00"), data_out=bytes(512))
        assert b.nexus.execute(zeros).good
        writer.ended()
        whole = b.nexus.execute(Command(bytes.fromhex("28 00 00000000 00 ffff 00"), data_in=65535 * 512))
        assert not any(whole.data)
        a.drain()
        a.out(REGISTER, sa_key=1)
        a.out(PREEMPT, key=1, sa_key=2, kind=1)
        b.drain()
        b.out(REGISTER, sa_key=2)


def test_plain_preempt_aborts_nothing(large: EmulatedUnit) -> None:
    a, b, _ = contest(large, tas=True)
    writer = Writer(a)
    assert b.out(PREEMPT, key=2, sa_key=1, kind=5) == GOOD
    assert (writer.ended().status, writer.ended().host_status) == (0x02, 0)
    assert writer.ended().sense[12:14].hex() == "2a05"


def test_bystanders_go_on(large: EmulatedUnit) -> None:
    a, b, c = contest(large, tas=True)
    generation = c.nexus.gate.generation
    assert b.out(PREEMPT_AND_ABORT, key=2, sa_key=1, kind=5) == GOOD
    assert c.nexus.gate.generation == generation
    assert a.nexus.gate.generation == 1


def test_own_commands_are_aborted_when_the_own_key_is_named(large: EmulatedUnit) -> None:
    a, *_ = contest(large, tas=True)
    generation = a.nexus.gate.generation
    assert a.out(PREEMPT_AND_ABORT, key=1, sa_key=1, kind=6) == GOOD
    assert a.nexus.gate.generation == generation + 1
    assert a.drain() == []


def test_a_queued_command_is_aborted_too(ram: EmulatedUnit) -> None:
    a, b, _ = contest(ram, tas=False)
    ended: list[Result] = []
    # MODE SENSE waits for the lock that stands for whatever is before it in the task set.
    waiting = threading.Thread(
        target=lambda: ended.append(a.nexus.execute(Command(bytes.fromhex("1a003f00ff00"), data_in=255)))
    )
    with ram.lock:
        waiting.start()
        time.sleep(0.05)
        assert b.out(PREEMPT_AND_ABORT, key=2, sa_key=1, kind=5) == GOOD
    waiting.join(10)
    assert ended[0].host_status == DID_ABORT
    assert a.drain() == ["06/2a/05", "06/2f/00"]


def test_abort_task_set_ends_the_own_commands_silently(large: EmulatedUnit) -> None:
    a, *_ = contest(large, tas=True)
    writer = Writer(a)
    while writer.is_alive():
        a.nexus.abort_task_set()
        time.sleep(0.001)
    last = writer.ended()
    assert (last.status, last.host_status) == (0, DID_ABORT)
    assert a.drain() == []


def test_reset_ends_everyones_commands(large: EmulatedUnit) -> None:
    a, b, _ = contest(large, tas=True)
    writer = Writer(b)
    a.nexus.logical_unit_reset()
    assert writer.ended().status in (0x40, 0x02)
    assert a.drain() == ["06/29/03"]
    assert a.reservation() == (1, 5)


def test_close_ends_commands_with_a_transport_error() -> None:
    unit = EmulatedUnit(128 * MIB)
    a, *_ = initiators(unit)
    outcome: list[object] = []

    def run() -> None:
        try:
            while a.nexus.execute(WRITE_SAME_TO_END).good:
                pass
        except TransportError as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while not a.nexus.gate.in_flight:
        time.sleep(0)
    unit.close()
    unit.close()
    thread.join(10)
    assert isinstance(outcome[0], TransportError)
    assert outcome[0].errno == 19
    with pytest.raises(TransportError, match="was closed; open the unit again") as gone:
        a.write()
    assert gone.value.fate_unknown is False
