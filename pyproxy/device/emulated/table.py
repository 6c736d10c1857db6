"""The one table of commands the unit has: it dispatches them and answers REPORT SUPPORTED OPERATION CODES."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from _fastpath.gate import ACCESS_ALWAYS, ACCESS_READ, ACCESS_WRITE
from pyproxy.device.emulated import block, inquiry, modes, provisioning, reserve_commands, unit_commands
from pyproxy.device.emulated.call import Call
from pyproxy.device.emulated.outcome import check_condition
from pyproxy.scsi.rsoc import (
    SUPPORT_NONE,
    SUPPORT_STANDARD,
    CommandDescriptor,
    CommandTimeouts,
    SupportedOpcode,
    SupportedOpcodes,
)
from pyproxy.scsi.sense import INVALID_COMMAND_OPERATION_CODE, INVALID_FIELD_IN_CDB


def _start_stop_access(cdb: bytes) -> int:
    """START with no power condition is harmless to others, anything else changes the unit's state (SBC-4 4.17)."""
    return ACCESS_ALWAYS if cdb[4] & 0xF1 == 0x01 else ACCESS_WRITE


@dataclass(frozen=True, slots=True)
class Operation:
    """One command: which bits of its CDB are used (``usage``, hex), who may send it when, what executes it.

    ``access`` is an ACCESS_* class or a function of the CDB. ``on_medium`` commands run beside each other, the
    others one at a time. ``past_attention`` commands do not report unit attentions, ``past_spc2`` ones pass another
    nexus' RESERVE, ``when_stopped`` ones work on a stopped unit.
    """

    opcode: int
    name: str
    usage: bytes
    execute: Callable[[Call], None]
    access: int | Callable[[bytes], int] = ACCESS_ALWAYS
    action: int | None = None
    on_medium: bool = False
    past_attention: bool = False
    past_spc2: bool = False
    when_stopped: bool = False

    def access_of(self, cdb: bytes) -> int:
        """Return the access class of this CDB."""
        return self.access if isinstance(self.access, int) else self.access(cdb)


def _medium(opcode: int, name: str, usage: str, execute: Callable[[Call], None], access: int) -> Operation:
    return Operation(opcode, name, bytes.fromhex(usage), execute, access, on_medium=True)


def _state(
    opcode: int,
    name: str,
    usage: str,
    execute: Callable[[Call], None],
    access: int | Callable[[bytes], int] = ACCESS_ALWAYS,
    *,
    action: int | None = None,
    past_spc2: bool = False,
) -> Operation:
    return Operation(
        opcode, name, bytes.fromhex(usage), execute, access, action, past_spc2=past_spc2, when_stopped=True
    )


def _always(opcode: int, name: str, usage: str, execute: Callable[[Call], None]) -> Operation:
    return Operation(
        opcode, name, bytes.fromhex(usage), execute, past_attention=True, past_spc2=True, when_stopped=True
    )


def _pr_in(action: int, name: str) -> Operation:
    usage = f"5e{action:02x}0000000000ffff00"
    return _state(0x5E, name, usage, reserve_commands.persistent_reserve_in, action=action)


def _pr_out(action: int, name: str, *, type_used: bool) -> Operation:
    usage = f"5f{action:02x}{'ff' if type_used else '00'}0000ffffffff00"
    return _state(0x5F, name, usage, reserve_commands.persistent_reserve_out, action=action)


_ROWS: Final = (
    Operation(0x00, "TEST UNIT READY", bytes.fromhex("000000000000"), unit_commands.ready),
    _always(0x03, "REQUEST SENSE", "03010000ff00", unit_commands.request_sense),
    _medium(0x08, "READ (6)", "081fffffff00", block.read, ACCESS_READ),
    _medium(0x0A, "WRITE (6)", "0a1fffffff00", block.write, ACCESS_WRITE),
    _always(0x12, "INQUIRY", "1201ffffff00", inquiry.inquiry),
    _state(0x15, "MODE SELECT (6)", "15100000ff00", modes.mode_select, ACCESS_WRITE),
    _state(0x16, "RESERVE (6)", "160000000000", reserve_commands.reserve),
    _state(0x17, "RELEASE (6)", "170000000000", reserve_commands.release, past_spc2=True),
    _state(0x1A, "MODE SENSE (6)", "1a08ffffff00", modes.mode_sense, ACCESS_READ),
    _state(0x1B, "START STOP UNIT", "1b0100000500", unit_commands.start_stop_unit, _start_stop_access),
    _state(0x1D, "SEND DIAGNOSTIC", "1d0400000000", unit_commands.send_diagnostic, ACCESS_WRITE),
    Operation(0x25, "READ CAPACITY (10)", bytes.fromhex("25000000000000000000"), inquiry.read_capacity_10),
    _medium(0x28, "READ (10)", "2818ffffffff3fffff00", block.read, ACCESS_READ),
    _medium(0x2A, "WRITE (10)", "2a18ffffffff3fffff00", block.write, ACCESS_WRITE),
    _medium(0x2E, "WRITE AND VERIFY (10)", "2e12ffffffff3fffff00", block.write_and_verify, ACCESS_WRITE),
    _medium(0x2F, "VERIFY (10)", "2f16ffffffff3fffff00", block.verify, ACCESS_READ),
    _medium(0x34, "PRE-FETCH (10)", "3402ffffffff3fffff00", block.pre_fetch, ACCESS_READ),
    _medium(0x35, "SYNCHRONIZE CACHE (10)", "3502ffffffff3fffff00", block.synchronize_cache, ACCESS_WRITE),
    _medium(0x41, "WRITE SAME (10)", "4108ffffffff3fffff00", provisioning.write_same, ACCESS_WRITE),
    _medium(0x42, "UNMAP", "4200000000003fffff00", provisioning.unmap, ACCESS_WRITE),
    _state(0x55, "MODE SELECT (10)", "55100000000000ffff00", modes.mode_select, ACCESS_WRITE),
    _state(0x56, "RESERVE (10)", "56000000000000000000", reserve_commands.reserve),
    _state(0x57, "RELEASE (10)", "57000000000000000000", reserve_commands.release, past_spc2=True),
    _state(0x5A, "MODE SENSE (10)", "5a18ffff000000ffff00", modes.mode_sense, ACCESS_READ),
    _pr_in(0x00, "READ KEYS"),
    _pr_in(0x01, "READ RESERVATION"),
    _pr_in(0x02, "REPORT CAPABILITIES"),
    _pr_in(0x03, "READ FULL STATUS"),
    _pr_out(0x00, "REGISTER", type_used=False),
    _pr_out(0x01, "RESERVE", type_used=True),
    _pr_out(0x02, "RELEASE", type_used=True),
    _pr_out(0x03, "CLEAR", type_used=False),
    _pr_out(0x04, "PREEMPT", type_used=True),
    _pr_out(0x05, "PREEMPT AND ABORT", type_used=True),
    _pr_out(0x06, "REGISTER AND IGNORE EXISTING KEY", type_used=False),
    _pr_out(0x07, "REGISTER AND MOVE", type_used=False),
    _medium(0x88, "READ (16)", "8818ffffffffffffffffffffffff3f00", block.read, ACCESS_READ),
    _medium(0x89, "COMPARE AND WRITE", "8918ffffffffffffffff000000ff3f00", block.compare_and_write, ACCESS_WRITE),
    _medium(0x8A, "WRITE (16)", "8a18ffffffffffffffffffffffff3f00", block.write, ACCESS_WRITE),
    _medium(0x8E, "WRITE AND VERIFY (16)", "8e12ffffffffffffffffffffffff3f00", block.write_and_verify, ACCESS_WRITE),
    _medium(0x8F, "VERIFY (16)", "8f16ffffffffffffffffffffffff3f00", block.verify, ACCESS_READ),
    _medium(0x90, "PRE-FETCH (16)", "9002ffffffffffffffffffffffff3f00", block.pre_fetch, ACCESS_READ),
    _medium(0x91, "SYNCHRONIZE CACHE (16)", "9102ffffffffffffffffffffffff3f00", block.synchronize_cache, ACCESS_WRITE),
    _medium(0x93, "WRITE SAME (16)", "9309ffffffffffffffffffffffff3f00", provisioning.write_same, ACCESS_WRITE),
    Operation(
        0x9E,
        "READ CAPACITY (16)",
        bytes.fromhex("9e100000000000000000ffffffff0000"),
        inquiry.read_capacity_16,
        action=0x10,
    ),
    Operation(
        0x9E,
        "GET LBA STATUS",
        bytes.fromhex("9e12ffffffffffffffffffffffff0000"),
        provisioning.get_lba_status,
        ACCESS_READ,
        action=0x12,
        on_medium=True,
    ),
    _always(0xA0, "REPORT LUNS", "a000ff000000ffffffff0000", inquiry.report_luns),
    _state(
        0xA3,
        "REPORT SUPPORTED OPERATION CODES",
        "a30c87ffffffffffffff0000",
        lambda call: report_supported_operation_codes(call),
        ACCESS_READ,
        action=0x0C,
    ),
    _state(
        0xA3,
        "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        "a30d80000000ffffffff0000",
        unit_commands.report_supported_tmfs,
        ACCESS_READ,
        action=0x0D,
    ),
    _medium(0xA8, "READ (12)", "a818ffffffffffffffff3f00", block.read, ACCESS_READ),
    _medium(0xAA, "WRITE (12)", "aa18ffffffffffffffff3f00", block.write, ACCESS_WRITE),
    _medium(0xAE, "WRITE AND VERIFY (12)", "ae12ffffffffffffffff3f00", block.write_and_verify, ACCESS_WRITE),
    _medium(0xAF, "VERIFY (12)", "af16ffffffffffffffff3f00", block.verify, ACCESS_READ),
)

OPERATIONS: Final[Mapping[tuple[int, int | None], Operation]] = MappingProxyType(
    {(row.opcode, row.action): row for row in _ROWS}
)
"""Every command by operation code and service action (None where the code has none)."""

_WITH_ACTIONS: Final = frozenset(opcode for opcode, action in OPERATIONS if action is not None)
_PLAIN: Final = tuple(OPERATIONS.get((opcode, None)) for opcode in range(256))

_NACA: Final = 0x04


def find(raw: bytes) -> tuple[Operation, bytes]:
    """Return the command a CDB asks for, and the CDB cut to its length; raises Refused."""
    if not raw:
        raise check_condition(INVALID_COMMAND_OPERATION_CODE)
    operation = _PLAIN[raw[0]]
    if operation is None:
        operation = _with_action(raw)
    length = len(operation.usage)
    if len(raw) < length:
        raise check_condition(INVALID_FIELD_IN_CDB)
    cdb = raw[:length]
    if cdb[-1] & _NACA:
        # Auto contingent allegiance is not supported: NORMACA is 0 in the INQUIRY data (SAM-5 5.2).
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(length - 1, 2, in_cdb=True))
    return operation, cdb


def _with_action(raw: bytes) -> Operation:
    if raw[0] not in _WITH_ACTIONS:
        raise check_condition(INVALID_COMMAND_OPERATION_CODE)
    if len(raw) < 2:
        raise check_condition(INVALID_FIELD_IN_CDB)
    operation = OPERATIONS.get((raw[0], raw[1] & 0x1F))
    if operation is None:
        raise check_condition(INVALID_FIELD_IN_CDB)
    return operation


_TIMEOUTS: Final = CommandTimeouts()


def report_supported_operation_codes(call: Call) -> None:
    """REPORT SUPPORTED OPERATION CODES (SPC-4 6.35): all of them, or one in any of the three ways to name it."""
    timeouts = _TIMEOUTS if call.cdb[2] & 0x80 else None
    allocation_length = int.from_bytes(call.cdb[6:10])
    options = call.cdb[2] & 0x07
    if options == 0b000:
        commands = tuple(
            CommandDescriptor(row.opcode, row.action, len(row.usage), timeouts) for row in OPERATIONS.values()
        )
        call.reply(SupportedOpcodes(commands).encode(), allocation_length)
        return
    row = _asked(options, call.cdb[3], int.from_bytes(call.cdb[4:6]))
    answer = SupportedOpcode(SUPPORT_STANDARD, row.usage, timeouts) if row else SupportedOpcode(SUPPORT_NONE)
    call.reply(answer.encode(), allocation_length)


def _asked(options: int, opcode: int, action: int) -> Operation | None:
    has_actions = opcode in _WITH_ACTIONS
    plain = _PLAIN[opcode]
    if options == 0b001 and not has_actions:
        return plain
    if options == 0b010 and plain is None:
        return OPERATIONS.get((opcode, action))
    if options == 0b011:
        return OPERATIONS.get((opcode, action)) if has_actions else plain if action == 0 else None
    # An operation code with service actions asked for without one, the reverse, or a reserved option.
    raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(2, 2, in_cdb=True))
