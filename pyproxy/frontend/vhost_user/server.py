"""The listening socket of one guest's controller: the path stays the same however often front ends come and go."""

from __future__ import annotations

import errno
import logging
import os
import select
import threading
from typing import Final

from pyproxy.connected import PeerPolicy
from pyproxy.frontend.listener import Listener
from pyproxy.frontend.vhost_user.counters import Counts
from pyproxy.frontend.vhost_user.data_plane import DataPlane
from pyproxy.frontend.vhost_user.ring_events import RingListener
from pyproxy.frontend.vhost_user.seat import Seat

log = logging.getLogger(__name__)

_OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_PAUSE_MS: Final = 100


class VhostUserServer:
    """Serves the front ends that connect to ``listener``, one at a time, on the data plane of a controller.

    ``name`` is how messages call the controller, ``rings`` counts control, event and request rings, ``peers`` are who
    may connect (without: root and the user this process runs as),
    ``events`` hears of the request rings. Methods may be called from any thread.
    """

    def __init__(
        self,
        name: str,
        listener: Listener,
        rings: int,
        plane: DataPlane,
        *,
        peers: PeerPolicy | None = None,
        events: RingListener | None = None,
    ) -> None:
        self.name = name
        self._listener = listener
        self._seat = Seat(name, rings, plane, peers, events)
        self._wake = -1
        self._acceptor: threading.Thread | None = None

    def start(self) -> None:
        """Begin to accept front ends. Raises RuntimeError when that was done before."""
        if self._acceptor is not None:
            raise RuntimeError(f"the vhost-user socket of {self.name} was started before")
        self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._listener.socket.setblocking(False)
        self._acceptor = threading.Thread(target=self._accept_all, name=f"vhost-user-{self.name}", daemon=True)
        self._acceptor.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Stop accepting, let what is in flight be finished and published, close the connection.

        False when commands still run after ``timeout`` seconds. Safe to repeat.
        """
        self._seat.stopping.set()
        if self._wake >= 0 and self._acceptor is not None:
            os.eventfd_write(self._wake, 1)
            self._acceptor.join()
            os.close(self._wake)
            self._wake = -1
        self._listener.close()
        return self._seat.stop(timeout)

    def memory_gone(self, sentence: str) -> None:
        """End the connection of a front end that took memory back which it had shared; does not wait."""
        self._seat.memory_gone(sentence)

    @property
    def features(self) -> int:
        """The virtio features that the front end negotiated, 0 without one."""
        return self._seat.features

    def counts(self) -> Counts:
        """Return what was counted until now."""
        return self._seat.counts()

    def _accept_all(self) -> None:
        poll = select.poll()
        poll.register(self._listener.socket, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        while True:
            poll.poll()
            if self._seat.stopping.is_set():
                return
            try:
                connected, _ = self._listener.socket.accept()
            except OSError as error:
                self._not_accepted(error)
                continue
            try:
                self._seat.take(connected)
            except Exception:
                log.exception("%s: a front end could not be served", self.name)

    def _not_accepted(self, error: OSError) -> None:
        if error.errno in (errno.EAGAIN, errno.EINTR, errno.ECONNABORTED):
            return
        self._seat.complaints.once(
            ("accept", error.errno),
            "%s: a front end could not be accepted: %s%s",
            self.name,
            error.strerror,
            "; raise the limit of open files (LimitNOFILE=)" if error.errno in _OUT_OF_RESOURCES else "",
        )
        # The front end stays in the backlog, so poll would return at once.
        wait = select.poll()
        wait.register(self._wake, select.POLLIN)
        wait.poll(_PAUSE_MS)
