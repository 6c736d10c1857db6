"""The steps of a takeover plan: commands with what is expected of them, written into the history before they go."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias, TypeVar

from pyproxy.reservation.classify import Move
from pyproxy.reservation.history import PROBE, Answered, Fate, History, Issued, Noticed, Side
from pyproxy.reservation.snapshot import Conversation, Snapshot, SnapshotError, read_snapshot
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import LU_SCOPE, PERSISTENT_RESERVE_IN, PrInAction, PrOutAction, Status
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import BASIC_SIZE, ParameterList
from pyproxy.scsi.sense import Sense

CHANGE_TIMEOUT_MS: Final = 30_000

_TEST_UNIT_READY: Final = bytes(6)
_GOOD: Final = frozenset({int(Status.GOOD)})
_GOOD_OR_CONFLICT: Final = frozenset({int(Status.GOOD), int(Status.RESERVATION_CONFLICT)})
_ANY: Final = frozenset(range(0x100))

T = TypeVar("T")


class UnsettledError(Exception):
    """The plan cannot go on now; nothing more is sent. The message says why."""


class StepKind(StrEnum):
    """What a step does to the device."""

    DRAIN = "drain"
    READ = "read"
    PROBE = "probe"
    """A REGISTER with the key in both fields: tells whether the nexus is registered with it, changes nothing else."""
    CHANGE = "change"


@dataclass(frozen=True, slots=True)
class Step:
    """One command of a plan: on which side, which statuses are expected, why, and what another status means."""

    side: Side
    command: Command
    name: str
    why: str
    kind: StepKind
    expect: frozenset[int] = _GOOD
    mismatch: str = "the device is read again and decides"

    @property
    def journalled(self) -> bool:
        """Whether it must be durable before it is issued."""
        return self.kind in (StepKind.PROBE, StepKind.CHANGE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a step. ``result`` is None where none could be had; ``text`` says it in words.

    ``attentions`` are the unit attentions that came first; the command was then issued again.
    """

    result: Result | None
    fate: Fate
    attentions: tuple[Sense, ...] = ()
    text: str = ""

    @property
    def sense(self) -> Sense | None:
        """The sense of a CHECK CONDITION."""
        return self.result.decoded_sense if self.result is not None else None


Steps: TypeAlias = Generator[Step, Answer, T]


class Channel:
    """Issues the steps of one plan and writes them, their answers and every unit attention into the history.

    ``source_alive`` is recorded with each change. ``on_attention`` hears each unit attention as it comes.
    """

    def __init__(self, history: History, *, source_alive: bool, on_attention: Callable[[Sense], None]) -> None:
        self._history = history
        self._alive = source_alive
        self._on_attention = on_attention

    def register(
        self, move: Move | None, side: Side, keys: tuple[int, int], *, aptpl: bool, why: str, generation: int
    ) -> Steps[Answer]:
        """REGISTER with (RESERVATION KEY, SERVICE ACTION RESERVATION KEY); without a ``move`` it is a probe."""
        parameters = ParameterList(*keys, aptpl=aptpl)
        return (yield from self._change(move, side, PrOutAction.REGISTER, parameters, 0, why, generation))

    def preempt(
        self, move: Move, action: PrOutAction, keys: tuple[int, int], kind: int, *, why: str, generation: int
    ) -> Steps[Answer]:
        """PREEMPT or PREEMPT AND ABORT on the destination with (own key, key to remove) and reservation type ``kind``.

        APTPL stays clear: the standard ignores it here and tgt refuses the command with it.
        """
        if keys[0] == keys[1] or not keys[1]:
            raise AssertionError(
                "a PREEMPT of the own key, or of key 0, is never sent: targets remove the caller with it"
            )
        parameters = ParameterList(*keys)
        return (yield from self._change(move, Side.DESTINATION, action, parameters, kind, why, generation))

    def _change(
        self,
        move: Move | None,
        side: Side,
        action: PrOutAction,
        parameters: ParameterList,
        kind: int,
        why: str,
        generation: int,
    ) -> Steps[Answer]:
        name = move.value if move is not None else PROBE
        keys = f"{parameters.key:#x}", f"{parameters.sa_key:#x}"
        self._history.add(Issued(side, name, int(action), *keys, kind, generation, self._alive))
        step = Step(
            side,
            Command(PrOut(action, LU_SCOPE, kind, BASIC_SIZE).encode(), parameters.encode(), 0, CHANGE_TIMEOUT_MS),
            action.name.replace("_", " "),
            why,
            StepKind.CHANGE if move is not None else StepKind.PROBE,
            _GOOD if move is not None else _GOOD_OR_CONFLICT,
        )
        answer = yield from self._send(step)
        self._history.add(Answered(answer.fate, answer.text))
        return answer

    def drain(self, side: Side) -> Steps[None]:
        """Fetch what unit attentions are queued; whoever runs the steps repeats it until there are none."""
        step = Step(
            side,
            Command(_TEST_UNIT_READY),
            "TEST UNIT READY",
            f"fetch unit attentions queued on the {side.value}",
            StepKind.DRAIN,
            _ANY,
        )
        yield from self._send(step)

    def snapshot(self, side: Side, *, full: bool, capabilities: bool) -> Steps[Snapshot]:
        """Read the unit through one side; raises SnapshotError."""
        try:
            snapshot = yield from self._read(side, read_snapshot(full, capabilities))
        except SnapshotError as error:
            self._notice(side, error.unit_attentions)
            raise
        self._notice(side, snapshot.unit_attentions)
        return snapshot

    def _read(self, side: Side, conversation: Conversation[T]) -> Steps[T]:
        try:
            command = next(conversation)
            while True:
                answer = yield from self._send(_reading(side, command))
                if answer.result is None:
                    command = conversation.throw(OSError(answer.text))
                else:
                    command = conversation.send(answer.result)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            conversation.close()

    def _send(self, step: Step) -> Steps[Answer]:
        answer = yield step
        self._notice(step.side, answer.attentions)
        return answer

    def _notice(self, side: Side, attentions: tuple[Sense, ...]) -> None:
        for sense in attentions:
            self._history.add(Noticed(side, sense.key, sense.asc, sense.ascq, sense.deferred))
            self._on_attention(sense)


def _reading(side: Side, command: Command) -> Step:
    action = command.cdb[1] & 0x1F if command.cdb[0] == PERSISTENT_RESERVE_IN else 0
    name = PrInAction(action).name.replace("_", " ")
    return Step(side, command, name, "what the logical unit shows", StepKind.READ, _ANY)
