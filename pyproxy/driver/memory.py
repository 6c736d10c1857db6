"""Guest memory that a driver shares with a back end: regions in memfds, and a place to allocate buffers in them."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence
from typing import Final

from pyproxy.frontend.vhost_user.message import MemoryRegion

USER_OFFSET: Final = 0x7F00_0000_0000
"""What a user address is above its guest address, so that one cannot be taken for the other."""

_F_ADD_SEALS: Final = 1033
_F_SEAL_SHRINK: Final = 0x2


class GuestRam:
    """Memory at guest physical addresses: ``regions`` are (guest address, size) in bytes, whole pages.

    Each is a sealed memfd of its own (``seal`` off leaves it open to be shrunk). Allocation goes through the regions in
    order and takes memory back.
    """

    def __init__(self, regions: Sequence[tuple[int, int]] = ((0, 16 << 20),), *, seal: bool = True) -> None:
        self.regions: list[MemoryRegion] = []
        self.descriptors: list[int] = []
        self._maps: list[mmap.mmap] = []
        self._free: list[tuple[int, int]] = []
        for guest_address, size in regions:
            self.add_region(guest_address, size, seal=seal)

    def add_region(self, guest_address: int, size: int, *, seal: bool = True) -> MemoryRegion:
        """Plug in more memory, as a hypervisor does with a hot-plugged module."""
        descriptor = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        if seal:
            fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEAL_SHRINK)
        region = MemoryRegion(guest_address, size, guest_address + USER_OFFSET, 0)
        self.regions.append(region)
        self.descriptors.append(descriptor)
        self._maps.append(mmap.mmap(descriptor, size))
        self._free.append((guest_address, size))
        return region

    def view(self, address: int, size: int) -> memoryview:
        """Return memory at a guest address, within one region; raises ValueError."""
        for region, mapped in zip(self.regions, self._maps, strict=True):
            if region.guest_address <= address and address + size <= region.guest_address + region.size:
                start = address - region.guest_address
                return memoryview(mapped)[start : start + size]
        raise ValueError(f"{size} bytes at {address:#x} are not in one memory region")

    def read(self, address: int, size: int) -> bytes:
        """Return bytes at a guest address."""
        with self.view(address, size) as view:
            return bytes(view)

    def write(self, address: int, data: bytes) -> None:
        """Put bytes at a guest address."""
        with self.view(address, len(data)) as view:
            view[:] = data

    def allocate(self, size: int, alignment: int = 16) -> int:
        """Return the guest address of ``size`` free bytes; raises MemoryError."""
        for position, (start, room) in enumerate(self._free):
            address = start + -start % alignment
            left = start + room - address - size
            if left < 0:
                continue
            pieces = [(start, address - start), (address + size, left)]
            self._free[position : position + 1] = [piece for piece in pieces if piece[1]]
            return address
        raise MemoryError(f"no {size} bytes of guest memory are free")

    def release(self, address: int, size: int) -> None:
        """Give memory back."""
        pieces = sorted([*self._free, (address, size)])
        merged: list[tuple[int, int]] = []
        for start, room in pieces:
            if merged and merged[-1][0] + merged[-1][1] == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + room)
            else:
                merged.append((start, room))
        self._free = merged

    def close(self) -> None:
        """Unmap and close everything; views must be gone."""
        for mapped in self._maps:
            mapped.close()
        for descriptor in self.descriptors:
            os.close(descriptor)
        self._maps.clear()
        self.descriptors.clear()
        self.regions.clear()
