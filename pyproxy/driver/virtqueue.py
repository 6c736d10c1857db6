"""The driver's side of a split virtqueue (virtio 1.2, 2.7), in plain Python.

It kicks for every buffer and looks at the used ring itself, so it needs no event suppression: that would take the
memory barriers that Python does not have.
"""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pyproxy.driver.memory import USER_OFFSET, GuestRam
from pyproxy.frontend.vhost_user.message import VringAddress

NEXT: Final = 1
WRITE: Final = 2
INDIRECT: Final = 4

_DESCRIPTOR = struct.Struct("<QIHH")
_U16 = struct.Struct("<H")
_USED = struct.Struct("<II")
_WRAP: Final = 0xFFFF


@dataclass(frozen=True, slots=True)
class Buffer:
    """A piece of guest memory; ``writable`` by the device."""

    address: int
    size: int
    writable: bool = False


class DriverQueue:
    """A queue of ``size`` entries in the guest's memory, with its kick and call descriptors."""

    def __init__(self, ram: GuestRam, index: int, size: int) -> None:
        self.index = index
        self.size = size
        self.descriptors = ram.allocate(16 * size, 16)
        self.available = ram.allocate(6 + 2 * size, 2)
        self.used = ram.allocate(6 + 8 * size, 4)
        self.kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.error = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._ram = ram
        self._free = list(range(size))
        self._chains: dict[int, tuple[list[int], tuple[int, int] | None]] = {}
        self._next_available = 0
        self._seen_used = 0
        self.reset()

    def address(self, *, log: int | None = None) -> VringAddress:
        """Return where it is, as SET_VRING_ADDR says it; ``log`` is the guest address its used ring is logged at."""
        return VringAddress(
            self.index,
            0 if log is None else 1,
            self.descriptors + USER_OFFSET,
            self.used + USER_OFFSET,
            self.available + USER_OFFSET,
            log or 0,
        )

    def reset(self) -> None:
        """Begin anew with an empty queue, as a driver does after a reset."""
        self._ram.write(self.descriptors, bytes(16 * self.size))
        self._ram.write(self.available, bytes(6 + 2 * self.size))
        self._ram.write(self.used, bytes(6 + 8 * self.size))
        self._free = list(range(self.size))
        self._chains.clear()
        self._next_available = 0
        self._seen_used = 0

    @property
    def in_flight(self) -> int:
        """How many chains the device has."""
        return len(self._chains)

    @property
    def used_index(self) -> int:
        """The used index as the device has it."""
        return int(_U16.unpack(self._ram.read(self.used + 2, 2))[0])

    def add(self, buffers: Sequence[Buffer], *, indirect: bool = False, kick: bool = True) -> int:
        """Make buffers available as one chain; returns its head. Raises BufferError where there is no room."""
        needed = 1 if indirect else len(buffers)
        if not buffers or needed > len(self._free):
            raise BufferError(f"a chain of {needed} descriptors, {len(self._free)} are free")
        table: tuple[int, int] | None = None
        taken = [self._free.pop() for _ in range(needed)]
        if indirect:
            table = (self._ram.allocate(16 * len(buffers), 16), 16 * len(buffers))
            self._fill(table[0], buffers, range(len(buffers)))
            self.put(taken[0], table[0], table[1], INDIRECT, 0)
        else:
            self._fill(self.descriptors, buffers, taken)
        self._chains[taken[0]] = (taken, table)
        self.offer(taken[0])
        if kick:
            self.notify()
        return taken[0]

    def put(self, slot: int, address: int, size: int, flags: int, following: int) -> None:
        """Write one descriptor of the table, whatever it says."""
        self._ram.write(self.descriptors + 16 * slot, _DESCRIPTOR.pack(address, size, flags, following))

    def offer(self, head: int) -> None:
        """Make a head available, whatever it leads to."""
        slot = self._next_available % self.size
        self._ram.write(self.available + 4 + 2 * slot, _U16.pack(head))
        self._next_available = (self._next_available + 1) & _WRAP
        self._ram.write(self.available + 2, _U16.pack(self._next_available))

    def notify(self) -> None:
        """Kick the device."""
        os.eventfd_write(self.kick, 1)

    def take_used(self) -> list[tuple[int, int]]:
        """Return (head, bytes written) of the chains that came back."""
        done = []
        index = self.used_index
        while self._seen_used != index:
            slot = self._seen_used % self.size
            head, written = _USED.unpack(self._ram.read(self.used + 4 + 8 * slot, 8))
            self._seen_used = (self._seen_used + 1) & _WRAP
            taken, table = self._chains.pop(head, ([], None))
            self._free += taken
            if table is not None:
                self._ram.release(*table)
            done.append((head, written))
        return done

    def wait(self, seconds: float) -> bool:
        """Wait for an interrupt; False when there was none in time."""
        poll = select.poll()
        poll.register(self.call, select.POLLIN)
        if not poll.poll(int(seconds * 1000)):
            return False
        try:
            os.eventfd_read(self.call)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Close its descriptors; its memory is given back with all the rest."""
        for descriptor in (self.kick, self.call, self.error):
            os.close(descriptor)

    def _fill(self, table: int, buffers: Sequence[Buffer], slots: Sequence[int]) -> None:
        for position, (buffer, slot) in enumerate(zip(buffers, slots, strict=True)):
            last = position == len(buffers) - 1
            flags = (WRITE if buffer.writable else 0) | (0 if last else NEXT)
            following = 0 if last else slots[position + 1]
            self._ram.write(table + 16 * slot, _DESCRIPTOR.pack(buffer.address, buffer.size, flags, following))
