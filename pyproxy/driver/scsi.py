"""A virtio-scsi driver on a vhost-user connection: commands, task management, events. One thread at a time."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.memory import GuestRam
from pyproxy.driver.virtqueue import Buffer, DriverQueue
from pyproxy.frontend.vhost_user.features import Feature, ProtocolFeature, bits_of, has
from pyproxy.frontend.vhost_user.message import InflightArea
from pyproxy.frontend.virtio_scsi.control import NotificationRequest, TaskManagementRequest
from pyproxy.frontend.virtio_scsi.event import EVENT_SIZE, Event
from pyproxy.frontend.virtio_scsi.lun import Address, encode_lun
from pyproxy.scsi.constants import Status
from pyproxy.scsi.sense import decode_sense

CONTROL: Final = 0
EVENTS: Final = 1
FIRST_REQUEST: Final = 2

SENSE_SIZE: Final = 96
CDB_SIZE: Final = 32
_REQUEST = struct.Struct("<8sQBBB32s")
_RESPONSE = struct.Struct("<IIHBB")
RESPONSE_SIZE: Final = _RESPONSE.size + SENSE_SIZE
_LOOK_SECONDS: Final = 0.05


class NoAnswerError(TimeoutError):
    """The device did not complete a request in time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command; ``written`` is what the used ring says, in bytes."""

    response: int
    status: int
    sense: bytes
    data: bytes
    residual: int
    written: int

    @property
    def is_unit_attention(self) -> bool:
        """Whether a unit attention came in the command's place; the sense may be in either format."""
        sense = decode_sense(self.sense) if self.status == Status.CHECK_CONDITION else None
        return sense is not None and sense.is_unit_attention


@dataclass(slots=True)
class Ticket:
    """A request that the device has."""

    queue: DriverQueue
    head: int
    tag: int
    areas: list[tuple[int, int]]
    response: int
    response_size: int
    data: int = 0
    data_in: int = 0
    written: int | None = None


class ScsiDriver:
    """Drives a controller with ``request_queues`` request queues of ``queue_size`` entries over ``front_end``.

    ``start`` sets everything up. ``piece`` cuts data into descriptors of at most so many bytes, ``indirect`` puts
    chains into tables.
    """

    def __init__(
        self,
        front_end: FrontEnd,
        *,
        ram: GuestRam | None = None,
        request_queues: int = 1,
        queue_size: int = 128,
        event_buffers: int = 8,
        indirect: bool = False,
        piece: int = 1 << 20,
    ) -> None:
        self.front_end = front_end
        self.ram = ram if ram is not None else GuestRam()
        self.queue_size = queue_size
        self.indirect = indirect
        self.piece = piece
        self.queues = [DriverQueue(self.ram, index, queue_size) for index in range(FIRST_REQUEST + request_queues)]
        self.inflight: tuple[InflightArea, int] | None = None
        self.logging = False
        self._event_buffers = event_buffers
        self._events: dict[int, int] = {}
        self._tickets: dict[tuple[int, int], Ticket] = {}
        self._tag = 0

    # --- life ---

    def start(self, *, extra: int = 0, without: int = 0, without_protocol: int = 0) -> None:
        """Negotiate, share memory and give all rings to the back end; ``extra`` are features that are set unoffered."""
        self.front_end.negotiate(without=without, without_protocol=without_protocol)
        self.front_end.features |= extra
        self.begin([0] * len(self.queues))
        for _ in range(self._event_buffers):
            self._offer_event()

    def begin(self, bases: Sequence[int]) -> None:
        """Start the rings of a negotiated connection from these available indexes."""
        end = self.front_end
        if has(end.protocol, ProtocolFeature.INFLIGHT_SHMFD):
            if self.inflight is None:
                self.inflight = end.get_inflight(len(self.queues), self.queue_size)
            end.set_inflight(*self.inflight)
        end.set_features(end.features)
        end.set_memory(self.ram)
        for queue, base in zip(self.queues, bases, strict=True):
            end.start_ring(queue, base, log=queue.used if self.logging else None)

    def stop(self) -> list[int]:
        """Take all rings back, in order; returns the available indexes to go on from."""
        for queue in self.queues:
            if has(self.front_end.features, Feature.PROTOCOL_FEATURES):
                self.front_end.enable_ring(queue.index, False)
        return [self.front_end.stop_ring(queue.index) for queue in self.queues]

    def reconnect(self, front_end: FrontEnd) -> None:
        """Go on over another connection after the back end was lost, as QEMU does: from the used indexes."""
        self.front_end.close()
        wanted = self.front_end.features
        front_end.negotiate()
        front_end.features = wanted
        self.front_end = front_end
        self.begin([queue.used_index for queue in self.queues])

    def close(self) -> None:
        """Hang up and release everything."""
        self.front_end.close()
        for queue in self.queues:
            queue.close()
        if self.inflight is not None:
            os.close(self.inflight[1])
            self.inflight = None
        self.ram.close()

    # --- commands ---

    def execute(
        self,
        cdb: bytes,
        data_out: bytes = b"",
        data_in: int = 0,
        *,
        address: Address | bytes = Address(0, 0),  # noqa: B008 -- immutable
        queue: int = 0,
        seconds: float = 60.0,
    ) -> Answer:
        """Run one command to its end; ``address`` may be a LUN field as it is."""
        return self.wait(self.submit(cdb, data_out, data_in, address=address, queue=queue), seconds)

    def execute_past_attentions(
        self,
        cdb: bytes,
        data_out: bytes = b"",
        data_in: int = 0,
        *,
        address: Address = Address(0, 0),  # noqa: B008
    ) -> Answer:
        """Run one command to its end, again as long as a unit attention comes instead."""
        while True:
            answer = self.execute(cdb, data_out, data_in, address=address)
            if not answer.is_unit_attention:
                return answer

    def submit(
        self,
        cdb: bytes,
        data_out: bytes = b"",
        data_in: int = 0,
        *,
        address: Address | bytes = Address(0, 0),  # noqa: B008 -- immutable
        queue: int = 0,
        kick: bool = True,
    ) -> Ticket:
        """Give a command to the device and do not wait; raises BufferError where the ring is full."""
        lun = address if isinstance(address, bytes) else encode_lun(address)
        self._tag += 1
        header = _REQUEST.pack(lun, self._tag, 0, 0, 0, cdb.ljust(CDB_SIZE, b"\0"))
        ticket = self._submit(self.queues[FIRST_REQUEST + queue], header, data_out, RESPONSE_SIZE, data_in, kick=kick)
        ticket.tag = self._tag
        return ticket

    def wait(self, ticket: Ticket, seconds: float = 60.0) -> Answer:
        """Wait for a command; raises NoAnswerError."""
        raw = self._finish(ticket, seconds)
        sense_length, residual, _, status, response = _RESPONSE.unpack_from(raw)
        sense = raw[_RESPONSE.size : _RESPONSE.size + min(sense_length, SENSE_SIZE)]
        data = raw[RESPONSE_SIZE:]
        assert ticket.written is not None
        data = data[: max(0, ticket.written - RESPONSE_SIZE)]
        return Answer(response, status, sense, data, residual, ticket.written)

    def collect(self, queue: DriverQueue) -> None:
        """Take what came back on a queue, into the tickets' ``written``. RuntimeError for what nobody waits for."""
        for head, written in queue.take_used():
            known = self._tickets.pop((queue.index, head), None)
            if known is None:
                raise RuntimeError(f"queue {queue.index}: chain {head} came back, which the device does not have")
            known.written = written

    def manage(self, function: int, tag: int = 0, *, address: Address | bytes = Address(0, 0)) -> int:  # noqa: B008
        """Send a task management function; returns the response."""
        lun = address if isinstance(address, bytes) else encode_lun(address)
        return self.control(TaskManagementRequest(function, lun, tag).encode(), 1)[0]

    def notifications(self, events: int, *, subscribe: bool, address: Address = Address(0, 0)) -> bytes:  # noqa: B008
        """Send AN QUERY or AN SUBSCRIBE; returns the 5 bytes of the answer."""
        return self.control(NotificationRequest(subscribe, encode_lun(address), events).encode(), 5)

    def control(self, request: bytes, answer_size: int, seconds: float = 60.0) -> bytes:
        """Send a request of the control queue as it is; returns what was written of the answer."""
        ticket = self._submit(self.queues[CONTROL], request, b"", answer_size, 0)
        raw = self._finish(ticket, seconds)
        assert ticket.written is not None
        return raw[: ticket.written]

    def events(self, count: int, seconds: float = 60.0) -> list[Event]:
        """Wait for so many events and give their buffers back to the device."""
        queue = self.queues[EVENTS]
        deadline = time.monotonic() + seconds
        found: list[Event] = []
        while len(found) < count:
            # All of them first: a buffer that is offered again takes one of their heads.
            addresses = [self._events.pop(head) for head, _ in queue.take_used()]
            for address in addresses:
                found.append(Event.decode(self.ram.read(address, EVENT_SIZE)))
                self.ram.release(address, EVENT_SIZE)
                self._offer_event()
            if time.monotonic() > deadline:
                raise NoAnswerError(f"{len(found)} of {count} events came")
            if len(found) < count:
                queue.wait(_LOOK_SECONDS)
        return found

    # --- buffers ---

    def _offer_event(self) -> None:
        address = self.ram.allocate(EVENT_SIZE)
        self._events[self.queues[EVENTS].add([Buffer(address, EVENT_SIZE, True)])] = address

    def _submit(
        self, queue: DriverQueue, request: bytes, data_out: bytes, answer: int, data_in: int, *, kick: bool = True
    ) -> Ticket:
        areas = [(self.ram.allocate(max(size, 1)), max(size, 1)) for size in (len(request), answer)]
        if data_out or data_in:
            size = max(len(data_out), data_in)
            areas.append((self.ram.allocate(size), size))
        self.ram.write(areas[0][0], request)
        self.ram.write(areas[1][0], b"\xff" * answer)
        data = areas[2][0] if len(areas) > 2 else 0
        if data_out:
            self.ram.write(data, data_out)
        buffers = [Buffer(areas[0][0], len(request))]
        buffers += self._pieces(data, len(data_out), writable=False)
        buffers.append(Buffer(areas[1][0], answer, True))
        buffers += self._pieces(data, data_in, writable=True)
        try:
            head = queue.add(buffers, indirect=self.indirect, kick=kick)
        except BufferError:
            self._release(areas)
            raise
        ticket = Ticket(queue, head, 0, areas, areas[1][0], answer, data, data_in)
        self._tickets[queue.index, head] = ticket
        return ticket

    def _pieces(self, address: int, size: int, *, writable: bool) -> list[Buffer]:
        return [
            Buffer(address + start, min(self.piece, size - start), writable) for start in range(0, size, self.piece)
        ]

    def _finish(self, ticket: Ticket, seconds: float) -> bytes:
        deadline = time.monotonic() + seconds
        while True:
            self.collect(ticket.queue)
            if ticket.written is not None:
                break
            if time.monotonic() > deadline:
                raise NoAnswerError(f"queue {ticket.queue.index}: no answer in {seconds} seconds")
            ticket.queue.wait(_LOOK_SECONDS)
        raw = self.ram.read(ticket.response, ticket.response_size)
        if ticket.data_in:
            raw += self.ram.read(ticket.data, ticket.data_in)
        self._release(ticket.areas)
        return raw

    def _release(self, areas: Sequence[tuple[int, int]]) -> None:
        for address, size in areas:
            self.ram.release(address, size)

    @property
    def pending(self) -> int:
        """How many requests the device has."""
        return len(self._tickets)

    # --- migration ---

    def log_dirty(self, descriptor: int, size: int) -> None:
        """Begin to have dirty pages noted, in QEMU's order with the rings running."""
        end = self.front_end
        end.set_log(descriptor, size)
        end.set_features(end.features | bits_of(Feature.LOG_ALL))
        for queue in self.queues:
            end.toggle_log(queue, queue.used)
        self.logging = True

    def stop_logging(self) -> None:
        """End it, in QEMU's order."""
        end = self.front_end
        end.set_features(end.features & ~bits_of(Feature.LOG_ALL))
        for queue in self.queues:
            end.toggle_log(queue, None)
        self.logging = False
