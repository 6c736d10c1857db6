"""One front end's session, from messages to what is done about them; no socket, no mapping, no clock.

    receive(message) ─► Step: actions to carry out, or the answer, or the end
    done(value)      ─► Step: the answer, once the actions were carried out
    failed(...)      ─► Step: the answer "failed", or the end

What a message does is in the tables of ``transitions``. Nothing has changed until ``done``: an action that failed
leaves the session as it was, and where the front end cannot be told (it asked for no acknowledgement) or part of the
actions was carried out already, the session ends. ``stop`` ends it at any time and says what has to be undone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final

from pyproxy.frontend.vhost_user.actions import Action, DropInflight, SetEnabled, SetLog, SetMemory, StartRing, StopRing
from pyproxy.frontend.vhost_user.features import ProtocolFeature
from pyproxy.frontend.vhost_user.message import Message, MessageError, Request, encode_u64, name_of
from pyproxy.frontend.vhost_user.state import Ring, RingPhase, State, without
from pyproxy.frontend.vhost_user.transitions import ANSWERED, RULES, Change, Descriptors, Refused, Rule

DONE: Final = 0
FAILED: Final = 1
MAX_RINGS: Final = 256
"""What the 8 bits of SET_VRING_KICK can name."""


class CloseReason(StrEnum):
    """Why a connection ends."""

    END_OF_STREAM = "end-of-stream"
    STOPPING = "stopping"
    TRUNCATED = "truncated-message"
    MALFORMED = "malformed-message"
    DESCRIPTORS = "wrong-descriptors"
    NOT_NEGOTIATED = "not-negotiated"
    REFUSED = "refused"
    FAILED = "failed"
    MEMORY_GONE = "memory-gone"

    @property
    def ordinary(self) -> bool:
        """Whether well-behaved front ends end that way too."""
        return self in (CloseReason.END_OF_STREAM, CloseReason.STOPPING)

    @property
    def violation(self) -> bool:
        """Whether the front end did what the protocol does not allow."""
        return self not in (
            CloseReason.END_OF_STREAM,
            CloseReason.STOPPING,
            CloseReason.FAILED,
            CloseReason.MEMORY_GONE,
        )


@dataclass(frozen=True, slots=True)
class Close:
    """The end, and what happened as an operator reads it."""

    reason: CloseReason
    sentence: str


@dataclass(frozen=True, slots=True)
class Step:
    """What follows. With ``actions`` the session waits for ``done`` or ``failed``.

    ``reply`` is sent with its descriptors, which are closed afterwards; ``discard`` are descriptors to close now;
    ``ignored`` tells that a request was left without effect. After ``close``, ``stop`` says what has to be undone.
    """

    actions: tuple[Action, ...] = ()
    reply: Message | None = None
    discard: Descriptors = ()
    ignored: str = ""
    close: Close | None = None


@dataclass(frozen=True, slots=True)
class _Pending:
    request: Message
    change: Change


class Session:
    """The back end's side. ``rings`` counts control, event and request rings."""

    def __init__(self, rings: int) -> None:
        if not 3 <= rings <= MAX_RINGS:
            raise ValueError(f"{rings} rings, expected 3 (control, event, one for requests) to {MAX_RINGS}")
        self.state = State((Ring(),) * rings)
        self.closed = False
        self._pending: _Pending | None = None

    @property
    def executing(self) -> bool:
        """Whether the session waits for its actions to be carried out."""
        return self._pending is not None

    def receive(self, message: Message) -> Step:
        """Take a whole message. Raises ValueError while actions are outstanding or after the end."""
        if self.closed or self._pending is not None:
            raise ValueError(f"{name_of(message.request)} while the session waits for something else")
        rule = _rule_of(message.request)
        if rule is None:
            return self._unknown(message)
        if rule.gate is not None and not self.state.negotiated(rule.gate):
            return self._close(
                CloseReason.NOT_NEGOTIATED, message, f"came without protocol feature {rule.gate.name} being negotiated"
            )
        try:
            payload = rule.decode(message.payload)
        except MessageError as error:
            return self._close(CloseReason.MALFORMED, message, str(error))
        expected = None if rule.count is None else rule.count(payload)
        if expected is not None and len(message.descriptors) != expected:
            return self._close(
                CloseReason.DESCRIPTORS,
                message,
                f"came with {len(message.descriptors)} descriptors, expected {expected}",
            )
        try:
            change = rule.transition(self.state, payload, message.descriptors)
        except Refused as refused:
            return self._fail(message, CloseReason.REFUSED, str(refused), message.descriptors)
        self._pending = _Pending(message, change)
        return Step(actions=change.actions) if change.actions else self.done(None)

    def done(self, value: Any) -> Step:
        """All actions were carried out; ``value`` is the last one's."""
        request, change = self._take()
        state, reply = change.state, change.reply
        descriptors: Descriptors = ()
        if change.settle is not None:
            state, reply, descriptors = change.settle(state, value)
        self.state = state
        return Step(reply=self._answer(request, reply, descriptors), discard=change.discard)

    def failed(self, sentence: str, performed: int) -> Step:
        """Take note that the action after the first ``performed`` ones failed; the rest was not tried."""
        request, change = self._take()
        handed_over: list[int] = []
        for action in change.actions[:performed]:
            handed_over += action.handed_over
            self._keep_track(action)
        closed = [descriptor for action in change.actions for descriptor in action.owned]
        discard = without(request.descriptors, (*handed_over, *closed))
        # Held ones among those are in ``state`` still, and follow when the session is stopped.
        discard = without(discard, self.state.descriptors)
        starts = any(isinstance(action, StartRing) for action in change.actions)
        if performed or starts:
            return self._close_with(CloseReason.FAILED, request, sentence, discard)
        return self._fail(request, CloseReason.FAILED, sentence, discard)

    def stop(self) -> Step:
        """End the session: what has to be undone, in order, and everything it holds. Safe to repeat."""
        self.closed = True
        discard = self.state.descriptors
        if self._pending is not None:
            discard += without(self._pending.request.descriptors, discard)
            self._pending = None
        actions: list[Action] = [StopRing(index) for index in self.state.started]
        actions += [SetEnabled(index, False) for index, ring in enumerate(self.state.rings) if ring.enabled]
        if self.state.inflight:
            actions.append(DropInflight())
        if self.state.logging:
            actions.append(SetLog(None))
        if self.state.memory.regions:
            actions.append(SetMemory((), ()))
        self.state = State((Ring(),) * len(self.state.rings))
        return Step(actions=tuple(actions), discard=discard)

    def _take(self) -> tuple[Message, Change]:
        if self._pending is None:
            raise ValueError("no action is outstanding")
        pending, self._pending = self._pending, None
        return pending.request, pending.change

    def _keep_track(self, action: Action) -> None:
        """Note what one action of an unfinished change did, so that the end undoes it."""
        state = self.state
        if isinstance(action, StartRing):
            ring = replace(state.rings[action.index], phase=RingPhase.STARTED, kick=-1, call=-1)
            self.state = state.with_ring(action.index, ring)
        elif isinstance(action, StopRing):
            ring = replace(state.rings[action.index], phase=RingPhase.STOPPED)
            self.state = state.with_ring(action.index, ring)
        elif isinstance(action, SetEnabled):
            ring = replace(state.rings[action.index], enabled=action.enabled)
            self.state = state.with_ring(action.index, ring)
        elif isinstance(action, DropInflight):
            self.state = replace(state, inflight=False)
        elif isinstance(action, SetMemory):
            self.state = replace(state, memory=replace(state.memory, regions=action.regions))

    def _answer(self, request: Message, reply: bytes | None, descriptors: Descriptors = ()) -> Message | None:
        if reply is not None:
            return Message(request.request, reply, descriptors)
        if request.needs_reply and self.state.negotiated(ProtocolFeature.REPLY_ACK):
            return Message(request.request, encode_u64(DONE))
        return None

    def _unknown(self, message: Message) -> Step:
        sentence = f"{name_of(message.request)} belongs to nothing that was offered"
        if message.needs_reply and self.state.negotiated(ProtocolFeature.REPLY_ACK):
            reply = Message(message.request, encode_u64(FAILED))
            return Step(reply=reply, discard=message.descriptors, ignored=sentence)
        return Step(discard=message.descriptors, ignored=sentence)

    def _fail(self, message: Message, reason: CloseReason, sentence: str, discard: Descriptors) -> Step:
        """Say no where the front end listens, else end."""
        acknowledges = message.needs_reply and self.state.negotiated(ProtocolFeature.REPLY_ACK)
        if acknowledges and message.request not in ANSWERED:
            reply = Message(message.request, encode_u64(FAILED))
            return Step(reply=reply, discard=discard, ignored=f"{name_of(message.request)}: {sentence}")
        return self._close_with(reason, message, sentence, discard)

    def _close(self, reason: CloseReason, message: Message, sentence: str) -> Step:
        return self._close_with(reason, message, sentence, message.descriptors)

    def _close_with(self, reason: CloseReason, message: Message, sentence: str, discard: Descriptors) -> Step:
        self.closed = True
        return Step(discard=discard, close=Close(reason, f"{name_of(message.request)}: {sentence}"))


def _rule_of(request: int) -> Rule | None:
    try:
        return RULES.get(Request(request))
    except ValueError:
        return None
