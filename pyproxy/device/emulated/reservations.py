"""Persistent reservations of one logical unit: immutable state and the table of SPC-4 5.13 as a pure function.

``decide(state, nexus, request, rules)`` says what PERSISTENT RESERVE OUT does; it changes nothing and knows no clock.
Each row of TABLE is one line of the standard's rules; within a service action the first row that applies wins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from pyproxy.scsi.constants import LU_SCOPE, PrOutAction, PrType, Status
from pyproxy.scsi.sense import (
    INSUFFICIENT_REGISTRATION_RESOURCES,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    RESERVATIONS_RELEASED,
    Sense,
)
from pyproxy.scsi.transport_id import TransportId

_TYPES: Final = frozenset(PrType)
_GENERATION_MASK: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Nexus:
    """An I_T nexus: an initiator port through one target port (``rtpi``, relative target port identifier)."""

    initiator: TransportId
    rtpi: int


@dataclass(frozen=True, slots=True)
class Registration:
    """A nexus' reservation key (never 0), and whether it was made with ALL_TG_PT."""

    key: int
    all_tg_pt: bool = False


@dataclass(frozen=True, slots=True)
class Reservation:
    """The persistent reservation; ``holder`` is None for the all-registrants types, which every registrant holds."""

    type: PrType
    holder: Nexus | None = None


@dataclass(frozen=True, slots=True)
class ReservationState:
    """Everything SPC-4 keeps about one logical unit's persistent reservations.

    ``generation`` is PRGENERATION; ``aptpl`` the last accepted APTPL bit (activate persist through power loss).
    """

    generation: int = 0
    registrations: Mapping[Nexus, Registration] = field(default_factory=lambda: MappingProxyType({}))
    reservation: Reservation | None = None
    aptpl: bool = False

    def key_of(self, nexus: Nexus) -> int | None:
        """Return the key registered for the nexus, None without one."""
        registration = self.registrations.get(nexus)
        return None if registration is None else registration.key

    def holds(self, nexus: Nexus) -> bool:
        """Whether the nexus is a reservation holder (SPC-4 5.13.10)."""
        if self.reservation is None:
            return False
        if self.reservation.type.all_registrants:
            return nexus in self.registrations
        return self.reservation.holder == nexus

    def privileged(self, nexus: Nexus) -> bool:
        """Whether no command of the nexus can meet a reservation conflict: a holder, or registered and type RO."""
        if self.reservation is None or self.holds(nexus):
            return True
        return self.reservation.type.registrants_only and nexus in self.registrations

    def registered_with(self, key: int) -> frozenset[Nexus]:
        """Every nexus registered with this key."""
        return frozenset(nexus for nexus, registration in self.registrations.items() if registration.key == key)

    def register(self, nexuses: Iterable[Nexus], key: int, *, all_tg_pt: bool = False) -> ReservationState:
        """Give each nexus this key, whether or not it had one."""
        added = dict.fromkeys(nexuses, Registration(key, all_tg_pt))
        return replace(self, registrations=MappingProxyType({**self.registrations, **added}))

    def without(self, nexuses: Iterable[Nexus]) -> ReservationState:
        """Remove registrations, and the reservation when nobody is left who holds it."""
        gone = frozenset(nexuses)
        kept = {nexus: one for nexus, one in self.registrations.items() if nexus not in gone}
        reservation = self.reservation
        if reservation is not None:
            all_gone = not kept if reservation.type.all_registrants else reservation.holder in gone
            reservation = None if all_gone else reservation
        return replace(self, registrations=MappingProxyType(kept), reservation=reservation)

    def reserved(self, kind: PrType, holder: Nexus) -> ReservationState:
        """Put this reservation in place of whatever there is."""
        return replace(self, reservation=Reservation(kind, None if kind.all_registrants else holder))

    def counted(self) -> ReservationState:
        """Raise PRGENERATION by one; it wraps (SPC-4 6.15.2)."""
        return replace(self, generation=(self.generation + 1) & _GENERATION_MASK)

    def after_power_loss(self) -> ReservationState:
        """Return what is left at the next power on (SPC-4 5.13.5): with APTPL all, else nothing; the count restarts."""
        return replace(self, generation=0) if self.aptpl else ReservationState()


@dataclass(frozen=True, slots=True)
class PrOutRequest:
    """A PERSISTENT RESERVE OUT as its CDB and parameter list say.

    ``type`` and ``scope`` may be reserved values. ``destination`` is that of REGISTER AND MOVE; ``malformed`` the
    sense for a list whose TransportIDs cannot be read, used at the point where they would be looked at.
    """

    action: PrOutAction
    key: int = 0
    sa_key: int = 0
    scope: int = LU_SCOPE
    type: int = 0
    aptpl: bool = False
    all_tg_pt: bool = False
    spec_i_pt: bool = False
    transport_ids: tuple[TransportId, ...] = ()
    unreg: bool = False
    destination: Nexus | None = None
    malformed: Sense | None = None


@dataclass(frozen=True, slots=True)
class Rules:
    """What this logical unit supports and how it uses the standard's freedom.

    ``keep_preempting_caller`` leaves the caller of PREEMPT registered where the standard removes it because its own
    key was named while no reservation was preempted, as LIO and SCST do in part. ``target_ports`` are the known
    relative target port identifiers.
    """

    aptpl: bool = True
    keep_preempting_caller: bool = False
    max_registrations: int = 4096
    target_ports: frozenset[int] = frozenset({1})


@dataclass(frozen=True, slots=True)
class Decision:
    """What the command does: ``state`` afterwards (the old one unless GOOD) and what it tells whom.

    ``attentions`` are unit attentions to establish; ``aborts`` the nexuses whose commands are aborted.
    """

    state: ReservationState
    status: Status = Status.GOOD
    sense: Sense | None = None
    attentions: frozenset[tuple[Nexus, Sense]] = frozenset()
    aborts: frozenset[Nexus] = frozenset()


@dataclass(frozen=True, slots=True)
class Case:
    """One request of one nexus against one state, as the rows of the table look at it."""

    state: ReservationState
    nexus: Nexus
    request: PrOutRequest
    rules: Rules

    @property
    def key(self) -> int | None:
        """The caller's registered key."""
        return self.state.key_of(self.nexus)

    @property
    def registered(self) -> bool:
        """Whether the caller is registered."""
        return self.nexus in self.state.registrations

    @property
    def reservation(self) -> Reservation | None:
        """The reservation in force."""
        return self.state.reservation

    @property
    def holds(self) -> bool:
        """Whether the caller holds the reservation."""
        return self.state.holds(self.nexus)

    @property
    def type_valid(self) -> bool:
        """Whether TYPE can be created."""
        return self.request.type in _TYPES

    @property
    def key_matches(self) -> bool:
        """Whether RESERVATION KEY is the caller's."""
        return self.request.key == self.key

    @property
    def matches_reservation(self) -> bool:
        """Whether TYPE and SCOPE are those of the reservation."""
        held = self.state.reservation
        return held is not None and self.request.scope == LU_SCOPE and self.request.type == held.type

    def others(self, state: ReservationState) -> frozenset[Nexus]:
        """Every nexus registered in ``state`` but the caller."""
        return frozenset(state.registrations) - {self.nexus}

    def good(
        self,
        state: ReservationState | None = None,
        attentions: Iterable[tuple[Nexus, Sense]] = (),
        aborts: frozenset[Nexus] = frozenset(),
    ) -> Decision:
        """GOOD, with this state (unchanged by default)."""
        return Decision(self.state if state is None else state, attentions=frozenset(attentions), aborts=aborts)

    def conflict(self) -> Decision:
        """RESERVATION CONFLICT; nothing changes."""
        return Decision(self.state, Status.RESERVATION_CONFLICT)

    def check(self, sense: Sense) -> Decision:
        """CHECK CONDITION; nothing changes."""
        return Decision(self.state, Status.CHECK_CONDITION, sense)


@dataclass(frozen=True, slots=True)
class Row:
    """One rule: its name in the tests, when it applies, what follows."""

    name: str
    applies: Callable[[Case], bool]
    then: Callable[[Case], Decision]


def tell(nexuses: Iterable[Nexus], sense: Sense) -> frozenset[tuple[Nexus, Sense]]:
    """Pair each of them with the same unit attention."""
    return frozenset((nexus, sense) for nexus in nexuses)


def _otherwise(_case: Case) -> bool:
    return True


def _nothing_to_unregister(case: Case) -> Decision:
    return case.good(replace(case.state.counted(), aptpl=case.request.aptpl))


def _named(case: Case) -> frozenset[Nexus]:
    """Return the nexuses a REGISTER with SPEC_I_PT names besides the caller."""
    ports = case.rules.target_ports if case.request.all_tg_pt else {case.nexus.rtpi}
    return frozenset(Nexus(name, port) for name in case.request.transport_ids for port in ports) - {case.nexus}


def _too_many(case: Case) -> bool:
    return len({*case.state.registrations, case.nexus, *_named(case)}) > case.rules.max_registrations


def _register(case: Case) -> Decision:
    request = case.request
    state = case.state.register({case.nexus} | _named(case), request.sa_key, all_tg_pt=request.all_tg_pt)
    return case.good(replace(state.counted(), aptpl=request.aptpl))


def _unregister(case: Case) -> Decision:
    # SPC-4 5.13.11.3: only the end of a registrants-only reservation is told to the others.
    state = replace(case.state.without({case.nexus}).counted(), aptpl=case.request.aptpl)
    held = case.reservation
    released = held is not None and state.reservation is None and held.type.registrants_only
    return case.good(state, tell(case.others(state), RESERVATIONS_RELEASED) if released else ())


def _release(case: Case) -> Decision:
    held = case.reservation
    told = held is not None and (held.type.registrants_only or held.type.all_registrants)
    attentions = tell(case.others(case.state), RESERVATIONS_RELEASED) if told else frozenset()
    return case.good(replace(case.state, reservation=None), attentions)


def _clear(case: Case) -> Decision:
    state = replace(case.state, registrations=MappingProxyType({}), reservation=None).counted()
    return case.good(state, tell(case.others(case.state), RESERVATIONS_PREEMPTED))


def _move(case: Case) -> Decision:
    request, held, destination = case.request, case.reservation, case.request.destination
    if held is None or destination is None:
        raise AssertionError("the rows above leave a reservation and a destination")
    state = case.state.register({destination}, request.sa_key)
    state = replace(state, reservation=Reservation(held.type, destination))
    if request.unreg:
        state = state.without({case.nexus})
    return case.good(replace(state.counted(), aptpl=request.aptpl))


def _unknown_destination(case: Case) -> bool:
    destination = case.request.destination
    return destination is None or destination.rtpi not in case.rules.target_ports


def _own_port(case: Case) -> bool:
    destination = case.request.destination
    return destination is not None and destination.initiator == case.nexus.initiator


def _no_room_for_destination(case: Case) -> bool:
    return len({*case.state.registrations, case.request.destination}) > case.rules.max_registrations


_BAD_LIST: Final = INVALID_FIELD_IN_PARAMETER_LIST

# Rows every action but REGISTER and REGISTER AND IGNORE EXISTING KEY begins with.
_CALLER: Final = (
    Row("7 not registered", lambda c: not c.registered, Case.conflict),
    Row("8 wrong key", lambda c: not c.key_matches, Case.conflict),
)

_REGISTER: Final = (
    Row("4 wrong key", lambda c: c.registered and not c.key_matches, Case.conflict),
    Row("1 not registered, key given", lambda c: not c.registered and c.request.key != 0, Case.conflict),
    Row("2 nothing to do", lambda c: not c.registered and c.request.sa_key == 0, _nothing_to_unregister),
    Row(
        "3 SPEC_I_PT from a registered nexus",
        lambda c: c.registered and c.request.spec_i_pt,
        lambda c: c.check(_BAD_LIST),
    ),
    Row(
        "3 TransportIDs unreadable",
        lambda c: c.request.malformed is not None,
        lambda c: c.check(c.request.malformed or _BAD_LIST),
    ),
    Row(
        "3 SPEC_I_PT names a registered nexus",
        lambda c: not _named(c).isdisjoint(c.state.registrations),
        lambda c: c.check(_BAD_LIST),
    ),
    Row("3 no room", _too_many, lambda c: c.check(INSUFFICIENT_REGISTRATION_RESOURCES)),
    Row("5 unregister", lambda c: c.registered and c.request.sa_key == 0, _unregister),
    Row("3, 6 register or change the key", _otherwise, _register),
)

_IGNORE: Final = (
    Row("2 nothing to do", lambda c: not c.registered and c.request.sa_key == 0, _nothing_to_unregister),
    Row("3 no room", _too_many, lambda c: c.check(INSUFFICIENT_REGISTRATION_RESOURCES)),
    Row("5 unregister", lambda c: c.registered and c.request.sa_key == 0, _unregister),
    Row("3, 6 register or change the key", _otherwise, _register),
)

_RESERVE: Final = (
    # A conflict with another's reservation is found before the command is looked at (SPC-4 5.13.3, table 66).
    Row("12 another holds", lambda c: c.reservation is not None and not c.holds, Case.conflict),
    *_CALLER,
    Row(
        "scope or type",
        lambda c: c.request.scope != LU_SCOPE or not c.type_valid,
        lambda c: c.check(INVALID_FIELD_IN_CDB),
    ),
    Row(
        "9 nobody holds",
        lambda c: c.reservation is None,
        lambda c: c.good(c.state.reserved(PrType(c.request.type), c.nexus)),
    ),
    Row("10 held alike", lambda c: c.matches_reservation, Case.good),
    Row("11 held with another type", _otherwise, Case.conflict),
)

_RELEASE: Final = (
    *_CALLER,
    Row("13 not held by the caller", lambda c: not c.holds, Case.good),
    Row(
        "14 type or scope differs",
        lambda c: not c.matches_reservation,
        lambda c: c.check(INVALID_RELEASE_OF_PERSISTENT_RESERVATION),
    ),
    Row("15 release", _otherwise, _release),
)

_CLEAR: Final = (*_CALLER, Row("16 clear", _otherwise, _clear))

_MOVE: Final = (
    Row("19 another holds", lambda c: c.reservation is not None and not c.holds, Case.conflict),
    *_CALLER,
    Row("18 no reservation", lambda c: c.reservation is None, lambda c: c.check(INVALID_FIELD_IN_CDB)),
    Row(
        "19 all registrants",
        lambda c: c.reservation is not None and c.reservation.type.all_registrants,
        Case.conflict,
    ),
    Row(
        "20 destination unreadable",
        lambda c: c.request.malformed is not None,
        lambda c: c.check(c.request.malformed or _BAD_LIST),
    ),
    Row("20 no key for the destination", lambda c: c.request.sa_key == 0, lambda c: c.check(_BAD_LIST)),
    Row("20 own initiator port", _own_port, lambda c: c.check(_BAD_LIST)),
    Row("20 unknown target port", _unknown_destination, lambda c: c.check(_BAD_LIST)),
    Row("APTPL not supported", lambda c: c.request.aptpl and not c.rules.aptpl, lambda c: c.check(_BAD_LIST)),
    Row("no room", _no_room_for_destination, lambda c: c.check(INSUFFICIENT_REGISTRATION_RESOURCES)),
    Row("21 move", _otherwise, _move),
)


def _preempts_reservation(case: Case) -> bool:
    """Whether the reservation itself is what SARK names (SPC-4 5.13.11.4.3, table 70)."""
    held = case.reservation
    if held is None:
        return False
    if held.type.all_registrants:
        return case.request.sa_key == 0
    return held.holder is not None and case.state.key_of(held.holder) == case.request.sa_key


def _victims(case: Case) -> frozenset[Nexus]:
    held = case.reservation
    if held is not None and held.type.all_registrants and case.request.sa_key == 0:
        return frozenset(case.state.registrations)
    return case.state.registered_with(case.request.sa_key)


def _aborts(case: Case) -> frozenset[Nexus]:
    return _victims(case) if case.request.action == PrOutAction.PREEMPT_AND_ABORT else frozenset()


def _preempt_reservation(case: Case) -> Decision:
    losers = _victims(case) - {case.nexus}
    before = case.reservation
    state = case.state.without(losers).reserved(PrType(case.request.type), case.nexus).counted()
    attentions = tell(losers, REGISTRATIONS_PREEMPTED)
    if before is not None and state.reservation is not None and before.type != state.reservation.type:
        attentions |= tell(case.others(state), RESERVATIONS_RELEASED)
    return case.good(state, attentions, _aborts(case))


def _preempt_registrations(case: Case) -> Decision:
    losers = _victims(case)
    removed = losers - {case.nexus} if case.rules.keep_preempting_caller else losers
    state = case.state.without(removed).counted()
    return case.good(state, tell(losers - {case.nexus}, REGISTRATIONS_PREEMPTED), _aborts(case))


_PREEMPT: Final = (
    *_CALLER,
    Row("scope", lambda c: c.request.scope != LU_SCOPE, lambda c: c.check(INVALID_FIELD_IN_CDB)),
    Row(
        "key 0 against one holder",
        lambda c: c.request.sa_key == 0 and c.reservation is not None and not c.reservation.type.all_registrants,
        lambda c: c.check(_BAD_LIST),
    ),
    # TYPE counts only where a reservation is made.
    Row(
        "type",
        lambda c: _preempts_reservation(c) and not c.type_valid,
        lambda c: c.check(INVALID_FIELD_IN_CDB),
    ),
    Row("the reservation", _preempts_reservation, _preempt_reservation),
    Row("key of nobody", lambda c: not _victims(c), Case.conflict),
    Row("registrations", _otherwise, _preempt_registrations),
)

TABLE: Final[Mapping[PrOutAction, tuple[Row, ...]]] = MappingProxyType(
    {
        PrOutAction.REGISTER: _REGISTER,
        PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY: _IGNORE,
        PrOutAction.RESERVE: _RESERVE,
        PrOutAction.RELEASE: _RELEASE,
        PrOutAction.CLEAR: _CLEAR,
        PrOutAction.PREEMPT: _PREEMPT,
        PrOutAction.PREEMPT_AND_ABORT: _PREEMPT,
        PrOutAction.REGISTER_AND_MOVE: _MOVE,
    }
)
"""REPLACE LOST RESERVATION has no rows: this unit never loses reservations without refusing to open."""

_REGISTERING: Final = (PrOutAction.REGISTER, PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY)


def refused_by_reservation(state: ReservationState, nexus: Nexus, action: PrOutAction) -> bool:
    """Whether another's reservation stops this PERSISTENT RESERVE OUT before it is looked at (SPC-4 table 66)."""
    if state.reservation is None or state.holds(nexus):
        return False
    if action in (PrOutAction.RESERVE, PrOutAction.REGISTER_AND_MOVE):
        return True
    return action not in _REGISTERING and nexus not in state.registrations


def decide(state: ReservationState, nexus: Nexus, request: PrOutRequest, rules: Rules) -> Decision:
    """Say what the request of this nexus does to the state."""
    if request.action in _REGISTERING:
        if request.aptpl and not rules.aptpl:
            return Case(state, nexus, request, rules).check(_BAD_LIST)
        if request.all_tg_pt:
            return _through_all_ports(state, nexus, request, rules)
    return _decide(Case(state, nexus, request, rules))


def _decide(case: Case) -> Decision:
    for row in TABLE[case.request.action]:
        if row.applies(case):
            return row.then(case)
    raise AssertionError("the last row of each action applies always")


def _through_all_ports(state: ReservationState, nexus: Nexus, request: PrOutRequest, rules: Rules) -> Decision:
    """Treat the request as received through each target port (SPC-4 5.13.7), all of it or nothing, counted once."""
    if request.spec_i_pt:
        # The TransportIDs are registered with the caller, through all ports, by the first pass.
        first = _decide(Case(state, nexus, request, rules))
        if first.status != Status.GOOD:
            return first
        request = replace(request, spec_i_pt=False, transport_ids=())
        ports = rules.target_ports - {nexus.rtpi}
        reached = first.state
    else:
        ports, reached = rules.target_ports | {nexus.rtpi}, state
    attentions: frozenset[tuple[Nexus, Sense]] = frozenset()
    for port in sorted(ports, key=lambda port: (port != nexus.rtpi, port)):
        step = _decide(Case(reached, Nexus(nexus.initiator, port), request, rules))
        if step.status != Status.GOOD:
            return Decision(state, step.status, step.sense)
        attentions |= step.attentions
        reached = step.state
    told = frozenset((one, sense) for one, sense in attentions if one in reached.registrations)
    return Decision(replace(reached, generation=state.counted().generation), attentions=told)
