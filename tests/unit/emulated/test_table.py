"""The transition table as data: every state with every request, and every row is used."""

from __future__ import annotations

from itertools import product
from types import MappingProxyType

from pyproxy.device.emulated.reservations import (
    TABLE,
    Case,
    Nexus,
    PrOutRequest,
    Registration,
    Reservation,
    ReservationState,
    Rules,
    decide,
)
from pyproxy.scsi.constants import PrOutAction, PrType
from pyproxy.scsi.sense import INVALID_FIELD_IN_PARAMETER_LIST
from tests.unit.emulated.initiator import name

EVERY = tuple(Nexus(name(number), 1) for number in range(3))
KEYS = (0, 1, 2)
PREEMPTING = (PrOutAction.PREEMPT, PrOutAction.PREEMPT_AND_ABORT)


def states() -> list[ReservationState]:
    found = []
    for keys in product(KEYS, repeat=3):
        registrations = MappingProxyType(
            {nexus: Registration(key) for nexus, key in zip(EVERY, keys, strict=True) if key}
        )
        reservations: list[Reservation | None] = [None]
        for kind in (PrType(1), PrType(6)):
            reservations += [Reservation(kind, nexus) for nexus in registrations]
        if registrations:
            reservations.append(Reservation(PrType(7)))
        found += [ReservationState(7, registrations, one) for one in reservations]
    return found


def requests() -> list[PrOutRequest]:
    found = []
    for action in TABLE:
        for key, sa_key, kind, scope in product(KEYS, KEYS, (1, 6, 7, 2), (0, 1)):
            extra = {}
            if action == PrOutAction.REGISTER_AND_MOVE:
                for destination, unreg in product((*EVERY, Nexus(name(0), 9), Nexus(name(5), 9)), (False, True)):
                    extra = {"destination": destination, "unreg": unreg}
                    found.append(PrOutRequest(action, key, sa_key, scope, kind, **extra))
            else:
                found.append(PrOutRequest(action, key, sa_key, scope, kind))
    return found


def check(before: ReservationState, caller: Nexus, request: PrOutRequest, rules: Rules) -> None:
    decision = decide(before, caller, request, rules)
    after = decision.state
    if decision.status != 0x00:
        assert after is before
        assert not decision.attentions
        assert not decision.aborts
        assert (decision.sense is None) == (decision.status == 0x18)
        return
    counts = request.action not in (PrOutAction.RESERVE, PrOutAction.RELEASE)
    assert after.generation == 7 + counts
    if after.reservation is not None:
        assert any(after.holds(nexus) for nexus in after.registrations)
        assert (after.reservation.holder is None) == (after.reservation.type in (7, 8))
    told = [nexus for nexus, _ in decision.attentions]
    assert caller not in told
    assert len(told) == len(set(told))
    assert set(told) <= set(before.registrations)
    assert not decision.aborts or request.action == PrOutAction.PREEMPT_AND_ABORT
    # Whoever loses a registration to another learns of it.
    lost = set(before.registrations) - set(after.registrations) - {caller}
    assert lost <= set(told)


def test_every_state_with_every_request() -> None:
    every_request = requests()
    for rules in (Rules(), Rules(keep_preempting_caller=True)):
        # One caller is enough: the states hold every assignment of keys.
        for state in states()[:: 1 if not rules.keep_preempting_caller else 5]:
            for request in every_request:
                check(state, EVERY[0], request, rules)


def test_every_row_is_used() -> None:
    unused = {(action, row.name) for action, rows in TABLE.items() for row in rows}
    full = Rules(max_registrations=2, target_ports=frozenset({1}))
    special = [
        PrOutRequest(PrOutAction.REGISTER, 0, 1, spec_i_pt=True, transport_ids=(name(1),)),
        PrOutRequest(PrOutAction.REGISTER, 1, 1, spec_i_pt=True),
        PrOutRequest(PrOutAction.REGISTER, 0, 1, malformed=INVALID_FIELD_IN_PARAMETER_LIST),
        PrOutRequest(PrOutAction.REGISTER_AND_MOVE, 1, 1, malformed=INVALID_FIELD_IN_PARAMETER_LIST),
        PrOutRequest(PrOutAction.REGISTER_AND_MOVE, 1, 1, aptpl=True, destination=EVERY[1]),
    ]
    for rules in (Rules(aptpl=False), full):
        for state, request in product(states(), [*requests(), *special]):
            case = Case(state, EVERY[0], request, rules)
            used = next(row for row in TABLE[request.action] if row.applies(case))
            unused.discard((request.action, used.name))
    assert not unused
