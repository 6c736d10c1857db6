"""Notices what other initiators did and nothing announced: reads a unit again and again and compares.

A unit attention is lost where another program on the same path receives it, and some targets raise none. PRGENERATION
does not tell either: RESERVE and RELEASE do not count in it (SPC-4 5.13.2). So the keys and the reservation themselves
are compared with what is tracked.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from pyproxy.reservation.snapshot import Execute, Snapshot, SnapshotError, SnapshotFailure, drive, read_snapshot
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, Suspicion
from pyproxy.scsi.constants import PrType

log = logging.getLogger(__name__)

_STAY_OPEN: Final = frozenset({Suspicion.AMBIGUOUS_HOLDER, Suspicion.AMBIGUOUS_KEY, Suspicion.UNKNOWN_TYPE})
"""What reading once more does not answer as long as the device shows the same."""


class Difference(StrEnum):
    """What a device shows that is not as tracked."""

    KEY_GONE = "own-key-gone"
    RESERVATION_GONE = "own-reservation-gone"
    TYPE_CHANGED = "own-reservation-type-changed"
    HOLDER_CHANGED = "held-by-another-nexus"
    RESERVATION_GAINED = "reservation-not-tracked"
    REGISTRATIONS_CHANGED = "registrations-of-others-changed"
    RESERVATION_CHANGED = "reservation-of-others-changed"


class Polled(StrEnum):
    """How one look at a unit ended."""

    LEVEL = "as-tracked"
    RESYNCED = "resynced"
    UNREADABLE = "unreadable"
    BUSY = "busy"


class TryLock(Protocol):
    """The lock of a logical unit, as far as a poll needs it."""

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock; returns whether that succeeded."""

    def release(self) -> None:
        """Give the lock back."""


def difference(tracked: NexusState, seen: Snapshot, before: Snapshot | None = None) -> Difference | None:
    """Return how ``seen`` (keys and reservation) differs from ``tracked``, None where it does not.

    ``before`` is what was seen when nobody but other initiators could have changed anything since.
    """
    own = _own_difference(tracked, seen) if tracked.registered else None
    if own is not None or before is None:
        return own
    if Counter(seen.keys) != Counter(before.keys):
        return Difference.REGISTRATIONS_CHANGED
    if (seen.reservation_type, seen.reservation_key) != (before.reservation_type, before.reservation_key):
        return Difference.RESERVATION_CHANGED
    return None


def _own_difference(tracked: NexusState, seen: Snapshot) -> Difference | None:
    if tracked.key not in seen.keys:
        return Difference.KEY_GONE
    if tracked.type is not None:
        if seen.reservation_type is None:
            return Difference.RESERVATION_GONE
        if not seen.all_registrants and seen.reservation_key != tracked.key:
            return Difference.HOLDER_CHANGED
        return Difference.TYPE_CHANGED if seen.reservation_type != tracked.type else None
    alone = seen.reservation_key == tracked.key and seen.keys.count(tracked.key) == 1
    held = isinstance(seen.reservation_type, PrType) and (seen.all_registrants or alone)
    return Difference.RESERVATION_GAINED if held else None


@dataclass(frozen=True, slots=True)
class _Baseline:
    """What was seen last, and what was tracked then: comparable as long as the guest changed nothing itself."""

    seen: Snapshot
    snooper: Snooper
    last_read: Snapshot | None
    key: int
    type: PrType | None

    @classmethod
    def of(cls, seen: Snapshot, snooper: Snooper) -> _Baseline:
        state = snooper.state
        return cls(seen, snooper, snooper.last_snapshot, state.key, state.type)

    def holds(self, snooper: Snooper) -> bool:
        state = snooper.state
        same_read = self.snooper is snooper and self.last_read is snooper.last_snapshot
        return same_read and (self.key, self.type) == (state.key, state.type)


class UnitPoll:
    """Looks at one guest's unit again and again; ``run`` is called by one thread at a time."""

    def __init__(self) -> None:
        self._baseline: _Baseline | None = None
        self._failure: SnapshotFailure | None = None

    def run(self, snooper: Snooper, lock: TryLock, execute: Execute) -> Polled:
        """Compare once, and bring the tracked state level where it differs; never waits for ``lock``.

        ``lock`` is the logical unit's, which the guest's PERSISTENT RESERVE OUTs take. Unit attentions that the reads
        receive are the guest's and go to its queue.
        """
        if not lock.acquire(blocking=False):
            return Polled.BUSY
        try:
            return self._look(snooper, execute)
        finally:
            lock.release()

    def _look(self, snooper: Snooper, execute: Execute) -> Polled:
        try:
            seen = drive(read_snapshot(full_status=False, capabilities=False), execute)
        except SnapshotError as error:
            snooper.received(*error.unit_attentions)
            return self._failed(snooper, error)
        snooper.received(*seen.unit_attentions)
        if self._failure is not None:
            log.info("%s: its registrations can be read again", snooper.name)
            self._failure = None
        baseline = self._baseline
        before = baseline.seen if baseline is not None and baseline.holds(snooper) else None
        found = difference(snooper.state, seen, before)
        if found is not None:
            log.warning("%s: a poll found it changed without notice (%s)", snooper.name, found)
            snooper.suspect(Suspicion.POLL_MISMATCH)
        moved = before is not None and before.generation != seen.generation
        if not moved and _STAY_OPEN.issuperset(snooper.state.suspect):
            self._baseline = _Baseline.of(seen, snooper)
            return Polled.LEVEL
        try:
            snooper.resync(execute)
        except SnapshotError as error:
            return self._failed(snooper, error)
        assert snooper.last_snapshot is not None
        self._baseline = _Baseline.of(snooper.last_snapshot, snooper)
        return Polled.RESYNCED

    def _failed(self, snooper: Snooper, error: SnapshotError) -> Polled:
        """Give up for now; told once for each reason, until the unit can be read again."""
        self._baseline = None
        if self._failure is not error.reason:
            self._failure = error.reason
            log.warning("%s: a poll could not read its registrations: %s", snooper.name, error)
        return Polled.UNREADABLE
