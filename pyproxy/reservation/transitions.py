"""What a PERSISTENT RESERVE OUT that ended in some way means for the tracked state of its nexus.

The effect of each service action that ended with GOOD is one row of ``TRANSITIONS``; what other endings mean is in
``after_conflict`` and ``after_check_condition``. Nothing here changes state for any status but GOOD.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from typing import Final

from pyproxy.reservation.state import NexusState, Suspicion
from pyproxy.scsi.constants import PrOutAction, PrType, SenseKey
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import BASIC_SIZE, ParameterList
from pyproxy.scsi.sense import PERSISTENT_RESERVATION_INFORMATION_LOST, Sense

_UNREG: Final = 0x02
_MOVE_APTPL: Final = 0x01
_MOVE_FLAGS_OFFSET: Final = 17


class Case(StrEnum):
    """Which row of a service action applies."""

    NEW = "new-registration"
    CHANGE = "key-change"
    REMOVE = "unregister"
    ANY = "any"
    ALL_REGISTRANTS = "all-registrants"
    UNREG = "unregister-source"


class KeyEffect(Enum):
    """What becomes of the registered key."""

    KEEP = "keep"
    SET = "service action reservation key"
    NONE = "none"


class HeldEffect(Enum):
    """What becomes of the reservation this nexus holds."""

    KEEP = "keep"
    TYPE = "type of the CDB"
    NONE = "none"


class AptplEffect(Enum):
    """What becomes of the known APTPL value."""

    KEEP = "keep"
    SET = "bit of the parameter list"
    FORGET = "not known"


class Ask(Enum):
    """What has to be read from the device before the command is acknowledged."""

    NOTHING = "nothing"
    RESERVATION = "READ RESERVATION"
    RESYNC = "READ KEYS, READ RESERVATION, READ FULL STATUS"


@dataclass(frozen=True, slots=True)
class Row:
    """Effect of one service action that ended with GOOD; ``suspicion`` stands until the device was asked."""

    key: KeyEffect
    held: HeldEffect
    aptpl: AptplEffect
    ask: Ask
    suspicion: Suspicion | None = None


_REGISTERING: Final = {
    Case.NEW: Row(KeyEffect.SET, HeldEffect.NONE, AptplEffect.SET, Ask.RESERVATION),
    Case.CHANGE: Row(KeyEffect.SET, HeldEffect.KEEP, AptplEffect.SET, Ask.NOTHING),
    Case.REMOVE: Row(KeyEffect.NONE, HeldEffect.NONE, AptplEffect.SET, Ask.NOTHING),
}
_PREEMPTING: Final = {
    Case.ANY: Row(KeyEffect.KEEP, HeldEffect.KEEP, AptplEffect.KEEP, Ask.RESYNC, Suspicion.PREEMPT_OUTCOME)
}

TRANSITIONS: Final[dict[PrOutAction, dict[Case, Row]]] = {
    PrOutAction.REGISTER: _REGISTERING,
    PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY: _REGISTERING,
    PrOutAction.RESERVE: {Case.ANY: Row(KeyEffect.KEEP, HeldEffect.TYPE, AptplEffect.KEEP, Ask.NOTHING)},
    PrOutAction.RELEASE: {
        Case.ANY: Row(KeyEffect.KEEP, HeldEffect.NONE, AptplEffect.KEEP, Ask.NOTHING),
        # By the standard the reservation ends for all registrants; some targets keep it.
        Case.ALL_REGISTRANTS: Row(KeyEffect.KEEP, HeldEffect.NONE, AptplEffect.KEEP, Ask.RESERVATION),
    },
    # LIO switches APTPL off with CLEAR, by the standard it stays: the next registration tells.
    PrOutAction.CLEAR: {Case.ANY: Row(KeyEffect.NONE, HeldEffect.NONE, AptplEffect.FORGET, Ask.NOTHING)},
    PrOutAction.PREEMPT: _PREEMPTING,
    PrOutAction.PREEMPT_AND_ABORT: _PREEMPTING,
    PrOutAction.REGISTER_AND_MOVE: {
        Case.ANY: Row(KeyEffect.KEEP, HeldEffect.NONE, AptplEffect.SET, Ask.RESYNC, Suspicion.OTHER_NEXUSES),
        Case.UNREG: Row(KeyEffect.NONE, HeldEffect.NONE, AptplEffect.SET, Ask.RESYNC, Suspicion.OTHER_NEXUSES),
    },
    PrOutAction.REPLACE_LOST_RESERVATION: {
        Case.ANY: Row(KeyEffect.SET, HeldEffect.TYPE, AptplEffect.SET, Ask.NOTHING),
    },
}
"""Effect of each service action on the nexus that sent it, once the device said GOOD (SPC-4 5.13)."""

_TELLS_OWN_KEY: Final = (
    PrOutAction.REGISTER,
    PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY,
    PrOutAction.CLEAR,
    PrOutAction.REPLACE_LOST_RESERVATION,
)
_REGISTER_ACTIONS: Final = (PrOutAction.REGISTER, PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY)
_PREEMPT_ACTIONS: Final = (PrOutAction.PREEMPT, PrOutAction.PREEMPT_AND_ABORT)
_IGNORES_KEY: Final = (PrOutAction.REGISTER_AND_IGNORE_EXISTING_KEY, PrOutAction.REPLACE_LOST_RESERVATION)


@dataclass(frozen=True, slots=True)
class Parameters:
    """The fields of a PERSISTENT RESERVE OUT parameter list that bear on the sender's own state."""

    key: int
    sa_key: int
    aptpl: bool = False
    all_tg_pt: bool = False
    spec_i_pt: bool = False
    unreg: bool = False

    @classmethod
    def read(cls, action: int, data: bytes) -> Parameters | None:
        """Read a parameter list as service action ``action`` lays it out; None when it has fewer than 24 bytes."""
        if len(data) < BASIC_SIZE:
            return None
        basic = ParameterList.decode_basic(data)
        if action == PrOutAction.REGISTER_AND_MOVE:
            # Byte 20 is part of a length here (SPC-4 6.16.4): the flags are elsewhere.
            flags = data[_MOVE_FLAGS_OFFSET]
            return cls(basic.key, basic.sa_key, aptpl=bool(flags & _MOVE_APTPL), unreg=bool(flags & _UNREG))
        return cls(basic.key, basic.sa_key, basic.aptpl, basic.all_tg_pt, basic.spec_i_pt)


@dataclass(frozen=True, slots=True)
class Transition:
    """State after a command that ended with GOOD, what to ask the device, and why (``reason``)."""

    state: NexusState
    ask: Ask
    reason: str


def apply(state: NexusState, prout: PrOut, parameters: Parameters | None) -> Transition:
    """Return what a PERSISTENT RESERVE OUT that ended with GOOD and host status 0 makes of ``state``.

    Where GOOD contradicts the tracked state, or the state was suspect before, the device has to be asked.
    """
    try:
        action = PrOutAction(prout.action)
    except ValueError:
        return Transition(state.suspected(Suspicion.UNEXPECTED_GOOD), Ask.RESYNC, "unknown-service-action")
    if parameters is None:
        return Transition(state.suspected(Suspicion.UNEXPECTED_GOOD), Ask.RESYNC, "short-parameter-list")
    case = _case(state, action, prout, parameters)
    row = TRANSITIONS[action][case]
    after, ask, reasons = _effect(state, row, prout, parameters), row.ask, []
    if row.suspicion is not None:
        reasons.append(row.suspicion)
    if action in _REGISTER_ACTIONS:
        after = replace(after, all_tg_pt=_all_tg_pt(state, case, parameters))
        if parameters.spec_i_pt or parameters.all_tg_pt:
            ask = Ask.RESYNC
            reasons.append(Suspicion.OTHER_NEXUSES)
    if row.held is HeldEffect.TYPE and after.type is None:
        ask = Ask.RESYNC
        reasons.append(Suspicion.UNKNOWN_TYPE)
    if action not in _IGNORES_KEY and parameters.key != state.key:
        ask = Ask.RESYNC
        reasons.append(Suspicion.UNEXPECTED_GOOD)
    if not state.fresh:
        ask = Ask.RESYNC
    name = action.name.lower().replace("_", "-")
    reason = name if case is Case.ANY else f"{name}: {case}"
    return Transition(after.suspected(*reasons), ask, reason)


def _case(state: NexusState, action: PrOutAction, prout: PrOut, parameters: Parameters) -> Case:
    if action in _REGISTER_ACTIONS:
        if parameters.sa_key == 0:
            return Case.REMOVE
        # GOOD to REGISTER proves what was registered before; REGISTER AND IGNORE proves nothing.
        was_registered = state.registered if action in _IGNORES_KEY else parameters.key != 0
        return Case.CHANGE if was_registered else Case.NEW
    if action == PrOutAction.REGISTER_AND_MOVE and parameters.unreg:
        return Case.UNREG
    if action == PrOutAction.RELEASE and (_all_registrants(state.type) or _all_registrants(_as_type(prout.type))):
        return Case.ALL_REGISTRANTS
    return Case.ANY


def _effect(state: NexusState, row: Row, prout: PrOut, parameters: Parameters) -> NexusState:
    key = {KeyEffect.KEEP: state.key, KeyEffect.SET: parameters.sa_key, KeyEffect.NONE: 0}[row.key]
    held = {HeldEffect.KEEP: state.type, HeldEffect.TYPE: _as_type(prout.type), HeldEffect.NONE: None}[row.held]
    aptpl = {AptplEffect.KEEP: state.aptpl, AptplEffect.SET: parameters.aptpl, AptplEffect.FORGET: None}[row.aptpl]
    return replace(state, key=key, type=held, aptpl=aptpl, all_tg_pt=state.all_tg_pt and key != 0)


def _all_tg_pt(state: NexusState, case: Case, parameters: Parameters) -> bool:
    if case is Case.REMOVE:
        return False
    return parameters.all_tg_pt or (case is Case.CHANGE and state.all_tg_pt)


def tells_own_key(prout: PrOut, parameters: Parameters | None) -> bool:
    """Whether after GOOD the sender's own key is known, whatever it was before."""
    return parameters is not None and prout.action in _TELLS_OWN_KEY


def proves_registration(prout: PrOut, parameters: Parameters | None, key: int) -> bool:
    """Whether GOOD proves what the sender, tracked with ``key``, has registered, whatever unit attentions said before.

    RESERVE and RELEASE do not prove it: some targets do not look at the key.
    """
    if parameters is not None and prout.action in _PREEMPT_ACTIONS:
        return parameters.key == key
    return tells_own_key(prout, parameters)


def after_conflict(state: NexusState, prout: PrOut, parameters: Parameters | None) -> Suspicion | None:
    """Whether RESERVATION CONFLICT to the guest's own PERSISTENT RESERVE OUT says that ``state`` is wrong.

    None where the state explains it: REGISTER with key 0 by a registered nexus, RESERVE while another nexus holds (or
    with another type than the one held), PREEMPT of a key nobody has.
    """
    if parameters is None:
        return None
    if state.registered:
        if prout.action == PrOutAction.REGISTER and parameters.key == 0:
            return None
        own_key = parameters.key == state.key
        if prout.action == PrOutAction.RESERVE and own_key and state.type != _as_type(prout.type):
            return None
        if prout.action in _PREEMPT_ACTIONS and own_key and parameters.sa_key != state.key:
            return None
    return Suspicion.PR_OUT_CONFLICT


def after_check_condition(prout: PrOut, sense: Sense | None) -> Suspicion | None:
    """Whether CHECK CONDITION to a PERSISTENT RESERVE OUT leaves open what the device did; None if surely nothing.

    A unit attention means that the command was not executed (SAM-5 5.14). ILLEGAL REQUEST means the same, but
    for PREEMPT on some targets. All else may have had an effect: LIO answers 02/08/00 after a registration
    was changed, and a deferred error is about another command.
    """
    if sense is None or sense.deferred:
        return Suspicion.PR_OUT_ERROR
    if sense.is_unit_attention:
        return None
    if sense.code == PERSISTENT_RESERVATION_INFORMATION_LOST.code:
        return Suspicion.INFORMATION_LOST
    if sense.key == SenseKey.ILLEGAL_REQUEST and prout.action not in _PREEMPT_ACTIONS:
        return None
    return Suspicion.PR_OUT_ERROR


def possible_keys(before: NexusState, prout: PrOut, parameters: Parameters | None) -> tuple[int, ...]:
    """Keys the sender may have (0: none) after a PERSISTENT RESERVE OUT of which the outcome is not known."""
    keys = [before.key, apply(before, prout, parameters).state.key]
    if prout.action in _PREEMPT_ACTIONS and parameters is not None and parameters.sa_key == before.key:
        keys.append(0)  # with its own key a nexus may remove itself (SPC-4 5.13.11.2)
    return tuple(dict.fromkeys(keys))


def _as_type(number: int) -> PrType | None:
    return next((known for known in PrType if known == number), None)


def _all_registrants(held: PrType | None) -> bool:
    return held is not None and held.all_registrants
