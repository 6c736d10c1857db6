"""Which parts of the guest's memory a front end has shared, checked before anything is mapped. Immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from pyproxy.frontend.vhost_user.message import MemoryRegion

MEMORY_SLOTS: Final = 512
"""Regions at most; QEMU insists that it never shrinks when it connects again."""

_END: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class MemoryTable:
    """Regions that overlap nowhere, neither in the guest's addresses nor in the front end's."""

    regions: tuple[MemoryRegion, ...] = ()

    @classmethod
    def of(cls, regions: tuple[MemoryRegion, ...]) -> Self:
        """Return a table of exactly these regions; raises ValueError."""
        table = cls()
        for region in regions:
            table = table.adding(region)
        return table

    def adding(self, region: MemoryRegion) -> Self:
        """Return the table with one more region; ValueError when it is empty, wraps, overlaps, or is one too many."""
        if len(self.regions) >= MEMORY_SLOTS:
            raise ValueError(f"more than {MEMORY_SLOTS} memory regions")
        if region.size == 0:
            raise ValueError("a memory region of no bytes")
        for what, start in (
            ("guest address", region.guest_address),
            ("user address", region.user_address),
            ("file offset", region.offset),
        ):
            if start + region.size > _END:
                raise ValueError(f"a memory region of {region.size:#x} bytes at {what} {start:#x} wraps around")
        for other in self.regions:
            if _overlap(other.guest_address, other.size, region.guest_address, region.size):
                raise ValueError(f"memory regions overlap at guest address {region.guest_address:#x}")
            if _overlap(other.user_address, other.size, region.user_address, region.size):
                raise ValueError(f"memory regions overlap at user address {region.user_address:#x}")
        return type(self)((*self.regions, region))

    def removing(self, region: MemoryRegion) -> Self:
        """Return the table without the region of that guest address, size and user address; ValueError without one."""
        left = tuple(known for known in self.regions if _place(known) != _place(region))
        if len(left) == len(self.regions):
            raise ValueError(f"no memory region at guest address {region.guest_address:#x} of {region.size:#x} bytes")
        return type(self)(left)

    def __len__(self) -> int:
        return len(self.regions)


def _place(region: MemoryRegion) -> tuple[int, int, int]:
    return region.guest_address, region.size, region.user_address


def _overlap(start: int, size: int, other: int, other_size: int) -> bool:
    return start < other + other_size and other < start + size
