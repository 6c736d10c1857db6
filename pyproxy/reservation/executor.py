"""Runs a takeover plan against two devices, and makes every step durable before it is issued.

The plan decides; this only knows how to send a command: retry unit attentions (the command was not executed,
SAM-5 5.14), tell an answer from an unknown fate, and write the journal around it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from pyproxy.reservation.history import Fate, History, Issued, Side, encode_events
from pyproxy.reservation.outcome import Outcome
from pyproxy.reservation.plans import Plan
from pyproxy.reservation.steps import Answer, Step, StepKind
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import SenseKey, Status
from pyproxy.scsi.sense import Sense

log = logging.getLogger(__name__)

MAXIMUM_UNIT_ATTENTIONS: Final = 10
BUSY_RETRIES: Final = 4
FIRST_PAUSE_SECONDS: Final = 0.05

_BUSY: Final = frozenset({int(Status.BUSY), int(Status.TASK_SET_FULL)})


class Port(Protocol):
    """One logical unit through one I_T nexus."""

    @property
    def name(self) -> str:
        """How an operator knows it."""

    def execute(self, command: Command) -> Result:
        """Run one command; raises OSError where no result can be had (``fate_unknown`` False: it was not sent)."""


class Journal(Protocol):
    """Where the events of one takeover become durable. Both methods return only when they are."""

    def issue(self, events: bytes) -> int:
        """Append a row and return its number."""

    def answer(self, row: int, events: bytes) -> None:
        """Add to a row what became of its command."""


@dataclass(frozen=True, slots=True)
class SentCommand:
    """One command that was issued: side, name of the command or service action, kind, and what was answered."""

    side: Side
    name: str
    kind: StepKind
    why: str
    answer: str


class Executor:
    """Runs one plan. ``source`` is None where only the destination can be reached.

    ``history`` is the one the plan was made with; what it already has is durable. ``pause`` waits that many seconds.
    """

    def __init__(
        self,
        destination: Port,
        source: Port | None,
        history: History,
        journal: Journal,
        *,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._ports = {Side.DESTINATION: destination, Side.SOURCE: source}
        self._history = history
        self._journal = journal
        self._pause = pause
        self._durable = len(history.events)
        self._row: int | None = None
        self._sent: list[SentCommand] = []

    @property
    def sent(self) -> tuple[SentCommand, ...]:
        """Every command issued so far, in order; a retried one counts once."""
        return tuple(self._sent)

    def run(self, plan: Plan) -> Outcome:
        """Run the plan to its end. What the journal raises stops it before the next command is issued."""
        try:
            step = next(plan)
            while True:
                if step.journalled:
                    self._row = self._journal.issue(self._take(len(self._history.events)))
                answer = self._execute(step)
                self._sent.append(SentCommand(step.side, step.name, step.kind, step.why, answer.text))
                asked = step
                try:
                    step = plan.send(answer)
                finally:
                    if asked.journalled and self._row is not None:
                        self._journal.answer(self._row, self._take(self._end_of_answer()))
        except StopIteration as stop:
            outcome: Outcome = stop.value
            if self._row is not None and self._durable < len(self._history.events):
                self._journal.issue(self._take(len(self._history.events)))
            return outcome
        finally:
            plan.close()

    def _take(self, end: int) -> bytes:
        """Encode the events that are not durable yet, up to ``end``."""
        events = self._history.events[self._durable : end]
        self._durable = end
        return encode_events(events)

    def _end_of_answer(self) -> int:
        """Where the next command's announcement begins: it belongs to the next row."""
        events = self._history.events
        return next(
            (index for index in range(self._durable, len(events)) if isinstance(events[index], Issued)), len(events)
        )

    def _execute(self, step: Step) -> Answer:
        port = self._ports[step.side]
        if port is None:
            return Answer(None, Fate.REFUSED, text=f"no device for the {step.side.value}")
        attentions: list[Sense] = []
        busy = 0
        while True:
            try:
                result = port.execute(step.command)
            except OSError as error:
                fate = Fate.UNKNOWN if getattr(error, "fate_unknown", True) else Fate.REFUSED
                text = f"{step.name} on {port.name}: {error}"
                log.warning("%s (%s)", text, "fate unknown" if fate is Fate.UNKNOWN else "not sent")
                return Answer(None, fate, tuple(attentions), text)
            sense = result.decoded_sense
            if sense is not None and sense.is_unit_attention and not sense.deferred:
                attentions.append(sense)
                log.info("%s on %s: %s, issued again", step.name, port.name, sense)
                if len(attentions) <= MAXIMUM_UNIT_ATTENTIONS:
                    continue
            elif result.host_status == 0 and result.status in _BUSY and busy < BUSY_RETRIES:
                self._pause(FIRST_PAUSE_SECONDS * 2**busy)
                busy += 1
                if not step.journalled:
                    continue
            text = f"{describe(result)} on {port.name}"
            log.info("%s: %s (%s)", step.name, text, step.why)
            return Answer(result, fate_of(result), tuple(attentions), text)


def fate_of(result: Result) -> Fate:
    """Tell whether a command that changes something was executed.

    GOOD, RESERVATION CONFLICT, ILLEGAL REQUEST and a unit attention are certain. All else is not: LIO answers
    02/08/00 to a REGISTER it has executed but could not persist, a deferred error is about another command, and BUSY or
    a transport failure may have come after the fact.
    """
    if result.good:
        return Fate.GOOD
    if result.conflict:
        return Fate.REFUSED
    sense = result.decoded_sense
    if sense is None or sense.deferred:
        return Fate.UNKNOWN
    if sense.key in (SenseKey.ILLEGAL_REQUEST, SenseKey.UNIT_ATTENTION):
        return Fate.REFUSED
    return Fate.UNKNOWN


def describe(result: Result) -> str:
    """Say a result in a few words: GOOD, RESERVATION CONFLICT, the sense, or the transport's failure."""
    if result.host_status:
        return f"transport failure (host status {result.host_status:#x})"
    sense = result.decoded_sense
    if sense is not None:
        return f"CHECK CONDITION {sense}"
    known = next((status.name.replace("_", " ") for status in Status if status == result.status), None)
    return known or f"status {result.status:02X}h"
