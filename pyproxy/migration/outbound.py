"""The source's side of a migration: gives the guest's claims to the destination, or takes them back."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from pyproxy.migration.checkpoint import encode_checkpoint
from pyproxy.migration.guest import MigratingUnit
from pyproxy.migration.messages import Abort, Ask, Close, Offer, Prepare, Progress
from pyproxy.migration.moving import DEVICE_ERRORS, End, Moved, bring, key_of, let_go, make_whole
from pyproxy.migration.peer import UNKNOWN_MIGRATION, PeerRefusedError
from pyproxy.migration.phases import (
    NEVER_SERVES,
    OVER,
    SERVES,
    DestinationPhase,
    Role,
    SourceEvent,
    SourcePhase,
    phase_of,
)
from pyproxy.migration.record import Record, UnitRecord
from pyproxy.migration.work import Surroundings, Work
from pyproxy.scsi.sense import decode_sense


@dataclass(frozen=True, slots=True)
class _Captured:
    """A unit with its claim, or with the sentence why there is none."""

    unit: UnitRecord
    refused: str = ""


class Outbound(Work):
    """One guest on its way from this host. ``verified``: the destination has every claim."""

    def __init__(self, around: Surroundings, record: Record) -> None:
        super().__init__(around, record)
        self.verified = False
        self._seen = ""

    @property
    def ready(self) -> bool:
        """See Work."""
        return self.phase is SourcePhase.OFFERED and self.verified

    @property
    def settled(self) -> bool:
        """Whether a guest that has stopped for this migration need not be held any longer."""
        return self.phase in OVER or self.ready

    def step(self) -> float | None:
        """See Work."""
        match self.phase:
            case SourcePhase.PREPARING:
                return self._prepare()
            case SourcePhase.DRAINING:
                return self._drain()
            case SourcePhase.CAPTURING:
                return self._capture()
            case SourcePhase.OFFERING:
                return self._offer()
            case SourcePhase.OFFERED | SourcePhase.ABORTING:
                return self._follow()
            case SourcePhase.RECLAIMING:
                return self._reclaim()
            case SourcePhase.RECLAIMED | SourcePhase.CANCELLED:
                self.around.settle_gate(self._record.guest)
                return self._tell(committed=False)
            case SourcePhase.RELEASED:
                return self._release()
        return None

    # Before anything is offered.

    def _prepare(self) -> float | None:
        host, record = self.around.host, self._record
        units = self.units()
        found = [problem for unit in units if (problem := unit.blocker()) is not None]
        answer: Progress | None = None
        if not found:
            request = Prepare(
                migration=record.migration,
                guest=record.guest,
                epoch=record.epoch,
                boot_id=host.boot_id,
                units=[unit.facts for unit in units],
            )
            try:
                answer = self.ask(request)
            except PeerRefusedError as refused:
                found = [str(refused)]
        if answer is None:
            self.feed(SourceEvent.REFUSED, text="; ".join(found) or self.text)
        elif answer.problems:
            self.feed(SourceEvent.REFUSED, text="; ".join(answer.problems))
        else:
            self.feed(SourceEvent.ACCEPTED, units=_with_nexuses(record, answer))
        return 0.0

    def _drain(self) -> float | None:
        host, guest = self.around.host, self._record.guest
        self.around.settle_gate(guest)
        if host.drain(guest, self.around.drain_seconds):
            self.feed(SourceEvent.DRAINED)
        else:
            text = (
                f"a command of the guest did not end within {self.around.drain_seconds:g} seconds; nothing was moved: "
                "see what its device waits for, and migrate again"
            )
            self.feed(SourceEvent.STUCK, text=text)
        return 0.0

    def _capture(self) -> float | None:
        captured = list(self.around.each(self._capture_one, self.units()))
        refused = [one.refused for one in captured if one.refused]
        if refused:
            self.feed(SourceEvent.NOT_CAPTURED, text="; ".join(refused))
        else:
            self.feed(SourceEvent.CAPTURED, units=tuple(one.unit for one in captured))
        return 0.0

    def _capture_one(self, unit: MigratingUnit) -> _Captured:
        record = self._record.unit(unit.lun)
        assert record is not None
        try:
            with unit.lock:
                blocker = unit.blocker()
                if blocker is not None:
                    return _Captured(record, blocker)
                document = encode_checkpoint(unit.capture()).decode()
        except DEVICE_ERRORS as error:
            return _Captured(record, str(error))
        return _Captured(msgspec.structs.replace(record, claim=document))

    # While only the destination may come to serve.

    def _offer(self) -> float | None:
        record = self._record
        claims = [unit.claim for unit in record.units if unit.claim is not None]
        request = Offer(migration=record.migration, guest=record.guest, epoch=record.epoch, checkpoints=claims)
        try:
            answer = self.ask(request)
        except PeerRefusedError as refused:
            return self._refused(refused)
        if answer is None:
            return self.later()
        return self._heard(answer)

    def _follow(self) -> float | None:
        """Ask until the destination serves, or never will; with ABORTING tell it first that it may not."""
        record, aborting = self._record, self.phase is SourcePhase.ABORTING
        migration, guest, epoch = record.migration, record.guest, record.epoch
        try:
            if aborting and self._seen != DestinationPhase.ABORTING:
                answer = self.ask(Abort(migration=migration, guest=guest, epoch=epoch))
            else:
                seen, wait = self._seen, self.around.ask_ms
                answer = self.ask(Ask(migration=migration, guest=guest, epoch=epoch, seen=seen, wait_ms=wait))
        except PeerRefusedError as refused:
            return self._refused(refused)
        if answer is None:
            self._seen = ""
            return self.later()
        return self._heard(answer)

    def _heard(self, answer: Progress) -> float | None:
        """Draw the consequence of what the destination says."""
        try:
            there = phase_of(Role.DESTINATION, answer.phase)
        except ValueError:
            self.say(f"{self._record.peer} is in phase {answer.phase}, which this version does not know")
            return self.later()
        again = self._seen == answer.phase and not self.around.ask_ms
        self._seen = answer.phase
        if there in SERVES:
            self.feed(SourceEvent.SERVING_THERE, units=_with_moved(self._record, answer))
        elif there in NEVER_SERVES:
            text = answer.text if there is DestinationPhase.FAILED else ""
            self.feed(SourceEvent.GIVEN_UP_THERE, text or "", units=_with_moved(self._record, answer))
        else:
            self.feed(SourceEvent.RECEIVED)
            self.say(f"{self._record.peer} is {there}{': ' if answer.text else ''}{answer.text}")
            if there is DestinationPhase.VERIFIED and not self.verified:
                # What the destination has now is all there is to go by should it die.
                self.save(units=_with_moved(self._record, answer))
                self.verified = True
                self.wake()
            return self.later() if again else 0.0
        return 0.0

    def _refused(self, refused: PeerRefusedError) -> float | None:
        if refused.reason == UNKNOWN_MIGRATION and self.feed(SourceEvent.UNKNOWN_THERE, str(refused)):
            return 0.0
        self.say(str(refused))
        return self.later()

    # The ends.

    def _reclaim(self) -> float | None:
        """Take back what the destination has taken over; where it has not, the claim never left."""
        self.save(attempt=self._record.attempt + 1)
        moved = list(self.around.each(self._reclaim_one, self.units()))
        waiting = [one.unit.sentence for one in moved if one.end is not End.HERE]
        if waiting:
            self.say("; ".join(waiting))
            return self.later()
        self.feed(SourceEvent.TAKEN_BACK, units=tuple(one.unit for one in moved))
        return 0.0

    def _reclaim_one(self, unit: MigratingUnit) -> Moved:
        record = self._record.unit(unit.lun)
        assert record is not None
        if record.moved is not None:
            return bring(self, unit, record, record.moved)
        claim = record.claim
        if self._record.peer_dead and claim is not None and key_of(claim) and not record.same_nexus:
            # A dead destination cannot say how far it came with the claim: the unit does.
            return make_whole(self, unit, record, claim)
        try:
            with unit.lock:
                unit.load()
                decoded = (decode_sense(bytes.fromhex(sense)) for sense in record.heard)
                unit.heard(*(sense for sense in decoded if sense is not None))
        except DEVICE_ERRORS as error:
            return Moved(End.AGAIN, msgspec.structs.replace(record, sentence=str(error)))
        return Moved(End.HERE, msgspec.structs.replace(record, heard=()))

    def _release(self) -> float | None:
        if not self._record.told:
            for unit in self.units():
                record = self._record.unit(unit.lun)
                assert record is not None
                let_go(self, unit, record.unit)
        return self._tell(committed=True)

    def _tell(self, *, committed: bool) -> float | None:
        """Let the destination know that it is over, however long that takes."""
        record = self._record
        if record.told:
            return None
        close = Close(migration=record.migration, guest=record.guest, epoch=record.epoch, committed=committed)
        if not record.peer_dead:
            try:
                if self.ask(close) is None:
                    return self.later()
            except PeerRefusedError as refused:
                if refused.reason != UNKNOWN_MIGRATION:
                    self.say(str(refused))
                    return self.later()
        with self.changed:
            self._text = ""
            self.save(told=True)
            self.changed.notify_all()
        return None


def _with_nexuses(record: Record, answer: Progress) -> tuple[UnitRecord, ...]:
    """Return the units with what the destination says of its paths to them."""
    others = {facts.lun: facts for facts in answer.paths}
    return tuple(
        msgspec.structs.replace(unit, other=others.get(unit.lun), same_nexus=unit.lun in answer.same_nexus)
        for unit in record.units
    )


def _with_moved(record: Record, answer: Progress) -> tuple[UnitRecord, ...]:
    """Return the units with the claims as the destination has them."""
    moved = {unit.lun: unit for unit in answer.units}
    return tuple(
        msgspec.structs.replace(
            unit,
            moved=moved[unit.lun].checkpoint,
            decision=moved[unit.lun].decision,
            sentence=moved[unit.lun].sentence,
            heard=tuple(moved[unit.lun].heard),
        )
        if unit.lun in moved
        else unit
        for unit in record.units
    )
