"""The destination's side of a migration: takes the guest's claims over, then serves it, or never does."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pyproxy.migration.checkpoint import Checkpoint, CheckpointError, decode_checkpoint
from pyproxy.migration.guest import MigratingUnit
from pyproxy.migration.messages import Offer
from pyproxy.migration.moving import End, Moved, begun, bring, let_go
from pyproxy.migration.peer import PeerRefusedError
from pyproxy.migration.phases import OVER, DestinationEvent, DestinationPhase
from pyproxy.migration.record import UnitRecord
from pyproxy.migration.work import Work


class Inbound(Work):
    """One guest on its way to this host."""

    @property
    def ready(self) -> bool:
        """See Work."""
        return self.phase is DestinationPhase.VERIFIED

    def step(self) -> float | None:
        """See Work."""
        host, guest = self.around.host, self._record.guest
        match self.phase:
            case DestinationPhase.RECEIVED:
                self.feed(DestinationEvent.BEGUN)
                return 0.0
            case DestinationPhase.REPLAYING | DestinationPhase.ABORTING:
                return self._replay()
            case DestinationPhase.VERIFIED:
                if host.running(guest):
                    self.feed(DestinationEvent.STARTED)
                    return 0.0
                self.say("every claim is here; waits for the guest to start")
            case DestinationPhase.SERVING | DestinationPhase.COMMITTED:
                self.around.settle_gate(guest)
            case DestinationPhase.CLOSED:
                self._let_go()
            case DestinationPhase.CANCELLED:
                self.around.settle_gate(guest)
        if self.phase in OVER and not self._record.told:
            self.save(told=True)  # by the source, which said so itself
        return None

    def receive(self, offer: Offer) -> None:
        """Make the claims durable; raises PeerRefusedError where they are not this guest's."""
        with self.changed:
            if self.phase is not DestinationPhase.PREPARED:
                return
            claims = dict(self._claim(document) for document in offer.checkpoints)
            if set(claims) != {unit.lun for unit in self._record.units} or len(claims) != len(offer.checkpoints):
                raise PeerRefusedError(f"{self.who}: the claims are not of the units that were prepared", "wrong-units")
            units = tuple(msgspec.structs.replace(unit, claim=claims[unit.lun]) for unit in self._record.units)
            self.feed(DestinationEvent.OFFERED, units=units)

    def _claim(self, document: str) -> tuple[int, str]:
        try:
            checkpoint: Checkpoint = decode_checkpoint(document.encode(), f"{self.who}: a claim")
        except CheckpointError as error:
            raise PeerRefusedError(str(error), "wrong-claim") from None
        if checkpoint.guest != self._record.guest or checkpoint.epoch >= self._record.epoch:
            raise PeerRefusedError(
                f"{self.who}: a claim is of guest {checkpoint.guest} after takeover number {checkpoint.epoch}, this "
                f"migration is number {self._record.epoch}",
                "wrong-claim",
            )
        return checkpoint.lun, document

    def _replay(self) -> float | None:
        """Bring every claim here; once aborted, only those of which a takeover was begun."""
        aborting = self.phase is DestinationPhase.ABORTING
        self.save(attempt=self._record.attempt + 1)
        moved = list(self.around.each(self._settle_one if aborting else self._bring_one, self.units()))
        with self.changed:
            if (self.phase is DestinationPhase.ABORTING) is not aborting:
                return 0.0
            units = tuple(one.unit for one in moved)
            waiting = [one.unit.sentence for one in moved if one.end is End.AGAIN]
            refused = [one.unit.sentence for one in moved if one.end is End.THERE]
            if waiting:
                self.save(units=units)
                self.say("; ".join(waiting))
                return self.later()
            if aborting:
                self.feed(DestinationEvent.SETTLED, units=units)
            elif refused:
                self.feed(DestinationEvent.FAILED, units=units, text="; ".join(refused))
            else:
                self.feed(DestinationEvent.VERIFIED, units=units)
        return 0.0

    def _bring_one(self, unit: MigratingUnit) -> Moved:
        record = self._record.unit(unit.lun)
        assert record is not None
        assert record.claim is not None
        return bring(self, unit, record, record.claim)

    def _settle_one(self, unit: MigratingUnit) -> Moved:
        record = self._record.unit(unit.lun)
        assert record is not None
        if record.claim is None or not begun(self.around.host.store, record.claim):
            return Moved(End.HERE, record)
        return self._bring_one(unit)

    def _let_go(self) -> None:
        for unit in self.units():
            record = self._record.unit(unit.lun)
            if record is None or record.moved is None or self._record.told:
                continue
            let_go(self, unit, record.unit)


def unit_records(units: Sequence[MigratingUnit]) -> tuple[UnitRecord, ...]:
    """Begin the records of a guest's units."""
    return tuple(UnitRecord(lun=unit.lun, unit=unit.facts.unit.name) for unit in units)
