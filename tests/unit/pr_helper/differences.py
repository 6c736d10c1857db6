"""Where pyproxy may answer a client otherwise than QEMU's helper, and why; anything else is a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.unit.pr_helper.exchange import Answer, Step


@dataclass(frozen=True)
class Difference:
    """``matches(step, reference, ours)`` says whether it explains what was seen.

    After one that ``changes_state`` the two sides' reservations differ, and the conversation is not compared further.
    """

    name: str
    reason: str
    changes_state: bool
    matches: Callable[[Step, Answer, Answer], bool]


def _is_out(step: Step, *actions: int) -> bool:
    return len(step.cdb) == 16 and step.cdb[0] == 0x5F and (not actions or step.cdb[1] & 0x1F in actions)


def _code(answer: Answer) -> tuple[int, int, int] | None:
    if answer.status != 2 or len(answer.sense) < 14:
        return None
    return answer.sense[2] & 0x0F, answer.sense[12], answer.sense[13]


def _masked(step: Step, reference: Answer, ours: Answer) -> bool:
    if len(step.cdb) != 16 or step.cdb[0] != 0x5E or step.cdb[1] & 0x1F != 2 or len(reference.data) < 3:
        return False
    expected = bytearray(reference.data)
    expected[2] &= 0xF3
    return ours == Answer(reference.status, reference.sense, bytes(expected))


def _flag(step: Step, bit: int) -> bool:
    return _is_out(step, 0, 6) and len(step.parameter_list) > 20 and bool(step.parameter_list[20] & bit)


ALLOWED = (
    Difference(
        "capabilities-masked",
        "REPORT CAPABILITIES without SIP_C and ATP_C: what they announce could not move with the guest",
        False,
        _masked,
    ),
    Difference(
        "register-and-move",
        "REGISTER AND MOVE is refused with 05/24/00: it would name another host's port",
        True,
        lambda step, _, ours: _is_out(step, 7) and _code(ours) == (5, 0x24, 0),
    ),
    Difference(
        "specify-initiator-ports",
        "REGISTER with SPEC_I_PT is refused with 05/26/00: it names other hosts' ports",
        True,
        lambda step, _, ours: _flag(step, 0x08) and _code(ours) == (5, 0x26, 0),
    ),
    Difference(
        "all-target-ports",
        "REGISTER with ALL_TG_PT is refused with 05/26/00: registrations of other ports could not move with the guest",
        True,
        lambda step, _, ours: _flag(step, 0x04) and _code(ours) == (5, 0x26, 0),
    ),
    Difference(
        "length-above-64k",
        "a PARAMETER LIST LENGTH above what the protocol carried (CDB bytes 5 and 6) is refused with 05/1A/00: the "
        "device would read what nobody sent",
        True,
        lambda step, _, ours: _is_out(step) and step.cdb[5:7] != bytes(2) and _code(ours) == (5, 0x1A, 0),
    ),
    Difference(
        "write-only-descriptor",
        "PERSISTENT RESERVE OUT over a descriptor open for writing only is refused with 05/20/00 as one for reading "
        "only is: its effects could not be read back",
        True,
        lambda step, _, ours: _is_out(step) and step.kind.endswith("write-only") and _code(ours) == (5, 0x20, 0),
    ),
)


def explain(step: Step, reference: Answer, ours: Answer) -> Difference | None:
    """The difference that allows what was seen, or None."""
    return next((one for one in ALLOWED if one.matches(step, reference, ours)), None)


@dataclass
class Comparison:
    """What came of comparing conversations."""

    requests: int = 0
    differences: dict[str, int] | None = None

    def compare(self, steps: list[Step], reference: list[Answer], ours: list[Answer], where: str) -> None:
        """Compare two sides of one conversation; AssertionError shows the first difference that is not allowed."""
        counted = self.differences = self.differences if self.differences is not None else {}
        for index, step in enumerate(steps):
            if index >= min(len(reference), len(ours)):
                assert len(reference) == len(ours), f"{where} step {index}: one side closed: {reference} {ours}"
                return
            self.requests += 1
            if reference[index] == ours[index]:
                continue
            found = explain(step, reference[index], ours[index])
            assert found is not None, (
                f"{where} step {index} ({step.kind}) {step.cdb.hex()} {step.parameter_list[:48].hex()}\n"
                f"qemu-pr-helper: {reference[index]}\npyproxy:        {ours[index]}"
            )
            counted[found.name] = counted.get(found.name, 0) + 1
            if found.changes_state:
                return
        assert reference[len(steps) :] == ours[len(steps) :], f"{where}: after the last step: {reference} {ours}"
