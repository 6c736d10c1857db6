"""One I_T nexus of the emulated unit: a Device that executes commands under this nexus' rights."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from _fastpath.gate import ADMIT_ATTENTION, ADMIT_CONFLICT, ADMIT_GO, NexusGate
from pyproxy.device.base import TransportError
from pyproxy.device.emulated.attention import PendingAttentions
from pyproxy.device.emulated.call import Call
from pyproxy.device.emulated.outcome import Aborted, Refused, check_condition, conflict
from pyproxy.device.emulated.reservations import Nexus
from pyproxy.device.emulated.table import Operation, find
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import Status
from pyproxy.scsi.sense import (
    BUS_DEVICE_RESET_FUNCTION,
    COMMANDS_CLEARED_BY_ANOTHER_INITIATOR,
    INITIALIZING_COMMAND_REQUIRED,
    IT_NEXUS_LOSS,
    PREVIOUS_RESERVATION_CONFLICT_STATUS,
    Sense,
)
from pyproxy.scsi.transport_id import TransportId

if TYPE_CHECKING:
    from pyproxy.device.emulated.unit import EmulatedUnit

DID_ABORT: Final = 0x05
"""Host status of a command that was aborted without a status from the device (as in ``sg_io_hdr``)."""

_PERSISTENT_RESERVE: Final = (b"\x5e", b"\x5f")
_CLEAR_WHEN_REPORTED: Final = 0b00
_ALSO_AFTER_CONFLICT: Final = 0b11


class EmulatedNexus:
    """The unit as one initiator port sees it through one target port.

    Obtained from ``EmulatedUnit.nexus``. Registrations and pending unit attentions belong to the nexus, not to who
    uses it: ``close`` changes nothing.
    """

    def __init__(self, unit: EmulatedUnit, identity: Nexus) -> None:
        self.unit = unit
        self.identity = identity
        self.gate = NexusGate()
        self.attentions = PendingAttentions()
        self.aborted_by_other = False

    @property
    def name(self) -> str:
        """``emulated:`` and the unit's name."""
        return self.unit.name

    @property
    def initiator(self) -> TransportId:
        """The initiator port."""
        return self.identity.initiator

    @property
    def rtpi(self) -> int:
        """Relative target port identifier of the target port."""
        return self.identity.rtpi

    def execute(self, command: Command) -> Result:
        """Run one command to its end.

        Raises TransportError ENODEV after the unit was closed. A command aborted by another nexus ends with TASK
        ABORTED, or with TAS=0 (and when aborted from its own nexus) with host status DID_ABORT and no SCSI status.
        """
        if self.unit.closed:
            raise TransportError(errno.ENODEV, f"{self.name} was closed; open the unit again")
        generation = self.gate.generation
        call: Call | None = None
        try:
            operation, cdb = self._find(command.cdb)
            call = Call(self.unit, self, cdb, command, generation)
            if operation.on_medium:
                self._on_medium(operation, call)
            else:
                with self.unit.lock:
                    self._admit(operation, call)
                    operation.execute(call)
        except Refused as refused:
            return self._refused(refused, _residual(command, 0 if call is None else call.moved))
        except Aborted as aborted:
            return self._aborted(aborted, _residual(command, 0))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            raise self._gone() from error
        return Result(Status.GOOD, data=call.data, residual=_residual(command, call.moved))

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        """Run the commands in order."""
        return [self.execute(command) for command in commands]

    def close(self) -> None:
        """Nothing to release: the nexus is the unit's, which ``EmulatedUnit.close`` ends."""

    def take_attention(self) -> Sense:
        """Report the first pending unit attention and clear it; the caller holds the unit's lock."""
        sense = self.attentions.take()
        self.unit.refresh(self)
        return sense

    # --- task management, which no reservation stops (SPC-4 5.13.3) ---

    def abort_task_set(self) -> None:
        """Abort every command of this nexus."""
        with self.unit.lock:
            self.aborted_by_other = False
            self.unit.refresh(self)
            self.gate.abort()

    def logical_unit_reset(self) -> None:
        """Reset the logical unit, as EmulatedUnit.reset does."""
        self.unit.reset(BUS_DEVICE_RESET_FUNCTION)

    def lose(self) -> None:
        """Lose the nexus (or log out): its commands and its SPC-2 reservation end, persistent reservations stay."""
        with self.unit.lock:
            self.aborted_by_other = False
            self.unit.refresh(self)
            self.gate.abort()
            if self.unit.spc2_holder == self.identity:
                self.unit.hold_spc2(None)
            self.attentions.establish(IT_NEXUS_LOSS)
            self.unit.refresh(self)

    # --- how a command is let in and how it ends ---

    def _find(self, raw: bytes) -> tuple[Operation, bytes]:
        try:
            return find(raw)
        except Refused:
            # Unit attentions and RESERVE come before the command is looked at, known or not.
            with self.unit.lock:
                if self.attentions:
                    raise check_condition(self._report_attention()) from None
                holder = self.unit.spc2_holder
                if holder is not None and (holder != self.identity or raw[:1] in _PERSISTENT_RESERVE):
                    raise conflict() from None
            raise

    def _on_medium(self, operation: Operation, call: Call) -> None:
        gate = self.gate
        access = operation.access_of(call.cdb)
        while True:
            token = gate.enter()
            try:
                if token != call.token:
                    raise Aborted(queued=True)
                if gate.admit(access) == ADMIT_GO:
                    operation.execute(call)
                    return
            finally:
                gate.leave(token)
            # Outside the gate: whoever aborts this nexus' commands holds the lock and waits for the gate to empty.
            with self.unit.lock:
                self._admit(operation, call)

    def _admit(self, operation: Operation, call: Call) -> None:
        """Judge a command under the lock: aborted, unit attention, reservation conflict, not ready; in this order."""
        if self.gate.aborted(call.token):
            raise Aborted(queued=True)
        verdict = self.gate.admit(operation.access_of(call.cdb))
        # What does not report unit attentions is never in conflict either (SPC-4 table 65, SPC-2 5.5.1).
        if verdict == ADMIT_ATTENTION and not operation.past_attention:
            raise check_condition(self._report_attention())
        if verdict == ADMIT_CONFLICT and not operation.past_spc2:
            raise conflict()
        if not self.unit.started and not operation.when_stopped:
            raise check_condition(INITIALIZING_COMMAND_REQUIRED)

    def _report_attention(self) -> Sense:
        if self.unit.modes.ua_intlck_ctrl == _CLEAR_WHEN_REPORTED:
            return self.take_attention()
        return self.attentions.first()

    def _refused(self, refused: Refused, residual: int) -> Result:
        unit = self.unit
        if refused.status == Status.RESERVATION_CONFLICT and unit.modes.ua_intlck_ctrl == _ALSO_AFTER_CONFLICT:
            with unit.lock:
                self.attentions.establish(PREVIOUS_RESERVATION_CONFLICT_STATUS)
                unit.refresh(self)
        sense = b"" if refused.sense is None else refused.sense.encode(unit.modes.d_sense)
        return Result(refused.status, sense, residual=residual)

    def _aborted(self, aborted: Aborted, residual: int) -> Result:
        unit = self.unit
        if unit.closed:
            raise self._gone()
        if self.aborted_by_other and unit.modes.tas:
            return Result(Status.TASK_ABORTED, residual=residual)
        if self.aborted_by_other and aborted.queued:
            # Those under way were counted, and told, when they were aborted.
            with unit.lock:
                self.attentions.establish(COMMANDS_CLEARED_BY_ANOTHER_INITIATOR)
                unit.refresh(self)
        return Result(Status.GOOD, host_status=DID_ABORT, residual=residual)

    def _gone(self) -> TransportError:
        message = f"{self.name} was closed while a command was under way; open the unit again"
        return TransportError(errno.ENODEV, message, fate_unknown=True)


def _residual(command: Command, moved: int) -> int:
    """Return how many bytes of the buffers were not transferred."""
    wanted = command.data_in
    asked = wanted if isinstance(wanted, int) else _size(wanted)
    if not asked:
        out = command.data_out
        asked = _size((out,) if isinstance(out, bytes | bytearray | memoryview) else out)
    return max(0, asked - moved)


def _size(buffers: Sequence[bytes | bytearray | memoryview]) -> int:
    return sum(memoryview(buffer).nbytes for buffer in buffers)
