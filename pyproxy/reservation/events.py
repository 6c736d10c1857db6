"""Which completions of a guest's commands say something about its reservations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from pyproxy.reservation.state import Suspicion
from pyproxy.scsi.command import Result
from pyproxy.scsi.constants import Status
from pyproxy.scsi.sense import PERSISTENT_RESERVATION_INFORMATION_LOST, Sense

_DID_NEXUS_FAILURE: Final = 0x11
_RESERVE: Final = (0x16, 0x56)
_RELEASE: Final = (0x17, 0x57)


class EventKind(StrEnum):
    """What happened to a command."""

    UNIT_ATTENTION = "unit-attention"
    CONFLICT = "reservation-conflict"
    SPC2_RESERVED = "spc2-reserve-good"
    SPC2_RELEASED = "spc2-release-good"
    SPC2_UNKNOWN = "spc2-reserve-fate-unknown"
    INFORMATION_LOST = "reservation-information-lost"


@dataclass(frozen=True, slots=True)
class InspectEvent:
    """One completion for the snooper: its kind, the operation code, and ASC/ASCQ of a unit attention."""

    kind: EventKind
    opcode: int = 0
    asc: int = 0
    ascq: int = 0


_BY_CODE: Final = {
    (0x2A, 0x03): Suspicion.RESERVATIONS_PREEMPTED,
    (0x2A, 0x04): Suspicion.RESERVATIONS_RELEASED,
    (0x2A, 0x05): Suspicion.REGISTRATIONS_PREEMPTED,
    (0x2A, 0x06): Suspicion.ACCESS_STATE_CHANGED,
    (0x2C, 0x09): Suspicion.PREVIOUS_CONFLICT,
    (0x3F, 0x0E): Suspicion.LUNS_CHANGED,
}
_BY_ASC: Final = {0x29: Suspicion.RESET, 0x2F: Suspicion.COMMANDS_CLEARED}

_RESET_ASC: Final = 0x29
_LOSS_CODES: Final = frozenset({(0x2A, 0x03), (0x2A, 0x05), (0x29, 0x00), (0x29, 0x01)})
"""Preempted, and power on without APTPL; other resets keep registrations (SPC-4 5.13.5)."""


def suspicion_of(asc: int, ascq: int) -> Suspicion:
    """Return what a unit attention makes the tracked state suspect of.

    Every one does: LIO drops the others that are queued when it reports one, so an unrelated one may hide a preempt.
    """
    return _BY_CODE.get((asc, ascq)) or _BY_ASC.get(asc) or Suspicion.OTHER_ATTENTION


def ends_spc2_reservation(asc: int) -> bool:
    """Whether a unit attention tells of a reset, which ends an SPC-2 RESERVE (SPC-2 5.5.1)."""
    return asc == _RESET_ASC


def announces_loss(asc: int, ascq: int) -> bool:
    """Whether a unit attention tells a nexus that its registration may be gone."""
    return (asc, ascq) in _LOSS_CODES


def is_conflict(result: Result) -> bool:
    """Whether the device answered RESERVATION CONFLICT; older kernels put a host status of their own beside it."""
    return result.status == Status.RESERVATION_CONFLICT and result.host_status in (0, _DID_NEXUS_FAILURE)


def events_of(cdb: bytes, result: Result) -> Iterator[InspectEvent]:
    """Yield what one finished command of the guest says about its reservations."""
    opcode = cdb[0] if cdb else 0
    if is_conflict(result):
        yield InspectEvent(EventKind.CONFLICT, opcode)
    elif result.host_status:
        yield from events_without_answer(cdb)
    elif result.good:
        if opcode in _RESERVE:
            yield InspectEvent(EventKind.SPC2_RESERVED, opcode)
        elif opcode in _RELEASE:
            yield InspectEvent(EventKind.SPC2_RELEASED, opcode)
    else:
        sense = result.decoded_sense
        if sense is not None:
            yield from _events_of_sense(opcode, sense)


def events_without_answer(cdb: bytes) -> Iterator[InspectEvent]:
    """Yield what a command of the guest whose fate is not known may have done to its reservations."""
    if cdb and cdb[0] in _RESERVE:
        yield InspectEvent(EventKind.SPC2_UNKNOWN, cdb[0])


def _events_of_sense(opcode: int, sense: Sense) -> Iterator[InspectEvent]:
    if sense.is_unit_attention:
        yield InspectEvent(EventKind.UNIT_ATTENTION, opcode, sense.asc, sense.ascq)
    elif sense.code == PERSISTENT_RESERVATION_INFORMATION_LOST.code:
        yield InspectEvent(EventKind.INFORMATION_LOST, opcode, sense.asc, sense.ascq)
