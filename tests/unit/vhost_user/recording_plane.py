"""A data plane that does nothing but remember what it was told, and complain when the control plane errs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyproxy.frontend.vhost_user.data_plane import DataPlane, Region


@dataclass
class RecordedMemory:
    regions: list[tuple[int, int, int, int]]

    def with_region(self, region: Region) -> RecordedMemory:
        os.fstat(region[3])
        return RecordedMemory([*self.regions, (*region[:3], region[4])])

    def without_region(self, guest_address: int, size: int, user_address: int) -> RecordedMemory:
        left = [region for region in self.regions if region[:3] != (guest_address, size, user_address)]
        if len(left) == len(self.regions):
            raise ValueError("no such region")
        return RecordedMemory(left)


@dataclass
class RecordedLog:
    offset: int
    size: int


@dataclass
class RecordedRing:
    kick: int
    call: int
    error: int


@dataclass
class RecordingController:
    """``fail`` makes the call of that name raise; ``base`` is what stopped queues were at."""

    fail: dict[str, Exception] = field(default_factory=dict)
    base: int = 0
    calls: list[tuple] = field(default_factory=list)
    started: dict[int, RecordedRing] = field(default_factory=dict)
    enabled: dict[int, bool] = field(default_factory=dict)
    memory: RecordedMemory | None = None
    log: RecordedLog | None = None
    features: int | None = None

    def plane(self) -> DataPlane:
        return DataPlane(self, self._map_memory, self._map_log)

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def _note(self, name: str, *arguments: object) -> None:
        if name in self.fail:
            raise self.fail[name]
        self.calls.append((name, *arguments))

    def _map_memory(self, regions: Sequence[Region]) -> RecordedMemory:
        if "map_memory" in self.fail:
            raise self.fail["map_memory"]
        for region in regions:
            os.fstat(region[3])
        return RecordedMemory([(*region[:3], region[4]) for region in regions])

    def _map_log(self, descriptor: int, offset: int, size: int) -> RecordedLog:
        os.fstat(descriptor)
        return RecordedLog(offset, size)

    def set_memory(self, memory: RecordedMemory | None) -> None:
        assert memory is not None or not self.started
        self._note("set_memory", memory)
        self.memory = memory

    def set_log(self, log: RecordedLog | None) -> None:
        self._note("set_log", log)
        self.log = log

    def set_features(self, features: int) -> None:
        self._note("set_features", features)
        self.features = features

    def set_inflight(self, descriptor: int, offset: int, size: int, queues: int, queue_size: int) -> None:
        os.fstat(descriptor)
        self._note("set_inflight", offset, size, queues, queue_size)

    def drop_inflight(self) -> None:
        assert not self.started
        self._note("drop_inflight")

    def get_inflight(self, queues: int, queue_size: int) -> tuple[int, int, int]:
        self._note("get_inflight", queues, queue_size)
        size = queues * ((16 + 16 * queue_size + 63) // 64 * 64)
        descriptor = os.memfd_create("inflight")
        os.ftruncate(descriptor, size)
        return descriptor, 0, size

    def start_queue(self, index: int, **ring: int | None) -> None:
        assert index not in self.started
        assert self.memory is not None
        assert self.features is not None
        descriptors = RecordedRing(ring["kick"], ring["call"], ring["error"])
        for descriptor in (descriptors.kick, descriptors.call, descriptors.error):
            if descriptor >= 0:
                os.fstat(descriptor)
        plain = {name: value for name, value in ring.items() if name not in ("kick", "call", "error")}
        has = tuple(name for name in ("kick", "call", "error") if ring[name] >= 0)
        self._note("start_queue", index, plain, has)
        self.started[index] = descriptors

    def stop_queue(self, index: int) -> int:
        ring = self.started.pop(index)
        self._note("stop_queue", index)
        for descriptor in (ring.kick, ring.call, ring.error):
            if descriptor >= 0:
                os.close(descriptor)
        return self.base

    def set_call(self, index: int, descriptor: int) -> None:
        ring = self.started[index]
        self._note("set_call", index, descriptor >= 0)
        if ring.call >= 0:
            os.close(ring.call)
        ring.call = descriptor

    def set_enabled(self, index: int, enabled: bool) -> None:
        self._note("set_enabled", index, enabled)
        self.enabled[index] = enabled

    def set_used_log(self, index: int, used_log_address: int | None) -> None:
        assert index in self.started
        self._note("set_used_log", index, used_log_address)
