"""One logical unit as one guest uses it: each command takes its lane, checked on the way in, watched on the way out.

Commands of the fast and the inspect lane go straight to the device, take no lock and do not wait for reservation
commands; PERSISTENT RESERVE IN and OUT go through the snooper. What the completions of a batch say about reservations
is found by the device's lanes where it has some, here where it has none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from _fastpath import lanes
from _fastpath.cdb import LANE_PR, parse
from pyproxy.device.base import Device, LaneDevice, LaneEvent, TransportError, results_of
from pyproxy.policy import Denied, deny
from pyproxy.reservation import masking
from pyproxy.reservation.adopt import Adoption
from pyproxy.reservation.events import EventKind, InspectEvent, events_of, events_without_answer
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, Suspicion
from pyproxy.reservation.transfer import answer, check_condition, data_in_size
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import Status
from pyproxy.scsi.sense import CAPACITY_DATA_CHANGED, INVALID_FIELD_IN_CDB, Sense
from pyproxy.tally import Tally, Waits

log = logging.getLogger(__name__)

_PERSISTENT_RESERVE: Final = (b"\x5e", b"\x5f")
_RESERVE_RELEASE: Final = frozenset({0x16, 0x17, 0x56, 0x57})

_KIND_OF_EVENT: Final = {
    lanes.EVENT_UNIT_ATTENTION: EventKind.UNIT_ATTENTION,
    lanes.EVENT_CONFLICT: EventKind.CONFLICT,
    lanes.EVENT_SPC2_RESERVED: EventKind.SPC2_RESERVED,
    lanes.EVENT_SPC2_RELEASED: EventKind.SPC2_RELEASED,
    lanes.EVENT_INFORMATION_LOST: EventKind.INFORMATION_LOST,
}
"""The lanes' events that say one thing whatever the command was."""

_REFUSALS_LOGGED: Final = 20
"""How many refused commands are logged one by one; a guest must not be able to fill the log."""


def was_heard(result: Result) -> bool:
    """Tell whether the device answered, and not the transport in its place."""
    return not result.host_status


class GuestUnit:
    """Carries a guest's commands to ``device``. Methods may be called from any thread.

    ``rawio`` opens the command policy. ``execute`` and ``execute_batch`` raise TransportError as the device does.
    """

    def __init__(self, guest: str, lun: int, device: Device, snooper: Snooper, *, rawio: bool = False) -> None:
        self.guest = guest
        self.lun = lun
        self.device = device
        self.snooper = snooper
        self.rawio = rawio
        self._lanes = device if isinstance(device, LaneDevice) else None
        self._refusals = 0
        self.refused = Tally()
        """Commands that were answered without asking the device, by why."""
        self.waits = Waits()
        """For the device, by commands that pass here."""
        self.capacity_told = False
        """Whether the guest has received CAPACITY DATA HAS CHANGED; for whoever tells it of such changes to reset."""

    @property
    def state(self) -> NexusState:
        """What is known about the guest's registration and reservation."""
        return self.snooper.state

    def resync(self) -> NexusState:
        """Read the device and bring the tracked state level with it; raises SnapshotError."""
        return self.snooper.resync(self.device.execute)

    def adopt(self, key: int | None = None) -> Adoption:
        """Take a registration made without pyproxy into the tracked state; raises SnapshotError."""
        return self.snooper.adopt(self.device.execute, key)

    def execute(self, command: Command) -> Result:
        """Run one command of the guest to its end."""
        settled = self._settle(command)
        return settled if settled is not None else self._pass(command)

    def observe_lane(self, cdb: bytes, kind: int, asc: int = 0, ascq: int = 0) -> None:
        """Tell the snooper what a lane found about a command of the guest that did not pass here.

        ``kind`` is one of EVENT_* of ``_fastpath.lanes``. Never blocks on the device.
        """
        if kind == lanes.EVENT_OVERFLOW:
            self.snooper.suspect(Suspicion.EVENTS_LOST)
        elif kind == lanes.EVENT_SPC2_UNKNOWN:
            self._observe(events_without_answer(cdb))
        elif kind in _KIND_OF_EVENT:
            self._observe([InspectEvent(_KIND_OF_EVENT[kind], cdb[0], asc, ascq)])

    def raise_attention(self, *attentions: Sense) -> None:
        """Report to the guest what its front end has to tell and the device does not know of.

        Such as a reset that reached the guest's own commands alone. Raises what the store raises.
        """
        self.snooper.attentions.add(*attentions)
        self.snooper.flush()

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        """Run commands of the guest that arrived together; results in the same order.

        Those for the device are submitted together first; reservation commands follow one by one. When the device
        raises TransportError the others are still executed, and the error carries every command's outcome.
        """
        outcomes: list[Result | TransportError | None] = [None] * len(commands)
        straight: list[int] = []
        for index, command in enumerate(commands):
            if command.cdb[:1] in _PERSISTENT_RESERVE:
                continue
            settled = self._settled(command)
            if settled is None:
                straight.append(index)
            outcomes[index] = settled
        passed = self._pass_batch([commands[index] for index in straight])
        for index, outcome in zip(straight, passed, strict=True):
            outcomes[index] = outcome
        for index, outcome in enumerate(outcomes):
            if outcome is None:
                outcomes[index] = self._attempt(commands[index])
        return results_of([outcome for outcome in outcomes if outcome is not None])

    def _settle(self, command: Command) -> Result | None:
        """Answer a command that does not go straight to the device; None for one that does."""
        pending = self.snooper.report_attention(command)
        if pending is not None:
            return pending
        parsed = parse(command.cdb)
        denied = deny(parsed, rawio=self.rawio)
        if denied is not None:
            return self._refuse(command, denied, parsed.name)
        if parsed.lane == LANE_PR:
            return self.snooper.handle(command, self._send)
        if self.snooper.migrate_pr and masking.is_rsoc(command.cdb):
            return self._report_opcodes(command)
        return None

    def _settled(self, command: Command) -> Result | TransportError | None:
        try:
            return self._settle(command)
        except TransportError as error:
            return error

    def _attempt(self, command: Command) -> Result | TransportError:
        try:
            return self.execute(command)
        except TransportError as error:
            return error

    def _pass(self, command: Command) -> Result:
        try:
            result = self._send(command)
        except TransportError as error:
            self._lost(command, error)
            raise
        self._watch(command, result)
        return result

    def _send(self, command: Command) -> Result:
        try:
            return self.waits.run(lambda: self.device.execute(command), was_heard)
        except ValueError as error:
            # What no transport can carry is the guest's mistake, such as data in both directions.
            log.debug("%s: %s; answered %s", self.snooper.name, error, INVALID_FIELD_IN_CDB)
            return self._check_condition(INVALID_FIELD_IN_CDB, command)

    def _pass_batch(self, commands: list[Command]) -> Sequence[Result | TransportError | None]:
        """Submit commands together and watch how they end; None for one that the device left to the PR lane."""
        if len(commands) < 2:
            return [self._attempt_pass(command) for command in commands]
        outcomes: Sequence[Result | TransportError | None]
        events: list[LaneEvent] | None = None
        try:
            if self._lanes is not None:
                device = self._lanes
                outcomes, events = self.waits.run(lambda: device.execute_lanes(commands))
            else:
                outcomes = self.waits.run(lambda: self.device.execute_batch(commands))
        except ValueError:
            return [self._attempt_pass(command) for command in commands]
        except TransportError as error:
            outcomes = error.outcomes or [error] * len(commands)
        if events is None:
            self._watch_each(commands, outcomes)
        else:
            self._watch_lanes(commands, outcomes, events)
        return outcomes

    def _attempt_pass(self, command: Command) -> Result | TransportError:
        try:
            return self._pass(command)
        except TransportError as error:
            return error

    def _watch_lanes(
        self,
        commands: list[Command],
        outcomes: Sequence[Result | TransportError | None],
        events: list[LaneEvent],
    ) -> None:
        """Tell the snooper what the device's lanes found."""
        if events and events[0][1] == lanes.EVENT_OVERFLOW:
            # Each outcome is here to be looked at, but a device that loses events is not trusted with the state.
            self.snooper.suspect(Suspicion.EVENTS_LOST)
            self._watch_each(commands, outcomes)
            return
        for outcome in outcomes:
            if isinstance(outcome, Result) and outcome.status == Status.CHECK_CONDITION:
                self.snooper.attentions.note_format(outcome.sense)
        for index, kind, asc, ascq in events:
            self.observe_lane(commands[index].cdb, kind, asc, ascq)

    def _watch_each(self, commands: list[Command], outcomes: Sequence[Result | TransportError | None]) -> None:
        for command, outcome in zip(commands, outcomes, strict=True):
            if isinstance(outcome, Result):
                self._watch(command, outcome)
            elif outcome is not None:
                self._lost(command, outcome)

    def _watch(self, command: Command, result: Result) -> None:
        """Tell the snooper what the completion of a command says; most say nothing."""
        if result.status == Status.GOOD and command.cdb[0] not in _RESERVE_RELEASE:
            return
        if result.status == Status.CHECK_CONDITION:
            self.snooper.attentions.note_format(result.sense)
        self._observe(events_of(command.cdb, result))

    def _lost(self, command: Command, error: TransportError) -> None:
        if error.fate_unknown:
            self._observe(events_without_answer(command.cdb))

    def _observe(self, events: Iterable[InspectEvent]) -> None:
        for event in events:
            if (event.asc, event.ascq) == (CAPACITY_DATA_CHANGED.asc, CAPACITY_DATA_CHANGED.ascq):
                self.capacity_told = True
            self.snooper.observe(event)

    def _report_opcodes(self, command: Command) -> Result:
        """REPORT SUPPORTED OPERATION CODES without what is refused: read whole, masked, then cut to what was asked."""
        cdb = masking.widen_rsoc(command.cdb)
        result = self._pass(replace(command, cdb=cdb, data_in=masking.RSOC_ALLOCATION))
        if not result.good:
            return replace(result, residual=data_in_size(command), data=b"")
        return answer(command, masking.mask_rsoc(command.cdb, result.data), result)

    def _refuse(self, command: Command, denied: Denied, name: str) -> Result:
        self._refusals += 1
        self.refused.add(denied.reason.value)
        if self._refusals <= _REFUSALS_LOGGED:
            last = "; further refusals are not logged" if self._refusals == _REFUSALS_LOGGED else ""
            log.warning(
                "%s: %s (operation code %02Xh) refused (%s), answered %s; set rawio for this unit to let it pass%s",
                self.snooper.name,
                name,
                command.cdb[0] if command.cdb else 0,
                denied.reason,
                denied.sense,
                last,
            )
        return self._check_condition(denied.sense, command)

    def _check_condition(self, sense: Sense, command: Command) -> Result:
        return check_condition(sense, descriptor=self.snooper.attentions.descriptor, command=command)
