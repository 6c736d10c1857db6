"""Commands of pyproxy's own on a guest's nexus, recorded as the guest's are, and what open records leave unknown."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

from pyproxy.reservation.durable import StateStore, StoredIntent
from pyproxy.reservation.events import is_conflict
from pyproxy.reservation.snapshot import Execute
from pyproxy.reservation.state import NexusState, decode_state, encode_state
from pyproxy.reservation.transitions import Parameters, possible_keys
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PERSISTENT_RESERVE_OUT, PrOutAction
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.sense import Sense

log = logging.getLogger(__name__)

_CDB_SIZE = 10
_DRIVER_STATUSES_WITH_ANSWER = (0x00, 0x08)
"""DRIVER_OK and DRIVER_SENSE; others mean that the answer is not the device's."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One PERSISTENT RESERVE OUT of the guest on its way: ``mark`` is the moment before it was sent."""

    intent: int
    prout: PrOut
    parameters: Parameters | None
    mark: int

    @property
    def name(self) -> str:
        """What log messages call it."""
        known = next((action.name for action in PrOutAction if action == self.prout.action), None)
        return known.replace("_", " ") if known else f"service action {self.prout.action:02X}h"


def is_answer(result: Result) -> bool:
    """Whether the device answered; else what became of the command is not known."""
    if result.host_status and not is_conflict(result):
        return False
    return (result.driver_status & 0x0F) in _DRIVER_STATUSES_WITH_ANSWER


def outcome_document(result: Result, reason: str) -> bytes:
    """Return what the store keeps of how a PERSISTENT RESERVE OUT ended."""
    return json.dumps({"status": result.status, "sense": result.sense.hex(), "reason": reason}).encode()


def keys_left_open(tracked: NexusState, intents: Iterable[StoredIntent]) -> tuple[int, ...]:
    """Return the keys the nexus may have (0: none) where the outcome of ``intents`` is not known."""
    keys = [tracked.key]
    for intent in intents:
        prout = PrOut.decode(intent.cdb[:_CDB_SIZE])
        parameters = Parameters.read(prout.action, intent.parameter_list)
        keys += possible_keys(decode_state(intent.before), prout, parameters)
    return tuple(dict.fromkeys(keys))


class RecordedExecute:
    """Executes commands of pyproxy's own: a PERSISTENT RESERVE OUT that changes nothing is durable before it is sent.

    ``state`` is the tracked state, which these commands leave as it is. ``attentions`` collects the unit attentions
    they received: those are the guest's. ``lost`` tells that the outcome of one is not known; its intent stays open.
    Raises what the store and ``execute`` raise.
    """

    def __init__(
        self, store: StateStore, guest: str, unit: str, state: NexusState, execute: Execute, *, reason: str
    ) -> None:
        self.attentions: list[Sense] = []
        self.lost = False
        self._store = store
        self._guest = guest
        self._unit = unit
        self._state = state
        self._execute = execute
        self._reason = reason

    def __call__(self, command: Command) -> Result:
        """Execute one command."""
        result = self._record(command) if command.cdb[0] == PERSISTENT_RESERVE_OUT else self._execute(command)
        sense = result.decoded_sense
        if sense is not None and (sense.is_unit_attention or sense.deferred):
            self.attentions.append(sense)
        return result

    def _record(self, command: Command) -> Result:
        assert isinstance(command.data_out, bytes)
        document = encode_state(self._state)
        intent = self._store.begin_intent(
            self._guest,
            self._unit,
            epoch=self._state.epoch,
            cdb=command.cdb,
            parameter_list=command.data_out,
            before=document,
        )
        try:
            result = self._execute(command)
        except OSError as error:
            self.lost = True
            if not getattr(error, "fate_unknown", True):
                self._store.abandon_intent(intent, "not-sent")
                self.lost = False
            raise
        except BaseException:
            self.lost = True
            raise
        if not is_answer(result):
            self.lost = True
            return result
        self.lost = True
        self._store.complete_intent(intent, outcome_document(result, self._reason), document)
        self.lost = False
        return result
