"""A data plane in plain Python: slow, one thread, no suppression; what a real one does can be compared with it."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from pyproxy.frontend.vhost_user.data_plane import DataPlane, Region
from pyproxy.frontend.virtio_scsi.lun import decode_lun

LOG_ALL = 1 << 26


class BrokenRingError(Exception):
    pass


class Mapping:
    def __init__(self, region: Region) -> None:
        self.guest_address, self.size, self.user_address, descriptor, offset = region
        if os.fstat(descriptor).st_size < offset + self.size:
            raise ValueError("the descriptor is shorter than its region")
        self.bytes = mmap.mmap(descriptor, offset + self.size)
        self.offset = offset


class ReferenceMemory:
    def __init__(self, mappings: Sequence[Mapping]) -> None:
        self.mappings = tuple(mappings)

    @classmethod
    def map(cls, regions: Sequence[Region]) -> ReferenceMemory:
        return cls([Mapping(region) for region in regions])

    def with_region(self, region: Region) -> ReferenceMemory:
        return ReferenceMemory([*self.mappings, Mapping(region)])

    def without_region(self, guest_address: int, size: int, user_address: int) -> ReferenceMemory:
        place = (guest_address, size, user_address)
        left = [each for each in self.mappings if (each.guest_address, each.size, each.user_address) != place]
        if len(left) == len(self.mappings):
            raise ValueError("no such region")
        return ReferenceMemory(left)

    def guest_of(self, user_address: int, size: int) -> int:
        for each in self.mappings:
            if each.user_address <= user_address and user_address + size <= each.user_address + each.size:
                return each.guest_address + user_address - each.user_address
        raise ValueError(f"{user_address:#x} is not in memory")

    def _pieces(self, address: int, size: int):
        while size:
            for each in self.mappings:
                if each.guest_address <= address < each.guest_address + each.size:
                    start = each.offset + address - each.guest_address
                    length = min(size, each.guest_address + each.size - address)
                    yield each.bytes, start, length
                    address += length
                    size -= length
                    break
            else:
                raise BrokenRingError(f"guest address {address:#x} is not in memory")

    def read(self, address: int, size: int) -> bytes:
        return b"".join(mapped[start : start + length] for mapped, start, length in self._pieces(address, size))

    def write(self, address: int, data: bytes) -> None:
        at = 0
        for mapped, start, length in self._pieces(address, len(data)):
            mapped[start : start + length] = data[at : at + length]
            at += length


class ReferenceLog:
    def __init__(self, descriptor: int, offset: int, size: int) -> None:
        self.bytes = mmap.mmap(descriptor, offset + size)
        self.offset, self.size = offset, size

    def mark(self, address: int, size: int) -> None:
        for page in range(address >> 12, (address + size - 1 >> 12) + 1):
            if page >> 3 < self.size:
                self.bytes[self.offset + (page >> 3)] |= 1 << (page & 7)


@dataclass
class Ring:
    size: int
    descriptors: int
    available: int
    used: int
    used_log: int | None
    next_available: int
    next_used: int
    kick: int
    call: int
    error: int
    heads: list[int] = field(default_factory=list)
    broken: bool = False

    def close(self) -> None:
        for descriptor in (self.kick, self.call, self.error):
            if descriptor >= 0:
                os.close(descriptor)


class ReferenceController:
    """Serves rings one command after the other on a thread of its own, all through the handler."""

    def __init__(self, handler, queues: int) -> None:
        self.handler = handler
        self.queues = queues
        self.lock = threading.RLock()
        self.memory: ReferenceMemory | None = None
        self.log: ReferenceLog | None = None
        self.features = 0
        self.rings: dict[int, Ring] = {}
        self.enabled = [False] * queues
        self.inflight: mmap.mmap | None = None
        self.inflight_stride = 0
        self.missed = False
        self.wake = os.eventfd(0, os.EFD_NONBLOCK)
        self.closing = False
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def plane(self) -> DataPlane:
        return DataPlane(self, ReferenceMemory.map, ReferenceLog)

    def close(self) -> None:
        self.closing = True
        os.eventfd_write(self.wake, 1)
        self.thread.join()
        os.close(self.wake)

    # --- what the control plane calls ---

    def set_memory(self, memory):
        with self.lock:
            self.memory = memory

    def set_log(self, log):
        with self.lock:
            self.log = log

    def set_features(self, features):
        with self.lock:
            self.features = features

    def get_inflight(self, queues, queue_size):
        self.inflight_stride = (16 + 16 * queue_size + 63) // 64 * 64
        size = queues * self.inflight_stride
        descriptor = os.memfd_create("inflight")
        os.ftruncate(descriptor, size)
        self.inflight = mmap.mmap(descriptor, size)
        return descriptor, 0, size

    def drop_inflight(self):
        with self.lock:
            self.inflight = None

    def set_inflight(self, descriptor, offset, size, queues, queue_size):
        assert offset == 0
        with self.lock:
            self.inflight_stride = (16 + 16 * queue_size + 63) // 64 * 64
            self.inflight = mmap.mmap(descriptor, size)

    def start_queue(
        self,
        index,
        *,
        size,
        descriptor_address,
        available_address,
        used_address,
        used_log_address,
        base,
        kick,
        call,
        error,
    ):
        with self.lock:
            memory = self.memory
            ring = Ring(
                size,
                memory.guest_of(descriptor_address, 16 * size),
                memory.guest_of(available_address, 6 + 2 * size),
                memory.guest_of(used_address, 6 + 8 * size),
                used_log_address,
                base,
                0,
                kick,
                call,
                error,
            )
            ring.next_used = struct.unpack("<H", memory.read(ring.used + 2, 2))[0]
            self._recover(index, ring)
            self.rings[index] = ring
            self._interrupt(ring)
        os.eventfd_write(self.wake, 1)

    def stop_queue(self, index):
        with self.lock:
            ring = self.rings.pop(index)
            ring.close()
            return ring.next_available

    def set_call(self, index, descriptor):
        with self.lock:
            ring = self.rings[index]
            if ring.call >= 0:
                os.close(ring.call)
            ring.call = descriptor
            self._interrupt(ring)

    def set_enabled(self, index, enabled):
        with self.lock:
            self.enabled[index] = enabled
        os.eventfd_write(self.wake, 1)

    def set_used_log(self, index, used_log_address):
        with self.lock:
            self.rings[index].used_log = used_log_address

    def send_event(self, event: bytes) -> bool:
        with self.lock:
            ring = self.rings.get(1)
            head = self._pop(ring) if ring is not None and self.enabled[1] and not ring.broken else None
            if head is None:
                self.missed = True
                return False
            kind = struct.unpack_from("<I", event)[0] | (1 << 31 if self.missed else 0)
            self.missed = False
            readable, writable = self._chain(ring, head)
            assert not readable
            data = struct.pack("<I", kind) + event[4:]
            self._scatter(writable, data)
            self._push(1, ring, head, len(data))
            return True

    # --- rings ---

    def _run(self) -> None:
        while not self.closing:
            poll = select.poll()
            poll.register(self.wake, select.POLLIN)
            with self.lock:
                live = {index: ring for index, ring in self.rings.items() if self.enabled[index] and not ring.broken}
                for ring in live.values():
                    if ring.kick >= 0:
                        poll.register(ring.kick, select.POLLIN)
            for descriptor, _ in poll.poll(20):
                with contextlib.suppress(OSError):
                    os.eventfd_read(descriptor)
            for index in list(live):
                while self._serve_one(index):
                    pass

    def _serve_one(self, index: int) -> bool:
        with self.lock:
            ring = self.rings.get(index)
            if ring is None or index == 1 or not self.enabled[index] or ring.broken:
                return False
            try:
                head = self._pop(ring)
                if head is None:
                    return False
                readable, writable = self._chain(ring, head)
                request = b"".join(self.memory.read(address, size) for address, size in readable)
                room = sum(size for _, size in writable)
                answer = self._control(request) if index == 0 else self._command(request, room)
                answer = answer[:room]
                self._scatter(writable, answer)
                self._push(index, ring, head, len(answer))
            except BrokenRingError as error:
                ring.broken = True
                if ring.error >= 0:
                    os.eventfd_write(ring.error, 1)
                self.handler.queue_broken(index, str(error))
            return True

    def _control(self, request: bytes) -> bytes:
        return self.handler.control(request)

    def _command(self, request: bytes, room: int) -> bytes:
        if len(request) < 51 or room < 108:
            return b""
        address = decode_lun(request[:8])
        if address is None:
            return struct.pack("<IIHBB96x", 0, room - 108, 0, 0, 3)
        cdb = request[19:51]
        response, status, sense, data, residual = self.handler.execute(*address, cdb, request[51:], room - 108)
        head = struct.pack("<IIHBB", len(sense), residual, 0, status, response)
        return head + sense.ljust(96, b"\0") + data

    def _pop(self, ring: Ring) -> int | None:
        if not ring.heads:
            (index,) = struct.unpack("<H", self.memory.read(ring.available + 2, 2))
            if (index - ring.next_available) & 0xFFFF > ring.size:
                raise BrokenRingError(f"available index {index} after {ring.next_available}")
            if index == ring.next_available:
                return None
            slot = ring.next_available % ring.size
            (head,) = struct.unpack("<H", self.memory.read(ring.available + 4 + 2 * slot, 2))
            ring.next_available = (ring.next_available + 1) & 0xFFFF
            ring.heads.append(head)
        head = ring.heads.pop(0)
        if head >= ring.size:
            raise BrokenRingError(f"head {head}")
        return head

    def _chain(self, ring: Ring, head: int):
        readable: list[tuple[int, int]] = []
        writable: list[tuple[int, int]] = []
        table, length, slot = ring.descriptors, ring.size, head
        for _ in range(2 * ring.size):
            if slot >= length:
                raise BrokenRingError(f"descriptor {slot}")
            address, size, flags, following = struct.unpack("<QIHH", self.memory.read(table + 16 * slot, 16))
            if flags & 4:
                table, length, slot = address, size // 16, 0
                continue
            (writable if flags & 2 else readable).append((address, size))
            if not flags & 1:
                return readable, writable
            slot = following
        raise BrokenRingError("a loop of descriptors")

    def _scatter(self, writable, data: bytes) -> None:
        for address, size in writable:
            part, data = data[:size], data[size:]
            if part:
                self._write(address, part)

    def _write(self, address: int, data: bytes, log: int | None = None) -> None:
        self.memory.write(address, data)
        if self.features & LOG_ALL and self.log is not None:
            self.log.mark(address if log is None else log, len(data))

    def _push(self, index: int, ring: Ring, head: int, written: int) -> None:
        slot = ring.next_used % ring.size
        for offset, data in (
            (4 + 8 * slot, struct.pack("<II", head, written)),
            (2, struct.pack("<H", (ring.next_used + 1) & 0xFFFF)),
        ):
            self.memory.write(ring.used + offset, data)
            if ring.used_log is not None and self.features & LOG_ALL and self.log is not None:
                self.log.mark(ring.used_log + offset, len(data))
        ring.next_used = (ring.next_used + 1) & 0xFFFF
        self._interrupt(ring)

    def _interrupt(self, ring: Ring) -> None:
        if ring.call >= 0:
            os.eventfd_write(ring.call, 1)

    def _recover(self, index: int, ring: Ring) -> None:
        """It never leaves anything in flight, so what the last one left is to be done again."""
        if self.inflight is None:
            return
        at = index * self.inflight_stride
        found = []
        for head in range(ring.size):
            taken, counter = struct.unpack_from("<B7xQ", self.inflight, at + 16 + 16 * head)
            if taken:
                found.append((counter, head))
                self.inflight[at + 16 + 16 * head] = 0
        if found:
            ring.next_available = (ring.next_used + len(found)) & 0xFFFF
            ring.heads = [head for _, head in sorted(found)]
