"""Brings one unit's claim to this host, or lets go of it: what a migration does with ``restore`` and the store."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

from msgspec.structs import replace

from pyproxy.migration.capture import CheckpointRefusedError
from pyproxy.migration.checkpoint import Checkpoint, CheckpointError, decode_checkpoint, encode_checkpoint
from pyproxy.migration.guest import MigratingUnit
from pyproxy.migration.peer import PeerError
from pyproxy.migration.record import UnitRecord
from pyproxy.migration.remote_port import RemotePort
from pyproxy.migration.restore import restore
from pyproxy.migration.work import Work
from pyproxy.reservation.attention import encode_attentions
from pyproxy.reservation.classify import Decision
from pyproxy.reservation.executor import Port
from pyproxy.reservation.facts import Nexus
from pyproxy.reservation.snapshot import SnapshotError
from pyproxy.reservation.state import NexusState, decode_state, encode_state
from pyproxy.scsi.errors import DecodeError
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
                return Moved(End.THERE, ended)
            unit.load()
            return Moved(End.HERE, replace(ended, moved=encode_checkpoint(unit.capture()).decode()))
    except (*DEVICE_ERRORS, PeerError) as error:
        return Moved(End.AGAIN, replace(record, sentence=str(error)))
    except CheckpointError as error:
        return Moved(End.THERE, replace(record, decision="unreadable", sentence=str(error)))


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
        store.save_nexus(
            guest,
            name,
            encode_state(NexusState(aptpl=known.aptpl, generation=known.generation, epoch=record.epoch)),
            epoch=record.epoch,
            attentions=encode_attentions(()),
            resolve=[intent.id for intent in store.open_intents(guest, name)],
            resolution="moved-to-another-host",
        )
        unit.load()


def _decode(claim: str) -> Checkpoint:
    return decode_checkpoint(claim.encode())


def _nexus(record: UnitRecord) -> Nexus | None:
    """How READ FULL STATUS names the other host's nexus, as that host says."""
    other = record.other
    if other is None or other.initiator is None:
        return None
    return Nexus(TransportId.parse(other.initiator), other.rtpi)
