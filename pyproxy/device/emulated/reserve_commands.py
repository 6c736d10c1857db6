"""PERSISTENT RESERVE IN and OUT, RESERVE and RELEASE: from CDB and parameter list to the state machine and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from pyproxy.device.emulated.access import Spc2Answer, spc2_answer
from pyproxy.device.emulated.call import Call
from pyproxy.device.emulated.outcome import Refused, check_condition, conflict
from pyproxy.device.emulated.reservations import (
    Nexus,
    PrOutRequest,
    ReservationState,
    decide,
    refused_by_reservation,
)
from pyproxy.scsi.constants import LU_SCOPE, PrInAction, PrOutAction, PrType, Status
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.pr_cdb import PrIn, PrOut
from pyproxy.scsi.pr_in import FullStatus, ReadKeys, ReadReservation, RegistrationDescriptor, ReportCapabilities
from pyproxy.scsi.pr_out import BASIC_SIZE, MoveParameterList, ParameterList
from pyproxy.scsi.sense import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
)

MAX_PARAMETER_LIST: Final = 1 << 20

# TEST UNIT READY and the commands that only read state are allowed through the write exclusive types.
_ALLOW_COMMANDS: Final = 0b011


def persistent_reserve_in(call: Call) -> None:
    """Execute PERSISTENT RESERVE IN, which no persistent reservation stops."""
    cdb = PrIn.decode(call.cdb)
    _no_spc2(call)
    state = call.unit.reservations
    if cdb.action == PrInAction.READ_KEYS:
        keys = tuple(one.key for one in state.registrations.values())
        data = ReadKeys(state.generation, keys).encode()
    elif cdb.action == PrInAction.READ_RESERVATION:
        data = _reservation(state).encode()
    elif cdb.action == PrInAction.REPORT_CAPABILITIES:
        data = ReportCapabilities(
            crh=True,
            sip_c=True,
            atp_c=True,
            ptpl_c=call.unit.rules.aptpl,
            tmv=True,
            ptpl_a=state.aptpl,
            allow_commands=_ALLOW_COMMANDS,
            types=frozenset(PrType),
        ).encode()
    elif cdb.action == PrInAction.READ_FULL_STATUS:
        data = FullStatus(state.generation, _descriptors(state, call.unit.rules.target_ports)).encode()
    else:
        raise check_condition(INVALID_FIELD_IN_CDB)
    call.reply(data, cdb.allocation_length)


def _reservation(state: ReservationState) -> ReadReservation:
    held = state.reservation
    if held is None:
        return ReadReservation(state.generation)
    key = 0 if held.holder is None else state.registrations[held.holder].key
    return ReadReservation(state.generation, key, LU_SCOPE, held.type)


def _descriptors(state: ReservationState, ports: frozenset[int]) -> tuple[RegistrationDescriptor, ...]:
    """One descriptor per registration, or one for all ports where ALL_TG_PT made them and they are still alike."""
    descriptors: list[RegistrationDescriptor] = []
    merged: set[Nexus] = set()
    for nexus, one in state.registrations.items():
        if nexus in merged:
            continue
        holder = state.holds(nexus)
        alike = [other for other in (Nexus(nexus.initiator, port) for port in sorted(ports)) if other != nexus]
        all_ports = one.all_tg_pt and all(
            state.registrations.get(other) == one and state.holds(other) == holder for other in alike
        )
        if all_ports:
            merged.update(alike)
        descriptors.append(
            RegistrationDescriptor(
                key=one.key,
                holder=holder,
                all_tg_pt=all_ports,
                scope=LU_SCOPE,
                type=state.reservation.type if holder and state.reservation is not None else 0,
                rtpi=nexus.rtpi,
                transport_id=nexus.initiator,
            )
        )
    return tuple(descriptors)


def persistent_reserve_out(call: Call) -> None:
    """Execute PERSISTENT RESERVE OUT: decide, make it durable, take it over, tell the others; in this order.

    If it cannot be made durable nothing changes and the command ends with 04/44/00.
    """
    cdb = PrOut.decode(call.cdb)
    action = PrOutAction(cdb.action)
    _no_spc2(call)
    unit, nexus = call.unit, call.nexus.identity
    if refused_by_reservation(unit.reservations, nexus, action):
        raise conflict()
    decision = decide(unit.reservations, nexus, _request(call, cdb, action), unit.rules)
    if decision.status != Status.GOOD:
        raise Refused(decision.status, decision.sense)
    unit.commit(call.nexus, decision)


def _request(call: Call, cdb: PrOut, action: PrOutAction) -> PrOutRequest:
    if cdb.parameter_list_length > MAX_PARAMETER_LIST:
        raise check_condition(PARAMETER_LIST_LENGTH_ERROR)
    raw = call.parameter_list(cdb.parameter_list_length)
    try:
        basic = ParameterList.decode_basic(raw)
    except DecodeError as error:
        raise check_condition(error.sense or PARAMETER_LIST_LENGTH_ERROR) from error
    if action == PrOutAction.REGISTER_AND_MOVE:
        return _move_request(raw, cdb, basic)
    if basic.spec_i_pt and action != PrOutAction.REGISTER:
        raise check_condition(INVALID_FIELD_IN_PARAMETER_LIST)
    if not basic.spec_i_pt and len(raw) != BASIC_SIZE:
        raise check_condition(PARAMETER_LIST_LENGTH_ERROR)
    request = PrOutRequest(
        action,
        key=basic.key,
        sa_key=basic.sa_key,
        scope=cdb.scope,
        type=cdb.type,
        aptpl=basic.aptpl,
        all_tg_pt=basic.all_tg_pt,
        spec_i_pt=basic.spec_i_pt,
    )
    if not basic.spec_i_pt:
        return request
    try:
        return replace(request, transport_ids=ParameterList.decode(raw).transport_ids)
    except DecodeError as error:
        return replace(request, malformed=error.sense or INVALID_FIELD_IN_PARAMETER_LIST)


def _move_request(raw: bytes, cdb: PrOut, basic: ParameterList) -> PrOutRequest:
    # Who calls with which key is judged before the destination is read, so a bad one is only noted here.
    request = PrOutRequest(
        PrOutAction.REGISTER_AND_MOVE, key=basic.key, sa_key=basic.sa_key, scope=cdb.scope, type=cdb.type
    )
    try:
        move = MoveParameterList.decode(raw)
    except DecodeError as error:
        return replace(request, malformed=error.sense or INVALID_FIELD_IN_PARAMETER_LIST)
    destination = None if move.transport_id is None else Nexus(move.transport_id, move.rtpi)
    return replace(request, aptpl=move.aptpl, unreg=move.unreg, destination=destination)


def _no_spc2(call: Call) -> None:
    """Refuse PERSISTENT RESERVE while a RESERVE is in force, to its holder as well (SPC-4 5.13.3)."""
    if call.unit.spc2_holder is not None:
        raise conflict()


def reserve(call: Call) -> None:
    """RESERVE (6) and (10)."""
    _spc2(call, reserve=True)


def release(call: Call) -> None:
    """RELEASE (6) and (10)."""
    _spc2(call, reserve=False)


def _spc2(call: Call, *, reserve: bool) -> None:
    if call.cdb[1] & 0x1F:
        # Third parties, long identifiers and extents are obsolete and were never promised.
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(1, in_cdb=True))
    unit, nexus = call.unit, call.nexus.identity
    answer = spc2_answer(unit.reservations, unit.spc2_holder, nexus, reserve=reserve)
    if answer is Spc2Answer.CONFLICT:
        raise conflict()
    if answer is Spc2Answer.RESERVE:
        unit.hold_spc2(nexus)
    elif answer is Spc2Answer.RELEASE:
        unit.hold_spc2(None)
