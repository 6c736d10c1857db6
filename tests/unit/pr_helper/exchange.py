"""Generated conversations with a persistent reservation helper, and a client that holds them and notes the answers.

The same conversations are held with pyproxy and with QEMU's helper, so nothing here knows either of them.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 60.0
KEYS = (0, 0x1111, 0x2222, 0xFEDCBA9876543210)
OTHERS_KEYS = (0x1111, 0x3333)
"""What another nexus may have registered: PREEMPT of anything else only ends in a conflict."""
NOT_PERSISTENT_RESERVE = (0x00, 0x12, 0x28, 0x5D, 0x60, 0xA0, 0xFF)


@dataclass(frozen=True)
class Piece:
    """Bytes of one sendmsg, with descriptors by name; ``pause`` is slept before, in seconds."""

    data: bytes
    descriptors: tuple[str, ...] = ()
    pause: float = 0.0


@dataclass(frozen=True)
class Step:
    """One request as it is sent; ``kind`` says what is special. After it, with ``half_close``, the client sends EOF.

    ``whole`` tells whether an answer (or a close) is to be waited for before anything else is sent.
    """

    kind: str
    pieces: tuple[Piece, ...]
    cdb: bytes = b""
    parameter_list: bytes = b""
    half_close: bool = False
    whole: bool = True


@dataclass(frozen=True)
class Answer:
    """What came back: a status, sense and data, or None for all where the connection was closed."""

    status: int | None
    sense: bytes = b""
    data: bytes = b""

    @property
    def closed(self) -> bool:
        return self.status is None

    def __str__(self) -> str:
        if self.status is None:
            return "closed"
        return f"status {self.status:02X} sense {self.sense.hex()} data {self.data.hex()}"


CLOSED = Answer(None)


def prin(action: int, allocation: int) -> bytes:
    return struct.pack(">BB5xHx6x", 0x5E, action, allocation)


def prout(action: int, length: int, type_: int = 0, scope: int = 0) -> bytes:
    return struct.pack(">BBB2xIx6x", 0x5F, action, scope << 4 | type_, length)


def parameters(key: int = 0, sa_key: int = 0, flags: int = 0) -> bytes:
    return struct.pack(">QQ4xB3x", key, sa_key, flags)


def request(kind: str, cdb: bytes, parameter_list: bytes = b"", descriptor: str = "rw", **more: bool) -> Step:
    pieces = [Piece(cdb, (descriptor,))]
    if parameter_list:
        pieces.append(Piece(parameter_list))
    return Step(kind, tuple(pieces), cdb, parameter_list, **more)


@dataclass
class Generator:
    """Makes conversations (lists of steps on one connection) from a seed."""

    seed: int
    descriptors: tuple[str, ...] = ("rw",)
    """Names of descriptors to use besides ``rw``; the strange ones are drawn now and then."""
    random: random.Random = field(init=False)
    key: int = field(init=False, default=0)
    """What the client has registered if its last registration was GOOD: other commands mostly name it."""

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    def conversation(self, length: int) -> list[Step]:
        """At most ``length`` steps; those that make a helper close come last."""
        steps: list[Step] = []
        self.key = 0
        while len(steps) < length:
            step = self._step()
            steps.append(step)
            if step.half_close or step.kind in CLOSING:
                break
        return steps

    def _step(self) -> Step:
        draw = self.random.random()
        if draw < 0.36:
            return self._in()
        if draw < 0.76:
            return self._out()
        makers = (
            self._slow,
            self._slow,
            self._pipelined_descriptor,
            self._strange_descriptor,
            self._strange_descriptor,
            self._strange_descriptor,
            self._half_closed,
            self._truncated,
            self._wrong_opcode,
            self._over_long,
            self._no_descriptor,
            self._two_descriptors,
        )
        return self.random.choice(makers)()

    def _in(self) -> Step:
        action = self.random.choice((0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 31))
        allocation = self.random.choice((0, 4, 7, 8, 16, 24, 25, 64, 255, 256, 1000, 4096, 8192))
        cdb = bytearray(prin(action, allocation))
        if self.random.random() < 0.05:
            cdb[self.random.randrange(2, 7)] = self.random.randrange(256)
        return request("in", bytes(cdb))

    def _out(self) -> Step:
        choice = self.random.choice
        action = choice((0, 0, 0, 1, 1, 2, 2, 3, 4, 4, 5, 6, 6, 6, 7, 8, 31))
        flags = choice((0, 0, 0, 0, 0, 1, 1, 4, 8))
        key, sa_key = choice((self.key, self.key, choice(KEYS))), choice(KEYS)
        if action in (4, 5) and self.random.random() < 0.7:
            key, sa_key = self.key, choice(OTHERS_KEYS)
        data = parameters(key, sa_key, flags)
        if action == 6 or (action == 0 and key == self.key):
            self.key = sa_key
        type_, scope = choice((0, 1, 1, 3, 3, 5, 6, 7, 8, 2, 15)), choice((0, 0, 0, 0, 0, 1))
        draw = self.random.random()
        if draw < 0.05:
            data = data[: choice((0, 1, 8, 23))]
        elif draw < 0.10:
            data += self.random.randbytes(choice((1, 4, 8, 24, 100, 8192 - 24)))
        cdb = bytearray(prout(action, len(data), type_, scope))
        if self.random.random() < 0.03:
            cdb[choice((5, 6))] = 1  # the length's upper half, which the protocol does not read
        return request("out", bytes(cdb), data)

    def _slow(self) -> Step:
        """The bytes come in small pieces, the descriptor with any of those of the CDB."""
        step = self._in() if self.random.random() < 0.5 else self._out()
        carrier = self.random.randrange(3)
        cuts = sorted(self.random.sample(range(1, 16), 2))
        cdb = [step.cdb[: cuts[0]], step.cdb[cuts[0] : cuts[1]], step.cdb[cuts[1] :]]
        pieces = [Piece(part, ("rw",) if index == carrier else (), 0.001) for index, part in enumerate(cdb)]
        data = step.parameter_list
        while data:
            size = self.random.randrange(1, max(2, len(data)))
            pieces.append(Piece(data[:size], (), 0.001))
            data = data[size:]
        return Step("slow", tuple(pieces), step.cdb, step.parameter_list)

    def _pipelined_descriptor(self) -> Step:
        """A descriptor travels with the parameter list, where it belongs to nothing."""
        data = parameters(0, 0x1111)
        cdb = prout(6, len(data))
        return Step("late-descriptor", (Piece(cdb, ("rw",)), Piece(data, ("rw",))), cdb, data)

    def _strange_descriptor(self) -> Step:
        name = self.random.choice(self.descriptors)
        if self.random.random() < 0.5:
            return request("descriptor-" + name, prin(self.random.randrange(4), 256), descriptor=name)
        data = parameters(0, 0x1111)
        return request("descriptor-" + name, prout(6, len(data)), data, descriptor=name)

    def _half_closed(self) -> Step:
        """EOF right behind a whole request, which is still to be answered."""
        step = self._in() if self.random.random() < 0.5 else self._out()
        return Step("half-closed", step.pieces, step.cdb, step.parameter_list, half_close=True)

    def _truncated(self) -> Step:
        step = self._out()
        everything = b"".join(piece.data for piece in step.pieces)
        cut = self.random.randrange(1, len(everything))
        descriptors = ("rw",) if self.random.random() < 0.8 else ()
        if cut > 16:
            pieces = (Piece(everything[:16], ("rw",)), Piece(everything[16:cut]))
        else:
            pieces = (Piece(everything[:cut], descriptors),)
        whole = cut == len(everything)
        assert not whole
        return Step("truncated", pieces, half_close=True)

    def _wrong_opcode(self) -> Step:
        cdb = bytes([self.random.choice(NOT_PERSISTENT_RESERVE)]) + prin(0, 64)[1:]
        return request("wrong-opcode", cdb)

    def _over_long(self) -> Step:
        length = self.random.choice((8193, 8200, 0xFFFF))
        return request("over-long", prin(0, length) if self.random.random() < 0.5 else prout(0, length))

    def _no_descriptor(self) -> Step:
        return Step("no-descriptor", (Piece(prin(0, 64)),), prin(0, 64))

    def _two_descriptors(self) -> Step:
        cdb = prin(0, 64)
        if self.random.random() < 0.5:
            return Step("two-descriptors", (Piece(cdb, ("rw", "rw")),), cdb)
        return Step("two-descriptors", (Piece(cdb[:5], ("rw",)), Piece(cdb[5:], ("rw",))), cdb)


CLOSING = frozenset({"truncated", "wrong-opcode", "over-long", "no-descriptor", "two-descriptors", "half-closed"})


class Client:
    """A connection to a helper, features negotiated."""

    def __init__(self, path: Path | str, features: bytes = bytes(4)) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(os.fspath(path))
        self.greeting = self.read(4)
        self.socket.sendall(features)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read(self, size: int) -> bytes:
        """``size`` bytes, fewer where the stream ends."""
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                break
            data += more
        return data

    def send(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send everything; a helper that closed meanwhile is noticed when its answer is read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if descriptors:
                sent = socket.send_fds(self.socket, [data], list(descriptors))
                data = data[sent:]
            if data:
                self.socket.sendall(data)

    def half_close(self) -> None:
        """Send EOF; the helper may have closed before."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def answer(self) -> Answer:
        """Read one reply, or find the connection closed."""
        header = self.read(104)
        if not header:
            return CLOSED
        assert len(header) == 104, f"the reply ends after {len(header)} bytes"
        status, size = struct.unpack_from(">iI", header)
        data = self.read(size)
        assert len(data) == size, f"{len(data)} of {size} bytes of data came"
        sense = header[8:]
        return Answer(status, sense[: stated_length(sense)] if status == 2 else sense.rstrip(b"\0"), data)

    def ask(self, cdb: bytes, descriptor: int, parameter_list: bytes = b"") -> Answer:
        self.send(cdb, (descriptor,))
        if parameter_list:
            self.send(parameter_list)
        return self.answer()

    def hold(self, steps: list[Step], descriptors: Mapping[str, int]) -> list[Answer]:
        """Send each step and wait for its answer; ends with CLOSED where the helper closed."""
        answers = []
        for step in steps:
            for piece in step.pieces:
                if piece.pause:
                    time.sleep(piece.pause)
                self.send(piece.data, tuple(descriptors[name] for name in piece.descriptors))
            if step.half_close:
                self.half_close()
            answers.append(self.answer())
            if answers[-1].closed:
                return answers
        if steps and steps[-1].half_close:
            answers.append(self.answer())
        return answers


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def stated_length(sense: bytes) -> int:
    """Bytes of sense data that mean something: 8 and the ADDITIONAL SENSE LENGTH (SPC-4 4.5)."""
    return 8 + sense[7] if sense[0] & 0x7F in (0x70, 0x71, 0x72, 0x73) else 0
