"""Commands about the unit as a whole: is it ready, what is wrong, start and stop, self-test, task management."""

from __future__ import annotations

from pyproxy.device.emulated.block import medium_errors
from pyproxy.device.emulated.call import Call
from pyproxy.device.emulated.outcome import check_condition
from pyproxy.scsi.sense import INITIALIZING_COMMAND_REQUIRED, INVALID_FIELD_IN_CDB, NO_SENSE


def ready(_call: Call) -> None:
    """TEST UNIT READY: a stopped unit was found before this."""


def request_sense(call: Call) -> None:
    """REQUEST SENSE: returns a pending unit attention as data and clears it, in the format DESC asks for."""
    if call.nexus.attentions:
        sense = call.nexus.take_attention()
    else:
        sense = NO_SENSE if call.unit.started else INITIALIZING_COMMAND_REQUIRED
    call.reply(sense.encode(bool(call.cdb[1] & 0x01)), call.cdb[4])


def start_stop_unit(call: Call) -> None:
    """START STOP UNIT: a stopped unit refuses medium access until it is started; no power conditions, no ejecting."""
    flags = call.cdb[4]
    if flags & 0xF0 or flags & 0x02:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(4, in_cdb=True))
    if not flags & 0x01 and not flags & 0x04:
        with medium_errors(writing=True):
            call.unit.medium.flush()
    call.unit.start(running=bool(flags & 0x01))


def send_diagnostic(call: Call) -> None:
    """SEND DIAGNOSTIC: the default self-test, which passes; no diagnostic pages."""
    flags, length = call.cdb[1], int.from_bytes(call.cdb[3:5])
    if flags & 0xE0 or length:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(1 if flags & 0xE0 else 3, in_cdb=True))


def report_supported_tmfs(call: Call) -> None:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: ABORT TASK SET, LOGICAL UNIT RESET, I_T NEXUS RESET."""
    allocation_length = int.from_bytes(call.cdb[6:10])
    if allocation_length < 4:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(6, in_cdb=True))
    extended = bool(call.cdb[2] & 0x80)
    data = bytes([0x48, 0x01, 0x00, 0x0C if extended else 0x00])
    call.reply(data + bytes(12) if extended else data, allocation_length)
