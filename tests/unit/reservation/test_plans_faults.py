"""Every change of a takeover goes wrong once, in every way a device or a transport can; the plan reads and goes on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyproxy.reservation.classify import Decision, Source
from pyproxy.reservation.steps import StepKind
from pyproxy.scsi.command import Command, Result
from tests.unit.reservation.takeover_bench import OTHER, REGISTER, Bench, K, N, holding
from tests.unit.reservation.targets import Lio, LioWithoutNames, Port, Target, Tgt, check

Wrong = Callable[[Port, Command], Result]


def _executed(answer: Result) -> Wrong:
    def wrong(port: Port, command: Command) -> Result:
        port.target.execute(port.name, command)
        return answer

    return wrong


def _ignored(answer: Result) -> Wrong:
    return lambda _port, _command: answer


def _lost(port: Port, command: Command) -> Result:
    port.target.execute(port.name, command)
    raise TimeoutError(110, "timed out")


def _not_sent(_port: Port, _command: Command) -> Result:
    error = OSError(12, "no memory")
    error.fate_unknown = False  # type: ignore[attr-defined]
    raise error


WRONGS: dict[str, Wrong] = {
    "timeout-executed": _executed(Result(0, host_status=3)),
    "timeout-not-executed": _ignored(Result(0, host_status=3)),
    "exception-executed": _lost,
    "not-sent": _not_sent,
    "busy-not-executed": _ignored(Result(0x08)),
    "busy-executed": _executed(Result(0x08)),
    "task-aborted": _ignored(Result(0x40)),
    "not-ready-but-executed": _executed(check(2, 0x08, 0x00)),
    "deferred-error-executed": _executed(check(3, 0x0C, 0x00, deferred=True)),
    "hardware-error": _ignored(check(4, 0x44, 0x00)),
    "unit-attention": _ignored(check(6, 0x29, 0x00)),
    "refused-once": _ignored(check(5, 0x55, 0x04)),
}


class Nth:
    """Makes the n-th PERSISTENT RESERVE OUT through either port go wrong, once."""

    def __init__(self, bench: Bench, nth: int, wrong: Wrong) -> None:
        self.left = nth
        self.wrong = wrong
        for port in (bench.s, bench.d):
            port.fault = lambda command, port=port: self(port, command)  # type: ignore[misc]

    def __call__(self, port: Port, command: Command) -> Result | None:
        if command.cdb[0] != 0x5F:
            return None
        self.left -= 1
        return self.wrong(port, command) if self.left == -1 else None


@pytest.mark.parametrize("wrong", WRONGS)
@pytest.mark.parametrize("make", [Target, Lio, LioWithoutNames, Tgt])
@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
@pytest.mark.parametrize("kind", [5, 8, None])
def test_one_change_goes_wrong(kind: int | None, alive: bool, make: type[Target], wrong: str) -> None:
    if make is Tgt and kind == 8 and not alive:
        return  # refused before anything is sent
    for nth in range(8):
        bench = Bench(holding(make(), kind), alive=alive, held=kind)
        fault = Nth(bench, nth, WRONGS[wrong])
        outcome = bench.run()
        if outcome.decision in (Decision.UNSETTLED, Decision.UNDECIDED):
            ruled_out = outcome.decision is Decision.UNDECIDED
            assert not ruled_out or (not alive and kind != 5)
            outcome = bench.run(fence_ruled_out=ruled_out)
        assert outcome.decision in (Decision.TAKEN_OVER, Decision.ALREADY_DONE), (nth, outcome.sentence)
        assert bench.target.regs == {"o": OTHER, "d": K}, (nth, outcome.sentence)
        assert bench.target.kind == kind
        assert bench.target.holder == ("d" if kind == 5 else "s" if kind == 8 else None)
        if fault.left >= 0:
            return
    raise AssertionError("the takeover has more changes than were tried")


def _refuse(bench: Bench, name: str, action: int, key: int | None = None) -> None:
    port = bench.s if name == "s" else bench.d

    def fault(command: Command) -> Result | None:
        data = bytes(command.data_out)  # type: ignore[arg-type]
        matches = command.cdb[0] == 0x5F and command.cdb[1] == action
        if matches and (key is None or int.from_bytes(data[8:16]) == key):
            return check(5, 0x26, 0x00)
        return None

    port.fault = fault


@pytest.mark.parametrize(("name", "action", "key"), [("d", REGISTER, K), ("s", REGISTER, N), ("d", 0x04, None)])
def test_a_target_that_refuses_a_step_is_left_as_it_was(name: str, action: int, key: int | None) -> None:
    bench = Bench(holding(Target(), 6), alive=True, held=6)
    _refuse(bench, name, action, key)
    outcome = bench.run()
    assert outcome.decision is Decision.REVERTED
    assert "05/26/00" in outcome.sentence
    assert "UNDONE" in outcome.sentence
    assert bench.target.regs == {"o": OTHER, "s": K}
    assert (bench.target.kind, bench.target.holder) == (6, "s")


def test_p2_that_is_refused_takes_its_temporary_key_back() -> None:
    bench = Bench(holding(Target(), 6), alive=False, held=6)
    bench.d.fault = lambda command: check(5, 0x26, 0) if command.cdb[:2] in (b"\x5f\x04", b"\x5f\x05") else None
    outcome = bench.run()
    assert outcome.decision is Decision.REVERTED
    assert bench.target.regs == {"o": OTHER, "s": K}


def test_preempt_and_abort_with_another_error_is_not_replaced_by_preempt() -> None:
    bench = Bench(holding(Target(), 6), alive=False, held=6)
    bench.d.fault = lambda command: Result(0, host_status=3) if command.cdb[:2] == b"\x5f\x05" else None
    outcome = bench.run()
    assert outcome.decision is Decision.UNSETTLED
    assert 0x04 not in [one[1] for one in bench.sent]
    assert bench.target.regs["s"] == K


def test_unit_attentions_without_end() -> None:
    bench = Bench(holding(Target(), 6), alive=True, held=6)
    bench.d.fault = lambda _command: check(6, 0x29, 0x00)
    outcome = bench.run()
    assert outcome.decision is Decision.UNSETTLED
    assert bench.sent == []
    assert "estore again" in outcome.sentence


def test_a_source_that_vanishes_in_the_middle_is_finished_without_it() -> None:
    bench = Bench(holding(Target(), 6), alive=True, held=6)

    def gone_after_rekey(command: Command) -> Result | None:
        if bench.target.regs.get("s") == N:
            raise OSError(19, "No such device")
        return None

    bench.s.fault = gone_after_rekey
    bench.d.fault = lambda command: Result(0, host_status=1) if command.cdb[:2] == b"\x5f\x04" else None
    assert bench.run().decision is Decision.UNSETTLED
    assert bench.target.regs == {"o": OTHER, "s": N, "d": K}
    assert bench.target.holder == "s"
    bench.d.fault = lambda _command: None
    outcome = bench.run(source=Source.DEAD)
    assert outcome.decision is Decision.TAKEN_OVER
    assert bench.target.regs == {"o": OTHER, "d": K}
    assert bench.target.holder == "d"


def test_a_source_declared_dead_after_the_first_step_is_taken_over_with_the_temporary_key() -> None:
    bench = Bench(holding(Target(), 6), alive=True, held=6)
    bench.s.fault = lambda command: Result(0, host_status=1) if command.cdb[0] == 0x5F else None
    assert bench.run().decision is Decision.UNSETTLED
    assert bench.target.regs == {"o": OTHER, "s": K, "d": K}
    outcome = bench.run(source=Source.DEAD)
    assert outcome.decision is Decision.TAKEN_OVER
    assert bench.target.regs == {"o": OTHER, "d": K}
    assert bench.target.holder == "d"


def test_a_source_that_turns_out_to_be_alive_after_p2_was_begun() -> None:
    bench = Bench(holding(Target(), 6), alive=False, held=6)
    bench.d.fault = lambda command: Result(0, host_status=1) if command.cdb[:2] == b"\x5f\x05" else None
    assert bench.run().decision is Decision.UNSETTLED
    bench.d.fault = lambda _command: None
    outcome = bench.run(source=Source.ALIVE)
    assert outcome.decision is Decision.TAKEN_OVER
    assert bench.target.regs == {"o": OTHER, "d": K}
    assert bench.target.holder == "d"


def test_source_and_destination_that_show_different_units() -> None:
    bench = Bench(holding(Target(), 6), alive=True, held=6)
    bench.s = holding(Target(), 5).port("s")
    outcome = bench.run()
    assert outcome.decision is Decision.UNSETTLED
    assert "not paths to the same logical unit" in outcome.sentence
    assert bench.sent == []


def test_aptpl_that_nobody_knows_is_not_guessed() -> None:
    bench = Bench(holding(Target(), 6), alive=True, held=6)
    for port in (bench.s, bench.d):
        port.fault = lambda command: check(5, 0x24, 0) if command.cdb[:2] == b"\x5e\x02" else None
    assert bench.run(aptpl=None).decision is Decision.UNSETTLED
    assert bench.sent == []
    outcome = bench.run(aptpl=True)
    assert outcome.decision is Decision.TAKEN_OVER
    assert all(aptpl for _, action, *_, aptpl in bench.target.sent if action == REGISTER)


def test_unit_attentions_of_the_host_are_dropped_and_those_of_the_guest_travel() -> None:
    bench = Bench(holding(Target(), 5), alive=True, held=5)
    bench.target.attentions = {"d": [(6, 0x29, 0x00), (6, 0x2A, 0x03)], "s": [(6, 0x2A, 0x09), (6, 0x2A, 0x04)]}
    outcome = bench.run()
    assert outcome.decision is Decision.TAKEN_OVER
    assert [(one.asc, one.ascq) for one in outcome.attentions] == [(0x2A, 0x09), (0x2A, 0x04)]


def test_a_capacity_change_after_the_first_step_is_the_guests() -> None:
    bench = Bench(holding(Target(), 5), alive=True, held=5)

    def fault(command: Command) -> Result | None:
        if command.cdb[:2] == b"\x5f\x04" and not done:
            done.append(True)
            return check(6, 0x2A, 0x09)
        return None

    done: list[bool] = []
    bench.d.fault = fault
    outcome = bench.run()
    assert [(one.asc, one.ascq) for one in outcome.attentions] == [(0x2A, 0x09)]


def test_commands_are_reported_in_order_with_what_they_were_for() -> None:
    bench = Bench(holding(Target(), 5), alive=True, held=5)
    bench.run()
    changes = [command for command in bench.commands if command.kind is StepKind.CHANGE]
    assert [(str(one.side), one.name) for one in changes] == [
        ("destination", "REGISTER"),
        ("source", "REGISTER"),
        ("destination", "PREEMPT"),
    ]
    assert all(one.why and one.answer.startswith("GOOD") for one in changes)
    assert [one.name for one in bench.commands][:2] == ["TEST UNIT READY", "TEST UNIT READY"]
