"""What the rest of pyproxy asks of durable state; documents inside are opaque bytes of whoever writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class StoreError(Exception):
    """Something could not be read or made durable; the message names the file, what happened and what to do."""


class StoreVersionError(StoreError):
    """The file was written by another version of pyproxy, or is not a pyproxy store at all."""


class StoreCorruptError(StoreError):
    """The file is damaged."""


class StaleEpochError(StoreError):
    """The writer's epoch is older than the store's: another takeover has claimed this guest and unit since."""


@dataclass(frozen=True, slots=True)
class NexusRecord:
    """State of one guest on one logical unit (``unit`` is the unit's identity name, never a device path).

    ``state`` and ``attentions`` are opaque documents (reservation.state, reservation.attention); ``epoch`` counts
    takeovers; ``state`` is empty when only the epoch was set yet. ``updated`` is the UTC time of the last change.
    """

    guest: str
    unit: str
    state: bytes
    attentions: bytes
    epoch: int
    updated: str


@dataclass(frozen=True, slots=True)
class Intent:
    """A PERSISTENT RESERVE OUT that was about to be submitted; open until its outcome is durable.

    ``before`` is the state document as it was then. ``result`` is None while open. ``outcome`` is None while open,
    else ``completed`` or the reason it was closed without a result of its own.
    """

    id: int
    guest: str
    unit: str
    epoch: int
    cdb: bytes
    parameter_list: bytes
    before: bytes
    result: bytes | None
    outcome: str | None
    started: str

    @property
    def open(self) -> bool:
        """Whether it is not known what the device did with the command."""
        return self.outcome is None


@dataclass(frozen=True, slots=True)
class JournalStep:
    """One command of a takeover: ``step`` was durable before it was sent, ``result`` (None: not known) after."""

    seq: int
    step: bytes
    result: bytes | None


@dataclass(frozen=True, slots=True)
class Journal:
    """A takeover: its ``document`` (checkpoint), ``plan`` name, 64-bit ``nonce`` (0: none) and steps in order.

    ``outcome`` is None until the takeover is closed.
    """

    takeover_id: str
    guest: str
    unit: str
    document: bytes
    plan: str
    nonce: int
    outcome: str | None
    steps: tuple[JournalStep, ...]
    started: str


@dataclass(frozen=True, slots=True)
class MigrationRow:
    """One migration of a guest as one side of it keeps it; ``document`` is opaque (migration.record).

    ``over``: nothing is waited for any more; of those only the latest are kept.
    """

    migration: str
    role: str
    guest: str
    document: bytes
    over: bool


@dataclass(frozen=True, slots=True)
class LentCommand:
    """A command sent through this host's nexus for another host's takeover; ``answer`` None: not known."""

    request: bytes
    answer: bytes | None


class Store(Protocol):
    """Durable state. Every method that changes something returns only when the change is durable.

    Methods may be called from any thread and by several processes on the same store. All raise StoreError.
    """

    def load_nexus(self, guest: str, unit: str) -> NexusRecord | None:
        """Return the record of a guest on a unit, or None when there is none."""

    def nexuses(self) -> list[NexusRecord]:
        """Return every record, ordered by guest and unit."""

    def save_nexus(
        self,
        guest: str,
        unit: str,
        state: bytes,
        *,
        epoch: int,
        attentions: bytes | None = None,
        resolve: Sequence[int] = (),
        resolution: str = "resolved-by-reading",
    ) -> None:
        """Replace a record, and close the open intents ``resolve`` with it in one transaction.

        ``attentions`` None leaves the pending unit attentions as they are. Raises StaleEpochError when the
        store's epoch is higher than ``epoch``.
        """

    def forget_nexus(self, guest: str, unit: str) -> None:
        """Remove a record and its intents; nothing happens when there is none."""

    def raise_epoch(self, guest: str, unit: str) -> int:
        """Add one to the epoch of a guest on a unit and return it; the first takeover makes it 1."""

    def begin_intent(
        self, guest: str, unit: str, *, epoch: int, cdb: bytes, parameter_list: bytes, before: bytes
    ) -> int:
        """Make durable that a PERSISTENT RESERVE OUT is about to be submitted; returns the intent's number.

        Raises StaleEpochError as ``save_nexus`` does: then nothing may be submitted.
        """

    def complete_intent(self, intent: int, result: bytes, state: bytes, attentions: bytes | None = None) -> None:
        """Make the outcome of an intent and the state after it durable, in one transaction."""

    def abandon_intent(self, intent: int, reason: str) -> None:
        """Close an intent whose command is certain not to have been executed, or whose effect was read back."""

    def open_intents(self, guest: str | None = None, unit: str | None = None) -> list[Intent]:
        """Return intents without outcome, oldest first, of one guest and unit or of all."""

    def intents(self, guest: str | None = None, unit: str | None = None) -> list[Intent]:
        """Return all intents that are kept, open and closed, oldest first."""

    def journal_open(
        self, takeover_id: str, document: bytes, plan: str, nonce: int, *, guest: str = "", unit: str = ""
    ) -> None:
        """Begin a takeover; StoreError when one of that id exists already."""

    def journal_step(self, takeover_id: str, seq: int, step: bytes) -> None:
        """Make a step durable before its command is sent; StoreError for an unknown, closed or repeated one."""

    def journal_result(self, takeover_id: str, seq: int, result: bytes) -> None:
        """Make the result of a step durable."""

    def journal_load(self, takeover_id: str) -> Journal | None:
        """Return a takeover with its steps, or None."""

    def journal_close(self, takeover_id: str, outcome: str) -> None:
        """End a takeover; it stays readable."""

    def journals(self, *, only_open: bool = True) -> list[Journal]:
        """Return takeovers, oldest first."""

    def migration_save(self, row: MigrationRow) -> None:
        """Make a migration's record durable, a new one or in place of what was there.

        With one that is over, what was lent for it is forgotten, and older ones of the guest that are over, but for the
        latest.
        """

    def migrations(self) -> list[MigrationRow]:
        """Return every migration, in the order they were begun."""

    def lent_begin(self, migration: str, lun: int, sequence: int, request: bytes) -> LentCommand | None:
        """Make durable that a command is about to be sent for another host; None where this is new.

        Where the number was used before, what is known of it is returned and nothing is changed.
        """

    def lent_answer(self, migration: str, lun: int, sequence: int, answer: bytes) -> None:
        """Make durable what became of such a command."""

    def lent_last(self, migration: str, lun: int) -> int:
        """Return the highest number used, -1 where none was."""

    def lent_requests(self, migration: str, lun: int) -> list[bytes]:
        """Return what was sent for the other host, or may have been, in order."""

    def close(self) -> None:
        """Release the store; safe to repeat."""
