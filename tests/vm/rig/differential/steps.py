"""One command of a sequence, and what is compared of the answer."""

from __future__ import annotations

import struct
from dataclasses import dataclass

IN_ACTIONS = {0: "READ KEYS", 1: "READ RESERVATION", 2: "REPORT CAPABILITIES", 3: "READ FULL STATUS"}
OUT_ACTIONS = {
    0: "REGISTER",
    1: "RESERVE",
    2: "RELEASE",
    3: "CLEAR",
    4: "PREEMPT",
    5: "PREEMPT AND ABORT",
    6: "REGISTER AND IGNORE EXISTING KEY",
    7: "REGISTER AND MOVE",
    8: "REPLACE LOST RESERVATION",
}
OTHERS = {
    0x00: "TEST UNIT READY",
    0x03: "REQUEST SENSE",
    0x12: "INQUIRY",
    0x16: "RESERVE(6)",
    0x17: "RELEASE(6)",
    0x1A: "MODE SENSE(6)",
    0x25: "READ CAPACITY(10)",
    0x28: "READ(10)",
    0x2A: "WRITE(10)",
    0x35: "SYNCHRONIZE CACHE(10)",
    0xA0: "REPORT LUNS",
}
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_AND_IGNORE = range(7)
PR_IN, PR_OUT = 0x5E, 0x5F
RESERVE_6, RELEASE_6 = 0x16, 0x17


@dataclass(frozen=True, slots=True)
class Step:
    """A command and the nexus (0, 1 or 2) that sends it."""

    nexus: int
    cdb: bytes
    data_out: bytes = b""
    data_in: int = 0

    @property
    def opcode(self) -> int:
        return self.cdb[0]

    @property
    def action(self) -> int:
        """The service action of PERSISTENT RESERVE IN or OUT."""
        return self.cdb[1] & 0x1F

    @property
    def type(self) -> int:
        return self.cdb[2] & 0xF

    @property
    def scope(self) -> int:
        return self.cdb[2] >> 4

    @property
    def allocation_length(self) -> int:
        return int(struct.unpack_from(">H", self.cdb, 7)[0])

    @property
    def list_length(self) -> int:
        return int(struct.unpack_from(">I", self.cdb, 5)[0])

    @property
    def keys(self) -> tuple[int, int]:
        """RESERVATION KEY and SERVICE ACTION RESERVATION KEY; zeros where the list is too short to have them."""
        key, sa_key = struct.unpack_from(">QQ", self.data_out.ljust(16, b"\0"))
        return key, sa_key

    def is_out(self, *actions: int) -> bool:
        """Whether this is a PERSISTENT RESERVE OUT with one of the actions."""
        return self.opcode == PR_OUT and self.action in actions

    def is_in(self, *actions: int) -> bool:
        """Whether this is a PERSISTENT RESERVE IN with one of the actions."""
        return self.opcode == PR_IN and self.action in actions

    def __str__(self) -> str:
        who = f"nexus {self.nexus}: "
        if self.opcode == PR_IN:
            name = IN_ACTIONS.get(self.action, f"PERSISTENT RESERVE IN {self.action:02X}h")
            return f"{who}{name}, allocation length {self.allocation_length}"
        if self.opcode == PR_OUT:
            name = OUT_ACTIONS.get(self.action, f"PERSISTENT RESERVE OUT {self.action:02X}h")
            key, sa_key = self.keys
            flags = f", byte 20 {self.data_out[20]:02X}h" if len(self.data_out) > 20 and self.data_out[20] else ""
            length = f", {self.list_length} bytes" if self.list_length != 24 else ""
            scope = f", scope {self.scope}" if self.scope else ""
            return f"{who}{name} key {key:X}h, action key {sa_key:X}h, type {self.type}{scope}{flags}{length}"
        return f"{who}{OTHERS.get(self.opcode, f'opcode {self.opcode:02X}h')} [{self.cdb.hex(' ')}]"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, sense key with additional sense code, and data with PRGENERATION counted from the sequence's start."""

    status: int
    code: tuple[int, int, int] | None = None
    data: bytes = b""
    generation: int | None = None

    @property
    def good(self) -> bool:
        return self.status == 0

    @property
    def conflict(self) -> bool:
        return self.status == 0x18

    @property
    def attention(self) -> bool:
        return self.code is not None and self.code[0] == 6

    def __str__(self) -> str:
        if self.code is not None:
            return "status {:02X}h, {:02X}/{:02X}/{:02X}".format(self.status, *self.code)
        generation = f", PRGENERATION +{self.generation}" if self.generation is not None else ""
        data = f", {len(self.data)} bytes {self.data[:96].hex(' ', 4)}" if self.data else ""
        return f"status {self.status:02X}h{generation}{data}"


def answer(step: Step, status: int, code: tuple[int, int, int] | None, data: bytes, first_generation: int) -> Answer:
    """What is compared of a reply: data only where both units must give the same (PR IN and READ)."""
    if status == 2:
        return Answer(status, code)
    if status or step.opcode not in (PR_IN, 0x28):
        return Answer(status)
    if step.opcode == PR_IN and step.action != 2 and len(data) >= 4:
        generation = (struct.unpack_from(">I", data)[0] - first_generation) & 0xFFFFFFFF
        return Answer(status, None, data[4:], generation)
    return Answer(status, None, data)


def persistent_reserve_in(nexus: int, action: int, allocation_length: int = 1024) -> Step:
    return Step(nexus, struct.pack(">BB5xHx", PR_IN, action, allocation_length), data_in=allocation_length)


def persistent_reserve_out(
    nexus: int,
    action: int,
    *,
    key: int = 0,
    sa_key: int = 0,
    type_: int = 0,
    scope: int = 0,
    flags: int = 0,
    list_length: int = 24,
) -> Step:
    parameters = struct.pack(">QQ4xB3x", key, sa_key, flags).ljust(list_length, b"\0")[:list_length]
    return Step(nexus, struct.pack(">BBB2xIx", PR_OUT, action, scope << 4 | type_, list_length), parameters)


def unit_ready(nexus: int) -> Step:
    return Step(nexus, bytes(6))
