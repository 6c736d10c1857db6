"""A session with a recording data plane and no socket: say a message, get what would be sent and done."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pyproxy.frontend.vhost_user import message as wire
from pyproxy.frontend.vhost_user.data_plane import DataPlane
from pyproxy.frontend.vhost_user.message import (
    InflightArea,
    LogArea,
    MemoryRegion,
    Message,
    Request,
    VringAddress,
    VringDescriptor,
    VringState,
)
from pyproxy.frontend.vhost_user.performer import Performer, PerformError, close_all
from pyproxy.frontend.vhost_user.session import Session, Step
from tests.unit.vhost_user.recording_plane import RecordingController

RAM = MemoryRegion(0, 0x1000_0000, 0x7F00_0000_0000, 0)
OFFERED_PROTOCOL = 0xB00B
FEATURES = 0x1_4000_0000
LOG_ALL = 1 << 26

DONE = bytes(8)
FAILED = b"\x01" + bytes(7)
"""Acknowledgements (REPLY_ACK): zero, and anything else."""


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def address_of(index: int, *, log: int | None = None, moved: int = 0) -> VringAddress:
    base = 0x7F00_0010_0000 + 0x10000 * index + moved
    return VringAddress(index, 0 if log is None else 1, base, base + 0x2000, base + 0x1000, log or 0)


class Talk:
    def __init__(
        self,
        rings: int = 4,
        plane: DataPlane | None = None,
        make_descriptor: Callable[[], int] = lambda: os.eventfd(0),
    ) -> None:
        self.controller = RecordingController()
        self.performer = Performer(plane or self.controller.plane())
        self.session = Session(rings)
        self._make_descriptor = make_descriptor

    def say(self, request: int, payload: bytes = b"", descriptors: int = 0, *, ack: bool = False) -> Step:
        """Do as the connection does; a reply's descriptors are closed like sent ones."""
        came = tuple(self._make_descriptor() for _ in range(descriptors))
        step = self.session.receive(Message(request, payload, came, ack))
        if step.actions:
            try:
                step = self.session.done(self.performer.perform(step.actions))
            except PerformError as error:
                step = self.session.failed(str(error), error.performed)
        close_all(step.discard)
        if step.reply is not None:
            close_all(step.reply.descriptors)
        return step

    def says(self, request: int, payload: bytes = b"", descriptors: int = 0) -> bytes | None:
        """Say it and return the answer's payload; it must not end the session."""
        step = self.say(request, payload, descriptors)
        assert step.close is None, step.close
        assert not step.ignored, step.ignored
        return None if step.reply is None else step.reply.payload

    def end(self) -> None:
        step = self.session.stop()
        assert self.performer.undo(step.actions) == []
        close_all(step.discard)

    # --- what a front end says ---

    def negotiate(self, features: int = FEATURES, protocol: int = OFFERED_PROTOCOL) -> None:
        self.says(Request.SET_PROTOCOL_FEATURES, wire.encode_u64(protocol))
        self.says(Request.SET_FEATURES, wire.encode_u64(features))

    def share(self) -> None:
        self.says(Request.SET_MEM_TABLE, wire.encode_memory_table([RAM]), 1)

    def kick(self, index: int) -> None:
        self.says(Request.SET_VRING_KICK, VringDescriptor(index, True).encode(), 1)

    def configure(self, index: int) -> None:
        self.says(Request.SET_VRING_NUM, VringState(index, 128).encode())
        self.says(Request.SET_VRING_BASE, VringState(index, 7).encode())
        self.says(Request.SET_VRING_ADDR, address_of(index).encode())

    def start(self, index: int) -> None:
        self.configure(index)
        self.kick(index)

    def running(self, index: int = 2) -> Talk:
        self.negotiate()
        self.share()
        self.start(index)
        self.says(Request.SET_VRING_ENABLE, VringState(index, 1).encode())
        return self


@contextmanager
def talk(rings: int = 4) -> Iterator[Talk]:
    """Check that every descriptor is closed once the session has ended."""
    before = open_descriptors()
    made = Talk(rings)
    yield made
    made.end()
    assert made.controller.started == {}
    assert made.controller.memory is None
    assert made.controller.log is None
    assert not any(made.controller.enabled.values())
    assert open_descriptors() == before


EXAMPLES: dict[Request, tuple[bytes, int]] = {
    Request.GET_FEATURES: (b"", 0),
    Request.SET_FEATURES: (wire.encode_u64(FEATURES), 0),
    Request.SET_OWNER: (b"", 0),
    Request.RESET_OWNER: (b"", 0),
    Request.SET_MEM_TABLE: (wire.encode_memory_table([RAM]), 1),
    Request.SET_LOG_BASE: (LogArea(8192, 0).encode(), 1),
    Request.SET_LOG_FD: (b"", 1),
    Request.SET_VRING_NUM: (VringState(2, 64).encode(), 0),
    Request.SET_VRING_ADDR: (address_of(2).encode(), 0),
    Request.SET_VRING_BASE: (VringState(2, 5).encode(), 0),
    Request.GET_VRING_BASE: (VringState(2, 0).encode(), 0),
    Request.SET_VRING_KICK: (VringDescriptor(2, True).encode(), 1),
    Request.SET_VRING_CALL: (VringDescriptor(2, True).encode(), 1),
    Request.SET_VRING_ERR: (VringDescriptor(2, True).encode(), 1),
    Request.GET_PROTOCOL_FEATURES: (b"", 0),
    Request.SET_PROTOCOL_FEATURES: (wire.encode_u64(OFFERED_PROTOCOL), 0),
    Request.GET_QUEUE_NUM: (b"", 0),
    Request.SET_VRING_ENABLE: (VringState(2, 1).encode(), 0),
    Request.GET_INFLIGHT_FD: (InflightArea(0, 0, 4, 128).encode(), 0),
    Request.SET_INFLIGHT_FD: (InflightArea(0x2100, 0, 4, 128).encode(), 1),
    Request.RESET_DEVICE: (b"", 0),
    Request.GET_MAX_MEM_SLOTS: (b"", 0),
    Request.ADD_MEM_REG: (wire.encode_single_region(MemoryRegion(1 << 32, 0x1000, 1 << 46, 0)), 1),
    Request.REM_MEM_REG: (wire.encode_single_region(RAM), 0),
}
"""Every request that is served, with a payload and descriptors that are right in most states."""
