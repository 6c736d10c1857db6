"""The phases of a migration on each side, and what leads from one to the next: two tables, no I/O.

A migration is in one phase at a time on each side. Whoever drives it (``outbound``, ``inbound``) makes a phase durable
before it acts on it, and acts again after a restart: what a phase does may be repeated. A pair of phase and event that
has no row does not happen or means nothing there; ``next_phase`` says so by None.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, TypeAlias


class Role(StrEnum):
    """Which side of a migration a host is."""

    SOURCE = "source"
    DESTINATION = "destination"


class SourcePhase(StrEnum):
    """Where the guest comes from."""

    PREPARING = "preparing"
    """The destination is asked whether it can take the guest; nothing has changed."""
    ARMED = "armed"
    """The guest runs here; the handover begins when it stops."""
    DRAINING = "draining"
    """The gate is shut; the guest's commands come to their end."""
    CAPTURING = "capturing"
    """Each unit is read and the guest's claim written down."""
    OFFERING = "offering"
    """The claims go to the destination. From here on it alone may come to serve the guest, until it says otherwise."""
    OFFERED = "offered"
    """The destination has the claims and takes them over, with the source's help."""
    ABORTING = "aborting"
    """The guest goes on here: the destination is asked never to serve it, and to bring what it began to an end."""
    RECLAIMING = "reclaiming"
    """The destination will never serve the guest: what it took over is taken back."""
    RECLAIMED = "reclaimed"
    """Over: the guest is served here."""
    RELEASED = "released"
    """Over: the guest is served by the destination."""
    CANCELLED = "cancelled"
    """Over before anything was offered: the guest is served here as before."""


class DestinationPhase(StrEnum):
    """Where the guest goes to."""

    PREPARED = "prepared"
    """This host can take the guest, and serves it nothing until it has."""
    RECEIVED = "received"
    """The claims are durable here; nothing has been changed on a device."""
    REPLAYING = "replaying"
    """The claims are brought to this host's nexuses."""
    VERIFIED = "verified"
    """Every claim was read back from its unit; the guest may start."""
    SERVING = "serving"
    """The guest has started and is served here."""
    COMMITTED = "committed"
    """Over: the source knows that the guest is here."""
    ABORTING = "aborting"
    """The guest will never be served for this migration; what was begun is brought to an end."""
    ABORTED = "aborted"
    """Nothing moves here any more; the source takes back what is here."""
    FAILED = "failed"
    """A claim cannot be taken over, so the guest will never be served; the source takes back what is here."""
    CLOSED = "closed"
    """Over: the guest is the source's."""
    CANCELLED = "cancelled"
    """Over, by the operator's word that the guest may be served here."""


class SourceEvent(StrEnum):
    """What happens to a source."""

    ACCEPTED = "the destination can take the guest"
    REFUSED = "the destination cannot take the guest"
    STOPPED = "the guest has stopped"
    DRAINED = "its commands have ended"
    STUCK = "a command did not end in time"
    CAPTURED = "every claim is written down"
    NOT_CAPTURED = "a claim cannot be written down"
    RECEIVED = "the destination has the claims"
    UNKNOWN_THERE = "the destination does not know this migration"
    SERVING_THERE = "the destination serves the guest"
    GIVEN_UP_THERE = "the destination will never serve the guest"
    RESUMED = "the guest has started here"
    CANCEL = "the operator cancels"
    WITHDRAWN = "the guest's hypervisor does not receive it at the destination any more"
    DESTINATION_DEAD = "the operator says that the destination is dead"
    TAKEN_BACK = "every claim is here"
    RESTARTED = "the daemon was started again"


class DestinationEvent(StrEnum):
    """What happens to a destination."""

    OFFERED = "the claims arrive"
    BEGUN = "the takeover begins"
    VERIFIED = "every claim is here or lost to a fence"
    FAILED = "a claim cannot be taken over"
    STARTED = "the guest has started here"
    ABORT = "the source says that the guest goes on there"
    SETTLED = "what was begun has come to an end"
    COMMIT = "the source knows that the guest is here"
    CLOSE = "the source has the guest"
    CANCEL = "the operator cancels"
    SOURCE_DEAD = "the operator says that the source is dead"


Phase: TypeAlias = SourcePhase | DestinationPhase
Event: TypeAlias = SourceEvent | DestinationEvent

_S = SourcePhase
_SE = SourceEvent
_D = DestinationPhase
_DE = DestinationEvent

SOURCE_ROWS: Final[dict[tuple[SourcePhase, SourceEvent], SourcePhase]] = {
    (_S.PREPARING, _SE.ACCEPTED): _S.ARMED,
    (_S.PREPARING, _SE.REFUSED): _S.CANCELLED,
    (_S.PREPARING, _SE.CANCEL): _S.CANCELLED,
    (_S.PREPARING, _SE.RESTARTED): _S.CANCELLED,
    (_S.ARMED, _SE.STOPPED): _S.DRAINING,
    (_S.ARMED, _SE.CANCEL): _S.CANCELLED,
    (_S.ARMED, _SE.WITHDRAWN): _S.CANCELLED,
    # Nothing was offered yet, so the destination cannot serve the guest: the source goes on alone.
    (_S.DRAINING, _SE.DRAINED): _S.CAPTURING,
    (_S.DRAINING, _SE.STUCK): _S.CANCELLED,
    (_S.DRAINING, _SE.RESUMED): _S.CANCELLED,
    (_S.DRAINING, _SE.CANCEL): _S.CANCELLED,
    (_S.DRAINING, _SE.WITHDRAWN): _S.CANCELLED,
    (_S.DRAINING, _SE.RESTARTED): _S.CANCELLED,
    (_S.CAPTURING, _SE.CAPTURED): _S.OFFERING,
    (_S.CAPTURING, _SE.NOT_CAPTURED): _S.CANCELLED,
    (_S.CAPTURING, _SE.RESUMED): _S.CANCELLED,
    (_S.CAPTURING, _SE.CANCEL): _S.CANCELLED,
    (_S.CAPTURING, _SE.WITHDRAWN): _S.CANCELLED,
    (_S.CAPTURING, _SE.RESTARTED): _S.CANCELLED,
    # From here on only the destination's own word, or the operator's that it is dead, gives the guest back.
    (_S.OFFERING, _SE.RECEIVED): _S.OFFERED,
    (_S.OFFERING, _SE.UNKNOWN_THERE): _S.RECLAIMING,
    (_S.OFFERING, _SE.GIVEN_UP_THERE): _S.RECLAIMING,
    (_S.OFFERING, _SE.SERVING_THERE): _S.RELEASED,
    (_S.OFFERING, _SE.RESUMED): _S.ABORTING,
    (_S.OFFERING, _SE.CANCEL): _S.ABORTING,
    (_S.OFFERING, _SE.WITHDRAWN): _S.ABORTING,
    (_S.OFFERING, _SE.DESTINATION_DEAD): _S.RECLAIMING,
    (_S.OFFERED, _SE.SERVING_THERE): _S.RELEASED,
    (_S.OFFERED, _SE.GIVEN_UP_THERE): _S.RECLAIMING,
    (_S.OFFERED, _SE.RESUMED): _S.ABORTING,
    (_S.OFFERED, _SE.CANCEL): _S.ABORTING,
    (_S.OFFERED, _SE.WITHDRAWN): _S.ABORTING,
    (_S.OFFERED, _SE.DESTINATION_DEAD): _S.RECLAIMING,
    (_S.ABORTING, _SE.GIVEN_UP_THERE): _S.RECLAIMING,
    (_S.ABORTING, _SE.UNKNOWN_THERE): _S.RECLAIMING,
    (_S.ABORTING, _SE.SERVING_THERE): _S.RELEASED,
    (_S.ABORTING, _SE.DESTINATION_DEAD): _S.RECLAIMING,
    (_S.RECLAIMING, _SE.TAKEN_BACK): _S.RECLAIMED,
    (_S.RECLAIMING, _SE.DESTINATION_DEAD): _S.RECLAIMING,
    (_S.RELEASED, _SE.DESTINATION_DEAD): _S.RECLAIMING,
}
"""UNKNOWN_THERE leads nowhere from OFFERED: a destination that forgot what it received is the operator's case."""

DESTINATION_ROWS: Final[dict[tuple[DestinationPhase, DestinationEvent], DestinationPhase]] = {
    (_D.PREPARED, _DE.OFFERED): _D.RECEIVED,
    (_D.PREPARED, _DE.ABORT): _D.ABORTED,
    # Not as if it had never been: a hypervisor that does not ask may start the guest here all the same.
    (_D.PREPARED, _DE.CLOSE): _D.CLOSED,
    (_D.PREPARED, _DE.CANCEL): _D.CLOSED,
    (_D.RECEIVED, _DE.BEGUN): _D.REPLAYING,
    (_D.RECEIVED, _DE.ABORT): _D.ABORTED,
    (_D.RECEIVED, _DE.SOURCE_DEAD): _D.REPLAYING,
    (_D.REPLAYING, _DE.VERIFIED): _D.VERIFIED,
    (_D.REPLAYING, _DE.FAILED): _D.FAILED,
    (_D.REPLAYING, _DE.ABORT): _D.ABORTING,
    (_D.REPLAYING, _DE.SOURCE_DEAD): _D.REPLAYING,
    (_D.VERIFIED, _DE.STARTED): _D.SERVING,
    (_D.VERIFIED, _DE.ABORT): _D.ABORTED,
    # An ABORT that comes too late has no row: the phase in the answer refuses it.
    (_D.SERVING, _DE.COMMIT): _D.COMMITTED,
    (_D.SERVING, _DE.SOURCE_DEAD): _D.COMMITTED,
    (_D.ABORTING, _DE.SETTLED): _D.ABORTED,
    (_D.ABORTING, _DE.SOURCE_DEAD): _D.REPLAYING,
    (_D.ABORTED, _DE.CLOSE): _D.CLOSED,
    (_D.ABORTED, _DE.SOURCE_DEAD): _D.REPLAYING,
    (_D.FAILED, _DE.ABORT): _D.FAILED,
    (_D.FAILED, _DE.CLOSE): _D.CLOSED,
    (_D.FAILED, _DE.SOURCE_DEAD): _D.REPLAYING,
    (_D.CLOSED, _DE.SOURCE_DEAD): _D.REPLAYING,
    (_D.CLOSED, _DE.CANCEL): _D.CANCELLED,
}

OVER: Final[frozenset[Phase]] = frozenset(
    {_S.RECLAIMED, _S.RELEASED, _S.CANCELLED, _D.COMMITTED, _D.CLOSED, _D.CANCELLED}
)
"""Phases in which nothing is waited for."""

SERVED_HERE: Final[frozenset[Phase]] = frozenset(
    {_S.PREPARING, _S.ARMED, _S.RECLAIMED, _S.CANCELLED, _D.SERVING, _D.COMMITTED}
)
"""Phases in which this host serves the guest. In all others its gate is shut, but in ``UNDONE`` of a destination."""

UNDONE: Final[frozenset[Phase]] = frozenset({_S.CANCELLED, _D.CANCELLED})
"""The migration counts as if it had never been: what the one before it left decides who serves."""

HANDING_OVER: Final[frozenset[Phase]] = frozenset({_S.DRAINING, _S.CAPTURING, _S.OFFERING, _S.OFFERED})
"""Phases of a source whose guest has stopped for the migration, which nobody has called off."""

LENDING: Final[frozenset[Phase]] = frozenset({_S.OFFERING, _S.OFFERED, _S.ABORTING, _D.ABORTING, _D.ABORTED, _D.FAILED})
"""Phases in which the other side may send commands of a takeover through this host's nexus."""

NEVER_SERVES: Final[frozenset[Phase]] = frozenset({_D.ABORTED, _D.FAILED, _D.CLOSED, _D.CANCELLED})
"""Phases in whose answer a source reads that the guest is its own again, and that nothing moves any more."""

SERVES: Final[frozenset[Phase]] = frozenset({_D.SERVING, _D.COMMITTED})
"""Phases in whose answer a source reads that the guest is not its own any more."""


def next_phase(phase: Phase, event: Event) -> Phase | None:
    """Return where the event leads from the phase; None where it changes nothing."""
    if isinstance(phase, SourcePhase):
        return SOURCE_ROWS.get((phase, event)) if isinstance(event, SourceEvent) else None
    return DESTINATION_ROWS.get((phase, event)) if isinstance(event, DestinationEvent) else None


def phase_of(role: Role, text: str) -> Phase:
    """Return the phase of that name; raises ValueError."""
    return SourcePhase(text) if role is Role.SOURCE else DestinationPhase(text)
