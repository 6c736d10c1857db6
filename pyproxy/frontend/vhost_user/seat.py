"""The one place a controller has for a front end: who may take it, and who has it."""

from __future__ import annotations

import logging
import socket
import threading
from typing import Final

from pyproxy.connected import PeerPolicy, peer_of
from pyproxy.frontend.complaints import Complaints
from pyproxy.frontend.vhost_user.connection import Connection
from pyproxy.frontend.vhost_user.counters import Counters, Counts
from pyproxy.frontend.vhost_user.data_plane import DataPlane
from pyproxy.frontend.vhost_user.ring_events import RingListener
from pyproxy.frontend.vhost_user.session import Close, CloseReason

log = logging.getLogger(__name__)

_LOOK_SECONDS: Final = 0.1


class Seat:
    """At most one front end of the controller called ``name`` at a time. Methods may be called from any thread."""

    def __init__(
        self,
        name: str,
        rings: int,
        plane: DataPlane,
        peers: PeerPolicy | None = None,
        listener: RingListener | None = None,
    ) -> None:
        self.name = name
        self.complaints = Complaints()
        self._rings = rings
        self._plane = plane
        self._listener = listener
        self._peers = peers if peers is not None else PeerPolicy.own()
        self._counters = Counters()
        self._lock = threading.Lock()
        self._taken: tuple[Connection, threading.Thread] | None = None
        self.stopping: Final = threading.Event()

    def take(self, connected: socket.socket) -> threading.Thread | None:
        """Serve a front end in a thread of its own, which is returned; None when it was turned away and closed.

        Where the one before has hung up and its commands are being finished, this waits until they are.
        """
        try:
            connection = self._admit(connected)
        except BaseException:
            connected.close()
            raise
        if connection is None:
            connected.close()
            return None
        thread = threading.Thread(
            target=self._run, args=(connection,), name=f"vhost-user-{self.name}-{connection.peer.pid}", daemon=True
        )
        with self._lock:
            self._taken = (connection, thread)
        self._counters.event("accepted")
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._taken = None
            connected.close()
            raise
        return thread

    def stop(self, timeout: float) -> bool:
        """End the connection there is; False when commands of it still run after ``timeout`` seconds."""
        self.stopping.set()
        with self._lock:
            taken = self._taken
        if taken is None:
            return True
        connection, thread = taken
        connection.stop()
        thread.join(timeout)
        if thread.is_alive():
            log.error("%s: commands of %s still run on their devices", self.name, connection.peer)
        return not thread.is_alive()

    def memory_gone(self, sentence: str) -> None:
        """End the connection there is, whose front end took memory back; does not wait."""
        with self._lock:
            taken = self._taken
        if taken is not None:
            taken[0].condemn(Close(CloseReason.MEMORY_GONE, sentence))

    @property
    def features(self) -> int:
        """What the front end there is has negotiated, 0 without one."""
        with self._lock:
            return 0 if self._taken is None else self._taken[0].features

    def counts(self) -> Counts:
        """Return what was counted until now."""
        with self._lock:
            return self._counters.read(0 if self._taken is None else 1)

    def _admit(self, connected: socket.socket) -> Connection | None:
        peer = peer_of(connected)
        if not self._peers.allows(peer):
            self._counters.event("refused_peers")
            self.complaints.once(
                ("peer", peer.uid, peer.gid),
                "%s: %s may not use its vhost-user socket (allowed: %s); add its user or group to the configuration",
                self.name,
                peer,
                self._peers,
            )
            return None
        if not self._free():
            self._counters.event("refused_connections")
            self.complaints.once(
                ("taken", peer.uid, peer.pid),
                "%s: %s is turned away, another front end is connected; give every guest a controller of its own",
                self.name,
                peer,
            )
            return None
        return Connection(connected, peer, self.name, self._rings, self._plane, self.complaints, self._listener)

    def _free(self) -> bool:
        while True:
            with self._lock:
                taken = self._taken
            if taken is None:
                return not self.stopping.is_set()
            connection, thread = taken
            if self.stopping.is_set() or not connection.hung_up:
                return False
            thread.join(_LOOK_SECONDS)

    def _run(self, connection: Connection) -> None:
        reason = "failed"
        try:
            reason = str(connection.run())
        finally:
            self._counters.ended(reason)
            with self._lock:
                self._taken = None
