"""One of the guest's units through the other host's I_T nexus, as a port of a takeover."""

from __future__ import annotations

import errno
import itertools
from dataclasses import replace
from typing import Final

from pyproxy.device.base import TransportError
from pyproxy.migration.messages import Execute, Executed
from pyproxy.migration.peer import Peer, PeerError
from pyproxy.migration.record import Record
from pyproxy.scsi.command import Command, Result

SEQUENCES_PER_ATTEMPT: Final = 100_000
"""Far more than one takeover issues: each attempt numbers its commands from a start of its own."""

_TRIES: Final = 3


class RemotePort:
    """Executes commands through ``peer`` for the takeover attempt of ``record`` on its unit ``lun``.

    A request without an answer is sent again under its number, which the peer answers without executing it twice; where
    that does not help, the command's fate is not known.
    """

    def __init__(self, peer: Peer, record: Record, lun: int) -> None:
        self._peer = peer
        self._record = record
        self._lun = lun
        self._sequence = itertools.count(record.attempt * SEQUENCES_PER_ATTEMPT)

    @property
    def name(self) -> str:
        """How an operator knows it."""
        return f"LUN {self._lun} at {self._peer.name}"

    def execute(self, command: Command) -> Result:
        """Run one command there; raises TransportError."""
        assert isinstance(command.data_in, int)
        assert isinstance(command.data_out, bytes | bytearray | memoryview)
        request = Execute(
            migration=self._record.migration,
            guest=self._record.guest,
            epoch=self._record.epoch,
            lun=self._lun,
            sequence=next(self._sequence),
            cdb=command.cdb.hex(),
            data_out=bytes(command.data_out).hex(),
            data_in=command.data_in,
            timeout_ms=command.timeout_ms,
        )
        answer = self._ask(request)
        if answer.error is not None:
            raise TransportError(errno.EIO, f"{self.name}: {answer.error}", fate_unknown=answer.fate_unknown)
        return replace(
            Result(answer.status),
            sense=bytes.fromhex(answer.sense),
            data=bytes.fromhex(answer.data),
            host_status=answer.host_status,
            residual=answer.residual,
        )

    def _ask(self, request: Execute) -> Executed:
        sent = False
        error: PeerError | None = None
        for _ in range(_TRIES):
            try:
                answer = self._peer.call(request)
            except PeerError as failed:
                sent = sent or failed.sent
                error = failed
                continue
            if not isinstance(answer, Executed):
                raise TransportError(errno.EPROTO, f"{self.name}: answered with something else", fate_unknown=True)
            return answer
        raise TransportError(errno.EIO, f"{self.name}: {error}", fate_unknown=sent)
