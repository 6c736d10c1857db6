"""What a view of the device makes of tracked state.

host 1   port 1   nexus (A, 1)   ours, key K
host 2   port 1   nexus (B, 1)   a sibling, sometimes with the same key
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyproxy.reservation.reconcile import (
    Verdict,
    attention_for_loss,
    learn_nexus,
    reconcile,
    with_reservation,
)
from pyproxy.reservation.snapshot import Snapshot
from pyproxy.reservation.state import NexusState, Suspicion
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.pr_in import RegistrationDescriptor
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import SasTransportId

K, N, F = 0x1111, 0x2222, 0x9999
A, B = SasTransportId(bytes.fromhex("5001405000000001")), SasTransportId(bytes.fromhex("5001405000000002"))
WE, WE_RO, WE_AR = PrType(1), PrType(5), PrType(7)

TRACKED = NexusState(key=K, generation=4)
HOLDING = NexusState(key=K, type=WE, generation=4)


def seen(
    *keys: int, held: tuple[int, PrType | int] | None = None, full: tuple[RegistrationDescriptor, ...] | None = None
) -> Snapshot:
    key, kind = held or (0, None)
    return Snapshot(5, keys, key, kind, full)


@pytest.mark.parametrize(
    ("tracked", "snapshot", "key", "held", "verdict"),
    [
        # By keys alone, as where the device has no READ FULL STATUS.
        (TRACKED, seen(), 0, None, Verdict.LOST),
        (HOLDING, seen(F, held=(F, WE)), 0, None, Verdict.LOST),
        (HOLDING, seen(K, held=(K, WE)), K, WE, Verdict.LEVEL),
        (TRACKED, seen(K, held=(K, WE_RO)), K, WE_RO, Verdict.HOLDING_CHANGED),
        (HOLDING, seen(K, F, held=(F, WE)), K, None, Verdict.HOLDING_CHANGED),
        (TRACKED, seen(K, F, held=(0, WE_AR)), K, WE_AR, Verdict.HOLDING_CHANGED),
        (TRACKED, seen(K, K, held=(0, WE_AR)), K, WE_AR, Verdict.HOLDING_CHANGED),
        (TRACKED, seen(K, held=(K, WE_AR)), K, WE_AR, Verdict.HOLDING_CHANGED),  # SCST: stale key with type 7
        (HOLDING, seen(K), K, None, Verdict.HOLDING_CHANGED),
        (TRACKED, seen(K, K), K, None, Verdict.LEVEL),
        (HOLDING, seen(K, K, F, held=(F, WE)), K, None, Verdict.HOLDING_CHANGED),
        (NexusState(), seen(K, held=(K, WE)), 0, None, Verdict.NOT_REGISTERED),
        (NexusState(), seen(), 0, None, Verdict.NOT_REGISTERED),
    ],
)
def test_by_keys(tracked: NexusState, snapshot: Snapshot, key: int, held: PrType | None, verdict: Verdict) -> None:
    found = reconcile(tracked.suspected(Suspicion.RESTART), snapshot)
    assert (found.state.key, found.state.type, found.verdict) == (key, held, verdict)
    assert found.state.fresh
    assert found.state.generation == 5


@pytest.mark.parametrize("believed", [None, WE])
def test_shared_key_leaves_the_holder_open_and_the_belief_as_it_was(believed: PrType | None) -> None:
    found = reconcile(replace(TRACKED, type=believed), seen(K, K, held=(K, WE)))
    assert found.state.type is believed
    assert found.state.suspect == (Suspicion.AMBIGUOUS_HOLDER,)
    assert found.verdict is Verdict.AMBIGUOUS_HOLDER
    assert "2 nexuses share key" in found.sentence


def descriptor(
    key: int, name: SasTransportId, *, holder: int | None = None, rtpi: int = 1, everywhere: bool = False
) -> RegistrationDescriptor:
    return RegistrationDescriptor(key, holder is not None, everywhere, 0, PrType(holder) if holder else 0, rtpi, name)


NAMED = replace(TRACKED, transport_id=A, rtpi=1)


@pytest.mark.parametrize(
    ("tracked", "listed", "key", "held", "verdict"),
    [
        (NAMED, (descriptor(K, A, holder=1), descriptor(K, B)), K, WE, Verdict.HOLDING_CHANGED),
        (NAMED, (descriptor(K, A), descriptor(K, B, holder=1)), K, None, Verdict.LEVEL),
        # The key is there, but it is a sibling's: ours is gone.
        (NAMED, (descriptor(K, B, holder=1),), 0, None, Verdict.LOST),
        (NAMED, (descriptor(K, A, rtpi=2),), 0, None, Verdict.LOST),
        (NAMED, (descriptor(K, A, rtpi=2, everywhere=True),), K, None, Verdict.LEVEL),
        (replace(NAMED, rtpi=None), (descriptor(K, A, rtpi=7, holder=5),), K, WE_RO, Verdict.HOLDING_CHANGED),
        # Registered outside the guest, or with another key: the device is believed.
        (replace(NAMED, key=0), (descriptor(F, A, holder=7), descriptor(K, B, holder=7)), F, WE_AR, Verdict.ADOPTED),
        (NAMED, (descriptor(F, A),), F, None, Verdict.KEY_CHANGED),
    ],
)
def test_by_full_status(
    tracked: NexusState,
    listed: tuple[RegistrationDescriptor, ...],
    key: int,
    held: PrType | None,
    verdict: Verdict,
) -> None:
    holder = next((one for one in listed if one.holder), None)
    reservation = (holder.key, holder.type) if holder else None
    found = reconcile(tracked, seen(*(one.key for one in listed), held=reservation, full=listed))
    assert (found.state.key, found.state.type, found.verdict) == (key, held, verdict)
    assert found.state.fresh


def test_several_target_ports_and_nobody_knows_which_is_ours() -> None:
    listed = (descriptor(K, A, rtpi=1, holder=1), descriptor(K, A, rtpi=2))
    found = reconcile(replace(NAMED, rtpi=None), seen(K, K, held=(K, WE), full=listed))
    assert found.verdict is Verdict.AMBIGUOUS_HOLDER


@pytest.mark.parametrize(
    ("possible", "registered", "key", "verdict"),
    [
        ((K, N), (K, F), K, Verdict.LEVEL),  # the key change was not executed
        ((K, N), (N, F), N, Verdict.KEY_CHANGED),  # it was
        ((K, N), (F,), 0, Verdict.LOST),
        ((K, N), (K, N), K, Verdict.AMBIGUOUS_KEY),  # one of them is a sibling's
        ((K, N), (N, N), K, Verdict.AMBIGUOUS_KEY),
        ((K, 0), (F,), 0, Verdict.LOST),  # unregistered
        ((K, 0), (K,), K, Verdict.AMBIGUOUS_KEY),  # ours, or a sibling with the same key
    ],
)
def test_command_of_unknown_outcome(
    possible: tuple[int, ...], registered: tuple[int, ...], key: int, verdict: Verdict
) -> None:
    found = reconcile(TRACKED, seen(*registered), possible)
    assert (found.state.key, found.verdict) == (key, verdict)
    assert found.state.fresh is (verdict is not Verdict.AMBIGUOUS_KEY)


def test_full_status_settles_a_command_of_unknown_outcome() -> None:
    listed = (descriptor(N, A), descriptor(K, B))
    found = reconcile(NAMED, seen(N, K, full=listed), (K, N))
    assert (found.state.key, found.verdict) == (N, Verdict.KEY_CHANGED)
    assert found.state.fresh


def test_type_the_standard_does_not_have() -> None:
    found = reconcile(TRACKED, seen(K, held=(K, 0xB)))
    assert found.verdict is Verdict.UNKNOWN_TYPE
    assert found.state.suspect == (Suspicion.UNKNOWN_TYPE,)
    listed = (RegistrationDescriptor(K, holder=True, type=0xB, rtpi=1, transport_id=A),)
    assert reconcile(NAMED, seen(K, held=(K, 0xB), full=listed)).verdict is Verdict.UNKNOWN_TYPE
    assert reconcile(TRACKED, seen(K, F, held=(F, 0xB))).state.fresh


@pytest.mark.parametrize("active", [True, False, None])
def test_persistence_through_power_loss_is_the_units(active: bool | None) -> None:
    tracked = replace(TRACKED, aptpl=True)
    assert reconcile(tracked, replace(seen(K), ptpl_active=active)).state.aptpl is (True if active is None else active)


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (seen(F), Sense(6, 0x2A, 0x05)),
        (seen(), Sense(6, 0x2A, 0x03)),
        (replace(seen(), generation=0), Sense(6, 0x29, 0x00)),
    ],
)
def test_what_a_guest_is_told_that_lost_its_registration(snapshot: Snapshot, expected: Sense) -> None:
    assert attention_for_loss(TRACKED, snapshot).code == expected.code


def test_learning_who_we_are() -> None:
    mine, other = descriptor(K, A, rtpi=3), descriptor(F, B)
    learnt = learn_nexus(TRACKED, seen(K, F, full=(mine, other)))
    assert (learnt.transport_id, learnt.rtpi) == (A, 3)
    shared = seen(K, K, full=(mine, descriptor(K, B)))
    assert learn_nexus(TRACKED, shared) == TRACKED
    assert learn_nexus(TRACKED, seen(K)) == TRACKED
    nameless = seen(K, full=(RegistrationDescriptor(K),))
    assert learn_nexus(TRACKED, nameless) == TRACKED


@pytest.mark.parametrize(
    ("kind", "held"), [(None, None), (WE, None), (PrType(6), None), (0xB, None), (WE_AR, WE_AR), (PrType(8), PrType(8))]
)
def test_after_a_registration_only_an_all_registrants_reservation_is_held(
    kind: int | None, held: PrType | None
) -> None:
    assert with_reservation(TRACKED, 9, kind).type is held
    assert with_reservation(NexusState(), 9, kind).type is None
    assert with_reservation(TRACKED, 9, kind).generation == 9
