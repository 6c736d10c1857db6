"""One command under way: its CDB, its buffers and what was moved so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyproxy.device.emulated.outcome import check_condition
from pyproxy.scsi.command import Command
from pyproxy.scsi.sense import PARAMETER_LIST_LENGTH_ERROR, Sense

if TYPE_CHECKING:
    from pyproxy.device.emulated.nexus import EmulatedNexus
    from pyproxy.device.emulated.unit import EmulatedUnit

INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT: Final = Sense(0x5, 0x0E, 0x03)

Readable = bytes | bytearray | memoryview
Writable = bytearray | memoryview


@dataclass(slots=True)
class Call:
    """What a command's handler works on.

    ``cdb`` has exactly the length of the command. ``token`` names the generation of the nexus' commands it belongs to.
    ``data`` and ``moved`` are what becomes of the transfer: bytes for a reply asked by count, bytes moved in all.
    """

    unit: EmulatedUnit
    nexus: EmulatedNexus
    cdb: bytes
    command: Command
    token: int
    data: bytes = b""
    moved: int = 0

    @property
    def in_capacity(self) -> int:
        """Bytes the initiator accepts."""
        wanted = self.command.data_in
        return wanted if isinstance(wanted, int) else sum(map(_size, wanted))

    @property
    def out_parts(self) -> Sequence[Readable]:
        """The initiator's data as it lies in memory."""
        out = self.command.data_out
        return (out,) if isinstance(out, bytes | bytearray | memoryview) else out

    @property
    def out_size(self) -> int:
        """Bytes the initiator sends."""
        return sum(map(_size, self.out_parts))

    def reply(self, data: bytes, allocation_length: int) -> None:
        """Send parameter data, cut at the allocation length and at what the initiator accepts."""
        data = data[: min(allocation_length, self.in_capacity)]
        self.moved = len(data)
        if isinstance(self.command.data_in, int):
            self.data = data
            return
        position = 0
        for buffer in self.command.data_in:
            if position == len(data):
                break
            view = memoryview(buffer).cast("B")
            part = data[position : position + len(view)]
            view[: len(part)] = part
            position += len(part)

    def parameter_list(self, length: int) -> bytes:
        """Receive a parameter list of the length the CDB gives; 05/1A/00 when the initiator sends less."""
        if self.out_size < length:
            raise check_condition(PARAMETER_LIST_LENGTH_ERROR)
        self.moved = length
        collected = bytearray()
        for part in self.out_parts:
            view = memoryview(part).cast("B")
            collected += view[: length - len(collected)]
            if len(collected) == length:
                break
        return bytes(collected)

    def parameter_block(self) -> bytes:
        """Receive exactly one logical block; 05/0E/03 when another amount is sent."""
        self.receive(self.unit.block_size, exact=True)
        return self.parameter_list(self.unit.block_size)

    def receive(self, length: int, *, exact: bool = False) -> Sequence[Readable]:
        """Take ``length`` bytes of logical block data; 05/0E/03 when fewer (or, with ``exact``, more) are sent."""
        size = self.out_size
        if size < length or (exact and size != length):
            raise check_condition(INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT)
        self.moved = length
        return self.out_parts


def _size(buffer: Readable) -> int:
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)
