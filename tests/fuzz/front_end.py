"""A front end that lies: messages and memory tables mutated without end, against a session and a controller that run.

    python -m tests.fuzz.front_end MESSAGES [SEED]

runs in this process, against the extensions that are imported; ``tests.fuzz.hostile`` runs it with AddressSanitizer.
Rings are kicked, files cut and memory written all the while. A crash, a hang or an answer that breaks the protocol ends
it with an error.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
import time
from collections import Counter

from _fastpath.block_port import BlockPort
from _fastpath.controller import Controller
from _fastpath.gate import NexusGate
from _fastpath.medium import Medium
from _fastpath.verdict import Verdicts
from pyproxy.frontend.vhost_user import message as wire
from pyproxy.frontend.vhost_user.data_plane import DataPlane
from pyproxy.frontend.vhost_user.message import (
    InflightArea,
    LogArea,
    MemoryRegion,
    Request,
    VringAddress,
    VringDescriptor,
    VringState,
)
from tests.unit.vhost_user.talk import EXAMPLES, FEATURES, LOG_ALL, OFFERED_PROTOCOL, Talk

RINGS = 4
PAGE = 4096
MEMORY = 64 * PAGE
USER = 0x7F00_0000_0000
AT_ONCE = 40
"""Messages of one session at most."""
_ODD = (0, 1, PAGE - 1, PAGE, 1 << 31, (1 << 32) - 1, 1 << 40, 1 << 63, (1 << 64) - PAGE, (1 << 64) - 1)


class NoHandler:
    """Answers what goes to Python with GOOD and without data."""

    def execute(
        self, _target: int, _lun: int, _cdb: bytes, data_out: bytes, data_in: int
    ) -> tuple[int, int, bytes, bytes, int]:
        return 0, 0, b"", bytes(min(data_in, 512)), 0

    def control(self, request: bytes) -> bytes:
        return bytes(1 if request[:4] == bytes(4) else 5)

    def inspect(self, target: int, lun: int, cdb: bytes, kind: int, asc: int, ascq: int) -> None:
        pass

    def queue_broken(self, index: int, reason: str) -> None:
        pass


class HostileFrontEnd:
    """Draws messages for one controller; ``closed`` counts by why the sessions ended."""

    def __init__(self, controller: Controller, seed: int) -> None:
        self.draw = random.Random(seed)
        self.closed: Counter[str] = Counter()
        self.said = 0
        self._controller = controller
        self._files: list[int] = []
        self._kicks: list[int] = []
        self._wants_eventfd = False

    def session(self) -> None:
        """One connection: set up well or badly, then anything, then its end."""
        front = Talk(RINGS, DataPlane.of(self._controller), self._descriptor)
        try:
            if self.draw.random() < 0.2 or self._set_up(front):
                for _ in range(self.draw.randrange(AT_ONCE)):
                    self._disturb()
                    if not self._say(front, *self._message()):
                        return
                self.closed["not closed"] += 1
        finally:
            front.end()
            for descriptor in (*self._files, *self._kicks):
                os.close(descriptor)
            self._files, self._kicks = [], []

    def _say(self, front: Talk, request: int, payload: bytes = b"", descriptors: int = 0) -> bool:
        """Say one message; whether the session goes on."""
        self._wants_eventfd = request in (Request.SET_VRING_KICK, Request.SET_VRING_CALL, Request.SET_VRING_ERR)
        step = front.say(request, payload, descriptors, ack=self.draw.random() < 0.5)
        self.said += 1
        if step.close is not None:
            self.closed[str(step.close.reason)] += 1
        return step.close is None

    def _set_up(self, front: Talk) -> bool:
        """Rings that run on memory full of nonsense; False where the session has ended over it."""
        front.negotiate(FEATURES, OFFERED_PROTOCOL)
        said = [(Request.SET_MEM_TABLE, wire.encode_memory_table([MemoryRegion(0, MEMORY, USER, 0)]), 1)]
        for index in range(RINGS):
            base = USER + index * 3 * PAGE
            said += [
                (Request.SET_VRING_NUM, VringState(index, self.draw.choice((4, 16, 128))).encode(), 0),
                (Request.SET_VRING_BASE, VringState(index, self.draw.choice((0, 5, 65535))).encode(), 0),
                (Request.SET_VRING_ADDR, VringAddress(index, 0, base, base + 2 * PAGE, base + PAGE, 0).encode(), 0),
                (Request.SET_VRING_KICK, VringDescriptor(index, True).encode(), 1),
                (Request.SET_VRING_ENABLE, VringState(index, 1).encode(), 0),
            ]
        return all(self._say(front, *message) for message in said)

    def _descriptor(self) -> int:
        """What comes with a message: mostly what is wanted, a file of a size that may do or an eventfd."""
        draw = self.draw
        kind = draw.random()
        if kind < (0.03 if self._wants_eventfd else 0.95):
            made = os.memfd_create("guest", os.MFD_CLOEXEC)
            os.ftruncate(made, draw.choice((MEMORY, MEMORY, MEMORY, 2 * MEMORY, PAGE, 1, 0)))
            os.pwrite(made, draw.randbytes(draw.choice((64, PAGE))), draw.randrange(MEMORY // 2))
            self._files.append(os.dup(made))
            return made
        if kind < 0.98:
            made = os.eventfd(draw.choice((0, 0, 1, 7)), os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._kicks.append(os.dup(made))
            return made
        return os.open(draw.choice(("/dev/null", "/", "/proc/self/status")), os.O_RDONLY | os.O_CLOEXEC)

    def _disturb(self) -> None:
        """What the guest and its hypervisor do beside the messages."""
        draw = self.draw
        if self._kicks and draw.random() < 0.3:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_write(draw.choice(self._kicks), 1)
        if not self._files:
            return
        chance = draw.random()
        file = draw.choice(self._files)
        if chance < 0.3:
            # An available index, a descriptor, a header.
            os.pwrite(file, draw.randbytes(draw.choice((2, 4, 16, 64))), draw.randrange(12 * PAGE))
        elif chance < 0.32:
            os.ftruncate(file, draw.choice((0, PAGE, 5 * PAGE)))

    def _message(self) -> tuple[int, bytes, int]:
        draw = self.draw
        request = draw.choice(list(EXAMPLES)) if draw.random() < 0.97 else draw.randrange(1 << 32)
        payload, descriptors = EXAMPLES.get(request, (b"", 0))  # type: ignore[call-overload]
        chance = draw.random()
        if chance < 0.75:
            payload = self._shaped(request, payload)
        elif chance < 0.85 and payload:
            mutated = bytearray(payload)
            for _ in range(draw.randrange(1, 5)):
                mutated[draw.randrange(len(mutated))] ^= 1 << draw.randrange(8)
            payload = bytes(mutated)
        elif chance < 0.87:
            payload = draw.randbytes(draw.randrange(64))
        if draw.random() < 0.02:
            descriptors = draw.randrange(9)
        return int(request), payload, descriptors

    def _number(self) -> int:
        draw = self.draw
        return draw.choice(_ODD) if draw.random() < 0.2 else draw.randrange(0, MEMORY, PAGE)

    def _region(self) -> MemoryRegion:
        size = self.draw.choice((MEMORY, MEMORY, PAGE, self._number()))
        guest = self.draw.choice((0, 0, self._number()))
        return MemoryRegion(
            guest, size, self.draw.choice((USER, self._number())), self.draw.choice((0, self._number()))
        )

    def _shaped(self, request: int, payload: bytes) -> bytes:
        """A payload with the right layout and fields that may be anything."""
        draw = self.draw
        ring = draw.choice((*range(RINGS), RINGS, 255, (1 << 32) - 1))
        match request:
            case Request.SET_FEATURES:
                return wire.encode_u64(draw.choice((FEATURES, FEATURES | LOG_ALL, 0, draw.getrandbits(64))))
            case Request.SET_PROTOCOL_FEATURES:
                return wire.encode_u64(draw.choice((OFFERED_PROTOCOL, 8, draw.getrandbits(20))))
            case Request.SET_MEM_TABLE:
                return wire.encode_memory_table([self._region() for _ in range(draw.choice((0, 1, 1, 1, 2, 8)))])
            case Request.ADD_MEM_REG | Request.REM_MEM_REG:
                return wire.encode_single_region(self._region())
            case Request.SET_LOG_BASE:
                return LogArea(draw.choice((8, PAGE, self._number())), draw.choice((0, self._number()))).encode()
            case Request.SET_VRING_NUM:
                return VringState(ring, draw.choice((0, 1, 4, 64, 100, 1024, 32768, 65536))).encode()
            case Request.SET_VRING_BASE | Request.GET_VRING_BASE | Request.SET_VRING_ENABLE:
                return VringState(ring, draw.choice((0, 1, 2, 65535, 65536))).encode()
            case Request.SET_VRING_ADDR:
                places = [(USER + draw.choice((0, 1, 7, self._number()))) % (1 << 64) for _ in range(3)]
                return VringAddress(ring & 0xFF, draw.randrange(3), *places, self._number()).encode()
            case Request.SET_VRING_KICK | Request.SET_VRING_CALL | Request.SET_VRING_ERR:
                return VringDescriptor(ring & 0xFF, draw.random() < 0.9).encode()
            case Request.GET_INFLIGHT_FD | Request.SET_INFLIGHT_FD:
                area = (self._number(), self._number(), ring & 0xFFFF, draw.choice((0, 4, 128, 65535)))
                return InflightArea(*area).encode()
        return payload


def run(messages: int, seed: int) -> str:
    """Say so many messages; returns what it came to. AssertionError where something of a session was left behind."""
    verdicts = Verdicts()
    for opcode in range(256):
        if opcode not in (0x5E, 0x5F):
            verdicts.straight(opcode)
    began = time.monotonic()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- names
    with Controller(NoHandler(), RINGS, poll_us=20) as controller:
        controller.attach(0, 0, BlockPort(Medium(1 << 20, 512), NexusGate()), verdicts=verdicts)
        own = set(os.listdir("/proc/self/fd"))  # noqa: PTH208
        front = HostileFrontEnd(controller, seed)
        sessions = 0
        while front.said < messages:
            front.session()
            sessions += 1
        assert set(os.listdir("/proc/self/fd")) == own, "descriptors were left"  # noqa: PTH208
        counts = controller.counts()
    assert set(os.listdir("/proc/self/fd")) <= own | before  # noqa: PTH208
    assert counts["handler_failures"] == 0
    assert front.closed["not closed"] > sessions // 100, "it was not all nonsense"
    seconds = time.monotonic() - began
    return f"{front.said} messages in {sessions} sessions in {seconds:.0f} s: {dict(front.closed)}, {counts}"


if __name__ == "__main__":
    print(run(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))
