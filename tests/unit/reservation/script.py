"""A device that answers from a script, and the bytes devices answer with, written out as the standard lays them out."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pyproxy.device.base import TransportError
from pyproxy.scsi.command import Command, Result

Answer = Result | OSError | Callable[[Command], Result]

GOOD = Result(0x00)
CONFLICT = Result(0x18)
BUSY = Result(0x08)
TIMEOUT = Result(0x00, host_status=0x03)
LOST = TransportError(19, "the device is gone", fate_unknown=True)
NOT_SENT = TransportError(12, "no memory", fate_unknown=False)

READ_KEYS = "5e00"
READ_RESERVATION = "5e01"
CAPABILITIES = "5e02"
FULL_STATUS = "5e03"


class ScriptedDevice:
    """Answers each command with the next line of the script; a command that is not next fails the test."""

    def __init__(self, *lines: tuple[str, Answer]) -> None:
        self.lines = list(lines)
        self.seen: list[Command] = []

    def __call__(self, command: Command) -> Result:
        self.seen.append(command)
        assert self.lines, f"unexpected command {command.cdb.hex()}"
        prefix, answer = self.lines.pop(0)
        assert command.cdb.hex().startswith(prefix), f"got {command.cdb.hex()}, expected {prefix}"
        if isinstance(answer, OSError):
            raise answer
        return answer(command) if callable(answer) else answer

    @property
    def finished(self) -> bool:
        return not self.lines


def check(key: int, asc: int, ascq: int, *, descriptor: bool = False, deferred: bool = False) -> Result:
    code = 0x70 + 2 * descriptor + deferred
    if descriptor:
        return Result(0x02, bytes([code, key, asc, ascq, 0, 0, 0, 0]))
    return Result(0x02, bytes([code, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0]))


def u32(value: int) -> bytes:
    return value.to_bytes(4)


def cut(data: bytes) -> Callable[[Command], Result]:
    """Answer as a device does: no more than the allocation length."""

    def answer(command: Command) -> Result:
        room = int.from_bytes(command.cdb[7:9])
        assert command.data_in == room
        return Result(0, data=data[:room], residual=max(room - len(data), 0))

    return answer


def keys(generation: int, *registered: int, announced: int | None = None) -> Callable[[Command], Result]:
    length = 8 * len(registered) if announced is None else announced
    return cut(u32(generation) + u32(length) + b"".join(key.to_bytes(8) for key in registered))


def reservation(generation: int, key: int | None = None, kind: int = 0) -> Callable[[Command], Result]:
    if key is None:
        return cut(u32(generation) + u32(0))
    return cut(u32(generation) + u32(16) + key.to_bytes(8) + bytes([0, 0, 0, 0, 0, kind, 0, 0]))


def sas(address: str) -> bytes:
    """A SAS TransportID."""
    return bytes([0x06, 0, 0, 0]) + bytes.fromhex(address) + bytes(12)


def registration(key: int, address: str, *, rtpi: int = 1, holder: int | None = None, all_tg_pt: bool = False) -> bytes:
    flags = (holder is not None) | all_tg_pt << 1
    name = sas(address)
    head = key.to_bytes(8) + bytes(4) + bytes([flags, holder or 0]) + bytes(4) + rtpi.to_bytes(2)
    return head + u32(len(name)) + name


def full(generation: int, *registrations: bytes) -> Callable[[Command], Result]:
    body = b"".join(registrations)
    return cut(u32(generation) + u32(len(body)) + body)


def capabilities(byte2: int = 0x1D, byte3: int = 0x80) -> Callable[[Command], Result]:
    return cut(bytes([0, 8, byte2, byte3, 0xEA, 0x01, 0, 0]))


UNSUPPORTED = check(0x5, 0x24, 0x00)


def view(
    generation: int,
    registered: Iterable[int],
    held: tuple[int, int] | None = None,
    listed: Iterable[bytes] | None = None,
    persistent: bool = False,
) -> list[tuple[str, Answer]]:
    """Script lines of one snapshot: ``held`` is (key, type), ``listed`` None a device without READ FULL STATUS."""
    return [
        (CAPABILITIES, capabilities(byte3=0x80 | persistent)),
        (READ_KEYS, keys(generation, *registered)),
        (READ_RESERVATION, reservation(generation, *held) if held else reservation(generation)),
        (FULL_STATUS, UNSUPPORTED if listed is None else full(generation, *listed)),
    ]


def pr_out(
    action: int,
    key: int = 0,
    sa_key: int = 0,
    kind: int = 0,
    flags: int = 0,
    *,
    length: int = 24,
    data: bytes | None = None,
) -> Command:
    """PERSISTENT RESERVE OUT with the basic parameter list."""
    if data is None:
        data = key.to_bytes(8) + sa_key.to_bytes(8) + bytes(4) + bytes([flags, 0, 0, 0])
    return Command(bytes([0x5F, action, kind, 0, 0]) + length.to_bytes(4) + b"\0", data_out=data)


def pr_in(action: int, room: int = 8192) -> Command:
    return Command(bytes([0x5E, action, 0, 0, 0, 0, 0]) + room.to_bytes(2) + b"\0", data_in=room)
