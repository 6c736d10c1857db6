"""Runs a sequence on both units, command by command, and explains or reports every disagreement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tests.vm.rig.differential.generator import NEXUSES
from tests.vm.rig.differential.sides import EmulatedSide, LioSide, View
from tests.vm.rig.differential.steps import (
    CLEAR,
    PR_OUT,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    REGISTER_AND_IGNORE,
    RELEASE_6,
    RESERVE_6,
    Answer,
    Step,
    persistent_reserve_in,
    unit_ready,
)


@dataclass(frozen=True, slots=True)
class Observation:
    """One command, LIO's state before it, and the two answers.

    ``lag`` is how far LIO's PRGENERATION may be behind. ``aptpl`` is the APTPL value that should be in force for LIO,
    which leaves it alone when there is nothing to register and clears it with CLEAR, and by the standard.
    """

    step: Step
    before: View
    lio: Answer
    emulated: Answer
    lag: int
    aptpl: tuple[bool, bool]

    def __str__(self) -> str:
        return f"{self.step}\n      before   {self.before}\n      LIO      {self.lio}\n      emulated {self.emulated}"


@dataclass(frozen=True, slots=True)
class Difference:
    """A disagreement that is accepted: what LIO does, the clause the emulated unit follows, how to recognise it.

    ``diverges`` says that the units' states may differ afterwards, so that both start afresh; ``silent`` that the
    answers are alike nevertheless.
    """

    name: str
    lio: str
    clause: str
    recognise: Callable[[Observation], bool]
    diverges: bool = False
    silent: bool = False


GENERATION = "generation-of-unregistering"
ATTENTIONS = "one-attention-at-a-time"
"""The two differences the comparison itself recognises, since they are not of one command."""


@dataclass
class Tally:
    """What was compared."""

    sequences: int = 0
    commands: int = 0
    left_out: int = 0
    restarts: int = 0
    differences: Counter[str] = field(default_factory=Counter)


class Disagreement(AssertionError):  # noqa: N818 - the finding itself, not a failure of the comparison
    """The units disagree in a way that no listed difference explains."""

    def __init__(self, observation: Observation, position: int) -> None:
        super().__init__(str(observation))
        self.observation = observation
        self.position = position


def makes_lio_use_freed_memory(step: Step, view: View) -> bool:
    """Whether LIO would go on with a registration it has just freed.

    That is PREEMPT with the caller's own key while nobody or another key holds, and PREEMPT of an all-registrants
    reservation with key 0.
    """
    if not step.is_out(PREEMPT, PREEMPT_AND_ABORT):
        return False
    _, sa_key = step.keys
    if view.type in (7, 8):
        return sa_key == 0
    held_with = None if view.holder is None else view.keys.get(view.holder)
    return sa_key == view.keys.get(step.nexus) and held_with != sa_key


class Comparison:
    """Compares sequences; ``tally`` counts over all of them."""

    def __init__(self, lio: LioSide, emulated: EmulatedSide, listed: Sequence[Difference]) -> None:
        self._lio = lio
        self._emulated = emulated
        self._listed = listed
        self._lag = 0
        self._aptpl = (False, False)
        self.tally = Tally()

    def compare(self, steps: Sequence[Step]) -> None:
        """Run one sequence and the reads that show what it left; raises Disagreement at the first unlisted one."""
        self._restart()
        closing = [
            *(unit_ready(nexus) for nexus in range(NEXUSES)),
            *(persistent_reserve_in(0, action) for action in (0, 1, 3, 2)),
        ]
        for position, step in enumerate([*steps, *closing]):
            self._compare_step(step, position)
        self.tally.sequences += 1

    def _restart(self) -> None:
        self._lio.reset()
        self._emulated.reset()
        self._lag = 0
        self._aptpl = (False, False)

    def _compare_step(self, step: Step, position: int) -> None:
        # Only these change reservations: for the others LIO's state is as well read afterwards, if at all.
        changing = step.opcode in (PR_OUT, RESERVE_6, RELEASE_6)
        before = self._lio.view() if changing else None
        if before is not None and makes_lio_use_freed_memory(step, before):
            self.tally.left_out += 1
            return
        lio, emulated = self._lio.send(step), self._emulated.send(step)
        self.tally.commands += 1
        agree = self._agree(lio, emulated)
        if before is not None or not agree:
            seen = Observation(step, before or self._lio.view(), lio, emulated, self._lag, self._aptpl)
            candidates = (each for each in self._listed if each.silent or not agree)
            difference = next((each for each in candidates if each.recognise(seen)), None)
            if difference is not None:
                self.tally.differences[difference.name] += 1
                if difference.diverges:
                    self.tally.restarts += 1
                    self._restart()
                    return
            elif not agree and not self._attentions_in_other_order(seen):
                raise Disagreement(seen, position)
        # LIO forgets the nexus' other unit attentions with the one it reports.
        if lio.attention and self._emulated.drain(step.nexus):
            self.tally.differences[ATTENTIONS] += 1
        if before is not None and lio.good and emulated.good:
            self._follow(step, before)

    def _follow(self, step: Step, before: View) -> None:
        """Keep up with what LIO does otherwise to PRGENERATION and APTPL."""
        if step.is_out(CLEAR):
            self._aptpl = (False, self._aptpl[1])
        if not step.is_out(REGISTER, REGISTER_AND_IGNORE):
            return
        _, sa_key = step.keys
        if sa_key == 0:
            self._lag += 1
        aptpl = bool(step.data_out[20:21].ljust(1, b"\0")[0] & 1)
        nothing_to_do = sa_key == 0 and step.nexus not in before.keys
        self._aptpl = (self._aptpl[0] if nothing_to_do else aptpl, aptpl)

    def _agree(self, lio: Answer, emulated: Answer) -> bool:
        if (lio.status, lio.code, lio.data) != (emulated.status, emulated.code, emulated.data):
            return False
        if lio.generation is None or emulated.generation is None:
            return lio.generation == emulated.generation
        if emulated.generation - lio.generation != self._lag:
            return False
        if self._lag:
            self.tally.differences[GENERATION] += 1
        return True

    def _attentions_in_other_order(self, observation: Observation) -> bool:
        """Whether both report a unit attention, LIO one that the emulated unit has pending behind its own."""
        if not (observation.lio.attention and observation.emulated.attention):
            return False
        if observation.lio.code not in self._emulated.drain(observation.step.nexus):
            return False
        self.tally.differences[ATTENTIONS] += 1
        return True


def shortest(comparison: Comparison, steps: Sequence[Step]) -> tuple[list[Step], Disagreement]:
    """Leave out of a disagreeing sequence what is not needed to disagree."""

    def disagreement(candidate: Sequence[Step]) -> Disagreement | None:
        try:
            comparison.compare(candidate)
        except Disagreement as found:
            return found
        return None

    kept = list(steps)
    found = disagreement(kept)
    assert found is not None, "the sequence agrees when repeated"
    kept = kept[: found.position + 1]
    size = 0
    while size != len(kept):
        size = len(kept)
        for index in range(size - 1, -1, -1):
            shorter = kept[:index] + kept[index + 1 :]
            again = disagreement(shorter)
            if again is not None:
                kept, found = shorter, again
    return kept, found
