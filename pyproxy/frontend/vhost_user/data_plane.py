"""What the control plane needs of the data plane: the guest's memory, its rings, and who answers the rare commands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

from _fastpath import controller as fastpath
from _fastpath import guest_memory

Region: TypeAlias = tuple[int, int, int, int, int]
"""(guest address, size, user address, descriptor, offset in the descriptor's file)."""


class GuestMemory(Protocol):
    """Mapped memory of a guest, immutable; descriptors stay the caller's."""

    def with_region(self, region: Region, /) -> GuestMemory:
        """Return the memory with one region more; raises ValueError or OSError."""

    def without_region(self, guest_address: int, size: int, user_address: int, /) -> GuestMemory:
        """Return the memory with one region less; raises ValueError."""


class DirtyLog(Protocol):
    """A mapped dirty log."""


class Controller(Protocol):
    """The rings of one virtio-scsi controller: 0 control, 1 events, 2.. requests.

    Everything may be called while other rings run and returns when it is in force. ValueError and OSError leave
    everything as it was.
    """

    def set_memory(self, memory: Any, /) -> None:
        """Use this memory (what ``map_memory`` returned, or None) from now on.

        ValueError where a started ring is not in it, which is broken then; this alone takes effect all the same.
        """

    def set_log(self, log: Any, /) -> None:
        """Note dirty pages there (what ``map_log`` returned, or None), while the features have LOG_ALL."""

    def set_features(self, features: int, /) -> None:
        """Take these negotiated features from now on."""

    def set_inflight(self, descriptor: int, offset: int, size: int, queues: int, queue_size: int, /) -> None:
        """Use the region that remembers what is in flight; the descriptor stays the caller's."""

    def drop_inflight(self) -> None:
        """Forget the region, which belonged to one front end; no ring is started."""

    def get_inflight(self, queues: int, queue_size: int, /) -> tuple[int, int, int]:
        """Make such a region: (descriptor that the caller closes, offset, size)."""

    def start_queue(
        self,
        index: int,
        *,
        size: int,
        descriptor_address: int,
        available_address: int,
        used_address: int,
        used_log_address: int | None,
        base: int,
        kick: int,
        call: int,
        error: int,
    ) -> None:
        """Serve a ring at front-end user addresses; kick, call and error are its own once this returned."""

    def stop_queue(self, index: int, /) -> int:
        """Finish and publish what is in flight; returns the available index to go on from."""

    def set_call(self, index: int, descriptor: int, /) -> None:
        """Interrupt a started ring's guest there; the descriptor is its own once this returned."""

    def set_enabled(self, index: int, enabled: bool, /) -> None:
        """Serve the ring while it is started, or do not; remembered while it is not started."""

    def set_used_log(self, index: int, used_log_address: int | None, /) -> None:
        """Log writes to a started ring's used part at this guest address, or not."""


@dataclass(frozen=True, slots=True)
class DataPlane:
    """One controller and how its memory and log are mapped."""

    controller: Controller
    map_memory: Callable[[Sequence[Region]], GuestMemory]
    map_log: Callable[[int, int, int], DirtyLog]
    """(descriptor, offset, size); both raise ValueError or OSError."""

    @classmethod
    def of(cls, controller: fastpath.Controller) -> Self:
        """Return the fast path's controller with the fast path's memory."""
        return cls(controller, guest_memory.GuestMemory, guest_memory.DirtyLog)
