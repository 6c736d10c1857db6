"""What a takeover has done so far: the events its journal keeps, and what follows from them. No I/O.

An event is durable before the command it announces is issued, and another one with the answer follows. After a crash
the events are read back; what they do not tell, the device does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Annotated, Final, TypeAlias

import msgspec

from pyproxy.reservation.classify import Claim, Move
from pyproxy.scsi.sense import Sense

PROBE: Final = "probe"
"""What stands for a move where a REGISTER only asks whether the nexus is registered with a key."""

REMOVES_SOURCE: Final = (Move.UNREGISTER_SOURCE, Move.DROP_NONCE, Move.PREEMPT_NONCE, Move.PREEMPT_GUEST)
"""Moves after which the source has no registration any more."""

_REGISTRATIONS_LOST: Final = frozenset({(0x6, 0x2A, 0x03), (0x6, 0x2A, 0x05)})
_RESET: Final = 0x29
_REGISTRATION_CHANGED: Final = 0x2A
_Key = Annotated[str, msgspec.Meta(pattern="^0x[0-9a-f]{1,16}$")]
_Nibble = Annotated[int, msgspec.Meta(ge=0, le=0xF)]
_Byte = Annotated[int, msgspec.Meta(ge=0, le=0xFF)]
_LARGEST_ROW: Final = 256 * 1024


class Side(StrEnum):
    """Which of the two I_T nexuses."""

    SOURCE = "source"
    DESTINATION = "destination"


class Fate(StrEnum):
    """What became of a command that changes something."""

    GOOD = "good"
    REFUSED = "refused"
    """The device answered that it did not do it."""
    UNKNOWN = "unknown"
    """It may or may not have been executed: only reading tells."""


class HistoryError(ValueError):
    """A journal row cannot be read; the message says what is wrong with it."""


class Run(msgspec.Struct, frozen=True, tag_field="event", tag="run", forbid_unknown_fields=True):
    """A process began to work on this takeover; what it drains first from the destination is not the guest's."""


class Nonces(msgspec.Struct, frozen=True, tag_field="event", tag="nonces", forbid_unknown_fields=True):
    """The random keys of this takeover, in hex: N for the source, M for the destination."""

    nonce: _Key
    temporary: _Key


class Settled(msgspec.Struct, frozen=True, tag_field="event", tag="settled", forbid_unknown_fields=True):
    """What the guest is entitled to: the claim and the reservation type (0: none)."""

    claim: Claim
    type: _Nibble


class Witnessed(msgspec.Struct, frozen=True, tag_field="event", tag="witnessed", forbid_unknown_fields=True):
    """Both nexuses were seen registered by right of K at one time: what removes K from now on hits the destination."""


class Issued(msgspec.Struct, frozen=True, tag_field="event", tag="issued", forbid_unknown_fields=True):
    """A command that may change something is about to be issued.

    ``move`` is a Move or PROBE; ``key`` and ``sa_key`` are the fields of the parameter list, in hex; ``generation`` is
    the last PRGENERATION read before it.
    """

    side: Side
    move: str
    action: int
    key: _Key
    sa_key: _Key
    type: _Nibble
    generation: int
    source_alive: bool


class Noticed(msgspec.Struct, frozen=True, tag_field="event", tag="noticed", forbid_unknown_fields=True):
    """A unit attention, or a deferred error, was reported to us on one side."""

    side: Side
    key: _Nibble
    asc: _Byte
    ascq: _Byte
    deferred: bool = False


class Answered(msgspec.Struct, frozen=True, tag_field="event", tag="answered", forbid_unknown_fields=True):
    """What became of the command issued last: its fate and the device's words."""

    fate: Fate
    text: str


Event: TypeAlias = Run | Nonces | Settled | Witnessed | Issued | Noticed | Answered

_DECODER: Final = msgspec.json.Decoder(list[Event])


def encode_events(events: Sequence[Event]) -> bytes:
    """Return the JSON bytes of a journal row that holds these events."""
    return msgspec.json.encode(list(events))


def decode_events(data: bytes) -> list[Event]:
    """Read a journal row; raises HistoryError."""
    if len(data) > _LARGEST_ROW:
        raise HistoryError(f"takeover journal row has {len(data)} bytes, expected at most {_LARGEST_ROW}")
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError) as error:
        raise HistoryError(f"takeover journal row cannot be read: {error}") from None


class History:
    """The events of one takeover in order, and what follows from them."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events: list[Event] = list(events)

    @property
    def events(self) -> Sequence[Event]:
        """All events in order."""
        return self._events

    def add(self, event: Event) -> None:
        """Append one event."""
        self._events.append(event)

    @property
    def nonces(self) -> tuple[int, int] | None:
        """The random keys N and M of this takeover, once drawn."""
        for event in self._events:
            if isinstance(event, Nonces):
                return int(event.nonce, 16), int(event.temporary, 16)
        return None

    @property
    def settled(self) -> Settled | None:
        """What the guest is entitled to, as last settled."""
        return next((event for event in reversed(self._events) if isinstance(event, Settled)), None)

    def commands(self) -> list[tuple[Issued, Fate]]:
        """Every command that may have changed something, with its fate; without an answer it is unknown."""
        return [(event, fate) for event, fate in self._with_fates() if isinstance(event, Issued)]

    def _with_fates(self) -> list[tuple[Event, Fate]]:
        """Return the events in order, an announced command with its fate, which is unknown without an answer."""
        found: list[tuple[Event, Fate]] = []
        command = -1
        for event in self._events:
            if isinstance(event, Answered) and command >= 0:
                found[command] = (found[command][0], event.fate)
                continue
            if isinstance(event, Issued):
                command = len(found)
            found.append((event, Fate.UNKNOWN))
        return found

    def issued(self, *moves: Move) -> bool:
        """Whether a command of one of these moves was issued and not refused."""
        return any(command.move in moves and fate is not Fate.REFUSED for command, fate in self.commands())

    @property
    def touched(self) -> bool:
        """Whether this takeover may have registered the destination and has not unregistered it since."""
        state = False
        for command, fate in self.commands():
            if command.move in (Move.REGISTER_DESTINATION, Move.REGISTER_TEMPORARY) and fate is not Fate.REFUSED:
                state = True
            elif command.move == Move.UNREGISTER_DESTINATION and fate is Fate.GOOD:
                state = False
        return state

    @property
    def witnessed(self) -> bool:
        """Whether the source was still registered when the destination got K, so that K there is not a resurrection.

        Seen by reading, proven by an answer of the source, or by the PREEMPT that came before K (then K was only
        given to the destination because this takeover had removed the source).
        """
        state = False
        for event, fate in self._with_fates():
            if isinstance(event, Witnessed):
                state = True
            elif isinstance(event, Issued):
                if event.move == Move.UNREGISTER_DESTINATION and fate is Fate.GOOD:
                    state = False
                elif event.move == Move.SETTLE_DESTINATION and not event.source_alive:
                    state = state or fate is not Fate.REFUSED
                elif event.move in (Move.UNREGISTER_SOURCE, Move.REKEY_SOURCE):
                    state = state or fate is Fate.GOOD
        return state

    @property
    def preempts(self) -> list[tuple[Issued, Fate]]:
        """The PREEMPTs of K issued since the destination got its temporary key last."""
        found: list[tuple[Issued, Fate]] = []
        for command, fate in self.commands():
            if command.move in (Move.REGISTER_TEMPORARY, Move.REKEY_TEMPORARY):
                found.clear()
            elif command.move == Move.PREEMPT_GUEST:
                found.append((command, fate))
        return found

    @property
    def source_removed(self) -> bool:
        """Whether this takeover is known to have removed the source's registration."""
        for command, fate in self.commands():
            if fate is Fate.GOOD and command.move in REMOVES_SOURCE:
                return True
            if command.move == Move.SETTLE_DESTINATION and not command.source_alive:
                return True  # only sent after the source's registration was seen to be gone
        return False

    def counted(self) -> tuple[int, int]:
        """Return the least and the most these commands added to PRGENERATION, over all targets' ways of counting.

        A registration counts one. An unregistration counts none on LIO, one by the standard, two on tgt when it
        releases the reservation. A PREEMPT counts one, on SPDK one more for each registration removed.
        """
        least = most = 0
        for command, fate in self.commands():
            if fate is Fate.REFUSED:
                continue
            removes = int(command.sa_key, 16) == 0
            preempts = command.move in (Move.PREEMPT_GUEST, Move.PREEMPT_NONCE)
            least += 1 if fate is Fate.GOOD and not removes else 0
            most += 2 if removes or preempts else 1
        return least, most

    def guest_attentions(self, *, one_nexus: bool = False) -> tuple[Sense, ...]:
        """Return those of the noticed unit attentions that the guest must still see, each once, in order.

        What the destination had queued before this takeover touched it is the host's own and dropped, so is what a
        resumed process drains there first, except reservation events. On the source all are the guest's except the
        one that our own PREEMPT of the nonce caused there (2A/05, on tgt 2A/03), which is dropped exactly once.
        ``one_nexus``: the destination's are the guest's as well.
        """
        kept: dict[tuple[int, int, int], Sense] = {}
        touched = draining = False
        ours_pending = ours_dropped = False
        for event in self._events:
            if isinstance(event, Run):
                draining = True
            elif isinstance(event, Issued) and event.side is Side.DESTINATION and event.move != PROBE:
                touched, draining = True, False
                if event.move == Move.PREEMPT_NONCE and not ours_dropped:
                    ours_pending = True
            elif isinstance(event, Noticed):
                sense = Sense(event.key, event.asc, event.ascq, event.deferred)
                if event.side is Side.SOURCE and ours_pending and sense.code in _REGISTRATIONS_LOST:
                    ours_pending, ours_dropped = False, True
                    continue
                if (
                    not one_nexus
                    and event.side is Side.DESTINATION
                    and (not touched or (draining and sense.asc != _REGISTRATION_CHANGED))
                ):
                    continue
                kept.setdefault(sense.code, sense)
        return tuple(kept.values())


def registrations_lost(sense: Sense) -> bool:
    """Whether a unit attention says that registrations may be gone: 2A/03, 2A/05, or a reset."""
    return sense.code in _REGISTRATIONS_LOST or sense.asc == _RESET
