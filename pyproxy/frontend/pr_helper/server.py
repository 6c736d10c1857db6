"""The helper's socket of one guest: accepts clients, gives each a thread, drains them when it stops."""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import threading
import time
from typing import Final

from _fastpath.pr_socket import Switch
from pyproxy.connected import PeerPolicy, peer_of
from pyproxy.frontend.complaints import Complaints
from pyproxy.frontend.listener import Listener
from pyproxy.frontend.pr_helper.connection import Connection
from pyproxy.frontend.pr_helper.counters import Counters, Counts
from pyproxy.frontend.pr_helper.service import GATE_SECONDS, OpenNode, Resolve, Service
from pyproxy.frontend.serve_gate import ServeGate
from pyproxy.scsi.command import DEFAULT_TIMEOUT_MS

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 256
_OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_MS: Final = 100
_ABORT_SECONDS: Final = 1.0


class PrHelperServer:
    """Serves PERSISTENT RESERVE IN and OUT of ``guest`` on ``listener``, whose connections are all that guest's.

    ``open_node`` tells what a passed descriptor is, ``resolve`` which unit of the guest a logical unit is, ``peers``
    who may connect. ``timeout_ms`` is what one command may take. Methods may be called from any thread.
    """

    def __init__(
        self,
        guest: str,
        listener: Listener,
        open_node: OpenNode,
        resolve: Resolve,
        *,
        peers: PeerPolicy | None = None,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        max_connections: int = MAX_CONNECTIONS,
        straight: bool = True,
        gate: ServeGate | None = None,
        gate_seconds: float = GATE_SECONDS,
    ) -> None:
        self.guest = guest
        self._listener = listener
        self._peers = peers if peers is not None else PeerPolicy.own()
        self._max_connections = max_connections
        self._straight = straight
        self._switch = Switch()
        self._counters = Counters()
        self._complaints = Complaints()
        self._service = Service(
            guest,
            open_node,
            resolve,
            self._complaints,
            timeout_ms=timeout_ms,
            forgotten=self._switch.forget,
            gate=gate,
            gate_seconds=gate_seconds,
        )
        self._lock = threading.Lock()
        self._connections: dict[Connection, threading.Thread] = {}
        self._wake = -1
        self._acceptor: threading.Thread | None = None
        self._stopping = threading.Event()

    @property
    def address(self) -> str:
        """The path clients connect to."""
        return self._listener.address

    def start(self) -> None:
        """Begin to accept clients. Raises RuntimeError when that was done before."""
        if self._acceptor is not None:
            raise RuntimeError(f"the helper socket of guest {self.guest} was started before")
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._listener.socket.setblocking(False)
        self._acceptor = threading.Thread(target=self._accept_all, name=f"pr-helper-{self.guest}", daemon=True)
        self._acceptor.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Stop accepting, let requests that are being executed be answered, close every connection.

        Waits ``timeout`` seconds, then breaks the connections that are left; False when a command still runs after
        that. Safe to repeat.
        """
        begun = self._stopping.is_set()
        self._stopping.set()
        if self._acceptor is None or begun:
            self._listener.close()
            return True
        self._switch.stop()
        os.eventfd_write(self._wake, 1)
        self._acceptor.join()
        self._listener.close()
        self._end_connections(abort=False, seconds=timeout)
        left = self._end_connections(abort=True, seconds=_ABORT_SECONDS)
        os.close(self._wake)
        if left:
            log.error("guest %s: %d commands of its helper socket still run on the device", self.guest, left)
        return left == 0

    def forget_units(self) -> None:
        """Resolve again before the next request of every connection: call when the guest's units changed."""
        self._service.forget()

    def gate_shut(self) -> None:
        """Let nothing pass beside the gate from now on: call when it has been shut."""
        self._switch.forget()

    def counts(self) -> Counts:
        """Return what was counted until now."""
        with self._lock:
            answered = sum(connection.answered_straight for connection in self._connections)
            return self._counters.read(len(self._connections), answered)

    def _accept_all(self) -> None:
        poll = select.poll()
        poll.register(self._listener.socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            poll.poll()
            if self._stopping.is_set():
                return
            try:
                connected, _ = self._listener.socket.accept()
            except OSError as error:
                self._not_accepted(error)
                continue
            try:
                self._serve(connected)
            except Exception:
                log.exception("guest %s: a client of its helper socket could not be served", self.guest)
                connected.close()

    def _not_accepted(self, error: OSError) -> None:
        if error.errno in (errno.EAGAIN, errno.EINTR, errno.ECONNABORTED):
            return
        self._complaints.once(
            ("accept", error.errno),
            "guest %s: a client of its helper socket could not be accepted: %s%s",
            self.guest,
            error.strerror,
            "; raise the limit of open files (LimitNOFILE=)" if error.errno in _OUT_OF_RESOURCES else "",
        )
        # The client stays in the backlog, so poll would return at once.
        wait = select.poll()
        wait.register(self._wake, select.POLLIN)
        wait.poll(_PAUSE_MS)

    def _serve(self, connected: socket.socket) -> None:
        peer = peer_of(connected)
        if not self._peers.allows(peer):
            self._counters.event("refused_peers")
            self._complaints.once(
                ("peer", peer.uid, peer.gid),
                "guest %s: %s may not use its helper socket (allowed: %s); add its user or group to the configuration",
                self.guest,
                peer,
                self._peers,
            )
            connected.close()
            return
        with self._lock:
            full = len(self._connections) >= self._max_connections
        if full:
            self._counters.event("refused_connections")
            self._complaints.once(
                "connections",
                "guest %s: its helper socket has %d connections, the most it may have; %s is turned away",
                self.guest,
                self._max_connections,
                peer,
            )
            connected.close()
            return
        connected.setblocking(True)
        connection = Connection(
            connected,
            peer,
            self._service,
            self._switch,
            self._counters,
            self._complaints,
            straight=self._straight,
        )
        thread = threading.Thread(
            target=self._run, args=(connection,), name=f"pr-helper-{self.guest}-{peer.pid}", daemon=True
        )
        with self._lock:
            self._connections[connection] = thread
        self._counters.event("accepted")
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                del self._connections[connection]
            raise

    def _run(self, connection: Connection) -> None:
        try:
            connection.run()
        finally:
            with self._lock:
                del self._connections[connection]
                self._counters.event("straight", connection.answered_straight)

    def _end_connections(self, *, abort: bool, seconds: float) -> int:
        """Tell all connections to end and wait for them; returns how many did not."""
        with self._lock:
            left = dict(self._connections)
        for connection in left:
            connection.stop(abort=abort)
        deadline = time.monotonic() + seconds
        for thread in left.values():
            thread.join(max(0.0, deadline - time.monotonic()))
        return sum(thread.is_alive() for thread in left.values())
