"""A controller with an emulated unit behind it, and a driver's rings in memory that both share."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from _fastpath.block_port import BlockPort
from _fastpath.controller import F_EVENT_IDX, F_INDIRECT_DESC, F_VERSION_1, Controller
from _fastpath.guest_memory import GuestMemory
from _fastpath.verdict import Verdicts
from _fastpath.vring_driver import DriverMemory, DriverQueue
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.device.emulated.nexus import EmulatedNexus
from pyproxy.scsi.command import Command
from pyproxy.scsi.transport_id import SasTransportId

PATIENCE = 60.0
RESPONSE = 108
GOOD, CHECK, CONFLICT = 0x00, 0x02, 0x18
OK, ABORTED, BAD_TARGET, RESET, BUSY, FAILURE = 0, 2, 3, 4, 5, 9
TEST_UNIT_READY = bytes(6)


def read_10(lba: int, blocks: int) -> bytes:
    return b"\x28\0" + lba.to_bytes(4) + b"\0" + blocks.to_bytes(2) + b"\0"


def write_10(lba: int, blocks: int, flags: int = 0) -> bytes:
    return bytes([0x2A, flags]) + lba.to_bytes(4) + b"\0" + blocks.to_bytes(2) + b"\0"


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.001)


class NexusHandler:
    """Executes what the data plane does not on one nexus of the emulated unit."""

    def __init__(self, nexus: EmulatedNexus | None) -> None:
        self.nexus = nexus
        self.executed: list[tuple[int, int, bytes]] = []
        self.controls: list[bytes] = []
        self.events: list[tuple[int, int, bytes, int, int, int]] = []
        self.broken: list[tuple[int, str]] = []

    def execute(
        self, target: int, lun: int, cdb: bytes, data_out: bytes, data_in: int
    ) -> tuple[int, int, bytes, bytes, int]:
        self.executed.append((target, lun, cdb))
        if self.nexus is None:
            raise RuntimeError("no nexus")
        result = self.nexus.execute(Command(cdb, data_out=data_out, data_in=data_in))
        response = ABORTED if result.host_status else OK
        return response, result.status, result.sense, result.data, result.residual

    def control(self, request: bytes) -> bytes:
        self.controls.append(request)
        return b"\0" if request[0] == 0 else bytes(5)

    def inspect(self, target: int, lun: int, cdb: bytes, kind: int, asc: int, ascq: int) -> None:
        self.events.append((target, lun, cdb, kind, asc, ascq))

    def queue_broken(self, index: int, reason: str) -> None:
        self.broken.append((index, reason))


class Scene:
    """Queue 0 control, 1 event, 2 and up request queues; target 0 LUN 0 is the emulated unit."""

    def __init__(
        self,
        *,
        size: int = 128,
        requests: int = 1,
        workers: int = 1,
        event_index: bool = False,
        indirect: bool = True,
        block_size: int = 512,
        medium: int = 8 << 20,
        memory: int = 32 << 20,
        data_size: int = 65536,
        poll_us: int = 50,
        attach: bool = True,
        verdicts: Verdicts | None = None,
        waiting: bytearray | None = None,
        features: int = 0,
    ) -> None:
        self.unit = EmulatedUnit(medium, block_size=block_size, power_on_attention=False)
        self.nexus = self.unit.nexus(SasTransportId(bytes.fromhex("5001405000000001")))
        self.handler = NexusHandler(self.nexus)
        self.memory = DriverMemory(memory)
        self.controller = Controller(self.handler, 2 + requests, poll_us=poll_us, workers=workers)
        self.features = F_VERSION_1 | features
        self.features |= F_EVENT_IDX if event_index else 0
        self.features |= F_INDIRECT_DESC if indirect else 0
        self.controller.set_features(self.features)
        self.controller.set_memory(GuestMemory([self.memory.region()]))
        self.queues = [
            DriverQueue(
                self.memory,
                size if index > 1 else 16,
                data_size=data_size if index > 1 else 4096,
                event_index=event_index,
                indirect=indirect,
            )
            for index in range(2 + requests)
        ]
        for index, queue in enumerate(self.queues):
            self.controller.start_queue(index, **queue.start_arguments())
            self.controller.set_enabled(index, True)
        if attach:
            port = BlockPort(self.unit.medium, self.nexus.gate)
            self.controller.attach(0, 0, port, verdicts=verdicts, waiting=waiting)

    @property
    def queue(self) -> DriverQueue:
        """The first request queue."""
        return self.queues[2]

    def execute(
        self, cdb: bytes, *, data_out: bytes = b"", data_in: int = 0, target: int = 0, lun: int = 0, queue: int = 2
    ) -> tuple[int, int, bytes, bytes, int]:
        """(response, status, sense, data, residual) of one command run alone."""
        ring = self.queues[queue]
        slot = ring.submit(cdb, data_out=data_out, data_in=data_in, target=target, lun=lun)
        assert ring.wait(PATIENCE)[0] == slot
        response, status, sense, residual, _ = ring.response(slot)
        return response, status, sense, ring.data_of(slot, max(data_in - residual, 0)), residual

    def good(self, cdb: bytes, *, data_out: bytes = b"", data_in: int = 0) -> bytes:
        response, status, sense, data, _ = self.execute(cdb, data_out=data_out, data_in=data_in)
        assert (response, status, sense) == (OK, GOOD, b"")
        return data

    def close(self) -> None:
        self.controller.close()
        self.unit.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


NEXT, WRITE, INDIRECT = 1, 2, 4


def descriptor(address: int, length: int, flags: int = 0, following: int = 0) -> bytes:
    return struct.pack("<QIHH", address & 0xFFFFFFFFFFFFFFFF, length & 0xFFFFFFFF, flags & 0xFFFF, following & 0xFFFF)


class RawRing:
    """The first request queue with its bytes laid bare; slots of the driver are not used beside it."""

    def __init__(self, scene: Scene, index: int = 2) -> None:
        self.scene = scene
        self.index = index
        self.queue = scene.queues[index]
        self.view = scene.memory.view()
        self.scratch = self.queue.data
        self.available = 0
        self.used = 0

    def put(self, address: int, data: bytes) -> None:
        at = address - self.scene.memory.guest
        self.view[at : at + len(data)] = data

    def get(self, address: int, length: int) -> bytes:
        at = address - self.scene.memory.guest
        return bytes(self.view[at : at + length])

    def table(self, index: int, *descriptors: bytes) -> None:
        for number, one in enumerate(descriptors):
            self.put(self.queue.descriptors + 16 * (index + number), one)

    def offer(self, *heads: int, jump: int = 0) -> None:
        for head in heads:
            slot = self.available % self.queue.size
            self.put(self.queue.available + 4 + 2 * slot, struct.pack("<H", head))
            self.available += 1
        self.put(self.queue.available + 2, struct.pack("<H", (self.available + jump) & 0xFFFF))
        os.eventfd_write(self.queue.kick, 1)

    @property
    def used_index(self) -> int:
        return int(struct.unpack("<H", self.get(self.queue.used + 2, 2))[0])

    def next_used(self) -> tuple[int, int]:
        """(head, length) of the next used element."""
        until(lambda: self.used_index != self.used & 0xFFFF, "a used element")
        at = self.queue.used + 4 + 8 * (self.used % self.queue.size)
        self.used += 1
        head, length = struct.unpack("<II", self.get(at, 8))
        return head, length


def header(cdb: bytes, *, target: int = 0, lun: int = 0, tag: int = 0) -> bytes:
    """The request header (virtio 1.2 5.6.6.1)."""
    field = bytes([1, target, 0x40 | lun >> 8, lun & 0xFF, 0, 0, 0, 0])
    return field + struct.pack("<Q", tag) + bytes(3) + cdb.ljust(32, b"\0")
