"""The front end's side of a vhost-user connection: what a hypervisor says to a back end, message by message."""

from __future__ import annotations

import array
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from pyproxy.driver.memory import GuestRam
from pyproxy.driver.virtqueue import DriverQueue
from pyproxy.frontend.vhost_user import message as wire
from pyproxy.frontend.vhost_user.features import Feature, ProtocolFeature, bits_of, has
from pyproxy.frontend.vhost_user.framing import Assembler
from pyproxy.frontend.vhost_user.message import (
    InflightArea,
    LogArea,
    MemoryRegion,
    Message,
    Request,
    VringDescriptor,
    VringState,
)

ANSWER_SECONDS: Final = 120.0
_CONTROL_SIZE: Final = socket.CMSG_SPACE(wire.MAX_DESCRIPTORS * array.array("i").itemsize)
_PAUSE: Final = 0.05


class ClosedError(ConnectionError):
    """The back end closed the connection."""


class RefusedError(RuntimeError):
    """The back end answered that a request failed."""


class FrontEnd:
    """A connection to a back end. Use ``connect`` or ``accept``; every method waits for its answer where there is one.

    With REPLY_ACK negotiated every request without an answer of its own is acknowledged. Raises ClosedError where the
    back end ended it, RefusedError where it said no, TimeoutError where it does not answer.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.settimeout(ANSWER_SECONDS)
        self.socket = connected
        self.features = 0
        self.protocol = 0
        self._assembler = Assembler(replies=True)

    @classmethod
    def connect(cls, path: Path, seconds: float = 30.0) -> Self:
        """Connect, again and again for so many seconds while nobody listens; raises OSError."""
        deadline = time.monotonic() + seconds
        while True:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            try:
                connected.connect(os.fspath(path))
            except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
                connected.close()
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)
            except BaseException:
                connected.close()
                raise
            else:
                return cls(connected)

    @classmethod
    def accept(cls, listening: socket.socket, seconds: float = 30.0) -> Self:
        """Wait for a back end that connects; raises TimeoutError."""
        listening.settimeout(seconds)
        connected, _ = listening.accept()
        return cls(connected)

    def close(self) -> None:
        """Hang up; safe to repeat."""
        self.socket.close()

    # --- messages ---

    def send(self, message: Message) -> None:
        """Send a message as it is; its descriptors stay the caller's."""
        data = message.encode()
        try:
            sent = socket.send_fds(self.socket, [data], message.descriptors) if message.descriptors else 0
            self.socket.sendall(data[sent:])
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ClosedError(error.errno, "the back end closed the connection") from error

    def receive(self) -> Message:
        """Wait for an answer; its descriptors are the caller's."""
        while True:
            try:
                data, ancillary, _, _ = self.socket.recvmsg(
                    self._assembler.wanted, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC
                )
            except ConnectionResetError as error:
                raise ClosedError(error.errno, "the back end closed the connection") from error
            descriptors = array.array("i")
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content)
            message = self._assembler.receive(data, descriptors)
            if message is not None:
                return message
            if not data:
                raise ClosedError("the back end closed the connection")

    def ask(self, request: Request, payload: bytes = b"", descriptors: Sequence[int] = ()) -> Message:
        """Send a request that has an answer of its own, and return that."""
        self.send(Message(request, payload, tuple(descriptors)))
        answer = self.receive()
        if answer.request != request:
            raise RuntimeError(f"{request.name} was answered with {wire.name_of(answer.request)}")
        return answer

    def tell(self, request: Request, payload: bytes = b"", descriptors: Sequence[int] = ()) -> None:
        """Send a request that has no answer of its own, and wait for its acknowledgement where that is negotiated."""
        acknowledged = has(self.protocol, ProtocolFeature.REPLY_ACK)
        self.send(Message(request, payload, tuple(descriptors), needs_reply=acknowledged))
        if acknowledged:
            answer = self.receive()
            if answer.request != request or wire.decode_u64(answer.payload):
                raise RefusedError(f"{request.name} was answered with {answer.payload.hex()}")

    # --- what a hypervisor does with them ---

    def negotiate(self, *, without: int = 0, without_protocol: int = 0) -> int:
        """Take all features that are offered but for those given, as QEMU does when it connects; returns the rings."""
        offered = self.get_u64(Request.GET_FEATURES)
        if has(offered, Feature.PROTOCOL_FEATURES):
            protocol = self.get_u64(Request.GET_PROTOCOL_FEATURES) & ~without_protocol
            self.tell(Request.SET_PROTOCOL_FEATURES, wire.encode_u64(protocol))
            self.protocol = protocol
        rings = self.get_u64(Request.GET_QUEUE_NUM) if has(self.protocol, ProtocolFeature.MQ) else 0
        self.tell(Request.SET_OWNER)
        self.features = offered & ~bits_of(Feature.LOG_ALL) & ~without
        return rings

    def get_u64(self, request: Request) -> int:
        """Ask for a number."""
        return wire.decode_u64(self.ask(request).payload)

    def set_features(self, features: int) -> None:
        """Put features in force."""
        self.tell(Request.SET_FEATURES, wire.encode_u64(features))
        self.features = features

    def set_memory(self, ram: GuestRam) -> None:
        """Share all of the guest's memory, at most 8 regions."""
        self.tell(Request.SET_MEM_TABLE, wire.encode_memory_table(ram.regions), ram.descriptors)

    def add_region(self, region: MemoryRegion, descriptor: int) -> None:
        """Share one region more."""
        self.tell(Request.ADD_MEM_REG, wire.encode_single_region(region), (descriptor,))

    def remove_region(self, region: MemoryRegion) -> None:
        """Take one region back."""
        self.tell(Request.REM_MEM_REG, wire.encode_single_region(region))

    def start_ring(self, queue: DriverQueue, base: int = 0, *, log: int | None = None) -> None:
        """Give a ring to the back end in QEMU's order, and enable it."""
        index = queue.index
        self.tell(Request.SET_VRING_NUM, VringState(index, queue.size).encode())
        self.tell(Request.SET_VRING_BASE, VringState(index, base).encode())
        self.tell(Request.SET_VRING_ADDR, queue.address(log=log).encode())
        self.tell(Request.SET_VRING_ERR, VringDescriptor(index, True).encode(), (queue.error,))
        self.tell(Request.SET_VRING_KICK, VringDescriptor(index, True).encode(), (queue.kick,))
        if has(self.features, Feature.PROTOCOL_FEATURES):
            self.enable_ring(index, True)
        self.tell(Request.SET_VRING_CALL, VringDescriptor(index, True).encode(), (queue.call,))

    def enable_ring(self, index: int, enabled: bool) -> None:
        """Have a ring served, or not."""
        self.tell(Request.SET_VRING_ENABLE, VringState(index, int(enabled)).encode())

    def stop_ring(self, index: int) -> int:
        """Take a ring back once nothing of it is in flight any more; returns the available index to go on from."""
        answer = self.ask(Request.GET_VRING_BASE, VringState(index, 0).encode())
        return VringState.decode(answer.payload).number

    def get_inflight(self, queues: int, queue_size: int) -> tuple[InflightArea, int]:
        """Ask for a region that survives the back end; the descriptor is the caller's."""
        answer = self.ask(Request.GET_INFLIGHT_FD, InflightArea(0, 0, queues, queue_size).encode())
        (descriptor,) = answer.descriptors
        return InflightArea.decode(answer.payload), descriptor

    def set_inflight(self, area: InflightArea, descriptor: int) -> None:
        """Give the region to the back end."""
        self.tell(Request.SET_INFLIGHT_FD, area.encode(), (descriptor,))

    def set_log(self, descriptor: int, size: int) -> None:
        """Give the back end a bitmap to note dirty pages in; SET_FEATURES with LOG_ALL begins it."""
        self.ask(Request.SET_LOG_BASE, LogArea(size, 0).encode(), (descriptor,))

    def toggle_log(self, queue: DriverQueue, log: int | None) -> None:
        """Have writes to a ring's used part noted at a guest address, or not, while it runs."""
        self.tell(Request.SET_VRING_ADDR, queue.address(log=log).encode())

    def reset_device(self) -> None:
        """Reset the device; its rings have to be stopped before."""
        self.tell(Request.RESET_DEVICE)
