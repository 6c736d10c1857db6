"""Makes a checkpoint of one guest's claim, after checking it against the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, cast

from pyproxy.migration.checkpoint import (
    FORMAT,
    VERSION,
    Checkpoint,
    GuestNexus,
    ReservationType,
    Shown,
    Unit,
    decode_checkpoint,
    encode_checkpoint,
)
from pyproxy.reservation.executor import Port
from pyproxy.reservation.facts import Nexus, describe_keys, describe_reservation
from pyproxy.reservation.snapshot import Snapshot, SnapshotError, drive, read_snapshot
from pyproxy.reservation.state import NexusState
from pyproxy.scsi.constants import LU_SCOPE, PrType
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.pr_in import ReadReservation
from pyproxy.scsi.sense import Sense

_MAXIMUM_ATTENTIONS: Final = 16


class CheckpointRefusedError(Exception):
    """No checkpoint can be made now; the message names the guest, the reason and what to do."""


def take_checkpoint(
    port: Port,
    *,
    guest: str,
    lun: int,
    state: NexusState,
    identity: LogicalUnitIdentity,
    created_at: str,
    pending: Sequence[Sense] = (),
    descriptor_sense: bool = False,
    on_attention: Callable[[Sense], None] | None = None,
) -> Checkpoint:
    """Read the device through ``port`` and write down what the guest has there.

    The guest must be paused and its commands drained; ``state`` is what the snooper has after a resync that followed,
    ``identity`` the unit's. ``pending`` are the unit attentions that wait for the guest. What the reads here
    receive is added to them and given to ``on_attention``, because the guest must be told also when it goes on
    here. ``created_at`` is RFC 3339. Raises CheckpointRefusedError.
    """
    who = f"guest {guest} on {identity.name}"
    _require_movable(who, state, identity)
    try:
        snapshot = drive(read_snapshot(), port.execute)
    except SnapshotError as error:
        _give(error.unit_attentions, on_attention)
        raise CheckpointRefusedError(f"{who}: the registrations cannot be read: {error}") from None
    except OSError as error:
        raise CheckpointRefusedError(f"{who}: {port.name} does not answer: {error}") from None
    _give(snapshot.unit_attentions, on_attention)
    difference = _difference(state, snapshot)
    if difference:
        raise CheckpointRefusedError(
            f"{who}: {difference}; another node changed it, or the guest was not paused: resync and try again"
        )
    nexus = _name(state, snapshot)
    checkpoint = Checkpoint(
        format=FORMAT,
        version=VERSION,
        created_at=created_at,
        guest=guest,
        lun=lun,
        epoch=state.epoch,
        unit=Unit.of(identity),
        nexus=GuestNexus(
            key=f"{state.key:#018x}",
            type=_number(state.type),
            aptpl=state.aptpl if snapshot.ptpl_active is None else snapshot.ptpl_active,
            all_tg_pt=state.all_tg_pt,
            transport_id=None if nexus is None else str(nexus.transport_id),
            rtpi=None if nexus is None else nexus.rtpi,
        ),
        shown=Shown(
            generation=snapshot.generation,
            keys=[f"{key:#018x}" for key in snapshot.keys],
            reservation=_reservation(snapshot).hex(),
        ),
        attentions=[one.encode().hex() for one in _distinct((*pending, *snapshot.unit_attentions))],
        descriptor_sense=descriptor_sense,
    )
    return decode_checkpoint(encode_checkpoint(checkpoint), who)


def _require_movable(who: str, state: NexusState, identity: LogicalUnitIdentity) -> None:
    if state.spc2_reserved:
        raise CheckpointRefusedError(
            f"{who}: the guest holds an SPC-2 RESERVE, which cannot be moved to another host; have it RELEASE the unit"
        )
    if not state.fresh:
        raise CheckpointRefusedError(
            f"{who}: what is known of its reservation may not be true ({', '.join(state.suspect)}); resync first"
        )
    if state.all_tg_pt:
        raise CheckpointRefusedError(
            f"{who}: it is registered through every target port (ALL_TG_PT), which cannot be moved; have it register "
            "without"
        )
    if not identity.unique:
        raise CheckpointRefusedError(
            f"{who}: the unit has no world-wide unique name in VPD page 83h; another host could take a wrong one for it"
        )


def _difference(state: NexusState, snapshot: Snapshot) -> str:
    """Say where the tracked state and the device differ; empty when they agree."""
    shows = (
        f"the unit shows keys {describe_keys(snapshot.keys)} and reservation "
        f"{describe_reservation(snapshot.reservation_key, snapshot.reservation_type)}"
    )
    count = snapshot.keys.count(state.key)
    if state.registered and not count:
        return f"it is tracked as registered with {state.key:#018x}, but {shows}"
    if state.type is not None:
        key = snapshot.reservation_key
        if snapshot.reservation_type != state.type or (not state.type.all_registrants and key != state.key):
            return f"it is tracked as holder of {state.type.name.replace('_', ' ')}, but {shows}"
    elif state.registered and (
        snapshot.all_registrants or (snapshot.reservation_type is not None and _alone(state, snapshot))
    ):
        return f"it is tracked as registered without a reservation, but {shows}"
    if state.transport_id is not None and snapshot.full is not None:
        nexus = Nexus(state.transport_id, state.rtpi)
        found = {descriptor.key for descriptor in snapshot.full if nexus.names(descriptor)}
        if found != ({state.key} if state.registered else set()):
            return (
                f"READ FULL STATUS shows {nexus.transport_id} registered with {describe_keys(found)}, tracked is "
                f"{state.key:#018x}"
            )
    return ""


def _alone(state: NexusState, snapshot: Snapshot) -> bool:
    return snapshot.reservation_key == state.key and snapshot.keys.count(state.key) == 1


def _name(state: NexusState, snapshot: Snapshot) -> Nexus | None:
    """How READ FULL STATUS names the guest's nexus: as known, or the one descriptor that has its key."""
    found = [one for one in snapshot.full or () if state.registered and one.key == state.key]
    if state.transport_id is not None:
        rtpis = {one.rtpi for one in found if one.transport_id == state.transport_id and not one.all_tg_pt}
        return Nexus(state.transport_id, state.rtpi if state.rtpi is not None or len(rtpis) != 1 else rtpis.pop())
    if len(found) != 1 or found[0].transport_id is None:
        return None
    return Nexus(found[0].transport_id, None if found[0].all_tg_pt else found[0].rtpi)


def _number(kind: PrType | None) -> ReservationType | None:
    return None if kind is None else cast("ReservationType", int(kind))


def _reservation(snapshot: Snapshot) -> bytes:
    kind = snapshot.reservation_type
    return ReadReservation(snapshot.generation, snapshot.reservation_key, LU_SCOPE, kind).encode()


def _give(attentions: Sequence[Sense], receiver: Callable[[Sense], None] | None) -> None:
    if receiver is not None:
        for sense in attentions:
            receiver(sense)


def _distinct(attentions: Sequence[Sense]) -> list[Sense]:
    found: dict[tuple[int, int, int], Sense] = {}
    for sense in attentions:
        found.setdefault(sense.code, sense)
    return list(found.values())[:_MAXIMUM_ATTENTIONS]
