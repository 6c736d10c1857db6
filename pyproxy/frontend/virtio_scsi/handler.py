"""Answers what the data plane does not answer itself: reservations, rare commands, task management, missing LUNs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final, TypeAlias

from _fastpath.cdb import parse
from _fastpath.lanes import EVENT_OVERFLOW
from pyproxy.device.base import TransportError
from pyproxy.frontend.virtio_scsi.domain import Domain
from pyproxy.frontend.virtio_scsi.lun import REPORT_LUNS_LUN, Address
from pyproxy.frontend.virtio_scsi.response import Response, response_of, response_to_error
from pyproxy.frontend.virtio_scsi.target import REPORT_LUNS, answer_for_nothing, answer_for_well_known, report_luns
from pyproxy.frontend.virtio_scsi.task_management import Reset, answer_control, no_reset
from pyproxy.frontend.virtio_scsi.traffic import Answers
from pyproxy.scsi.command import DEFAULT_TIMEOUT_MS, Command, Result
from pyproxy.scsi.constants import Status
from pyproxy.scsi.sense import INVALID_FIELD_IN_CDB, REPORTED_LUNS_DATA_CHANGED
from pyproxy.unit import GuestUnit

log = logging.getLogger(__name__)

SENSE_LIMIT: Final = 96
"""Bytes of sense a response has room for."""

Answer: TypeAlias = tuple[int, int, bytes, bytes, int]
"""(virtio response, SAM status, sense, data, residual)."""


class ControllerHandler:
    """The answers of one controller, called ``name``, whose logical units are in ``domain``.

    ``reset`` is what LOGICAL UNIT RESET does to the device, by default nothing. ``broken`` is told of a queue that the
    guest broke, with its number and a sentence. Methods may be called from any thread; those for the data plane never
    raise.
    """

    def __init__(
        self,
        name: str,
        domain: Domain,
        *,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        reset: Reset = no_reset,
        broken: Callable[[int, str], None] | None = None,
    ) -> None:
        self.name = name
        self.domain = domain
        self._timeout_ms = timeout_ms
        self._reset = reset
        self._broken = broken
        self.answers: dict[Address, Answers] = {}
        """How commands of each unit ended that passed here."""
        # The data plane calls one by one; this is for those who wait for the end of a call.
        self._busy = threading.RLock()

    def execute(self, target: int, lun: int, cdb: bytes, data_out: bytes, data_in: int) -> Answer:
        """Run one command to its end.

        ``cdb`` may be the whole field of 32 bytes, ``data_in`` is what the guest has room for in bytes. Returns (virtio
        response, SAM status, sense, data, residual).
        """
        try:
            with self._busy:
                address = Address(target, lun)
                found = self._execute(address, bytes(cdb), data_out, data_in)
                self._count(address, found, len(data_out))
                return found
        except Exception:
            log.exception("%s: a command to target %d, LUN %d failed inside pyproxy", self.name, target, lun)
            return Response.FAILURE, Status.GOOD, b"", b"", len(data_out) or data_in

    def control(self, request: bytes) -> bytes:
        """Answer a request of the control queue; empty for one that has no layout that is known."""
        try:
            return answer_control(request, self.domain, self._reset, self.name)
        except Exception:
            log.exception("%s: task management failed inside pyproxy", self.name)
            return bytes([Response.FAILURE])

    def inspect(self, target: int, lun: int, cdb: bytes, kind: int, asc: int, ascq: int) -> None:
        """Take note of what a completion in the data plane says about reservations.

        EVENT_OVERFLOW is about all units: such events were lost.
        """
        unit = self.domain.unit(Address(target, lun))
        concerned = self.domain.all_units if kind == EVENT_OVERFLOW else () if unit is None else (unit,)
        try:
            for each in concerned:
                each.observe_lane(bytes(cdb), kind, asc, ascq)
        except Exception:
            log.exception("%s: an event of target %d, LUN %d was lost inside pyproxy", self.name, target, lun)

    def queue_broken(self, index: int, reason: str) -> None:
        """Say that a guest broke a queue, which is served no more until the guest resets its controller."""
        log.warning(
            "%s: queue %d is not served any more: %s; the guest's driver has to reset the controller",
            self.name,
            index,
            reason,
        )
        if self._broken is not None:
            self._broken(index, reason)

    def inventory_changed(self, target: int, *, but_for: GuestUnit | None = None) -> None:
        """Let the guest know with the next command to any other unit of a target that its LUNs are others now."""
        for unit in self.domain.units(target):
            if unit is not but_for:
                unit.raise_attention(REPORTED_LUNS_DATA_CHANGED)

    def wait_until_idle(self) -> None:
        """Wait until no command runs that was begun before; not to be called by what the data plane calls."""
        with self._busy:
            pass

    def _execute(self, address: Address, cdb: bytes, data_out: bytes, data_in: int) -> Answer:
        asked = len(data_out) or data_in
        if data_out and data_in:
            return Response.FAILURE, Status.GOOD, b"", b"", asked
        parsed = parse(cdb)
        command = Command(cdb[: parsed.cdb_length] if parsed.cdb_length else cdb, data_out, data_in, self._timeout_ms)
        luns = self._luns(address)
        if luns is None:
            return Response.BAD_TARGET, Status.GOOD, b"", b"", asked
        try:
            result = self._answer(address, command, luns)
        except TransportError as error:
            log.warning("%s: target %d, LUN %d: %s", self.name, address.target, address.lun, error)
            return response_to_error(cdb, error), Status.GOOD, b"", b"", asked
        return _encode(result, asked, data_in)

    def _count(self, address: Address, found: Answer, data_out: int) -> None:
        if self.domain.unit(address) is None:
            return
        response, status, sense, data, residual = found
        answers = self.answers.setdefault(address, Answers())
        answers.add(response, status, sense, len(data), max(data_out - residual, 0))

    def _luns(self, address: Address) -> tuple[int, ...] | None:
        """Return the LUNs that REPORT LUNS lists there; None where there is no such target."""
        if address.lun == REPORT_LUNS_LUN:
            # It is the controller's; the list it can give is that of one target, the first.
            targets = self.domain.targets
            return self.domain.luns(targets[0]) if targets else ()
        return self.domain.luns(address.target) or None

    def _answer(self, address: Address, command: Command, luns: tuple[int, ...]) -> Result:
        if len(command.cdb) < 6 or not parse(command.cdb).valid:
            # What the policy refuses to any unit; here so that no answer below reads past the end of the CDB.
            return Result(Status.CHECK_CONDITION, INVALID_FIELD_IN_CDB.encode(), residual=_in(command))
        if address.lun == REPORT_LUNS_LUN:
            return answer_for_well_known(command, luns)
        unit = self.domain.unit(address)
        if unit is None:
            return answer_for_nothing(command, luns)
        if command.cdb[0] == REPORT_LUNS:
            return self._report_luns(address, command, luns)
        return unit.execute(command)

    def _report_luns(self, address: Address, command: Command, luns: tuple[int, ...]) -> Result:
        result = report_luns(command, luns)
        if result.good:
            # The guest knows now (SPC-4 6.33).
            for unit in self.domain.units(address.target):
                if unit.snooper.attentions.discard(REPORTED_LUNS_DATA_CHANGED.code):
                    unit.snooper.flush()
        return result


def _in(command: Command) -> int:
    return command.data_in if isinstance(command.data_in, int) else 0


def _encode(result: Result, asked: int, data_in: int) -> Answer:
    response = response_of(result)
    if response is not Response.OK:
        return response, Status.GOOD, b"", b"", asked
    data = result.data[:data_in]
    # A device may count beyond what the guest asked for, or below nothing.
    residual = min(max(result.residual, 0), asked)
    return response, result.status, result.sense[:SENSE_LIMIT], data, residual
