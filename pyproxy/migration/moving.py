"""Brings one unit's claim to this host, or lets go of it: what a migration does with ``restore`` and the store."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

from msgspec.structs import replace

from pyproxy.migration.capture import CheckpointRefusedError, take_checkpoint
from pyproxy.migration.checkpoint import Checkpoint, CheckpointError, decode_checkpoint, encode_checkpoint
from pyproxy.migration.guest import MigratingUnit
from pyproxy.migration.lent import lent_keys
from pyproxy.migration.messages import MAXIMUM_ATTENTIONS
from pyproxy.migration.peer import PeerError
from pyproxy.migration.record import UnitRecord
from pyproxy.migration.remote_port import RemotePort
from pyproxy.migration.repair import End as RepairEnd
from pyproxy.migration.repair import Repair, repair
from pyproxy.migration.restore import restore
from pyproxy.migration.work import Work
from pyproxy.reservation.attention import encode_attentions
from pyproxy.reservation.classify import Decision
from pyproxy.reservation.executor import Port
from pyproxy.reservation.facts import Nexus
from pyproxy.reservation.snapshot import SnapshotError
from pyproxy.reservation.state import NexusState, decode_state, encode_state
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.sense import REGISTRATIONS_PREEMPTED, RESERVATIONS_PREEMPTED
from pyproxy.scsi.transport_id import TransportId
from pyproxy.store.base import Store

log = logging.getLogger(__name__)

DEVICE_ERRORS: Final = (OSError, SnapshotError, CheckpointRefusedError, DecodeError)
"""What reading a unit, or writing a claim down, can raise."""

_LOST: Final = frozenset({Decision.FENCED, Decision.POWER_LOST})
_AGAIN: Final = frozenset({Decision.UNSETTLED, Decision.UNDECIDED, Decision.SOURCE_NEEDED})


class End(StrEnum):
    """How an attempt to bring a claim here ended."""

    HERE = auto()
    """It is here, or it is lost to a fence, which the guest is told: either way the guest may go on here."""
    THERE = auto()
    """It cannot come here; it is where it was."""
    AGAIN = auto()
    """Not decided yet."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of one unit's claim, with the record that says so; ``moved`` in it is the claim as it is here."""

    end: End
    unit: UnitRecord


def key_of(claim: str) -> int:
    """Return the guest's key in a checkpoint document, 0 where it was not registered."""
    return _decode(claim).key


def begun(store: Store, claim: str) -> bool:
    """Whether a takeover of that checkpoint has changed something here, or may have."""
    return store.journal_load(f"{_decode(claim).digest}.1") is not None


def bring(work: Work, unit: MigratingUnit, record: UnitRecord, claim: str) -> Moved:
    """Run the takeover of a claim to this host's nexus and read it back; safe to repeat. Raises StoreError."""
    migration = work.record
    try:
        checkpoint = _decode(claim)
        source: Port | None = None
        if record.same_nexus:
            source = unit.port
        elif not migration.peer_dead:
            source = RemotePort(work.peer, migration, unit.lun)
        with unit.lock:
            report = restore(
                checkpoint,
                unit.port,
                store=work.around.host.store,
                source=source,
                source_dead=migration.peer_dead and not record.same_nexus,
                destination_nexus=unit.nexus,
                source_nexus=_nexus(record) or checkpoint.nexus_name,
                fence_ruled_out=migration.fence_ruled_out,
                draw=work.around.draw,
                pause=work.around.pause,
            )
            ended = replace(record, decision=report.decision.value, sentence=report.sentence)
            if report.decision in _AGAIN:
                return Moved(End.AGAIN, ended)
            if not report.succeeded and report.decision not in _LOST:
                waiting = {sense.code for sense in checkpoint.pending}  # the source has these still
                heard = [sense.encode().hex() for sense in report.attentions if sense.code not in waiting]
                return Moved(End.THERE, replace(ended, heard=tuple(heard[:MAXIMUM_ATTENTIONS])))
            unit.load()
            return Moved(End.HERE, replace(ended, moved=encode_checkpoint(unit.capture()).decode()))
    except (*DEVICE_ERRORS, PeerError) as error:
        return Moved(End.AGAIN, replace(record, sentence=str(error)))
    except CheckpointError as error:
        return Moved(End.THERE, replace(record, decision="unreadable", sentence=str(error)))


def make_whole(work: Work, unit: MigratingUnit, record: UnitRecord, claim: str) -> Moved:
    """Take back what a dead host had begun to take over, whichever of the two nexuses has it; safe to repeat.

    Raises StoreError.
    """
    store, migration = work.around.host.store, work.record
    checkpoint = _decode(claim)

    def keep(found: Repair) -> None:
        work.save_unit(unit.lun, repair=found)

    try:
        with unit.lock:
            done = repair(
                unit,
                checkpoint,
                lent_keys(store, migration.migration, unit.lun),
                record.repair,
                keep,
                work.around.draw,
                fence_ruled_out=migration.fence_ruled_out,
            )
            if done.end in (RepairEnd.WHOLE, RepairEnd.FENCED):
                _settle(store, checkpoint, record.unit, whole=done.end is RepairEnd.WHOLE)
                unit.load()
                if done.end is RepairEnd.FENCED:
                    unit.heard(RESERVATIONS_PREEMPTED if checkpoint.held else REGISTRATIONS_PREEMPTED)
    except DEVICE_ERRORS as error:
        return Moved(End.AGAIN, replace(record, sentence=str(error)))
    ended = work.record.unit(unit.lun) or record
    if done.sentence:
        log.warning("%s LUN %d: %s", work.who, unit.lun, done.sentence)
        ended = replace(ended, sentence=done.sentence)
    if done.end is RepairEnd.UNSURE:
        return Moved(End.AGAIN, ended)
    if done.end is not RepairEnd.NOT_HERE:
        return Moved(End.HERE, ended)
    return bring(work, unit, *_as_taken(work, unit, ended, claim))


def _as_taken(work: Work, unit: MigratingUnit, record: UnitRecord, claim: str) -> tuple[UnitRecord, str]:
    """Write the claim down as the dead host has it, where the unit does not tell whose a key is.

    Then only what was lent shows that the guest's key is that host's; by the old claim it would be a stranger's.
    """
    store, checkpoint = work.around.host.store, _decode(claim)
    if _nexus(record) is not None or not store.lent_requests(work.record.migration, unit.lun):
        return record, claim
    state = NexusState(key=checkpoint.key, type=checkpoint.held, aptpl=checkpoint.nexus.aptpl, epoch=work.record.epoch)
    try:
        with unit.lock:
            taken = take_checkpoint(
                unit.port,
                guest=checkpoint.guest,
                lun=unit.lun,
                state=state,
                identity=checkpoint.identity,
                created_at=checkpoint.created_at,
                pending=checkpoint.pending,
                descriptor_sense=checkpoint.descriptor_sense,
                on_attention=unit.heard,
            )
    except DEVICE_ERRORS:
        return record, claim  # it is not there: what the old claim says of that is right
    document = encode_checkpoint(taken).decode()
    work.save_unit(unit.lun, moved=document)
    return replace(record, moved=document), document


def _settle(store: Store, claim: Checkpoint, name: str, *, whole: bool) -> None:
    """Keep what the guest has on this host's nexus after a repair."""
    record = store.load_nexus(claim.guest, name)
    epoch = max(claim.epoch, record.epoch if record is not None else 0)
    nexus = claim.nexus_name
    state = NexusState(
        key=claim.key if whole else 0,
        type=claim.held if whole else None,
        aptpl=claim.nexus.aptpl,
        generation=claim.shown.generation,
        epoch=epoch,
        transport_id=None if nexus is None else nexus.transport_id,
        rtpi=None if nexus is None else nexus.rtpi,
    )
    attentions = record.attentions if record is not None else encode_attentions(())
    _save(store, claim.guest, name, state, attentions, "taken-back")


def _save(store: Store, guest: str, name: str, state: NexusState, attentions: bytes, resolution: str) -> None:
    """Keep a state that answers every PERSISTENT RESERVE OUT of unknown outcome."""
    store.save_nexus(
        guest,
        name,
        encode_state(state),
        epoch=state.epoch,
        attentions=attentions,
        resolve=[intent.id for intent in store.open_intents(guest, name)],
        resolution=resolution,
    )


def let_go(work: Work, unit: MigratingUnit, name: str) -> None:
    """Forget what the guest had on this host's nexus to the unit of that name: it is another host's now.

    What the unit itself answers is only logged. Raises StoreError.
    """
    try:
        _forget(work.around.host.store, unit, work.record.guest, name)
    except DEVICE_ERRORS as error:
        log.warning("%s LUN %d: what is left here cannot be read: %s", work.who, unit.lun, error)


def _forget(store: Store, unit: MigratingUnit, guest: str, name: str) -> None:
    """Let the store and the snooper know of nothing; the epoch stays, so that an older checkpoint is recognised."""
    with unit.lock:
        record = store.load_nexus(guest, name)
        if record is None:
            return
        known = decode_state(record.state) if record.state else NexusState()
        nothing = NexusState(aptpl=known.aptpl, generation=known.generation, epoch=record.epoch)
        _save(store, guest, name, nothing, encode_attentions(()), "moved-to-another-host")
        unit.load()


def _decode(claim: str) -> Checkpoint:
    return decode_checkpoint(claim.encode())


def _nexus(record: UnitRecord) -> Nexus | None:
    """How READ FULL STATUS names the other host's nexus, as that host says."""
    other = record.other
    if other is None or other.initiator is None:
        return None
    return Nexus(TransportId.parse(other.initiator), other.rtpi)
