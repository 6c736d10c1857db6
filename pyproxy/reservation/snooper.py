"""Follows what one guest does to the reservations of one logical unit, and keeps it durable and true.

PERSISTENT RESERVE IN and OUT of the guest pass through ``handle``; what other commands of the guest reveal arrives
by ``observe``; ``resync`` reads the device. A PERSISTENT RESERVE OUT is recorded before it is submitted, and what it
did is recorded before the guest sees GOOD.
"""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Final

from pyproxy.reservation import masking
from pyproxy.reservation.adopt import Adoption, adopt
from pyproxy.reservation.attention import PendingAttentions, encode_attentions
from pyproxy.reservation.durable import StateStore, StoredIntent
from pyproxy.reservation.events import (
    EventKind,
    InspectEvent,
    announces_loss,
    events_of,
    is_conflict,
    suspicion_of,
)
from pyproxy.reservation.intents import RecordedExecute, Submission, is_answer, keys_left_open, outcome_document
from pyproxy.reservation.naming import action_name, ending
from pyproxy.reservation.reconcile import (
    Reconciliation,
    Verdict,
    attention_for_loss,
    learn_nexus,
    reconcile,
    with_reservation,
)
from pyproxy.reservation.remembered import remembered
from pyproxy.reservation.snapshot import (
    Execute,
    Snapshot,
    SnapshotError,
    drive,
    read_reservation,
    read_snapshot,
)
from pyproxy.reservation.state import NexusState, Suspicion, encode_state
from pyproxy.reservation.tracking import TrackedNexus
from pyproxy.reservation.transfer import answer, check_condition, gather, received
from pyproxy.reservation.transitions import (
    Ask,
    Parameters,
    Transition,
    after_check_condition,
    after_conflict,
    apply,
    proves_registration,
    tells_own_key,
)
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PERSISTENT_RESERVE_OUT, PrInAction, PrOutAction, PrType, Status
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.sense import INTERNAL_TARGET_FAILURE, INVALID_FIELD_IN_CDB, LOGICAL_UNIT_NOT_READY, Sense
from pyproxy.scsi.transport_id import TransportId
from pyproxy.tally import Tally

log = logging.getLogger(__name__)

_CDB_SIZE: Final = 10
_LIST_LIMIT: Final = 0xFFFF
_OPEN_INTENTS: Final = 16
"""PERSISTENT RESERVE OUTs of unknown outcome after which no more are sent to a device that cannot be read."""


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
        self.commands = Tally()
        """PERSISTENT RESERVE commands of the guest, by service action and how they ended."""
        self.refused = Tally()
        """PERSISTENT RESERVE OUTs that could not be migrated, by why."""
        self.resyncs = Tally()
        """Readings of the device, by what was found."""
        self._last_snapshot: Snapshot | None
        self.saw_own_reservation = False
        """Whether ``last_snapshot`` has a reservation that was recorded under the guest's key."""
        self.last_reconciliation: Reconciliation | None
        self._store = store
        self._nexus = TrackedNexus(self.name)
        # Orders writes of the state document, so that the last one written is the newest.
        self._save_lock = threading.RLock()
        self._saved: tuple[bytes, int, bytes] | None
        self._configured = initiator, rtpi
        self.load()

    @property
    def state(self) -> NexusState:
        """What is known now, with the reasons it is suspect for."""
        return self._nexus.state

    @property
    def last_snapshot(self) -> Snapshot | None:
        """What was read last; None where nothing was since the state was loaded."""
        return self._last_snapshot

    @last_snapshot.setter
    def last_snapshot(self, seen: Snapshot | None) -> None:
        key = self._nexus.certain.key
        own = seen is not None and key != 0 and not seen.all_registrants and seen.reservation_key == key
        self._last_snapshot, self.saw_own_reservation = seen, own

    def load(self) -> None:
        """Start from what the store has, again where another (a takeover) has written it there since."""
        with self.unit_lock, self._save_lock:
            record = self._store.load_nexus(self.guest, self.identity_name)
            state, attentions = remembered(self.name, record, *self._configured)
            self.attentions.replace(*attentions)
            self.last_snapshot = None
            self.last_reconciliation = None
            self._saved = None
            self._nexus.load(state.suspected(Suspicion.RESTART))
            self._nexus_verified = False
            self._unresolved = bool(self._store.open_intents(self.guest, self.identity_name))

    def handle(self, command: Command, execute: Execute) -> Result:
        """Run a PERSISTENT RESERVE IN or OUT of the guest and return what the guest sees.

        ``execute`` sends a command through this nexus. What it raises (OSError) is raised again, after the state was
        marked accordingly.
        """
        try:
            result = self._handle(command, execute)
        except Exception:
            self.commands.add(action_name(command.cdb), "error")
            raise
        self.commands.add(action_name(command.cdb), ending(result))
        return result

    def _handle(self, command: Command, execute: Execute) -> Result:
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
        self._doubt(attentions)
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

    def adopt(self, execute: Execute, key: int | None = None) -> Adoption:
        """Take a registration that was made without us into the tracked state; see ``adopt.adopt``.

        Raises SnapshotError where the device cannot be read, and what the store raises.
        """
        with self.unit_lock:
            self._resync(execute)
            mark, tracked = self._nexus.mark(), self.state
            self._saved = None  # the probes write the state too
            recorded = RecordedExecute(
                self._store, self.guest, self.identity_name, tracked, execute, reason="adoption-probe"
            )
            try:
                found = drive(adopt(tracked, key), recorded)
            except SnapshotError as error:
                self._resync_failed(error)
                raise
            finally:
                self._ate(tuple(recorded.attentions))
                if recorded.lost:
                    self._unresolved = True
                    self.suspect(Suspicion.FATE_UNKNOWN)
            self.last_snapshot = found.snapshot
            log.log(logging.INFO if found.decision.certain else logging.WARNING, "%s: %s", self.name, found.sentence)
            if found.state is None:
                self._save(())
                return found
            if tracked.registered and not found.state.registered and not self._nexus.loss_announced:
                self.attentions.add(attention_for_loss(tracked, found.snapshot))
            self._settle(found.state, mark, self._older_intents(None))
            return found

    def flush(self) -> None:
        """Make the state and the unit attentions that wait for the guest durable; raises what the store raises."""
        self._write(())

    def _write(self, resolved: tuple[int, ...]) -> None:
        """Save what is not saved already: a resync that finds nothing new costs no commit."""
        with self._save_lock:
            document = (
                encode_state(self.state),
                self._nexus.certain.epoch,
                encode_attentions(self.attentions.pending),
            )
            if document == self._saved and not resolved:
                return
            self._saved = None
            state, epoch, attentions = document
            self._store.save_nexus(
                self.guest, self.identity_name, state, epoch=epoch, attentions=attentions, resolve=resolved
            )
            self._saved = document

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
                self.refused.add(refusal.reason.value)
                if self._nexus.may_log(refusal.reason):
                    log.warning(
                        "%s: PERSISTENT RESERVE OUT refused (%s), answered %s; its reservations could not be migrated",
                        self.name,
                        refusal.reason,
                        refusal.sense,
                    )
                return refusal.result(command, descriptor=self.attentions.descriptor)
        if self.migrate_pr or len(sent) <= _LIST_LIMIT:
            command = replace(command, data_out=sent)
        with self.unit_lock:
            if self._unresolved and not self._try_resync(execute) and self._too_many_open():
                return check_condition(LOGICAL_UNIT_NOT_READY, descriptor=self.attentions.descriptor, command=command)
            pending = self.report_attention(command)
            if pending is not None:
                return pending
            return self._submit(command, prout, data, execute)

    def _submit(self, command: Command, prout: PrOut, data: bytes, execute: Execute) -> Result:
        mark, before = self._nexus.mark(), self.state
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
            if not self.migrate_pr:
                self.suspect(Suspicion.STORE_FAILED)
                return execute(command)
            # NOT READY is what the standard has for reservation data that cannot be stored now: nothing was executed
            # and the guest may try again. BUSY would make it retry in silence until its own timeout.
            log.exception(
                "%s: PERSISTENT RESERVE OUT was not sent, because it could not be recorded; the guest got %s",
                self.name,
                LOGICAL_UNIT_NOT_READY,
            )
            return check_condition(LOGICAL_UNIT_NOT_READY, descriptor=self.attentions.descriptor, command=command)
        submission = Submission(intent, prout, Parameters.read(prout.action, data), mark)
        try:
            result = execute(command)
        except Exception as error:
            self._not_answered(submission, error)
            raise
        try:
            return self._answered(submission, command, result, before, execute)
        except Exception:
            self._lose_sight(submission, "what it changed could not be followed")
            raise

    def _not_answered(self, submission: Submission, error: Exception) -> None:
        if getattr(error, "fate_unknown", True):
            self._lose_sight(submission, str(error))
            return
        try:
            self._store.abandon_intent(submission.intent, "not-sent")
        except Exception:
            self._unresolved = True
            log.exception("%s: intent %d could not be closed; it is resolved by reading", self.name, submission.intent)

    def _lose_sight(self, submission: Submission, why: str) -> None:
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
        self, submission: Submission, command: Command, result: Result, before: NexusState, execute: Execute
    ) -> Result:
        conflict = is_conflict(result)
        if not is_answer(result):
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

    def _follow(self, submission: Submission, transition: Transition, execute: Execute) -> None:
        """Apply a transition after GOOD and read what it cannot tell, before the guest is answered."""
        proven = proves_registration(submission.prout, submission.parameters, self._nexus.certain.key)
        self._nexus.applied(transition.state, submission.mark, proven=proven)
        log.debug("%s: %s (%s): %s", self.name, submission.name, transition.reason, transition.state)
        prout = submission.prout
        registered = self._nexus.certain.registered and prout.action in (
            PrOutAction.REGISTER,
            PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY,
        )
        learn = registered and not self._nexus_verified
        if transition.ask is Ask.RESYNC:
            proven = tells_own_key(prout, submission.parameters)
            self._try_resync(execute, current=submission.intent, own_command=True, learn=learn, proven=proven)
        elif learn:
            self._read_nexus(execute, transition.ask)
        elif transition.ask is Ask.RESERVATION:
            self._read_reservation(execute)

    def _read_nexus(self, execute: Execute, ask: Ask) -> None:
        """Find out, right after a registration, under which TransportID the device lists this nexus."""
        try:
            snapshot = drive(read_snapshot(), self._hearing(execute))
        except SnapshotError as error:
            self._resync_failed(error)
            return
        self.last_snapshot = snapshot
        self._doubt(snapshot.unit_attentions)
        if self._nexus.certain.key not in snapshot.keys:
            self.suspect(Suspicion.POLL_MISMATCH)
        learnt = self._learn(self._nexus.certain, snapshot)
        if ask is Ask.RESERVATION:
            learnt = with_reservation(learnt, snapshot.generation, snapshot.reservation_type)
        self._nexus.change(lambda _: learnt)

    def _read_reservation(self, execute: Execute) -> None:
        try:
            reservation, attentions = drive(read_reservation(), self._hearing(execute))
        except SnapshotError as error:
            self._resync_failed(error)
            return
        self._doubt(attentions)
        self._nexus.change(lambda state: with_reservation(state, reservation.generation, reservation.type))

    def _record(self, submission: Submission, command: Command, result: Result, reason: str) -> Result:
        """Make the outcome durable; only then is GOOD the guest's."""
        try:
            with self._save_lock:
                self._saved = None
                self._store.complete_intent(
                    submission.intent,
                    outcome_document(result, reason),
                    encode_state(self.state),
                    encode_attentions(self.attentions.pending),
                )
        except Exception:
            self._unresolved = True
            self.suspect(Suspicion.STORE_FAILED)
            if not (result.good and self.migrate_pr):
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
    ) -> bool:
        try:
            self._resync(execute, current=current, own_command=own_command, learn=learn, proven=proven)
        except SnapshotError:
            log.debug("%s: state stays suspect", self.name, exc_info=True)
            return False
        return True

    def _too_many_open(self) -> bool:
        """Whether a guest that goes on trying would fill the store: nothing resolves what is open."""
        older = self._older_intents(None)
        return self.migrate_pr and older is not None and len(older) >= _OPEN_INTENTS

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
            snapshot = drive(read_snapshot(), self._hearing(execute))
        except SnapshotError as error:
            self._resync_failed(error)
            raise
        self.last_snapshot = snapshot
        tracked = self._nexus.certain
        if learn:
            tracked = self._learn(tracked, snapshot)
        possible = () if proven or older is None else keys_left_open(tracked, older)
        found = reconcile(tracked, snapshot, possible, loss_announced=self._nexus.loss_announced and not proven)
        self.last_reconciliation = found
        self.resyncs.add(found.verdict.value)
        level = found.verdict in (Verdict.LEVEL, Verdict.NOT_REGISTERED)
        if self._nexus.may_log(found.verdict):
            log.log(logging.INFO if level or own_command else logging.WARNING, "%s: %s", self.name, found.sentence)
        if found.verdict is Verdict.LOST and not own_command and not self._nexus.loss_announced and 0 not in possible:
            self.attentions.add(attention_for_loss(tracked, snapshot))
        doubtful = found.verdict is Verdict.AMBIGUOUS_KEY
        self._settle(found.state, mark, older, doubtful=doubtful, save=current is None)

    def _settle(
        self,
        state: NexusState,
        mark: int,
        older: list[StoredIntent] | None,
        *,
        doubtful: bool = False,
        save: bool = True,
    ) -> None:
        """Take over what was read; where nothing is ``doubtful`` it answers the open intents too."""
        self._nexus.settle(state, mark, doubtful=doubtful)
        resolved = () if older is None or doubtful else tuple(one.id for one in older)
        if save or resolved:
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
            self._write(resolved)
        except Exception:
            log.exception("%s: the state that was read could not be recorded", self.name)
            self.suspect(Suspicion.STORE_FAILED)
        else:
            for intent in resolved:
                log.info("%s: intent %d is resolved: %s", self.name, intent, self.state)

    def _resync_failed(self, error: SnapshotError) -> None:
        self.resyncs.add("failed")
        if self._nexus.may_log(error.reason):
            log.error("%s: its registrations could not be read: %s", self.name, error)
        self.suspect(Suspicion.RESYNC_FAILED)
        if error.unit_attentions:
            self._save(())

    def _hearing(self, execute: Execute) -> Execute:
        """Keep for the guest what our reads receive at once: its other commands do not wait for the last read."""

        def hears(command: Command) -> Result:
            result = execute(command)
            sense = result.decoded_sense
            if sense is not None and (sense.is_unit_attention or sense.deferred):
                self._ate((sense,))
            return result

        return hears

    def _ate(self, attentions: tuple[Sense, ...]) -> None:
        """Keep for the guest what our reads received in its place."""
        for sense in attentions:
            if sense.is_unit_attention:
                self._nexus.attention(sense.asc, sense.ascq, read=True)
        self.attentions.add(*attentions)

    def _doubt(self, attentions: tuple[Sense, ...]) -> None:
        self.suspect(*(suspicion_of(sense.asc, sense.ascq) for sense in attentions if sense.is_unit_attention))

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
        what = "holds or may hold it; it cannot be migrated until it releases it" if reserved else "released it"
        if self._nexus.may_log(f"SPC-2 RESERVE, {what}"):
            log.log(logging.WARNING if reserved else logging.INFO, "%s: SPC-2 RESERVE: the guest %s", self.name, what)
        self._save(())
