"""What a session wants done to the data plane, one value for each thing, carried out in order by the connection.

Every action names the descriptors that come with it (-1: none). ``owned`` are those the performer closes afterwards in
any case; those of ``handed_over`` are the data plane's once the action succeeded, and closed by the performer only when
it failed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from pyproxy.frontend.vhost_user.message import InflightArea, LogArea, MemoryRegion


@dataclass(frozen=True, slots=True)
class SetFeatures:
    """The features that are in force from now on, for running rings too."""

    features: int
    owned: ClassVar[tuple[int, ...]] = ()
    handed_over: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class SetMemory:
    """The guest's memory is exactly this, each region in its descriptor; none: there is no memory any more."""

    regions: tuple[MemoryRegion, ...]
    descriptors: tuple[int, ...]
    handed_over: ClassVar[tuple[int, ...]] = ()

    @property
    def owned(self) -> tuple[int, ...]:
        """One for each region."""
        return self.descriptors


@dataclass(frozen=True, slots=True)
class AddRegion:
    """One region more."""

    region: MemoryRegion
    descriptor: int
    handed_over: ClassVar[tuple[int, ...]] = ()

    @property
    def owned(self) -> tuple[int, ...]:
        """The region's."""
        return (self.descriptor,)


@dataclass(frozen=True, slots=True)
class RemoveRegion:
    """One region less."""

    region: MemoryRegion
    owned: ClassVar[tuple[int, ...]] = ()
    handed_over: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class SetLog:
    """Where dirty pages are noted; no area: nowhere any more."""

    area: LogArea | None
    descriptor: int = -1
    handed_over: ClassVar[tuple[int, ...]] = ()

    @property
    def owned(self) -> tuple[int, ...]:
        """The log's."""
        return (self.descriptor,) if self.descriptor >= 0 else ()


@dataclass(frozen=True, slots=True)
class MakeInflight:
    """Make a new region for what is in flight; its value is (descriptor, offset, size)."""

    queues: int
    queue_size: int
    owned: ClassVar[tuple[int, ...]] = ()
    handed_over: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class SetInflight:
    """Use a region that the front end kept."""

    area: InflightArea
    descriptor: int
    handed_over: ClassVar[tuple[int, ...]] = ()

    @property
    def owned(self) -> tuple[int, ...]:
        """The region's."""
        return (self.descriptor,)


@dataclass(frozen=True, slots=True)
class DropInflight:
    """Start rings without such a region from now on."""

    owned: ClassVar[tuple[int, ...]] = ()
    handed_over: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class StartRing:
    """Begin to serve a ring. ``error`` stays the session's: a duplicate is handed over."""

    index: int
    size: int
    descriptor_address: int
    available_address: int
    used_address: int
    used_log_address: int | None
    base: int
    kick: int
    call: int
    error: int
    owned: ClassVar[tuple[int, ...]] = ()

    @property
    def handed_over(self) -> tuple[int, ...]:
        """Kick and call."""
        return tuple(descriptor for descriptor in (self.kick, self.call) if descriptor >= 0)


@dataclass(frozen=True, slots=True)
class StopRing:
    """Finish and publish what is in flight, then leave the ring; its value is the next available index."""

    index: int
    owned: ClassVar[tuple[int, ...]] = ()
    handed_over: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class SetEnabled:
    """Whether a ring is served while it is started."""

    index: int
    enabled: bool
    owned: ClassVar[tuple[int, ...]] = ()
    handed_over: ClassVar[tuple[int, ...]] = ()


@dataclass(frozen=True, slots=True)
class SetCall:
    """Where a started ring's guest is interrupted from now on; -1: nowhere."""

    index: int
    descriptor: int
    owned: ClassVar[tuple[int, ...]] = ()

    @property
    def handed_over(self) -> tuple[int, ...]:
        """The new one."""
        return (self.descriptor,) if self.descriptor >= 0 else ()


@dataclass(frozen=True, slots=True)
class SetUsedLog:
    """Where the writes to a started ring's used part are logged, as a guest address; None: not."""

    index: int
    address: int | None
    owned: ClassVar[tuple[int, ...]] = ()
    handed_over: ClassVar[tuple[int, ...]] = ()


Action: TypeAlias = (
    SetFeatures
    | SetMemory
    | AddRegion
    | RemoveRegion
    | SetLog
    | MakeInflight
    | SetInflight
    | DropInflight
    | StartRing
    | StopRing
    | SetEnabled
    | SetCall
    | SetUsedLog
)
