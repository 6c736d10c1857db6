"""Which commands a nexus may use while reservations exist (SPC-4 5.13.3 tables 65 and 66, SBC-4 4.17, SPC-2 5.5)."""

from __future__ import annotations

from enum import Enum

from _fastpath.gate import (
    GATE_ATTENTION,
    GATE_EXCLUSIVE_ACCESS,
    GATE_NOT_READY,
    GATE_PRIVILEGED,
    GATE_RESERVED,
    GATE_SPC2_CONFLICT,
    GATE_TASK_ABORTED,
    GATE_WRITE_PROTECTED,
    GATE_WRITE_THROUGH,
)
from pyproxy.device.emulated.reservations import Nexus, ReservationState


class Spc2Answer(Enum):
    """What RESERVE or RELEASE (6 or 10) leads to."""

    CONFLICT = "conflict"
    NOTHING = "good, nothing changes"
    RESERVE = "good, the nexus holds the SPC-2 reservation"
    RELEASE = "good, the SPC-2 reservation ends"


def spc2_answer(state: ReservationState, holder: Nexus | None, nexus: Nexus, *, reserve: bool) -> Spc2Answer:
    """Answer RESERVE (``reserve``) or RELEASE beside persistent reservations, as CRH=1 promises (SPC-4 5.13.3).

    ``holder`` is who holds the SPC-2 reservation.
    """
    if state.reservation is not None:
        return Spc2Answer.NOTHING if state.privileged(nexus) else Spc2Answer.CONFLICT
    if state.registrations:
        return Spc2Answer.CONFLICT
    if reserve:
        return Spc2Answer.RESERVE if holder in (None, nexus) else Spc2Answer.CONFLICT
    return Spc2Answer.RELEASE if holder == nexus else Spc2Answer.NOTHING


def gate_flags(
    state: ReservationState,
    spc2_holder: Nexus | None,
    nexus: Nexus,
    *,
    attention: bool,
    ready: bool,
    write_protected: bool,
    write_through: bool,
    task_aborted: bool,
) -> int:
    """Return the nexus' rights as the bits its gate keeps for threads without the GIL."""
    flags = 0
    if state.reservation is not None:
        flags |= GATE_RESERVED
        if state.reservation.type.exclusive_access:
            flags |= GATE_EXCLUSIVE_ACCESS
    if state.privileged(nexus):
        flags |= GATE_PRIVILEGED
    if spc2_holder is not None and spc2_holder != nexus:
        flags |= GATE_SPC2_CONFLICT
    if attention:
        flags |= GATE_ATTENTION
    if not ready:
        flags |= GATE_NOT_READY
    if write_protected:
        flags |= GATE_WRITE_PROTECTED
    if write_through:
        flags |= GATE_WRITE_THROUGH
    if task_aborted:
        flags |= GATE_TASK_ABORTED
    return flags
