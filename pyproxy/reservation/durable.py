"""What the snooper asks of durable state; ``pyproxy.store`` provides it, and knows nothing of SCSI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class StoredNexus(Protocol):
    """Last state of a guest on a logical unit; ``state`` is empty when only the epoch was set yet."""

    @property
    def state(self) -> bytes:
        """Document of ``state.encode_state``."""

    @property
    def attentions(self) -> bytes:
        """Document of ``attention.encode_attentions``."""

    @property
    def epoch(self) -> int:
        """How many takeovers there were."""


class StoredIntent(Protocol):
    """A PERSISTENT RESERVE OUT of which the outcome is not known."""

    @property
    def id(self) -> int:
        """Its number in the store."""

    @property
    def cdb(self) -> bytes:
        """The CDB, as submitted."""

    @property
    def parameter_list(self) -> bytes:
        """The parameter list, as submitted."""

    @property
    def before(self) -> bytes:
        """Document of the state before it."""


class StateStore(Protocol):
    """The part of ``pyproxy.store.base.Store`` the snooper uses; each change is durable when the method returns."""

    def load_nexus(self, guest: str, unit: str) -> StoredNexus | None:
        """Return the last state, or None."""

    def save_nexus(
        self,
        guest: str,
        unit: str,
        state: bytes,
        *,
        epoch: int,
        attentions: bytes | None = None,
        resolve: Sequence[int] = (),
    ) -> None:
        """Replace the state and close the intents it resolves."""

    def begin_intent(
        self, guest: str, unit: str, *, epoch: int, cdb: bytes, parameter_list: bytes, before: bytes
    ) -> int:
        """Record what is about to be submitted."""

    def complete_intent(self, intent: int, result: bytes, state: bytes, attentions: bytes | None = None) -> None:
        """Record an outcome and the state after it."""

    def abandon_intent(self, intent: int, reason: str) -> None:
        """Close an intent that was surely not executed."""

    def open_intents(self, guest: str | None = None, unit: str | None = None) -> Sequence[StoredIntent]:
        """Return intents without outcome, oldest first."""
