"""Sends commands of another host's takeover through this host's I_T nexus, each once, and none but those."""

from __future__ import annotations

import logging
import threading
from typing import Final

import msgspec

from pyproxy.migration.guest import MigratingUnit
from pyproxy.migration.messages import Execute, Executed
from pyproxy.migration.peer import PeerRefusedError
from pyproxy.scsi.command import Command
from pyproxy.scsi.constants import PERSISTENT_RESERVE_IN, PERSISTENT_RESERVE_OUT, PrOutAction
from pyproxy.scsi.pr_out import BASIC_SIZE, ParameterList
from pyproxy.store.base import Store

log = logging.getLogger(__name__)

_TEST_UNIT_READY: Final = 0x00
_INQUIRY: Final = 0x12
_LARGEST_READ: Final = 0xFFFF
_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Executed)
_REQUESTS: Final = msgspec.json.Decoder(Execute)


class Lender:
    """Executes for one migration. Requests of one unit are answered one after the other.

    A number that was used is answered as it was then; one lower than the last that was not, is a late copy of a request
    whose sender has given it up: refused. What the device reports as unit attention is kept for nobody: whoever drives
    the takeover hears it in the answer.
    """

    def __init__(self, store: Store, migration: str) -> None:
        self._store = store
        self._migration = migration
        self._last: dict[int, tuple[int, bytes, Executed]] = {}
        # Not the logical unit's lock: a takeover here holds that while it waits for the other host's lender, and so may
        # one there, where two guests of one unit change places.
        self._locks: dict[int, threading.Lock] = {}

    def execute(self, unit: MigratingUnit, request: Execute) -> Executed:
        """Run the request on the unit; raises PeerRefusedError, StoreError."""
        command = _command(request)
        asked = _ENCODER.encode(request)
        with self._locks.setdefault(unit.lun, threading.Lock()):
            last = self._last.get(unit.lun)
            if last is not None and last[0] == request.sequence:
                return _same(last[1], asked, last[2])
            newest = last[0] if last is not None else self._store.lent_last(self._migration, unit.lun)
            if request.sequence < newest:
                raise PeerRefusedError(
                    f"command {request.sequence} of LUN {request.lun} comes after a later one; begin the takeover "
                    "again",
                    "late",
                )
            changes = command.cdb[0] == PERSISTENT_RESERVE_OUT
            if changes:
                known = self._store.lent_begin(self._migration, unit.lun, request.sequence, asked)
                if known is not None:
                    answer = Executed(error="pyproxy was restarted while the command was under way")
                    return _same(known.request, asked, answer if known.answer is None else _decode(known.answer))
            answer = _execute(unit, command)
            if changes:
                log.info("LUN %d: PERSISTENT RESERVE OUT for the takeover elsewhere: %s", unit.lun, _text(answer))
                self._store.lent_answer(self._migration, unit.lun, request.sequence, _ENCODER.encode(answer))
            self._last[unit.lun] = (request.sequence, asked, answer)
            return answer


def lent_keys(store: Store, migration: str, lun: int) -> list[int]:
    """Return the keys that the other host's takeover had registered at this nexus, or may have; raises StoreError."""
    keys: list[int] = []
    for document in store.lent_requests(migration, lun):
        request = _REQUESTS.decode(document)
        command = _command(request)
        if command.cdb[0] == PERSISTENT_RESERVE_OUT and command.cdb[1] & 0x1F == PrOutAction.REGISTER:
            keys.append(ParameterList.decode(bytes.fromhex(request.data_out)).sa_key)
    return [key for key in dict.fromkeys(keys) if key]


def _same(before: bytes, now: bytes, answer: Executed) -> Executed:
    if before != now:
        raise PeerRefusedError("the number of this command was used for another one; begin the takeover again", "late")
    return answer


def _decode(document: bytes) -> Executed:
    return _DECODER.decode(document)


def _command(request: Execute) -> Command:
    """Check that it is a command of a takeover: INQUIRY, TEST UNIT READY, PERSISTENT RESERVE IN, REGISTER, PREEMPT."""
    cdb = bytes.fromhex(request.cdb)
    data_out = bytes.fromhex(request.data_out)
    if not _allowed(cdb, data_out, request.data_in):
        raise PeerRefusedError(
            f"LUN {request.lun}: a command with CDB {request.cdb} is none of a takeover's; nothing was sent",
            "not-allowed",
        )
    return Command(cdb, data_out, request.data_in, request.timeout_ms)


def _allowed(cdb: bytes, data_out: bytes, data_in: int) -> bool:
    if cdb[0] == _TEST_UNIT_READY:
        return len(cdb) == len(bytes(6)) and not data_out and not data_in
    if cdb[0] == _INQUIRY:
        return len(cdb) == len(bytes(6)) and not data_out and data_in <= _LARGEST_READ
    if cdb[0] == PERSISTENT_RESERVE_IN:
        return len(cdb) == len(bytes(10)) and not data_out and data_in <= _LARGEST_READ
    if cdb[0] != PERSISTENT_RESERVE_OUT or len(cdb) != len(bytes(10)) or data_in:
        return False
    action = cdb[1] & 0x1F
    if action not in (PrOutAction.REGISTER, PrOutAction.PREEMPT, PrOutAction.PREEMPT_AND_ABORT):
        return False
    # Neither SPEC_I_PT nor ALL_TG_PT: nothing is registered but the nexus itself.
    return len(data_out) == BASIC_SIZE and int.from_bytes(cdb[5:9]) == BASIC_SIZE and not data_out[20] & 0x0C


def _execute(unit: MigratingUnit, command: Command) -> Executed:
    try:
        result = unit.port.execute(command)
    except OSError as error:
        return Executed(error=error.strerror or str(error), fate_unknown=bool(getattr(error, "fate_unknown", True)))
    return Executed(
        status=result.status,
        sense=result.sense.hex(),
        data=result.data.hex(),
        residual=result.residual,
        host_status=result.host_status,
    )


def _text(answer: Executed) -> str:
    return answer.error if answer.error is not None else f"status {answer.status:02X}h"
