"""Unit attentions of a guest that were received by commands that were not the guest's.

They wait here and are reported on the guest's next command that may carry one, once, as the device would have
reported them (SAM-5 5.14, SPC-4 5.13).
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from typing import Final

from pyproxy.reservation.transfer import answer, check_condition
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.sense import Sense, decode_sense

log = logging.getLogger(__name__)

CAPACITY: Final = 16

_INQUIRY: Final = 0x12
_REQUEST_SENSE: Final = 0x03
_REPORT_LUNS: Final = 0xA0
_NEVER_CARRIES: Final = frozenset({_INQUIRY, _REPORT_LUNS})
_DESC: Final = 0x01
_DESCRIPTOR_RESPONSES: Final = (0x72, 0x73)


class PendingAttentions:
    """Unit attentions (and deferred errors) of one I_T nexus that the guest has not seen yet, oldest first.

    Holds at most 16 different ones; the same one is queued once. ``owner`` is how log messages name the nexus.
    Methods may be called from any thread.
    """

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._lock = threading.Lock()
        self._queue: list[Sense] = []
        self._descriptor = False
        self.waiting: Final = bytearray(1)
        """One byte, 1 while something waits: for readers that can take neither the lock nor the GIL."""

    def __bool__(self) -> bool:
        return bool(self._queue)

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def pending(self) -> tuple[Sense, ...]:
        """What waits for the guest, oldest first."""
        with self._lock:
            return tuple(self._queue)

    @property
    def descriptor(self) -> bool:
        """Whether sense for this guest is in descriptor format, as the device's last sense was."""
        return self._descriptor

    def note_format(self, sense: bytes) -> None:
        """Remember in which format the device reports to this guest (D_SENSE of the Control mode page)."""
        if len(sense) >= 1:
            self._descriptor = sense[0] & 0x7F in _DESCRIPTOR_RESPONSES

    def add(self, *attentions: Sense) -> None:
        """Queue what another command of this nexus received in the guest's place."""
        with self._lock:
            for sense in attentions:
                if any(queued.code == sense.code for queued in self._queue):
                    continue
                if len(self._queue) >= CAPACITY:
                    log.warning(
                        "%s: %s is dropped, %d unit attentions wait already; the guest sends no commands",
                        self._owner,
                        sense,
                        CAPACITY,
                    )
                    continue
                self._queue.append(sense)
                self.waiting[0] = 1
                log.info("%s: %s waits for the guest", self._owner, sense)

    def discard(self, *codes: tuple[int, int, int]) -> tuple[Sense, ...]:
        """Remove those with (sense key, ASC, ASCQ) in ``codes`` and return them; used for what we caused ourselves."""
        with self._lock:
            gone = tuple(sense for sense in self._queue if sense.code in codes)
            self._queue = [sense for sense in self._queue if sense.code not in codes]
            self.waiting[0] = bool(self._queue)
            return gone

    def replace(self, *attentions: Sense) -> None:
        """Forget what waits and queue these."""
        with self._lock:
            self._queue.clear()
            self.waiting[0] = 0
        self.add(*attentions)

    def report(self, command: Command) -> Result | None:
        """Return the answer to a guest's command if it carries a pending unit attention, else None.

        INQUIRY and REPORT LUNS never do. REQUEST SENSE gets it as parameter data with GOOD, in the format its DESC bit
        asks for; every other command ends with CHECK CONDITION and must not be executed (SPC-4 6.39, SAM-5 5.14).
        """
        cdb = command.cdb
        if not self._queue or not cdb or cdb[0] in _NEVER_CARRIES:
            return None
        is_request = cdb[0] == _REQUEST_SENSE
        if is_request and len(cdb) < 6:
            return None
        with self._lock:
            if not self._queue:
                return None
            sense = self._queue.pop(0)
            self.waiting[0] = bool(self._queue)
        if is_request:
            log.info("%s: %s is reported in answer to REQUEST SENSE", self._owner, sense)
            return answer(command, sense.encode(bool(cdb[1] & _DESC))[: cdb[4]])
        log.info("%s: %s is reported on command %02Xh", self._owner, sense, cdb[0])
        return check_condition(sense, descriptor=self._descriptor, command=command)


def encode_attentions(attentions: Iterable[Sense]) -> bytes:
    """Return the JSON document that the store and the checkpoint keep: descriptor format sense in hex."""
    return json.dumps([sense.encode(descriptor=True).hex() for sense in attentions]).encode()


def decode_attentions(document: bytes) -> tuple[Sense, ...]:
    """Read what ``encode_attentions`` wrote (empty: nothing); raises ValueError."""
    if not document:
        return ()
    raw = json.loads(document)
    if not isinstance(raw, list) or not all(isinstance(item, str) for item in raw):
        raise ValueError("stored unit attentions are not a list of texts")
    decoded = [decode_sense(bytes.fromhex(item)) for item in raw]
    if None in decoded:
        raise ValueError("a stored unit attention is not sense data")
    return tuple(sense for sense in decoded if sense is not None)
