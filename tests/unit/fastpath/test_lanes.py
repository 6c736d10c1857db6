"""The lane runner on an engine that replays results: what is submitted, what is left to Python, what is reported."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from _fastpath import lanes, sgio
from _fastpath.lanes import LaneRunner
from tests.unit.fastpath.replay import (
    BUSY,
    CHECK,
    CONFLICT,
    GOOD,
    NOT_EXECUTED,
    UNKNOWN,
    Outcome,
    descriptor,
    fixed,
    outcome,
    replay_engine,
)

TEST_UNIT_READY = "00 00 00 00 00 00"
READ_10 = "28 00 00 00 10 00 00 00 08 00"
WRITE_10 = "2A 00 00 00 10 00 00 00 08 00"
READ_KEYS = "5E 00 00 00 00 00 00 20 00 00"
REGISTER = "5F 00 00 00 00 00 00 00 18 00"
SUPPORTED_OPCODES = "A3 0C 00 00 00 00 00 00 02 00 00 00"
TARGET_PORT_GROUPS = "A3 0A 00 00 00 00 00 00 02 00 00 00"
RESERVE_6, RESERVE_10 = "16 00 00 00 00 00", "56 00 00 00 00 00 00 00 00 00"
RELEASE_6, RELEASE_10 = "17 00 00 00 00 00", "57 00 00 00 00 00 00 00 00 00"

Engine = Callable[..., Any]


@pytest.fixture
def engine() -> Engine:
    return replay_engine()


def batch_of(cdbs: Sequence[str], capacity: int | None = None) -> sgio.Batch:
    batch = sgio.Batch(capacity or max(len(cdbs), 1))
    for cdb in cdbs:
        batch.add(bytes.fromhex(cdb))
    return batch


def events_of(engine: Engine, cdb: str, result: Outcome) -> list[tuple[int, int, int, int]]:
    return LaneRunner(engine([result])).run(batch_of([cdb]))[1]


def test_event_numbers() -> None:
    assert [
        lanes.EVENT_SUPPORTED_OPCODES,
        lanes.EVENT_UNIT_ATTENTION,
        lanes.EVENT_CONFLICT,
        lanes.EVENT_SPC2_RESERVED,
        lanes.EVENT_SPC2_RELEASED,
        lanes.EVENT_SPC2_UNKNOWN,
        lanes.EVENT_INFORMATION_LOST,
        lanes.EVENT_OVERFLOW,
    ] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_pr_commands_are_left_and_the_others_run_in_order(engine: Engine) -> None:
    replay = engine()
    batch = batch_of([READ_10, READ_KEYS, WRITE_10, REGISTER, SUPPORTED_OPCODES, TEST_UNIT_READY])
    pr, events = LaneRunner(replay).run(batch)
    assert pr == [1, 3]
    assert events == [(4, lanes.EVENT_SUPPORTED_OPCODES, 0, 0)]
    assert replay.opcodes == bytes.fromhex("28 2A A3 00")
    assert [batch.result(i)[0] for i in (0, 2, 4, 5)] == [GOOD] * 4
    assert all(batch.result(i)[6] for i in pr), "a command that was not run has no result"


def test_batch_of_pr_commands_only_never_reaches_the_engine(engine: Engine) -> None:
    replay = engine(rc=-9)
    assert LaneRunner(replay).run(batch_of([READ_KEYS, REGISTER])) == ([0, 1], [])
    assert replay.opcodes == b""


def test_empty_batch(engine: Engine) -> None:
    assert LaneRunner(engine()).run(batch_of([])) == ([], [])


@pytest.mark.parametrize(
    ("cdb", "kind"),
    [
        (RESERVE_6, lanes.EVENT_SPC2_RESERVED),
        (RESERVE_10, lanes.EVENT_SPC2_RESERVED),
        (RELEASE_6, lanes.EVENT_SPC2_RELEASED),
        (RELEASE_10, lanes.EVENT_SPC2_RELEASED),
        (SUPPORTED_OPCODES, lanes.EVENT_SUPPORTED_OPCODES),
    ],
)
def test_inspected_commands_that_end_good(engine: Engine, cdb: str, kind: int) -> None:
    assert events_of(engine, cdb, outcome()) == [(0, kind, 0, 0)]


@pytest.mark.parametrize("cdb", [TEST_UNIT_READY, READ_10, WRITE_10, TARGET_PORT_GROUPS])
def test_fast_commands_that_end_good_say_nothing(engine: Engine, cdb: str) -> None:
    assert events_of(engine, cdb, outcome()) == []


@pytest.mark.parametrize("cdb", [READ_10, RESERVE_6, RELEASE_10, SUPPORTED_OPCODES])
@pytest.mark.parametrize("host_status", [0x00, 0x11])
def test_reservation_conflict(engine: Engine, cdb: str, host_status: int) -> None:
    assert events_of(engine, cdb, outcome(CONFLICT, host_status=host_status)) == [(0, lanes.EVENT_CONFLICT, 0, 0)]


@pytest.mark.parametrize("sense", [fixed, descriptor])
@pytest.mark.parametrize("cdb", [READ_10, RESERVE_6, SUPPORTED_OPCODES])
@pytest.mark.parametrize(
    ("asc", "ascq"), [(0x2A, 0x03), (0x2A, 0x04), (0x2A, 0x05), (0x29, 0x00), (0x29, 0x07), (0x3F, 0x0E), (0x2A, 0x09)]
)
def test_unit_attention(engine: Engine, cdb: str, sense: Callable[..., Outcome], asc: int, ascq: int) -> None:
    assert events_of(engine, cdb, sense(0x6, asc, ascq)) == [(0, lanes.EVENT_UNIT_ATTENTION, asc, ascq)]


@pytest.mark.parametrize("sense", [fixed, descriptor])
def test_lost_reservation_information(engine: Engine, sense: Callable[..., Outcome]) -> None:
    assert events_of(engine, READ_10, sense(0x7, 0x44, 0x01)) == [(0, lanes.EVENT_INFORMATION_LOST, 0x44, 0x01)]


@pytest.mark.parametrize(
    "result",
    [
        fixed(0x5, 0x24, 0x00),
        fixed(0x3, 0x11, 0x00),
        fixed(0x7, 0x27, 0x00),
        descriptor(0xB, 0x2A, 0x05),
        outcome(BUSY),
        outcome(CHECK),
        outcome(CHECK, "70 00"),
        outcome(CHECK, "72 06 2A"),
        outcome(CHECK, "00 00 06 00 00 00 00 0A 00 00 00 00 2A 05 00 00 00 00"),
        outcome(CHECK, "7F 06 2A 05 00 00 00 00"),
        # Leftovers in the sense buffer of another status mean nothing.
        outcome(BUSY, "72 06 2A 05 00 00 00 00"),
        outcome(GOOD, "72 06 2A 05 00 00 00 00"),
    ],
)
def test_other_endings_say_nothing(engine: Engine, result: Outcome) -> None:
    assert events_of(engine, READ_10, result) == []


@pytest.mark.parametrize(
    "sense",
    [
        "70 00 06 00 00 00 00 0A 00 00 00 00 2A",  # cut before the ASCQ
        "70 00 06 00 00 00 00 05 00 00 00 00 2A 05",  # ADDITIONAL SENSE LENGTH ends before the ASCQ
        "70 00 06 00",
        "70 00 06",
    ],
)
def test_cut_fixed_sense_has_a_key_but_no_codes(engine: Engine, sense: str) -> None:
    assert events_of(engine, READ_10, outcome(CHECK, sense)) == [(0, lanes.EVENT_UNIT_ATTENTION, 0, 0)]


@pytest.mark.parametrize("sense", ["F0 00 06 00 00 00 00 0A 00 00 00 00 29 00 00 00 00 00", "72 F6 29 00"])
def test_bits_beside_response_code_and_key_are_ignored(engine: Engine, sense: str) -> None:
    assert events_of(engine, READ_10, outcome(CHECK, sense)) == [(0, lanes.EVENT_UNIT_ATTENTION, 0x29, 0)]


@pytest.mark.parametrize(
    ("cdb", "result", "expected"),
    [
        (RESERVE_6, outcome(host_status=0x03), [lanes.EVENT_SPC2_UNKNOWN]),
        (RELEASE_10, outcome(error=5, fate=UNKNOWN), [lanes.EVENT_SPC2_UNKNOWN]),
        (RESERVE_10, outcome(error=12, fate=NOT_EXECUTED), []),
        (READ_10, outcome(host_status=0x03), []),
        (READ_10, outcome(CHECK, "72 06 2A 05 00 00 00 00", host_status=0x01), []),
        (SUPPORTED_OPCODES, outcome(host_status=0x03), []),
        (READ_10, outcome(error=5, fate=UNKNOWN), []),
    ],
)
def test_commands_without_an_answer(engine: Engine, cdb: str, result: Outcome, expected: list[int]) -> None:
    assert [event[1] for event in events_of(engine, cdb, result)] == expected


def test_short_cdb_is_answered_and_never_submitted(engine: Engine) -> None:
    replay = engine()
    batch = batch_of([READ_10, "88 00 00 00 00 00 00 00 00 00", "7F 00 00 00 00 00 00 18 00 0B", TEST_UNIT_READY])
    assert LaneRunner(replay).run(batch) == ([], [])
    assert replay.opcodes == bytes.fromhex("28 00")
    for index in (1, 2):
        status, sense, host_status, driver_status, _residual, _duration, error = batch.result(index)
        assert (status, host_status, driver_status, error) == (CHECK, 0, 0, 0)
        assert sense == bytes.fromhex("70 00 05 00 00 00 00 0A 00 00 00 00 24 00 00 00 00 00")


def test_short_pr_cdb_is_python_s_to_answer(engine: Engine) -> None:
    replay = engine()
    assert LaneRunner(replay).run(batch_of(["5F 00 00 00 00 00"])) == ([0], [])
    assert replay.opcodes == b""


def test_overflow_is_counted_and_announced_first(engine: Engine) -> None:
    runner = LaneRunner(engine([fixed(0x6, 0x2A, 0x05)] * 5), event_capacity=3)
    _, events = runner.run(batch_of([READ_10] * 5))
    assert events == [(-1, lanes.EVENT_OVERFLOW, 0, 0)] + [
        (i, lanes.EVENT_UNIT_ATTENTION, 0x2A, 0x05) for i in range(3)
    ]
    assert runner.overflows == 2
    # The next batch starts afresh and the count stays.
    assert runner.run(batch_of([RESERVE_6])) == ([], [(0, lanes.EVENT_SPC2_RESERVED, 0, 0)])
    assert runner.overflows == 2


def test_exactly_full_ring_is_no_overflow(engine: Engine) -> None:
    runner = LaneRunner(engine([outcome(CONFLICT)] * 3), event_capacity=3)
    assert [event[0] for event in runner.run(batch_of([READ_10] * 3))[1]] == [0, 1, 2]
    assert runner.overflows == 0


def test_batches_may_grow(engine: Engine) -> None:
    runner = LaneRunner(engine())
    for count in (1, 60, 2, 500):
        pr, events = runner.run(batch_of([READ_10, READ_KEYS] * count))
        assert pr == list(range(1, 2 * count, 2))
        assert events == []


@pytest.mark.parametrize(("rc", "error", "words"), [(-9, ValueError, "closed"), (-3, RuntimeError, "fork")])
def test_engine_that_takes_nothing(engine: Engine, rc: int, error: type[Exception], words: str) -> None:
    runner = LaneRunner(engine(rc=rc))
    batch = batch_of([READ_10, READ_KEYS, RESERVE_6])
    with pytest.raises(error, match=f"replay: .*{words}"):
        runner.run(batch)
    assert [batch.result(i)[6] for i in (0, 2)] == [-rc, -rc]
    # Neither batch nor runner is left marked as running.
    batch.clear()
    with pytest.raises(error):
        runner.run(batch_of([READ_10]))


def test_runner_refuses_nonsense(engine: Engine) -> None:
    with pytest.raises(ValueError, match="at least 1 event, not 0"):
        LaneRunner(engine(), event_capacity=0)
    with pytest.raises(TypeError):
        LaneRunner(None)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        LaneRunner(engine()).run(None)  # type: ignore[arg-type]


def test_runners_of_one_engine_in_several_threads(engine: Engine) -> None:
    replay = engine()
    failures: list[object] = []

    def work() -> None:
        runner = LaneRunner(replay)
        batch = batch_of([READ_10, REGISTER, RESERVE_6])
        for _ in range(200):
            answer = runner.run(batch)
            if answer != ([1], [(2, lanes.EVENT_SPC2_RESERVED, 0, 0)]):
                failures.append(answer)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
