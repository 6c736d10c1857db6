"""Follows what one guest does to the reservations of one logical unit, and keeps it durable and true.

PERSISTENT RESERVE IN and OUT of the guest pass through ``handle``; what other commands of the guest reveal arrives
by ``observe``; ``resync`` reads the device. A PERSISTENT RESERVE OUT is recorded before it is submitted, and what it
did is recorded before the guest sees GOOD.
"""

from __future__ import annotations

import json
import logging
import threading
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Final

from pyproxy.reservation import masking
from pyproxy.reservation.attention import PendingAttentions, decode_attentions, encode_attentions
from pyproxy.reservation.durable import StateStore, StoredIntent
from pyproxy.reservation.events import (
    EventKind,
    InspectEvent,
    announces_loss,
    events_of,
    is_conflict,
    suspicion_of,
)
from pyproxy.reservation.reconcile import (
    Reconciliation,
    Verdict,
    attention_for_loss,
    learn_nexus,
    reconcile,
    with_reservation,
)
from pyproxy.reservation.snapshot import (
    Execute,
    Snapshot,
    SnapshotError,
    drive,
    read_reservation,
    read_snapshot,
)
from pyproxy.reservation.state import NexusState, Suspicion, decode_state, encode_state
from pyproxy.reservation.tracking import TrackedNexus
from pyproxy.reservation.transfer import answer, check_condition, gather, received
from pyproxy.reservation.transitions import (
    Ask,
    Parameters,
    Transition,
    after_check_condition,
    after_conflict,
    apply,
    possible_keys,
)
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PERSISTENT_RESERVE_OUT, PrInAction, PrOutAction, PrType, Status
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.sense import INTERNAL_TARGET_FAILURE, INVALID_FIELD_IN_CDB, LOGICAL_UNIT_NOT_READY, Sense
from pyproxy.scsi.transport_id import TransportId

log = logging.getLogger(__name__)

_CDB_SIZE: Final = 10
_LIST_LIMIT: Final = 0xFFFF
_DRIVER_STATUSES_WITH_ANSWER: Final = (0x00, 0x08)
"""DRIVER_OK and DRIVER_SENSE; others mean that the answer is not the device's."""

_PREEMPTING: Final = (PrOutAction.PREEMPT, PrOutAction.PREEMPT_AND_ABORT)

_TELLS_OWN_KEY: Final = (
    PrOutAction.REGISTER,
    PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY,
    PrOutAction.CLEAR,
    PrOutAction.REPLACE_LOST_RESERVATION,
)
"""Service actions after which, with GOOD, the sender's own key is known whatever it was before."""


@dataclass(frozen=True, slots=True)
class _Submission:
    """One PERSISTENT RESERVE OUT on its way."""

    intent: int
    prout: PrOut
    parameters: Parameters | None

    @property
    def name(self) -> str:
        known = next((action.name for action in PrOutAction if action == self.prout.action), None)
        return known.replace("_", " ") if known else f"service action {self.prout.action:02X}h"


class Snooper:
    """Tracks one guest's I_T nexus on one logical unit. Methods may be called from any thread.

    ``identity_name`` names the logical unit in the store and in log messages. ``initiator`` and ``rtpi`` are this
    nexus' TransportID and relative target port where known; else they are learnt from READ FULL STATUS after the
    first registration. ``unit_lock`` is shared by everybody in this process who changes reservations of the unit
    (``registry.UnitRegistry.lock``) and must be reentrant. With ``migrate_pr`` off everything passes verbatim.

    Raises what the store raises, and StateDocumentError, when the stored state cannot be loaded.
    """

    def __init__(
        self,
        guest: str,
        lun: int,
        identity_name: str,
        store: StateStore,
        *,
        migrate_pr: bool,
        initiator: TransportId | None = None,
        rtpi: int | None = None,
        unit_lock: AbstractContextManager[object] | None = None,
    ) -> None:
        self.guest = guest
        self.lun = lun
        self.identity_name = identity_name
        self.migrate_pr = migrate_pr
        self.unit_lock: AbstractContextManager[object] = unit_lock if unit_lock is not None else threading.RLock()
        self.name = f"guest {guest} LUN {lun} ({identity_name})"
        self.attentions = PendingAttentions(self.name)
        self.last_snapshot: Snapshot | None = None
        self.last_reconciliation: Reconciliation | None = None
        self._store = store
        self._nexus = TrackedNexus(self.name)
        # Orders writes of the state document, so that the last one written is the newest.
        self._save_lock = threading.RLock()
        self._unresolved = False
        self._nexus_verified = False
        self._load(initiator, rtpi)

    @property
    def state(self) -> NexusState:
        """What is known now, with the reasons it is suspect for."""
        return self._nexus.state

    def handle(self, command: Command, execute: Execute) -> Result:
        """Run a PERSISTENT RESERVE IN or OUT of the guest and return what the guest sees.

        ``execute`` sends a command through this nexus. What it raises (OSError) is raised again, after the state was
        marked accordingly.
        """
        pending = self.report_attention(command)
        if pending is not None:
            return pending
        if len(command.cdb) < _CDB_SIZE:
            return check_condition(INVALID_FIELD_IN_CDB, descriptor=self.attentions.descriptor, command=command)
        if command.cdb[0] == PERSISTENT_RESERVE_OUT:
            return self._pr_out(command, execute)
        return self._pr_in(command, execute)

    def report_attention(self, command: Command) -> Result | None:
        """Return the answer to a guest's command that has to carry a pending unit attention, else None.

        Such a command must not be sent to the device.
        """
        result = self.attentions.report(command)
        if result is not None:
            self._save(())
        return result

    def observe(self, event: InspectEvent) -> None:
        """Take note of what a completion of another command of this guest says; never blocks on the device."""
        kind = event.kind
        if kind is EventKind.UNIT_ATTENTION:
            self._saw_attention(event.asc, event.ascq)
        elif kind is EventKind.INFORMATION_LOST:
            self.suspect(Suspicion.INFORMATION_LOST)
        elif kind is EventKind.CONFLICT:
            if self._conflict_is_unexpected():
                self.suspect(Suspicion.MEDIUM_CONFLICT)
        else:
            self._spc2(kind is not EventKind.SPC2_RELEASED)

    def received(self, *attentions: Sense) -> None:
        """Keep for the guest the unit attentions that commands of others on this nexus received in its place.

        For whoever reads or identifies the device through this nexus other than by ``resync``.
        """
        self._ate(attentions)
        self.suspect(*(suspicion_of(sense.asc, sense.ascq) for sense in attentions if sense.is_unit_attention))
        if attentions:
            self._save(())

    def suspect(self, *reasons: Suspicion) -> None:
        """Mark the tracked state as possibly wrong until the next resync."""
        self._nexus.suspect(*reasons)

    def resync(self, execute: Execute) -> NexusState:
        """Read the device and bring the tracked state level with it; returns the state.

        Still suspect afterwards means that the device does not tell (``last_reconciliation``) or that the store failed.
        Raises SnapshotError, with the state left suspect, when the device cannot be read.
        """
        with self.unit_lock:
            self._resync(execute)
            return self.state

    def flush(self) -> None:
        """Make the state and the unit attentions that wait for the guest durable; raises what the store raises."""
        with self._save_lock:
            self._store.save_nexus(
                self.guest,
                self.identity_name,
                encode_state(self.state),
                epoch=self._nexus.certain.epoch,
                attentions=encode_attentions(self.attentions.pending),
            )

    def _load(self, initiator: TransportId | None, rtpi: int | None) -> None:
        record = self._store.load_nexus(self.guest, self.identity_name)
        state = NexusState()
        if record is not None:
            state = replace(decode_state(record.state) if record.state else state, epoch=record.epoch)
            self.attentions.add(*decode_attentions(record.attentions))
        if initiator is not None:
            known = state.rtpi if state.transport_id == initiator else None
            state = replace(state, transport_id=initiator, rtpi=rtpi if rtpi is not None else known)
        self._nexus.load(state.suspected(Suspicion.RESTART))
        self._unresolved = bool(self._store.open_intents(self.guest, self.identity_name))

    def _pr_in(self, command: Command, execute: Execute) -> Result:
        result = execute(command)
        self._watch(command, result)
        if self.migrate_pr and result.good and command.cdb[1] & 0x1F == PrInAction.REPORT_CAPABILITIES:
            masked = answer(command, masking.mask_capabilities(received(command, result)), result)
            return replace(masked, residual=result.residual)
        return result

    def _pr_out(self, command: Command, execute: Execute) -> Result:
        prout = PrOut.decode(command.cdb[:_CDB_SIZE])
        # One copy decides, is recorded and is sent: the guest may change its memory meanwhile.
        sent = gather(command, _LIST_LIMIT + 1)
        data = sent[: min(prout.parameter_list_length, _LIST_LIMIT)]
        if self.migrate_pr:
            refusal = masking.refuse(command.cdb, data)
            if refusal is not None:
                if self._nexus.may_log(refusal.reason):
                    log.warning(
                        "%s: PERSISTENT RESERVE OUT refused (%s), answered %s; its reservations could not be migrated",
                        self.name,
                        refusal.reason,
                        refusal.sense,
                    )
                return refusal.result(command, descriptor=self.attentions.descriptor)
        if len(sent) <= _LIST_LIMIT:
            command = replace(command, data_out=sent)
        with self.unit_lock:
            if self._unresolved:
                self._try_resync(execute)
            pending = self.report_attention(command)
            if pending is not None:
                return pending
            return self._submit(command, prout, data, execute)

    def _submit(self, command: Command, prout: PrOut, data: bytes, execute: Execute) -> Result:
        before = self.state
        try:
            intent = self._store.begin_intent(
                self.guest,
                self.identity_name,
                epoch=before.epoch,
                cdb=bytes(command.cdb),
                parameter_list=data,
                before=encode_state(before),
            )
        except Exception:
            # NOT READY is what the standard has for reservation data that cannot be stored now: nothing was executed
            # and the guest may try again. BUSY would make it retry in silence until its own timeout.
            log.exception(
                "%s: PERSISTENT RESERVE OUT was not sent, because it could not be recorded; the guest got %s",
                self.name,
                LOGICAL_UNIT_NOT_READY,
            )
            return check_condition(LOGICAL_UNIT_NOT_READY, descriptor=self.attentions.descriptor, command=command)
        submission = _Submission(intent, prout, Parameters.read(prout.action, data))
        try:
            result = execute(command)
        except Exception as error:
            self._not_answered(submission, error)
            raise
        return self._answered(submission, command, result, before, execute)

    def _not_answered(self, submission: _Submission, error: Exception) -> None:
        if getattr(error, "fate_unknown", True):
            self._lose_sight(submission, str(error))
            return
        try:
            self._store.abandon_intent(submission.intent, "not-sent")
        except Exception:
            self._unresolved = True
            log.exception("%s: intent %d could not be closed; it is resolved by reading", self.name, submission.intent)

    def _lose_sight(self, submission: _Submission, why: str) -> None:
        """Keep the intent open: only the device knows whether the command was executed."""
        self._unresolved = True
        log.error(
            "%s: whether %s was executed is not known (%s); intent %d stays open until the device was read",
            self.name,
            submission.name,
            why,
            submission.intent,
        )
        self.suspect(Suspicion.FATE_UNKNOWN)

    def _answered(
        self, submission: _Submission, command: Command, result: Result, before: NexusState, execute: Execute
    ) -> Result:
        conflict = is_conflict(result)
        if (result.host_status and not conflict) or (result.driver_status & 0x0F) not in _DRIVER_STATUSES_WITH_ANSWER:
            self._lose_sight(submission, f"host status {result.host_status:#x}, driver {result.driver_status:#x}")
            return result
        prout, parameters = submission.prout, submission.parameters
        if result.status == Status.GOOD:
            transition = apply(before, prout, parameters)
            self._follow(submission, transition, execute)
            return self._record(submission, command, result, transition.reason)
        if conflict:
            suspicion = after_conflict(before, prout, parameters)
            reason = "conflict"
        elif result.status == Status.CHECK_CONDITION:
            self._watch(command, result)
            suspicion = after_check_condition(prout, result.decoded_sense)
            reason = f"check-condition: {result.decoded_sense}"
        else:
            self._lose_sight(submission, f"status {result.status:02X}h")
            return result
        if suspicion is not None:
            self.suspect(suspicion)
            self._try_resync(execute, current=submission.intent)
        return self._record(submission, command, result, reason)

    def _follow(self, submission: _Submission, transition: Transition, execute: Execute) -> None:
        """Apply a transition after GOOD and read what it cannot tell, before the guest is answered."""
        self._nexus.applied(transition.state, proven=self._proves_registration(submission))
        log.debug("%s: %s (%s): %s", self.name, submission.name, transition.reason, transition.state)
        prout = submission.prout
        registered = self._nexus.certain.registered and prout.action in (
            PrOutAction.REGISTER,
            PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY,
        )
        learn = registered and not self._nexus_verified
        if transition.ask is Ask.RESYNC:
            proven = prout.action in _TELLS_OWN_KEY and submission.parameters is not None
            self._try_resync(execute, current=submission.intent, own_command=True, learn=learn, proven=proven)
        elif learn:
            self._read_nexus(execute, transition.ask)
        elif transition.ask is Ask.RESERVATION:
            self._read_reservation(execute)

    def _proves_registration(self, submission: _Submission) -> bool:
        """Whether GOOD proves what the nexus has registered, whatever unit attentions said before."""
        parameters = submission.parameters
        if parameters is None:
            return False
        if submission.prout.action in _TELLS_OWN_KEY:
            return True
        # RESERVE and RELEASE do not prove it: some targets do not look at the key.
        return submission.prout.action in _PREEMPTING and parameters.key == self._nexus.certain.key

    def _read_nexus(self, execute: Execute, ask: Ask) -> None:
        """Find out, right after a registration, under which TransportID the device lists this nexus."""
        try:
            snapshot = drive(read_snapshot(), execute)
        except SnapshotError as error:
            self._resync_failed(error)
            return
        self.last_snapshot = snapshot
        self._ate(snapshot.unit_attentions)
        learnt = self._learn(self._nexus.certain, snapshot)
        if ask is Ask.RESERVATION:
            learnt = with_reservation(learnt, snapshot.generation, snapshot.reservation_type)
        self._nexus.change(lambda _: learnt)

    def _read_reservation(self, execute: Execute) -> None:
        try:
            reservation, attentions = drive(read_reservation(), execute)
        except SnapshotError as error:
            self._resync_failed(error)
            return
        self._ate(attentions)
        self._nexus.change(lambda state: with_reservation(state, reservation.generation, reservation.type))

    def _record(self, submission: _Submission, command: Command, result: Result, reason: str) -> Result:
        """Make the outcome durable; only then is GOOD the guest's."""
        document = json.dumps({"status": result.status, "sense": result.sense.hex(), "reason": reason}).encode()
        try:
            with self._save_lock:
                self._store.complete_intent(
                    submission.intent,
                    document,
                    encode_state(self.state),
                    encode_attentions(self.attentions.pending),
                )
        except Exception:
            self._unresolved = True
            self.suspect(Suspicion.STORE_FAILED)
            if not result.good:
                log.exception(
                    "%s: the outcome of %s could not be recorded; it is resolved by reading the device",
                    self.name,
                    submission.name,
                )
                return result
            log.exception(
                "%s: %s was executed, but that could not be recorded; the guest got %s and must read its state",
                self.name,
                submission.name,
                INTERNAL_TARGET_FAILURE,
            )
            return check_condition(INTERNAL_TARGET_FAILURE, descriptor=self.attentions.descriptor, command=command)
        return result

    def _try_resync(
        self,
        execute: Execute,
        *,
        current: int | None = None,
        own_command: bool = False,
        learn: bool = False,
        proven: bool = False,
    ) -> None:
        try:
            self._resync(execute, current=current, own_command=own_command, learn=learn, proven=proven)
        except SnapshotError:
            log.debug("%s: state stays suspect", self.name, exc_info=True)

    def _resync(
        self,
        execute: Execute,
        *,
        current: int | None = None,
        own_command: bool = False,
        learn: bool = False,
        proven: bool = False,
    ) -> None:
        """Read the device under the unit's lock.

        ``current`` is the intent that is being answered: its caller records it. ``own_command``: what is found is the
        effect of the guest's own command, which no unit attention announces. ``learn``: the device just confirmed the
        registration. ``proven``: the tracked key is certain, whatever older intents are open.
        """
        mark = self._nexus.mark()
        older = self._older_intents(current)
        try:
            snapshot = drive(read_snapshot(), execute)
        except SnapshotError as error:
            self._resync_failed(error)
            raise
        self.last_snapshot = snapshot
        self._ate(snapshot.unit_attentions)
        tracked = self._nexus.certain
        if learn:
            tracked = self._learn(tracked, snapshot)
        possible = () if proven or older is None else self._possible_keys(tracked, older)
        found = reconcile(tracked, snapshot, possible, loss_announced=self._nexus.loss_announced and not proven)
        self.last_reconciliation = found
        level = found.verdict in (Verdict.LEVEL, Verdict.NOT_REGISTERED)
        log.log(logging.INFO if level or own_command else logging.WARNING, "%s: %s", self.name, found.sentence)
        if found.verdict is Verdict.LOST and not own_command and not self._nexus.loss_announced and 0 not in possible:
            self.attentions.add(attention_for_loss(tracked, snapshot))
        doubtful = found.verdict is Verdict.AMBIGUOUS_KEY
        self._nexus.settle(found.state, mark, doubtful=doubtful)
        resolved = () if older is None or doubtful else tuple(one.id for one in older)
        if current is None or resolved:
            self._save(resolved)
        if older is not None and len(resolved) == len(older):
            self._unresolved = Suspicion.STORE_FAILED in self.state.suspect

    def _older_intents(self, current: int | None) -> list[StoredIntent] | None:
        """Open intents but the one that is being answered; None when the store cannot tell."""
        if not self._unresolved:
            return []
        try:
            return [one for one in self._store.open_intents(self.guest, self.identity_name) if one.id != current]
        except Exception:
            log.exception("%s: open intents cannot be read; they stay open", self.name)
            self.suspect(Suspicion.STORE_FAILED)
            return None

    def _possible_keys(self, tracked: NexusState, intents: list[StoredIntent]) -> tuple[int, ...]:
        keys = [tracked.key]
        for intent in intents:
            prout = PrOut.decode(intent.cdb[:_CDB_SIZE])
            parameters = Parameters.read(prout.action, intent.parameter_list)
            keys += possible_keys(decode_state(intent.before), prout, parameters)
        return tuple(dict.fromkeys(keys))

    def _learn(self, tracked: NexusState, snapshot: Snapshot) -> NexusState:
        learnt = learn_nexus(tracked, snapshot)
        if snapshot.full is None or learnt.transport_id is not None:
            self._nexus_verified = True
        if tracked.transport_id is not None and learnt.transport_id != tracked.transport_id:
            log.warning(
                "%s: its registration is listed under %s, not under the configured %s; the device is believed, "
                "correct the configuration",
                self.name,
                learnt.transport_id,
                tracked.transport_id,
            )
        return learnt

    def _save(self, resolved: tuple[int, ...]) -> None:
        try:
            with self._save_lock:
                self._store.save_nexus(
                    self.guest,
                    self.identity_name,
                    encode_state(self.state),
                    epoch=self._nexus.certain.epoch,
                    attentions=encode_attentions(self.attentions.pending),
                    resolve=resolved,
                )
        except Exception:
            log.exception("%s: the state that was read could not be recorded", self.name)
            self.suspect(Suspicion.STORE_FAILED)
        else:
            for intent in resolved:
                log.info("%s: intent %d is resolved: %s", self.name, intent, self.state)

    def _resync_failed(self, error: SnapshotError) -> None:
        self._ate(error.unit_attentions)
        log.error("%s: its registrations could not be read: %s", self.name, error)
        self.suspect(Suspicion.RESYNC_FAILED)

    def _ate(self, attentions: tuple[Sense, ...]) -> None:
        """Keep for the guest what our reads received in its place."""
        for sense in attentions:
            if sense.is_unit_attention:
                self._nexus.attention(sense.asc, sense.ascq)
        self.attentions.add(*attentions)

    def _watch(self, command: Command, result: Result) -> None:
        """Take note of how a PERSISTENT RESERVE command of the guest ended."""
        if result.status == Status.CHECK_CONDITION:
            self.attentions.note_format(result.sense)
        for event in events_of(command.cdb, result):
            if event.kind is not EventKind.CONFLICT:
                self.observe(event)

    def _saw_attention(self, asc: int, ascq: int) -> None:
        self._nexus.attention(asc, ascq)
        self.suspect(suspicion_of(asc, ascq))
        if announces_loss(asc, ascq):
            self._save(())

    def _conflict_is_unexpected(self) -> bool:
        """Whether the tracked state says that this nexus' commands may not conflict."""
        state = self._nexus.certain
        if state.holds:
            return True
        seen = self.last_snapshot.reservation_type if self.last_snapshot is not None else None
        open_to_registrants = isinstance(seen, PrType) and (seen.registrants_only or seen.all_registrants)
        return state.registered and open_to_registrants

    def _spc2(self, reserved: bool) -> None:
        if not self._nexus.set_spc2(reserved):
            return
        if reserved:
            log.warning(
                "%s: holds (or may hold) an SPC-2 RESERVE; it cannot be migrated until it releases it", self.name
            )
        else:
            log.info("%s: released its SPC-2 RESERVE", self.name)
        self._save(())
