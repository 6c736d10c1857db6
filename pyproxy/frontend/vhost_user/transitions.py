"""What each message does, as tables: one rule for every request, one for every request about a ring in each phase.

A transition takes the state, the decoded payload and the descriptors that came, and returns a ``Change``: the state
afterwards, what has to be done to the data plane for it, and the answer. It touches nothing. ``Refused`` says that a
well-formed request cannot be granted; a request that is not well formed never gets here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from pyproxy.frontend.vhost_user import message as wire
from pyproxy.frontend.vhost_user.actions import (
    Action,
    AddRegion,
    DropInflight,
    MakeInflight,
    RemoveRegion,
    SetCall,
    SetEnabled,
    SetFeatures,
    SetInflight,
    SetLog,
    SetMemory,
    SetUsedLog,
    StopRing,
)
from pyproxy.frontend.vhost_user.features import (
    IMPOSSIBLE,
    OFFERED,
    OFFERED_PROTOCOL,
    Feature,
    ProtocolFeature,
    bits_of,
    has,
)
from pyproxy.frontend.vhost_user.memory_table import MEMORY_SLOTS, MemoryTable
from pyproxy.frontend.vhost_user.message import (
    InflightArea,
    LogArea,
    MemoryRegion,
    Request,
    VringAddress,
    VringDescriptor,
    VringState,
)
from pyproxy.frontend.vhost_user.state import Ring, RingPhase, State, held

LARGEST_RING: Final = 1024
"""Entries; QEMU makes none larger."""
_INDEX_LIMIT: Final = 1 << 16
_LARGEST_LOG: Final = 1 << 31
"""Bytes: one bit for each page of 4096 bytes of 64 TiB."""
_INFLIGHT_HEADER: Final = 16
_INFLIGHT_ENTRY: Final = 16
_INFLIGHT_ALIGNMENT: Final = 64


class Refused(Exception):  # noqa: N818 -- an answer, not an error
    """The request cannot be granted; the text says why."""


Descriptors: TypeAlias = tuple[int, ...]
Settle: TypeAlias = Callable[[State, Any], tuple[State, bytes, Descriptors]]
"""(state, value of the last action) -> state, payload and descriptors of the answer."""


@dataclass(frozen=True, slots=True)
class Change:
    """What follows from a request. ``discard`` are descriptors that nobody needs once it is done."""

    state: State
    actions: tuple[Action, ...] = ()
    discard: Descriptors = ()
    reply: bytes | None = None
    settle: Settle | None = None


Transition: TypeAlias = Callable[[State, Any, Descriptors], Change]


@dataclass(frozen=True, slots=True)
class Rule:
    """How a request is read and what it does.

    ``count`` tells from the payload how many descriptors have to come (None: it does not matter, they are closed).
    ``gate`` is the protocol feature it belongs to.
    """

    decode: Callable[[bytes], Any]
    transition: Transition
    count: Callable[[Any], int] | None = None
    gate: ProtocolFeature | None = None


# --- negotiation ---


def _get_features(state: State, _: None, came: Descriptors) -> Change:
    return Change(state, discard=came, reply=wire.encode_u64(OFFERED))


def _set_features(state: State, features: int, came: Descriptors) -> Change:
    if features & IMPOSSIBLE:
        raise Refused(f"features {features & IMPOSSIBLE:#x} change the rings' format or addresses and were not offered")
    changed = (features ^ (state.features or 0)) & ~bits_of(Feature.LOG_ALL)
    if state.started and changed:
        raise Refused(f"features {changed:#x} cannot change while rings are started")
    after = replace(state, features=features)
    actions: list[Action] = [SetFeatures(features)]
    if not has(features, Feature.PROTOCOL_FEATURES):
        # Without the bit no front end would ever enable a ring.
        actions += [SetEnabled(index, True) for index, ring in enumerate(after.rings) if not ring.enabled]
        after = replace(after, rings=tuple(replace(ring, enabled=True) for ring in after.rings))
    after, starts = after.start_ready()
    return Change(after, (*actions, *starts), discard=came)


def _get_protocol_features(state: State, _: None, came: Descriptors) -> Change:
    return Change(state, discard=came, reply=wire.encode_u64(OFFERED_PROTOCOL))


def _set_protocol_features(state: State, features: int, came: Descriptors) -> Change:
    if features & ~OFFERED_PROTOCOL:
        raise Refused(f"protocol features {features & ~OFFERED_PROTOCOL:#x} were not offered")
    return Change(replace(state, protocol=features), discard=came)


def _get_queue_num(state: State, _: None, came: Descriptors) -> Change:
    return Change(state, discard=came, reply=wire.encode_u64(len(state.rings)))


def _get_memory_slots(state: State, _: None, came: Descriptors) -> Change:
    return Change(state, discard=came, reply=wire.encode_u64(MEMORY_SLOTS))


def _nothing(state: State, _: object, came: Descriptors) -> Change:
    return Change(state, discard=came)


# --- memory ---


def _set_memory_table(state: State, regions: tuple[MemoryRegion, ...], came: Descriptors) -> Change:
    table = _table(lambda: MemoryTable.of(regions))
    if not table.regions:
        raise Refused("a memory table without regions")
    after, starts = replace(state, memory=table).start_ready()
    return Change(after, (SetMemory(regions, came), *starts))


def _add_region(state: State, region: MemoryRegion, came: Descriptors) -> Change:
    after, starts = replace(state, memory=_table(lambda: state.memory.adding(region))).start_ready()
    return Change(after, (AddRegion(region, came[0]), *starts))


def _remove_region(state: State, region: MemoryRegion, came: Descriptors) -> Change:
    table = _table(lambda: state.memory.removing(region))
    if not table.regions and state.started:
        raise Refused("the last memory region cannot be removed while rings are started")
    action = RemoveRegion(region) if table.regions else SetMemory((), ())
    return Change(replace(state, memory=table), (action,), discard=came)


def _table(make: Callable[[], MemoryTable]) -> MemoryTable:
    try:
        return make()
    except ValueError as error:
        raise Refused(str(error)) from None


# --- dirty log and inflight region ---


def _set_log_base(state: State, area: LogArea, came: Descriptors) -> Change:
    if not 0 < area.size <= _LARGEST_LOG:
        raise Refused(f"a dirty log of {area.size} bytes")
    return Change(replace(state, logging=True), (SetLog(area, came[0]),), reply=wire.encode_u64(0))


def inflight_size(queues: int, queue_size: int) -> int:
    """Bytes of a region for so many split rings of so many entries."""
    ring = _INFLIGHT_HEADER + _INFLIGHT_ENTRY * queue_size
    return queues * (ring + -ring % _INFLIGHT_ALIGNMENT)


def _check_inflight(state: State, area: InflightArea) -> None:
    if not 0 < area.queues <= len(state.rings) or not 0 < area.queue_size <= LARGEST_RING:
        raise Refused(
            f"an inflight region for {area.queues} rings of {area.queue_size} entries, "
            f"at most {len(state.rings)} of {LARGEST_RING} are served"
        )
    if state.started:
        raise Refused("the inflight region cannot change while rings are started")


def _get_inflight(state: State, area: InflightArea, came: Descriptors) -> Change:
    _check_inflight(state, area)

    def settle(after: State, made: tuple[int, int, int]) -> tuple[State, bytes, Descriptors]:
        descriptor, offset, size = made
        return after, InflightArea(size, offset, area.queues, area.queue_size).encode(), (descriptor,)

    return Change(
        replace(state, inflight=True), (MakeInflight(area.queues, area.queue_size),), discard=came, settle=settle
    )


def _set_inflight(state: State, area: InflightArea, came: Descriptors) -> Change:
    _check_inflight(state, area)
    needed = inflight_size(area.queues, area.queue_size)
    if area.size < needed:
        raise Refused(f"an inflight region of {area.size} bytes, {needed} are needed")
    return Change(replace(state, inflight=True), (SetInflight(area, came[0]),))


# --- the whole device ---


def _reset_device(state: State, _: None, came: Descriptors) -> Change:
    stops: list[Action] = [StopRing(index) for index in state.started]
    disables = [SetEnabled(index, False) for index, ring in enumerate(state.rings) if ring.enabled]
    if state.inflight:
        # A front end asks for a new one after a reset; what the old one says is of another life.
        stops.append(DropInflight())
    kicks = held(*(ring.kick for ring in state.rings))
    rings = tuple(replace(ring, phase=RingPhase.STOPPED, enabled=False, base=0, kick=-1) for ring in state.rings)
    return Change(replace(state, rings=rings, inflight=False), (*stops, *disables), discard=came + kicks)


def _reset_owner(state: State, _: None, came: Descriptors) -> Change:
    disables = [SetEnabled(index, False) for index, ring in enumerate(state.rings) if ring.enabled]
    rings = tuple(replace(ring, enabled=False) for ring in state.rings)
    return Change(replace(state, rings=rings), tuple(disables), discard=came)


# --- rings ---

RingPayload: TypeAlias = VringState | VringAddress | VringDescriptor
RingTransition: TypeAlias = Callable[[State, Ring, Any, Descriptors], Change]


def _started(state: State, discard: Descriptors = ()) -> Change:
    """Start what has become ready by the change."""
    after, starts = state.start_ready()
    return Change(after, starts, discard)


def _set_size(state: State, ring: Ring, payload: VringState, came: Descriptors) -> Change:
    size = payload.number
    if not 0 < size <= LARGEST_RING or size & (size - 1):
        raise Refused(f"ring {payload.index} of {size} entries, expected a power of two up to {LARGEST_RING}")
    return _started(state.with_ring(payload.index, replace(ring, size=size)), came)


def _set_base(state: State, ring: Ring, payload: VringState, came: Descriptors) -> Change:
    if payload.number >= _INDEX_LIMIT:
        raise Refused(f"ring {payload.index} from index {payload.number:#x}, which is none of a split ring")
    return Change(state.with_ring(payload.index, replace(ring, base=payload.number)), discard=came)


def _set_address(state: State, ring: Ring, payload: VringAddress, came: Descriptors) -> Change:
    return _started(state.with_ring(payload.index, replace(ring, address=payload)), came)


def _toggle_log(state: State, ring: Ring, payload: VringAddress, came: Descriptors) -> Change:
    known = ring.address
    assert known is not None
    if (known.descriptor, known.used, known.available) != (payload.descriptor, payload.used, payload.available):
        raise Refused(f"ring {payload.index} cannot move while it is started")
    after = replace(ring, address=payload)
    return Change(state.with_ring(payload.index, after), (SetUsedLog(payload.index, after.used_log),), discard=came)


def _set_kick(state: State, ring: Ring, payload: VringDescriptor, came: Descriptors) -> Change:
    kicked = replace(ring, phase=RingPhase.WAITING, kick=came[0] if came else -1)
    return _started(state.with_ring(payload.index, kicked), held(ring.kick))


def _hold_call(state: State, ring: Ring, payload: VringDescriptor, came: Descriptors) -> Change:
    after = replace(ring, call=came[0] if came else -1)
    return Change(state.with_ring(payload.index, after), discard=held(ring.call))


def _swap_call(state: State, _: Ring, payload: VringDescriptor, came: Descriptors) -> Change:
    return Change(state, (SetCall(payload.index, came[0] if came else -1),))


def _hold_error(state: State, ring: Ring, payload: VringDescriptor, came: Descriptors) -> Change:
    after = replace(ring, error=came[0] if came else -1)
    return Change(state.with_ring(payload.index, after), discard=held(ring.error))


def _enable(state: State, ring: Ring, payload: VringState, came: Descriptors) -> Change:
    if not state.enables_rings:
        raise Refused("SET_VRING_ENABLE without VHOST_USER_F_PROTOCOL_FEATURES in SET_FEATURES")
    if payload.number > 1:
        raise Refused(f"SET_VRING_ENABLE with {payload.number}, expected 0 or 1")
    enabled = bool(payload.number)
    if ring.enabled is enabled:
        return Change(state, discard=came)
    after = state.with_ring(payload.index, replace(ring, enabled=enabled))
    return Change(after, (SetEnabled(payload.index, enabled),), discard=came)


def _get_base(state: State, ring: Ring, payload: VringState, came: Descriptors) -> Change:
    dropped = replace(ring, phase=RingPhase.STOPPED, kick=-1)
    return Change(
        state.with_ring(payload.index, dropped),
        discard=came + held(ring.kick),
        reply=VringState(payload.index, ring.base).encode(),
    )


def _stop(state: State, _: Ring, payload: VringState, came: Descriptors) -> Change:
    def settle(after: State, base: int) -> tuple[State, bytes, Descriptors]:
        stopped = after.rings[payload.index].stopped(base)
        return after.with_ring(payload.index, stopped), VringState(payload.index, base).encode(), ()

    return Change(state, (StopRing(payload.index),), discard=came, settle=settle)


_NOT_WHILE_STARTED: Final[RingTransition | None] = None

RINGS: Final[dict[Request, dict[RingPhase, RingTransition | None]]] = {
    Request.SET_VRING_NUM: {
        RingPhase.STOPPED: _set_size,
        RingPhase.WAITING: _set_size,
        RingPhase.STARTED: _NOT_WHILE_STARTED,
    },
    Request.SET_VRING_BASE: {
        RingPhase.STOPPED: _set_base,
        RingPhase.WAITING: _set_base,
        RingPhase.STARTED: _NOT_WHILE_STARTED,
    },
    Request.SET_VRING_ADDR: {
        RingPhase.STOPPED: _set_address,
        RingPhase.WAITING: _set_address,
        RingPhase.STARTED: _toggle_log,
    },
    Request.SET_VRING_KICK: {
        RingPhase.STOPPED: _set_kick,
        RingPhase.WAITING: _set_kick,
        RingPhase.STARTED: _NOT_WHILE_STARTED,
    },
    Request.SET_VRING_CALL: {
        RingPhase.STOPPED: _hold_call,
        RingPhase.WAITING: _hold_call,
        RingPhase.STARTED: _swap_call,
    },
    Request.SET_VRING_ERR: {
        RingPhase.STOPPED: _hold_error,
        RingPhase.WAITING: _hold_error,
        RingPhase.STARTED: _hold_error,
    },
    Request.SET_VRING_ENABLE: {
        RingPhase.STOPPED: _enable,
        RingPhase.WAITING: _enable,
        RingPhase.STARTED: _enable,
    },
    Request.GET_VRING_BASE: {
        RingPhase.STOPPED: _get_base,
        RingPhase.WAITING: _get_base,
        RingPhase.STARTED: _stop,
    },
}
"""Request x phase of its ring -> what it does; None: refused."""


def _of_ring(request: Request) -> Transition:
    def transition(state: State, payload: RingPayload, came: Descriptors) -> Change:
        if payload.index >= len(state.rings):
            raise Refused(f"{request.name} for ring {payload.index}, there are {len(state.rings)}")
        ring = state.rings[payload.index]
        apply = RINGS[request][ring.phase]
        if apply is None:
            raise Refused(f"{request.name} for ring {payload.index} while it is started")
        return apply(state, ring, payload, came)

    return transition


def _one(_: object) -> int:
    return 1


def _if_any(payload: VringDescriptor) -> int:
    return int(payload.has_descriptor)


_PF = ProtocolFeature

RULES: Final[dict[Request, Rule]] = {
    Request.GET_FEATURES: Rule(wire.decode_empty, _get_features),
    Request.SET_FEATURES: Rule(wire.decode_u64, _set_features),
    Request.SET_OWNER: Rule(wire.decode_empty, _nothing),
    Request.RESET_OWNER: Rule(wire.decode_empty, _reset_owner),
    Request.SET_MEM_TABLE: Rule(wire.decode_memory_table, _set_memory_table, count=len),
    Request.SET_LOG_BASE: Rule(LogArea.decode, _set_log_base, count=_one, gate=_PF.LOG_SHMFD),
    Request.SET_LOG_FD: Rule(wire.decode_empty, _nothing),
    Request.SET_VRING_NUM: Rule(VringState.decode, _of_ring(Request.SET_VRING_NUM)),
    Request.SET_VRING_ADDR: Rule(VringAddress.decode, _of_ring(Request.SET_VRING_ADDR)),
    Request.SET_VRING_BASE: Rule(VringState.decode, _of_ring(Request.SET_VRING_BASE)),
    Request.GET_VRING_BASE: Rule(VringState.decode, _of_ring(Request.GET_VRING_BASE)),
    Request.SET_VRING_KICK: Rule(VringDescriptor.decode, _of_ring(Request.SET_VRING_KICK), count=_if_any),
    Request.SET_VRING_CALL: Rule(VringDescriptor.decode, _of_ring(Request.SET_VRING_CALL), count=_if_any),
    Request.SET_VRING_ERR: Rule(VringDescriptor.decode, _of_ring(Request.SET_VRING_ERR), count=_if_any),
    Request.GET_PROTOCOL_FEATURES: Rule(wire.decode_empty, _get_protocol_features),
    Request.SET_PROTOCOL_FEATURES: Rule(wire.decode_u64, _set_protocol_features),
    Request.GET_QUEUE_NUM: Rule(wire.decode_empty, _get_queue_num, gate=_PF.MQ),
    Request.SET_VRING_ENABLE: Rule(VringState.decode, _of_ring(Request.SET_VRING_ENABLE)),
    Request.GET_INFLIGHT_FD: Rule(InflightArea.decode, _get_inflight, gate=_PF.INFLIGHT_SHMFD),
    Request.SET_INFLIGHT_FD: Rule(InflightArea.decode, _set_inflight, count=_one, gate=_PF.INFLIGHT_SHMFD),
    Request.RESET_DEVICE: Rule(wire.decode_empty, _reset_device, gate=_PF.RESET_DEVICE),
    Request.GET_MAX_MEM_SLOTS: Rule(wire.decode_empty, _get_memory_slots, gate=_PF.CONFIGURE_MEM_SLOTS),
    Request.ADD_MEM_REG: Rule(wire.decode_single_region, _add_region, count=_one, gate=_PF.CONFIGURE_MEM_SLOTS),
    Request.REM_MEM_REG: Rule(wire.decode_single_region, _remove_region, gate=_PF.CONFIGURE_MEM_SLOTS),
}
"""Every request that is served. Those that are not here belong to features that are never offered, to other kinds of
devices, or are unknown."""

ANSWERED: Final = frozenset(
    {
        Request.GET_FEATURES,
        Request.GET_PROTOCOL_FEATURES,
        Request.GET_QUEUE_NUM,
        Request.GET_MAX_MEM_SLOTS,
        Request.GET_VRING_BASE,
        Request.GET_INFLIGHT_FD,
        Request.SET_LOG_BASE,
    }
)
"""Requests with an answer of their own; NEED_REPLY means nothing with them, and they cannot be answered "failed"."""
