"""The two units compared, each with three nexuses: LIO through SG_IO, the emulated unit through Python."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pyproxy.device.base import Device
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.command import Command
from tests.vm.rig.differential.generator import BLOCKS
from tests.vm.rig.differential.steps import (
    CLEAR,
    REGISTER_AND_IGNORE,
    Answer,
    Step,
    answer,
    persistent_reserve_in,
    persistent_reserve_out,
    unit_ready,
)
from tests.vm.rig.lio import LioUnit

_WIPING_KEY = 0x57495045
_TYPES = {
    "Write Exclusive Access": 1,
    "Exclusive Access": 3,
    "Write Exclusive Access, Registrants Only": 5,
    "Exclusive Access, Registrants Only": 6,
    "Write Exclusive Access, All Registrants": 7,
    "Exclusive Access, All Registrants": 8,
}

RawReply = tuple[int, tuple[int, int, int] | None, bytes]


@dataclass(frozen=True, slots=True)
class View:
    """LIO's reservations before a command, as its configfs tells them; nexuses by number.

    ``holder`` is the nominal holder of an all-registrants reservation. ``spc2`` is who holds a RESERVE(6).
    """

    keys: dict[int, int]
    holder: int | None
    type: int | None
    spc2: int | None = None

    def holds(self, nexus: int) -> bool:
        """Whether the nexus is a holder in the standard's sense."""
        if self.type in (7, 8):
            return nexus in self.keys
        return self.holder == nexus


class Side(Protocol):
    """One unit under comparison."""

    def send(self, step: Step) -> Answer:
        """Run a command."""

    def reset(self) -> None:
        """Back to the state every sequence starts from."""


class _Resettable:
    """What both sides share: the way to the common starting state, by commands alone."""

    def __init__(self, execute: Callable[[Step], RawReply], nexuses: int) -> None:
        self._execute = execute
        self._nexuses = nexuses
        self._first_generation = 0
        self._spc2_reserved = self._written = True

    def send(self, step: Step) -> Answer:
        status, code, data = self._execute(step)
        if status == 0:
            self._spc2_reserved |= step.opcode == 0x16
            self._written |= step.opcode == 0x2A
        return answer(step, status, code, data, self._first_generation)

    def drain(self, nexus: int) -> list[tuple[int, int, int]]:
        """Report the nexus' pending unit attentions; which they were."""
        seen = []
        while len(seen) < 32:
            status, code, _ = self._execute(unit_ready(nexus))
            if status != 2 or code is None or code[0] != 6:
                return seen
            seen.append(code)
        raise AssertionError(f"nexus {nexus} reports one unit attention after the other: {seen}")

    def reset(self) -> None:
        for nexus in range(self._nexuses):
            self.drain(nexus)
            if self._spc2_reserved:
                self._execute(Step(nexus, bytes([0x17, 0, 0, 0, 0, 0])))
        self._good(persistent_reserve_out(0, REGISTER_AND_IGNORE, sa_key=_WIPING_KEY))
        self._good(persistent_reserve_out(0, CLEAR, key=_WIPING_KEY))
        for nexus in range(self._nexuses):
            self.drain(nexus)
        if self._written:
            self._good(Step(0, struct.pack(">BxIxHx", 0x2A, 0, BLOCKS), bytes(512 * BLOCKS)))
        self._spc2_reserved = self._written = False
        data = self._good(persistent_reserve_in(0, 0))
        assert data[4:8] == bytes(4), f"registrations survived CLEAR: {data.hex(' ', 4)}"
        self._first_generation = struct.unpack_from(">I", data)[0]

    def _good(self, step: Step) -> bytes:
        status, code, data = self._execute(step)
        assert status == 0, f"{step} answered {status:02X}h {code} while resetting"
        return data


class LioSide(_Resettable):
    """LIO, with its own word on who is registered and who holds."""

    def __init__(self, unit: LioUnit) -> None:
        self.unit = unit
        self._nodes = [nexus.direct for nexus in unit.nexuses]
        self._numbers = {nexus.initiator: number for number, nexus in enumerate(unit.nexuses)}
        self._view: View | None = None
        super().__init__(self._run, len(self._nodes))

    def _run(self, step: Step) -> RawReply:
        reply = self._nodes[step.nexus].execute(step.cdb, data_out=step.data_out, data_in=step.data_in)
        assert reply.host_status == 0, f"{step} ended with host status {reply.host_status:02X}h"
        if step.opcode in (0x5F, 0x16, 0x17) and reply.status == 0:
            self._view = None
        return reply.status, reply.key_asc_ascq if reply.status == 2 else None, reply.data

    def view(self) -> View:
        """The state now; read again only after a command that may have changed it."""
        if self._view is None:
            keys = {self._numbers[name]: key for name, key in self.unit.registered.items()}
            holder, spc2 = self.unit.reserved_by()
            self._view = View(
                keys,
                None if holder is None else self._numbers[holder],
                None if holder is None else _TYPES[str(self.unit.reservation_type)],
                None if spc2 is None else self._numbers[spc2],
            )
        return self._view

    def reset(self) -> None:
        super().reset()
        self._view = None
        assert self.view() == View({}, None, None)


class EmulatedSide(_Resettable):
    """The emulated unit with nexuses of the same names and target ports as LIO's."""

    def __init__(self, unit: EmulatedUnit, lio: LioUnit) -> None:
        self._devices: Sequence[Device] = [
            unit.nexus(nexus.transport_id, nexus.relative_target_port) for nexus in lio.nexuses
        ]
        super().__init__(self._run, len(self._devices))

    def _run(self, step: Step) -> RawReply:
        result = self._devices[step.nexus].execute(Command(step.cdb, step.data_out, step.data_in))
        sense = result.decoded_sense
        code = None if sense is None else (sense.key, sense.asc, sense.ascq)
        return result.status, code, result.data
