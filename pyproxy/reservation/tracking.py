"""The tracked state of one nexus as several threads see and change it, with the reasons it is doubted for."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from pyproxy.reservation.events import announces_loss, ends_spc2_reservation
from pyproxy.reservation.state import NexusState, Suspicion

log = logging.getLogger(__name__)

_PROVOKED_BY_GUEST: Final = frozenset(
    {
        Suspicion.PR_OUT_CONFLICT,
        Suspicion.PR_OUT_ERROR,
        Suspicion.MEDIUM_CONFLICT,
        Suspicion.UNEXPECTED_GOOD,
        Suspicion.RESYNC_FAILED,
    }
)
_LOGGED_PER_REASON: Final = 20

_LOSS_SUSPICIONS: Final = frozenset(
    {
        Suspicion.AMBIGUOUS_KEY,
        Suspicion.REGISTRATIONS_PREEMPTED,
        Suspicion.RESERVATIONS_PREEMPTED,
        Suspicion.RESET,
    }
)
"""Reasons of a stored state after which the registration may be gone although its key is still to be seen."""


class TrackedNexus:
    """Holds a NexusState and its suspicions. Methods may be called from any thread and never block on anything slow.

    ``name`` is how log messages name the nexus.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._loss_read = False
        self._loss_seen: int | None = None
        self._lock = threading.Lock()
        self._certain = NexusState()
        self._suspicions: dict[str, int] = {}
        self._sequence = 0
        self._logged: Counter[str] = Counter()

    @property
    def state(self) -> NexusState:
        """What is known now, with the reasons it is suspect for."""
        with self._lock:
            return self._certain.suspected(*self._suspicions)

    @property
    def certain(self) -> NexusState:
        """The state without its suspicions."""
        return self._certain

    @property
    def loss_announced(self) -> bool:
        """Whether a unit attention said, since the registration was last certain, that it may be gone."""
        return self._loss_read or self._loss_seen is not None

    def load(self, state: NexusState) -> None:
        """Start from a stored state; what it was suspect for stays."""
        with self._lock:
            self._certain = state.cleared()
            self._suspicions = dict.fromkeys(state.suspect, 0)
            self._loss_read, self._loss_seen = not _LOSS_SUSPICIONS.isdisjoint(state.suspect), None

    def suspect(self, *reasons: Suspicion) -> None:
        """Mark the state as possibly wrong until it was read."""
        with self._lock:
            self._sequence += 1
            new = [reason for reason in reasons if reason not in self._suspicions]
            self._suspicions.update(dict.fromkeys(reasons, self._sequence))
        for reason in new:
            if reason in _PROVOKED_BY_GUEST and not self.may_log(reason):
                continue
            log.warning(
                "%s: tracked reservation state may be wrong (%s); it is read from the device before it is used",
                self.name,
                reason,
            )

    def mark(self) -> int:
        """Return the moment to give to ``settle`` or ``applied``; take it before reading or sending."""
        with self._lock:
            return self._sequence

    def applied(self, state: NexusState, mark: int, *, proven: bool) -> None:
        """Take over what a command of the guest has made of the state; suspicions are added, none removed.

        ``proven``: the command's GOOD proves the registration, whatever unit attentions said before ``mark``.
        """
        with self._lock:
            if proven:
                self._forget_loss(mark)
            self._keep(state)
            self._sequence += 1
            for reason in state.suspect:
                self._suspicions.setdefault(reason, self._sequence)

    def settle(self, state: NexusState, mark: int, *, doubtful: bool) -> None:
        """Take over what was read: suspicions older than ``mark`` are replaced by those of ``state``.

        ``doubtful``: reading could not tell whether the registration is this nexus'.
        """
        with self._lock:
            if not doubtful:
                self._forget_loss(mark)
            self._keep(state)
            self._suspicions = {reason: at for reason, at in self._suspicions.items() if at > mark}
            self._suspicions.update(dict.fromkeys(state.suspect, self._sequence))

    def change(self, how: Callable[[NexusState], NexusState]) -> None:
        """Change what is certain; suspicions stay."""
        with self._lock:
            self._keep(how(self._certain))

    def attention(self, asc: int, ascq: int, *, read: bool = False) -> None:
        """Take note of a unit attention that reached this nexus.

        ``read``: one of our own reads received it, so that what this reading ends with is the younger.
        """
        with self._lock:
            if announces_loss(asc, ascq) and read:
                self._loss_read = True
            elif announces_loss(asc, ascq):
                self._sequence += 1
                self._loss_seen = self._sequence
            if ends_spc2_reservation(asc):
                self._certain = replace(self._certain, spc2_reserved=False)

    def set_spc2(self, reserved: bool) -> bool:
        """Note that the guest took or gave up an SPC-2 RESERVE; returns whether that is new."""
        with self._lock:
            changed = self._certain.spc2_reserved != reserved
            self._certain = replace(self._certain, spc2_reserved=reserved)
            return changed

    def may_log(self, what: str) -> bool:
        """Whether to log what a guest can cause at will: it must not be able to fill the log."""
        self._logged[what] += 1
        if self._logged[what] == _LOGGED_PER_REASON:
            log.warning("%s: it goes on (%s); this is not logged any more", self.name, what)
        return self._logged[what] < _LOGGED_PER_REASON

    def _forget_loss(self, mark: int) -> None:
        # One that another command of the guest received since may be younger than what is certain now.
        self._loss_read = False
        if self._loss_seen is not None and self._loss_seen <= mark:
            self._loss_seen = None

    def _keep(self, state: NexusState) -> None:
        # An SPC-2 RESERVE is noted by other threads meanwhile and never read from the device.
        self._certain = replace(state.cleared(), spc2_reserved=self._certain.spc2_reserved)
