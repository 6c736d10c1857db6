"""Takes a guest's claim over to this host from a checkpoint; safe to repeat at any point.

The device is the truth: the unit is identified, the plan of ``reservation.plans`` reads it and moves what is still to
be moved, and the result is durable in the store before success is reported.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pyproxy.migration.checkpoint import Checkpoint, encode_checkpoint
from pyproxy.migration.unit import UnitError, UnitFound, identify
from pyproxy.reservation.attention import decode_attentions, encode_attentions
from pyproxy.reservation.classify import Decision, Source
from pyproxy.reservation.executor import Executor, Port, SentCommand
from pyproxy.reservation.facts import Facts, Nexus, describe_keys
from pyproxy.reservation.history import History, Side, decode_events
from pyproxy.reservation.outcome import Outcome
from pyproxy.reservation.plans import takeover
from pyproxy.reservation.snapshot import Snapshot, SnapshotError, drive, read_snapshot
from pyproxy.reservation.state import NexusState, decode_state, encode_state
from pyproxy.reservation.steps import StepKind
from pyproxy.scsi.sense import Sense
from pyproxy.store.base import Journal, NexusRecord, Store

log = logging.getLogger(__name__)

_ATTEMPTS: Final = 10_000
_KEPT_OPEN: Final = frozenset({Decision.UNSETTLED, Decision.UNDECIDED})
_CLAIM_LOST: Final = frozenset({Decision.FENCED, Decision.POWER_LOST})
_SUCCEEDED: Final = frozenset(decision.value for decision in Decision if decision.succeeded)


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """How a restore ended.

    ``sentence`` says it for the operator. ``procedure`` is P1, P2, P3 or empty (docs/takeover.md). ``commands`` is
    everything issued, in order; ``before`` and ``after`` are the first and last reading of the unit. ``attentions`` are
    the unit attentions the guest must be told on its next command, wherever it resumes; where the claim was
    taken over or lost they are also in the store. ``state`` is what was made durable for the guest on this host, None
    when nothing was.
    """

    decision: Decision
    sentence: str
    procedure: str
    commands: tuple[SentCommand, ...]
    before: Snapshot | None
    after: Snapshot | None
    attentions: tuple[Sense, ...]
    state: NexusState | None

    @property
    def succeeded(self) -> bool:
        """Whether the guest may start on this host with what it had."""
        return self.decision.succeeded

    @property
    def exit_status(self) -> int:
        """0 when it succeeded, else 1."""
        return 0 if self.succeeded else 1

    @property
    def service_actions(self) -> tuple[str, ...]:
        """Names of the PERSISTENT RESERVE OUT service actions that moved the claim, in order."""
        return tuple(command.name for command in self.commands if command.kind is StepKind.CHANGE)


def draw_key(taken: frozenset[int]) -> int:
    """Return a random 64-bit key that is neither 0 nor among ``taken``."""
    while True:
        key = secrets.randbits(64)
        if key and key not in taken:
            return key


def restore(
    checkpoint: Checkpoint,
    destination: Port,
    *,
    store: Store,
    source: Port | None = None,
    source_dead: bool = False,
    destination_nexus: Nexus | None = None,
    source_nexus: Nexus | None = None,
    fence_ruled_out: bool = False,
    draw: Callable[[frozenset[int]], int] = draw_key,
    pause: Callable[[float], None] = time.sleep,
) -> RestoreReport:
    """Bring what the checkpoint's guest has on its unit to the ``destination`` nexus.

    ``source`` is the source's nexus where this host can reach it; pass the same object as ``destination`` when both are
    one. ``source_dead`` is the operator's (or a fencing agent's) statement that the source has stopped for good; with
    neither, nothing is changed. ``destination_nexus`` and ``source_nexus`` say how READ FULL STATUS names the
    two, where known; the checkpoint's name is used for the source otherwise. ``fence_ruled_out`` answers a report that
    ended UNDECIDED. Everything the device can answer is a report, not an exception; StoreError passes through.

    Raises ValueError when both ``source`` and ``source_dead`` are given.
    """
    if source is not None and source_dead:
        raise ValueError("the source's device is given and the source is said to be dead; give one of the two")
    attempt = _Restore(checkpoint, destination, source, store)
    refusal = attempt.identify() or attempt.check_epoch()
    if refusal is not None:
        return refusal
    if checkpoint.key == 0:
        return attempt.not_registered(destination_nexus, source_nexus or checkpoint.nexus_name)
    if checkpoint.nexus.all_tg_pt:
        return attempt.report(
            Decision.UNSUPPORTED,
            "REFUSED, the guest is registered through every target port (ALL_TG_PT), which cannot be moved. Nothing "
            "was sent but INQUIRY",
        )
    kind = Source.ALIVE if source is not None else Source.DEAD if source_dead else Source.ABSENT
    facts = Facts(
        guest=checkpoint.guest,
        unit=attempt.unit,
        key=checkpoint.key,
        type=checkpoint.held,
        generation=checkpoint.shown.generation,
        keys=checkpoint.keys,
        reservation_key=checkpoint.reservation.key,
        reservation_type=checkpoint.reservation.type,
        aptpl=checkpoint.nexus.aptpl,
        source=kind,
        source_nexus=source_nexus or checkpoint.nexus_name,
        destination_nexus=destination_nexus,
        same_device=source is destination,
        vendor=attempt.found.vendor,
        fence_ruled_out=fence_ruled_out,
    )
    return attempt.take_over(facts, draw, pause)


class _Rows:
    """The journal of one attempt in the store; opened with the first row."""

    def __init__(
        self, store: Store, checkpoint: Checkpoint, unit: str, takeover_id: str, known: Journal | None
    ) -> None:
        self._store = store
        self._checkpoint = checkpoint
        self._unit = unit
        self.takeover_id = takeover_id
        self._open = known is not None
        self._next = known.steps[-1].seq + 1 if known is not None and known.steps else 0
        self.history = History()
        for step in known.steps if known is not None else ():
            for data in (step.step, step.result):
                for event in decode_events(data) if data is not None else ():
                    self.history.add(event)

    def ensure(self) -> None:
        if not self._open:
            document = encode_checkpoint(self._checkpoint)
            nonces = self.history.nonces
            self._store.journal_open(
                self.takeover_id,
                document,
                "takeover",
                nonces[0] if nonces is not None else 0,
                guest=self._checkpoint.guest,
                unit=self._unit,
            )
            self._open = True

    def issue(self, events: bytes) -> int:
        self.ensure()
        row = self._next
        self._store.journal_step(self.takeover_id, row, events)
        self._next = row + 1
        return row

    def answer(self, row: int, events: bytes) -> None:
        self._store.journal_result(self.takeover_id, row, events)

    def close(self, decision: Decision) -> None:
        if self._open:
            self._store.journal_close(self.takeover_id, decision.value)


class _Restore:
    """One call of ``restore``."""

    def __init__(self, checkpoint: Checkpoint, destination: Port, source: Port | None, store: Store) -> None:
        self._checkpoint = checkpoint
        self._destination = destination
        self._source = source
        self._store = store
        self.found: UnitFound
        self.unit = checkpoint.unit.name
        self._epoch = checkpoint.epoch + 1
        self._keep_open = False

    def identify(self) -> RestoreReport | None:
        """Match the logical unit on every given path; None when it is the checkpoint's."""
        try:
            self.found = identify(self._destination)
            both = [(self._destination, self.found)]
            if self._source is not None and self._source is not self._destination:
                both.append((self._source, identify(self._source)))
        except UnitError as error:
            return self.report(Decision.UNSETTLED, f"NOT FINISHED, {error}. Nothing was sent but INQUIRY")
        for port, found in both:
            if not self._checkpoint.identity.matches(found.identity):
                return self.report(
                    Decision.WRONG_UNIT,
                    f"REFUSED, {port.name} leads to logical unit {found.identity.name}, the checkpoint is of "
                    f"{self._checkpoint.unit.name}. Nothing was sent but INQUIRY: give a path to the right unit",
                )
        self.unit = self.found.identity.name
        return None

    def check_epoch(self) -> RestoreReport | None:
        """Find earlier attempts with this checkpoint; a report when it was used up or overtaken here."""
        known: Journal | None = None
        for number in range(1, _ATTEMPTS):
            takeover_id = f"{self._checkpoint.digest}.{number}"
            known = self._store.journal_load(takeover_id)
            if known is None or known.outcome is None or known.outcome in _SUCCEEDED:
                break
        record = self._store.load_nexus(self._checkpoint.guest, self.unit)
        # Only an attempt that is open or succeeded may have raised the epoch; else another checkpoint did.
        allowed = self._epoch if known is not None else self._checkpoint.epoch
        if record is not None and record.epoch > allowed:
            return self.report(
                Decision.OLDER,
                f"REFUSED, the checkpoint is older than what this host knows: it was made after takeover number "
                f"{self._checkpoint.epoch} of this guest's claim, this host took part in number {record.epoch}. "
                "Nothing was sent but INQUIRY: make a new checkpoint where the guest runs",
            )
        if known is not None and known.outcome in _SUCCEEDED:
            return self._used_up(known, record)
        self._rows = _Rows(self._store, self._checkpoint, self.unit, takeover_id, known)
        return None

    def _used_up(self, known: Journal, record: NexusRecord | None) -> RestoreReport:
        """Say that it was done before; reading through the nexus could eat a unit attention of the running guest."""
        state = decode_state(record.state) if record is not None and record.state else None
        if state is not None and self._checkpoint.key and not state.registered:
            return self.report(
                Decision.OLDER,
                f"REFUSED, this checkpoint was restored on this host at {known.started} UTC, and the guest has lost "
                "its registration here since: it was fenced, gave it up or was taken over by another host. Nothing was "
                "sent but INQUIRY: make a new checkpoint where the guest runs",
            )
        has = f"; it is {state}" if state is not None else ""
        return self.report(
            Decision.ALREADY_DONE,
            f"already done, this checkpoint was restored on this host at {known.started} UTC{has}. Nothing was sent "
            "but INQUIRY",
        )

    def not_registered(self, destination: Nexus | None, source: Nexus | None) -> RestoreReport:
        """Finish for a guest without a registration, unless the device shows that this is no longer true."""
        try:
            snapshot = drive(read_snapshot(), self._destination.execute)
        except (SnapshotError, OSError) as error:
            return self.report(Decision.UNSETTLED, f"NOT FINISHED, {error}. Restore again")
        for side, nexus, decision in (
            (Side.SOURCE, source, Decision.OLDER),
            (Side.DESTINATION, destination, Decision.DESTINATION_BUSY),
        ):
            keys = [one.key for one in snapshot.full or () if nexus is not None and nexus.names(one)]
            if keys:
                return self.report(
                    decision,
                    f"REFUSED, the guest had no registration, but the {side.value}'s nexus is registered with "
                    f"{describe_keys(keys)}. Nothing was sent but reads",
                    snapshot=snapshot,
                )
        report = self.report(
            Decision.NOT_REGISTERED, "the guest had no registration, nothing was sent but reads", snapshot=snapshot
        )
        return self._finished(report, NexusState(aptpl=snapshot.ptpl_active, generation=snapshot.generation))

    def take_over(
        self, facts: Facts, draw: Callable[[frozenset[int]], int], pause: Callable[[float], None]
    ) -> RestoreReport:
        """Run the plan and make its result durable."""
        history = self._rows.history
        resumed = bool(history.events)
        executor = Executor(self._destination, self._source, history, self._rows, pause=pause)
        outcome = executor.run(takeover(facts, history, draw))
        log.info("%s", outcome.sentence)
        report = RestoreReport(
            decision=outcome.decision,
            sentence=outcome.sentence,
            procedure=outcome.procedure,
            commands=executor.sent,
            before=outcome.before,
            after=outcome.after,
            attentions=self._attentions(outcome.attentions, outcome.decision),
            state=None,
        )
        self._keep_open = outcome.decision in _KEPT_OPEN or _left_behind(history, outcome)
        if outcome.decision.succeeded or outcome.decision in _CLAIM_LOST:
            return self._finished(report, _state(outcome, _destination_nexus(outcome, facts, resumed=resumed)))
        self._close(outcome.decision)
        return report

    def report(self, decision: Decision, text: str, *, snapshot: Snapshot | None = None) -> RestoreReport:
        """Build the report of a restore that changed nothing."""
        sentence = f"guest {self._checkpoint.guest} on {self.unit}: {text}"
        log.info("%s", sentence)
        attentions = self._attentions((), decision)
        return RestoreReport(decision, sentence, "", (), snapshot, snapshot, attentions, None)

    def _finished(self, report: RestoreReport, state: NexusState) -> RestoreReport:
        """Make the destination's state durable, raise the epoch where the claim is here now, close the journal."""
        guest = self._checkpoint.guest
        epoch = self._epoch if report.succeeded else self._checkpoint.epoch
        record = self._store.load_nexus(guest, self.unit)
        if record is not None and not report.succeeded:
            epoch = max(epoch, record.epoch)
        state = replace(state, epoch=epoch)
        if report.succeeded:
            self._rows.ensure()
        self._store.save_nexus(
            guest,
            self.unit,
            encode_state(state),
            epoch=epoch,
            attentions=encode_attentions(report.attentions),
            resolve=[intent.id for intent in self._store.open_intents(guest, self.unit)],
        )
        self._close(report.decision)
        return replace(report, state=state)

    def _close(self, decision: Decision) -> None:
        if not self._keep_open:
            self._rows.close(decision)

    def _attentions(self, seen: tuple[Sense, ...], decision: Decision) -> tuple[Sense, ...]:
        """Put together what waited for the guest at the checkpoint and what was seen since, each once.

        Where the guest did not leave its nexus, what waits is in the store: some may have been told since.
        """
        waiting = self._checkpoint.pending
        record = self._store.load_nexus(self._checkpoint.guest, self.unit)
        if decision is Decision.SAME_NEXUS and record is not None:
            waiting = decode_attentions(record.attentions)
        found: dict[tuple[int, int, int], Sense] = {}
        for sense in (*waiting, *seen):
            found.setdefault(sense.code, sense)
        return tuple(found.values())


def _left_behind(history: History, outcome: Outcome) -> bool:
    """Whether a random key of this attempt is still registered: only its journal tells what it is."""
    return outcome.after is not None and any(key in outcome.after.keys for key in history.nonces or ())


def _destination_nexus(outcome: Outcome, facts: Facts, *, resumed: bool) -> Nexus | None:
    """Tell how READ FULL STATUS names the destination: as known, or by the one registration that can only be its own.

    Where others share the key that is the one which appeared between the first and the last reading. A ``resumed``
    takeover may have found the destination registered, so what appeared since may be another nexus.
    """
    before, after = outcome.before, outcome.after
    if facts.destination_nexus is not None or not outcome.key or after is None or after.full is None:
        return facts.destination_nexus
    found = [one for one in after.full if one.key == outcome.key]
    if len(found) > 1 and not resumed and before is not None and before.full is not None:
        known = {(one.transport_id, one.rtpi) for one in before.full}
        found = [one for one in found if (one.transport_id, one.rtpi) not in known]
    if len(found) != 1 or found[0].transport_id is None:
        return None
    return Nexus(found[0].transport_id, None if found[0].all_tg_pt else found[0].rtpi)


def _state(outcome: Outcome, nexus: Nexus | None) -> NexusState:
    return NexusState(
        key=outcome.key,
        type=outcome.type,
        aptpl=outcome.aptpl,
        generation=outcome.after.generation if outcome.after is not None else None,
        transport_id=nexus.transport_id if nexus is not None else None,
        rtpi=nexus.rtpi if nexus is not None else None,
    )
