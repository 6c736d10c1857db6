"""What a session knows: features, memory, rings. Immutable; the transitions make new ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Self

from pyproxy.frontend.vhost_user.actions import StartRing
from pyproxy.frontend.vhost_user.features import Feature, ProtocolFeature, has
from pyproxy.frontend.vhost_user.memory_table import MemoryTable
from pyproxy.frontend.vhost_user.message import VringAddress


class RingPhase(Enum):
    """How far a ring has come; whether it is enabled is another matter."""

    STOPPED = "stopped"
    WAITING = "waiting"
    """SET_VRING_KICK came, but not yet all the rest: size, addresses, memory, features."""
    STARTED = "started"


@dataclass(frozen=True, slots=True)
class Ring:
    """One ring. ``kick`` and ``call`` are descriptors held until it starts, ``error`` one that is held throughout."""

    phase: RingPhase = RingPhase.STOPPED
    enabled: bool = False
    size: int = 0
    base: int = 0
    address: VringAddress | None = None
    kick: int = -1
    call: int = -1
    error: int = -1

    @property
    def used_log(self) -> int | None:
        """Guest address at which writes to the used part are logged; None where they are not."""
        return self.address.log if self.address is not None and self.address.logs_used else None

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What the session holds for this ring."""
        return held(self.kick, self.call, self.error)

    def start(self, index: int) -> tuple[Ring, StartRing]:
        """Return the ring as it is once started, and what starts it."""
        assert self.address is not None
        action = StartRing(
            index,
            self.size,
            self.address.descriptor,
            self.address.available,
            self.address.used,
            self.used_log,
            self.base,
            self.kick,
            self.call,
            self.error,
        )
        return replace(self, phase=RingPhase.STARTED, kick=-1, call=-1), action

    def stopped(self, base: int) -> Ring:
        """Return the ring as it is once the data plane left it."""
        return replace(self, phase=RingPhase.STOPPED, base=base, kick=-1, call=-1)


@dataclass(frozen=True, slots=True)
class State:
    """Everything a front end has set. ``features`` is None until SET_FEATURES came."""

    rings: tuple[Ring, ...]
    features: int | None = None
    protocol: int = 0
    memory: MemoryTable = field(default_factory=MemoryTable)
    logging: bool = False
    inflight: bool = False

    def negotiated(self, feature: ProtocolFeature) -> bool:
        """Whether a protocol feature was acknowledged."""
        return has(self.protocol, feature)

    @property
    def enables_rings(self) -> bool:
        """Whether the front end enables rings itself (virtio bit 30 was acknowledged)."""
        return self.features is not None and has(self.features, Feature.PROTOCOL_FEATURES)

    @property
    def started(self) -> tuple[int, ...]:
        """The rings that are started."""
        return tuple(index for index, ring in enumerate(self.rings) if ring.phase is RingPhase.STARTED)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Everything the session holds."""
        return tuple(descriptor for ring in self.rings for descriptor in ring.descriptors)

    def with_ring(self, index: int, ring: Ring) -> Self:
        """Return the state with one ring changed."""
        return replace(self, rings=(*self.rings[:index], ring, *self.rings[index + 1 :]))

    def start_ready(self) -> tuple[Self, tuple[StartRing, ...]]:
        """Start every ring that waited and has all it needs now."""
        state = self
        actions = []
        if self.features is None or not self.memory.regions:
            return state, ()
        for index, ring in enumerate(self.rings):
            if ring.phase is RingPhase.WAITING and ring.size and ring.address is not None:
                started, action = ring.start(index)
                state = state.with_ring(index, started)
                actions.append(action)
        return state, tuple(actions)


def held(*descriptors: int) -> tuple[int, ...]:
    """Return those that are descriptors."""
    return tuple(descriptor for descriptor in descriptors if descriptor >= 0)


def without(descriptors: Iterable[int], gone: Iterable[int]) -> tuple[int, ...]:
    """Return the descriptors that are not among those gone."""
    lost = set(gone)
    return tuple(descriptor for descriptor in descriptors if descriptor not in lost)
