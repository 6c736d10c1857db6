"""One client's connection, served by a thread of its own: whatever a client does or leaves undone holds up nobody."""

from __future__ import annotations

import array
import contextlib
import logging
import os
import signal
import socket
from typing import Final

from _fastpath.pr_socket import StraightPath, Switch
from pyproxy.connected import Peer
from pyproxy.frontend.complaints import Complaints
from pyproxy.frontend.pr_helper.counters import Counters
from pyproxy.frontend.pr_helper.message import Reply, Request
from pyproxy.frontend.pr_helper.service import KnownDevice, Service
from pyproxy.frontend.pr_helper.session import CloseReason, Outcome, Session, State
from pyproxy.scsi.command import Result
from pyproxy.unit import GuestUnit

log = logging.getLogger(__name__)

_NO_DESCRIPTOR: Final = -1
_FAULTS: Final = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV})
"""What a thread brings upon itself: blocked, the process would die of it without a word of where."""
# With the second descriptor a request is refused; the kernel closes those there is no room for.
_CONTROL_SIZE: Final = socket.CMSG_SPACE(2 * array.array("i").itemsize)


class Connection:
    """Serves one client until it or ``stop`` ends the connection. ``run`` is the thread's body.

    With ``straight`` off every request goes through Python.
    """

    def __init__(
        self,
        connected: socket.socket,
        peer: Peer,
        service: Service,
        switch: Switch,
        counters: Counters,
        complaints: Complaints,
        *,
        straight: bool = True,
    ) -> None:
        self.peer = peer
        self._socket = connected
        self._service = service
        self._counters = counters
        self._complaints = complaints
        self._straight = straight
        self._stopping = False
        self._session = Session()
        self._path = StraightPath(connected.fileno(), switch, service.timeout_ms)

    @property
    def answered_straight(self) -> int:
        """How many requests did not enter Python."""
        return self._path.answered

    def run(self) -> None:
        """Serve until the connection ends, then release everything."""
        # SG_IO on /dev/sgN is interruptible: a signal that this thread received would orphan a command.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
        reason = "failed"
        try:
            reason = self._serve()
        except OSError as error:
            # The client is gone or does not read what it asked for.
            log.debug("guest %s: connection of %s: %s", self._service.guest, self.peer, error)
            reason = CloseReason.END_OF_STREAM
        except Exception:
            log.exception("guest %s: the connection of %s failed inside pyproxy", self._service.guest, self.peer)
        finally:
            _discard(self._session.stop().discard)
            self._socket.close()
            self._counters.ended(str(reason))
            self._path.forget()

    def stop(self, *, abort: bool = False) -> None:
        """End the connection: answer the request that is being executed first, or with ``abort`` not even that."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR if abort else socket.SHUT_RD)

    def _serve(self) -> CloseReason:
        session = self._session
        self._socket.sendall(session.greeting)
        while True:
            outcome = self._receive()
            if outcome is None:
                continue
            _discard(outcome.discard)
            if outcome.request is not None:
                if not self._stopping:
                    self._execute(outcome.request)
                    continue
                os.close(outcome.request.descriptor)
                outcome = session.stop()
            if outcome.close is not None:
                self._closing(outcome.close)
                return outcome.close

    def _receive(self) -> Outcome | None:
        """Read what the session wants next; None when the fast path served what came."""
        if not self._session.between_requests:
            return self._session.receive(*self._read(self._session.wanted))
        received = self._path.serve()
        if len(received) == 2:
            return self._session.receive(*received)
        owner, cdb, (status, sense, host_status, driver_status, residual, error) = received
        assert isinstance(owner, _Owner)
        result = Result(status, sense, b"", host_status, driver_status, residual)
        reply = self._service.finish(owner.unit, cdb, result, error)
        self._send(Request(cdb, _NO_DESCRIPTOR), reply)
        return None

    def _read(self, size: int) -> tuple[bytes, tuple[int, ...]]:
        data, ancillary, _, _ = self._socket.recvmsg(size, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
        return data, tuple(descriptors)

    def _execute(self, request: Request) -> None:
        try:
            served = self._service.execute(request, self.peer)
        finally:
            os.close(request.descriptor)
        if self._straight and not request.is_out and served.device is not None and served.unit is not None:
            self._admit(served.device, served.unit)
        message = self._session.reply(request, served.reply)
        self._counters.served(is_out=request.is_out, status=served.reply.status)
        self._socket.sendall(message)

    def _admit(self, device: KnownDevice, unit: GuestUnit) -> None:
        snooper = unit.snooper
        self._service.gate.if_open(
            lambda: self._path.admit(
                device.number,
                device.is_block,
                device.presence.descriptor,
                snooper.attentions.waiting,
                snooper.migrate_pr,
                _Owner(device, unit),
            )
        )

    def _send(self, request: Request, reply: Reply) -> None:
        self._counters.served(is_out=request.is_out, status=reply.status)
        self._socket.sendall(reply.encode(request))

    def _closing(self, reason: CloseReason) -> None:
        if not reason.ordinary:
            self._complaints.once(
                (self.peer.uid, self.peer.pid, reason),
                "guest %s: the connection of %s is closed: %s",
                self._service.guest,
                self.peer,
                reason.sentence,
            )

    @property
    def waiting_for(self) -> State:
        """What the connection is doing, for those who look at it."""
        return self._session.state


class _Owner:
    """Keeps the unit and the watched file of a device that passes straight."""

    def __init__(self, device: KnownDevice, unit: GuestUnit) -> None:
        self.device = device
        self.unit = unit


def _discard(descriptors: tuple[int, ...]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
