"""Parameter data of REPORT SUPPORTED OPERATION CODES (SPC-4 6.35), and hiding a command in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self

from pyproxy.scsi.cursor import COMPUTED, Buffer, Cursor, bits, unsigned

SUPPORT_UNKNOWN: Final = 0b000
SUPPORT_NONE: Final = 0b001
SUPPORT_STANDARD: Final = 0b011
SUPPORT_VENDOR: Final = 0b101

_HEADER_SIZE = 4
_DESCRIPTOR_SIZE = 8
_TIMEOUTS_SIZE = 12
_SERVACTV = 0x01
_CTDP = 0x02
_DESCRIPTOR_FLAGS = 0xFF & ~(_SERVACTV | _CTDP)
_ONE_CTDP = 0x80
_ONE_SUPPORT = 0x07


@dataclass(frozen=True, slots=True)
class CommandTimeouts:
    """Command timeouts descriptor (SPC-4 6.35.4): ``nominal`` and ``recommended`` in seconds, 0 not reported."""

    nominal: int = 0
    recommended: int = 0
    command_specific: int = 0

    def encode(self) -> bytes:
        """Return 12 bytes; ValueError when a field does not fit."""
        return (
            unsigned(_TIMEOUTS_SIZE - 2, 2, "descriptor length")
            + b"\0"
            + unsigned(self.command_specific, 1, "command specific")
            + unsigned(self.nominal, 4, "nominal command processing timeout")
            + unsigned(self.recommended, 4, "recommended command timeout")
        )

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read 12 bytes, ignoring what follows; DecodeError when there are fewer."""
        cursor = Cursor(data, "command timeouts descriptor")
        cursor.skip(3)
        specific = cursor.u8("command specific")
        return cls(cursor.u32("nominal timeout"), cursor.u32("recommended timeout"), specific)


@dataclass(frozen=True, slots=True)
class CommandDescriptor:
    """One command in the list of all: ``service_action`` is None for a command without.

    ``cdb_length`` in bytes; ``timeouts`` present when RCTD was set; ``flags`` is byte 5 without SERVACTV and CTDP.
    """

    opcode: int
    service_action: int | None = None
    cdb_length: int = 0
    timeouts: CommandTimeouts | None = None
    flags: int = 0

    def encode(self) -> bytes:
        """Return 8 bytes, 20 with timeouts; ValueError when a field does not fit."""
        if self.flags & ~_DESCRIPTOR_FLAGS:
            raise ValueError(f"flags of a command descriptor are {self.flags:#x}, expected bits 7 to 2 only")
        flags = self.flags | _SERVACTV * (self.service_action is not None) | _CTDP * (self.timeouts is not None)
        return (
            unsigned(self.opcode, 1, "operation code")
            + b"\0"
            + unsigned(self.service_action or 0, 2, "service action")
            + bytes([0, flags])
            + unsigned(self.cdb_length, 2, "CDB length")
            + (self.timeouts.encode() if self.timeouts is not None else b"")
        )


@dataclass(frozen=True, slots=True)
class SupportedOpcodes:
    """The list of all commands; ``command_data_length`` in bytes, never reduced by truncation."""

    descriptors: tuple[CommandDescriptor, ...]
    command_data_length: int = COMPUTED
    complete: bool = True

    def __post_init__(self) -> None:
        if self.command_data_length == COMPUTED:
            length = sum(_size(descriptor.timeouts is not None) for descriptor in self.descriptors)
            object.__setattr__(self, "command_data_length", length)

    @property
    def allocation_length(self) -> int:
        """Allocation length in bytes that fetches everything announced."""
        return _HEADER_SIZE + self.command_data_length

    def supports(self, opcode: int, service_action: int | None = None) -> bool:
        """Whether the list has the command; ``service_action`` None matches only a command without one."""
        return any(_is(descriptor, opcode, service_action) for descriptor in self.descriptors)

    def without(self, opcode: int, service_action: int | None = None) -> SupportedOpcodes:
        """Return the list with that command left out and the length corrected."""
        kept = tuple(one for one in self.descriptors if not _is(one, opcode, service_action))
        dropped = sum(_size(one.timeouts is not None) for one in self.descriptors if _is(one, opcode, service_action))
        return replace(self, descriptors=kept, command_data_length=self.command_data_length - dropped)

    def encode(self) -> bytes:
        """Return the header and the descriptors; ValueError when a field does not fit."""
        length = unsigned(self.command_data_length, 4, "command data length")
        return length + b"".join(descriptor.encode() for descriptor in self.descriptors)

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read whole or truncated parameter data; DecodeError when not even the 4-byte header is there."""
        cursor = Cursor(data, "REPORT SUPPORTED OPERATION CODES parameter data")
        length = cursor.u32("command data length")
        complete = cursor.remaining >= length
        body = Cursor(cursor.take_at_most(length), "command descriptor", base=_HEADER_SIZE)
        descriptors: list[CommandDescriptor] = []
        while body.remaining >= _DESCRIPTOR_SIZE:
            opcode = body.u8("operation code")
            body.skip(1)
            service_action = body.u16("service action")
            body.skip(1)
            flags = body.u8("SERVACTV and CTDP")
            cdb_length = body.u16("CDB length")
            if flags & _CTDP and body.remaining < _TIMEOUTS_SIZE:
                complete = False
                break
            descriptors.append(
                CommandDescriptor(
                    opcode,
                    service_action if flags & _SERVACTV else None,
                    cdb_length,
                    CommandTimeouts.decode(body.take(_TIMEOUTS_SIZE, "timeouts")) if flags & _CTDP else None,
                    flags & _DESCRIPTOR_FLAGS,
                )
            )
        return cls(tuple(descriptors), length, complete)


@dataclass(frozen=True, slots=True)
class SupportedOpcode:
    """The answer about one command: ``support`` is one of SUPPORT_*, ``cdb_usage`` the CDB usage bit map.

    ``flags`` is byte 1 without CTDP and SUPPORT.
    """

    support: int
    cdb_usage: bytes = b""
    timeouts: CommandTimeouts | None = None
    flags: int = 0
    complete: bool = True

    @property
    def supported(self) -> bool:
        """Whether the device has the command, as the standard says or in the vendor's way."""
        return self.support in (SUPPORT_STANDARD, SUPPORT_VENDOR)

    def encode(self) -> bytes:
        """Return the parameter data; ValueError when a field does not fit."""
        if self.flags & (_ONE_CTDP | _ONE_SUPPORT) or self.flags > 0xFF:
            raise ValueError(f"flags of a one-command answer are {self.flags:#x}, expected bits 6 to 3 only")
        head = _ONE_CTDP * (self.timeouts is not None) | self.flags | bits(self.support, 3, "SUPPORT")
        timeouts = self.timeouts.encode() if self.timeouts is not None else b""
        return bytes([0, head]) + unsigned(len(self.cdb_usage), 2, "CDB size") + self.cdb_usage + timeouts

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read whole or truncated parameter data; DecodeError when not even SUPPORT (byte 1) is there."""
        cursor = Cursor(data, "REPORT SUPPORTED OPERATION CODES one-command data")
        cursor.skip(1)
        head = cursor.u8("CTDP and SUPPORT")
        flags = head & ~(_ONE_CTDP | _ONE_SUPPORT)
        if cursor.remaining < 2:
            return cls(head & _ONE_SUPPORT, flags=flags, complete=False)
        size = cursor.u16("CDB size")
        usage = cursor.take_at_most(size)
        complete = len(usage) == size
        timeouts: CommandTimeouts | None = None
        if head & _ONE_CTDP:
            if complete and cursor.remaining >= _TIMEOUTS_SIZE:
                timeouts = CommandTimeouts.decode(cursor.take(_TIMEOUTS_SIZE, "timeouts"))
            else:
                complete = False
        return cls(head & _ONE_SUPPORT, usage, timeouts, flags, complete)


def drop_command(data: Buffer, opcode: int, service_action: int | None = None) -> bytes:
    """Return all-commands parameter data with one command left out and COMMAND DATA LENGTH corrected.

    Everything else stays byte for byte. In a truncated reply only what is there can be found, and a cut
    descriptor counts as long as the one before it: to be sure, read as much as is announced and cut
    afterwards. Raises DecodeError without the 4-byte header.
    """
    raw = bytes(data)
    cursor = Cursor(raw, "REPORT SUPPORTED OPERATION CODES parameter data")
    length = cursor.u32("command data length")
    end = min(len(raw), _HEADER_SIZE + length)
    kept = bytearray()
    dropped = 0
    size = _DESCRIPTOR_SIZE
    position = _HEADER_SIZE
    while position + _DESCRIPTOR_SIZE <= end:
        flags = raw[position + 5]
        size = _size(bool(flags & _CTDP))
        action = int.from_bytes(raw[position + 2 : position + 4]) if flags & _SERVACTV else None
        if (raw[position], action) == (opcode, service_action):
            dropped += size
        else:
            kept += raw[position : min(position + size, end)]
        position += size
    rest = raw[position:end]
    if len(rest) >= 4 and (rest[0], int.from_bytes(rest[2:4])) == (opcode, service_action or 0):
        dropped += size
    else:
        kept += rest
    return max(length - dropped, 0).to_bytes(4) + bytes(kept)


def _size(with_timeouts: bool) -> int:
    return _DESCRIPTOR_SIZE + _TIMEOUTS_SIZE * with_timeouts


def _is(descriptor: CommandDescriptor, opcode: int, service_action: int | None) -> bool:
    return descriptor.opcode == opcode and descriptor.service_action == service_action
