"""What a snapshot of the device says about one nexus: the tracked state brought level with the truth."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from pyproxy.reservation.snapshot import Snapshot
from pyproxy.reservation.state import NexusState, Suspicion
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.pr_in import RegistrationDescriptor
from pyproxy.scsi.sense import (
    POWER_ON_RESET_OR_BUS_DEVICE_RESET,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    Sense,
)


class Verdict(StrEnum):
    """What was found."""

    LEVEL = "as-tracked"
    NOT_REGISTERED = "not-registered"
    LOST = "registration-lost"
    KEY_CHANGED = "key-changed"
    ADOPTED = "registration-adopted"
    HOLDING_CHANGED = "reservation-changed"
    AMBIGUOUS_HOLDER = "ambiguous-holder"
    AMBIGUOUS_KEY = "ambiguous-key"
    UNKNOWN_TYPE = "unknown-reservation-type"


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """``state`` after the comparison (fresh, or suspect for what stayed open), the ``verdict`` and a sentence."""

    state: NexusState
    verdict: Verdict
    sentence: str


def reconcile(
    tracked: NexusState, snapshot: Snapshot, possible: tuple[int, ...] = (), *, loss_announced: bool = False
) -> Reconciliation:
    """Compare ``tracked`` with the device.

    ``possible`` are the keys the nexus may have (0: none) where commands of unknown outcome are open; without it
    that is the tracked key. ``loss_announced``: a unit attention said that the registration may be gone. READ FULL
    STATUS decides where it names this nexus' TransportID; else keys alone do, and what they cannot tell stays suspect
    instead of being guessed.
    """
    base = replace(
        tracked,
        generation=snapshot.generation,
        suspect=(),
        aptpl=snapshot.ptpl_active if snapshot.ptpl_active is not None else tracked.aptpl,
    )
    own = own_descriptors(tracked, snapshot)
    if own is not None and len(own) == 1:
        return _by_descriptor(tracked, base, own[0])
    if own == ():
        return _gone(tracked, base, snapshot, "READ FULL STATUS does not list its TransportID")
    possible = tuple(dict.fromkeys(possible)) or (tracked.key,)
    if loss_announced and 0 not in possible:
        possible = (*possible, 0)
    return _by_keys(tracked, base, snapshot, possible)


def with_reservation(state: NexusState, generation: int, reservation_type: int | None) -> NexusState:
    """Bring what is held level after a registration or a RELEASE, given READ RESERVATION's answer.

    Such a nexus holds nothing but an all-registrants reservation, which every registrant holds.
    """
    held = reservation_type if isinstance(reservation_type, PrType) and reservation_type.all_registrants else None
    return replace(state, type=held if state.registered else None, generation=generation)


def learn_nexus(state: NexusState, snapshot: Snapshot) -> NexusState:
    """Take this nexus' TransportID and target port from READ FULL STATUS.

    Only right after the device answered GOOD to this nexus' own registration: then the one descriptor with its key is
    this nexus. Unchanged where the key is shared or full status is not to be had.
    """
    if snapshot.full is None or not state.registered:
        return state
    mine = [descriptor for descriptor in snapshot.full if descriptor.key == state.key]
    if len(mine) != 1 or mine[0].transport_id is None:
        return state
    return replace(state, transport_id=mine[0].transport_id, rtpi=state.rtpi if mine[0].all_tg_pt else mine[0].rtpi)


def attention_for_loss(tracked: NexusState, snapshot: Snapshot) -> Sense:
    """Return the unit attention that goes with what took a registration, as far as the snapshot tells."""
    if snapshot.keys or snapshot.reservation_type is not None:
        return REGISTRATIONS_PREEMPTED
    if tracked.generation is not None and snapshot.generation < tracked.generation:
        return POWER_ON_RESET_OR_BUS_DEVICE_RESET
    return RESERVATIONS_PREEMPTED


def own_descriptors(tracked: NexusState, snapshot: Snapshot) -> tuple[RegistrationDescriptor, ...] | None:
    """Return the descriptors that name this nexus, several where nobody knows its target port.

    None where READ FULL STATUS or this nexus' TransportID is not to be had; empty proves that it has no registration.
    """
    if tracked.transport_id is None or snapshot.full is None:
        return None
    return tuple(
        descriptor
        for descriptor in snapshot.full
        if descriptor.transport_id == tracked.transport_id
        and (tracked.rtpi is None or descriptor.all_tg_pt or descriptor.rtpi == tracked.rtpi)
    )


def _by_descriptor(tracked: NexusState, base: NexusState, own: RegistrationDescriptor) -> Reconciliation:
    held = own.type if own.holder else None
    if held is not None and not isinstance(held, PrType):
        return _unknown_type(replace(base, key=own.key, type=None), held)
    state = replace(base, key=own.key, type=held, all_tg_pt=own.all_tg_pt)
    return _compared(tracked, state)


def _by_keys(tracked: NexusState, base: NexusState, snapshot: Snapshot, possible: tuple[int, ...]) -> Reconciliation:
    present = [key for key in possible if key and key in snapshot.keys]
    if not present:
        return _gone(tracked, base, snapshot, "none of its keys is registered")
    if len(possible) > 1 and (len(present) > 1 or 0 in possible or snapshot.keys.count(present[0]) > 1):
        keys = ", ".join("none" if key == 0 else f"{key:#018x}" for key in possible)
        return Reconciliation(
            base.suspected(Suspicion.AMBIGUOUS_KEY),
            Verdict.AMBIGUOUS_KEY,
            f"a unit attention or a command of unknown outcome leaves open which key the nexus has ({keys}), and the "
            "device does not say whose key is whose; configure the initiator's TransportID, or register again from the "
            "guest",
        )
    key = present[0]
    held = snapshot.reservation_type
    registered = replace(base, key=key)
    if held is None:
        return _compared(tracked, replace(registered, type=None))
    if not isinstance(held, PrType):
        if snapshot.reservation_key == key:
            return _unknown_type(replace(registered, type=None), held)
        return _compared(tracked, replace(registered, type=None))
    if held.all_registrants:
        return _compared(tracked, replace(registered, type=held))
    if snapshot.reservation_key != key:
        return _compared(tracked, replace(registered, type=None))
    if snapshot.keys.count(key) == 1:
        return _compared(tracked, replace(registered, type=held))
    return Reconciliation(
        replace(registered, type=held if tracked.type is not None else None).suspected(Suspicion.AMBIGUOUS_HOLDER),
        Verdict.AMBIGUOUS_HOLDER,
        f"{snapshot.keys.count(key)} nexuses share key {key:#018x} and one of them holds {held.name}; whether it is "
        "this one the device does not say: configure the initiator's TransportID",
    )


def _gone(tracked: NexusState, base: NexusState, snapshot: Snapshot, why: str) -> Reconciliation:
    state = replace(base, key=0, type=None, all_tg_pt=False)
    if not tracked.registered:
        return Reconciliation(state, Verdict.NOT_REGISTERED, "not registered, as tracked")
    return Reconciliation(
        state,
        Verdict.LOST,
        f"the registration with key {tracked.key:#018x} is gone ({why}; {len(snapshot.keys)} registrations remain)",
    )


def _unknown_type(state: NexusState, held: int) -> Reconciliation:
    return Reconciliation(
        state.suspected(Suspicion.UNKNOWN_TYPE),
        Verdict.UNKNOWN_TYPE,
        f"holds a reservation of type {held:X}h, which the standard does not define; it cannot be moved",
    )


def _compared(tracked: NexusState, state: NexusState) -> Reconciliation:
    if not tracked.registered:
        return Reconciliation(state, Verdict.ADOPTED, f"found {state}; adopted")
    if tracked.key != state.key:
        return Reconciliation(state, Verdict.KEY_CHANGED, f"was {tracked}; is {state}")
    if tracked.type != state.type:
        return Reconciliation(state, Verdict.HOLDING_CHANGED, f"was {tracked}; is {state}")
    return Reconciliation(state, Verdict.LEVEL, f"{state}, as tracked")
