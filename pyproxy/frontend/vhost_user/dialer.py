"""The other way round: the hypervisor listens (QEMU: ``-chardev socket,server=on``) and we connect, again and again."""

from __future__ import annotations

import errno
import logging
import os
import socket
import threading
from pathlib import Path
from typing import Final

from pyproxy.connected import PeerPolicy
from pyproxy.frontend.vhost_user.counters import Counts
from pyproxy.frontend.vhost_user.data_plane import DataPlane
from pyproxy.frontend.vhost_user.ring_events import RingListener
from pyproxy.frontend.vhost_user.seat import Seat

log = logging.getLogger(__name__)

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_CONNECT_SECONDS: Final = 5.0
_NOT_THERE_YET: Final = (errno.ENOENT, errno.ECONNREFUSED, errno.EAGAIN, errno.ETIMEDOUT, errno.ECONNRESET)


class VhostUserDialer:
    """Connects to ``path`` until somebody listens there, serves it, and connects again when it ended.

    The rest is as with ``VhostUserServer``: the process that listens is checked like one that connects.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        rings: int,
        plane: DataPlane,
        *,
        peers: PeerPolicy | None = None,
        events: RingListener | None = None,
    ) -> None:
        self.name = name
        self.path = path
        self._seat = Seat(name, rings, plane, peers, events)
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to connect. Raises RuntimeError when that was done before."""
        if self._thread is not None:
            raise RuntimeError(f"the vhost-user socket of {self.name} was started before")
        self._thread = threading.Thread(target=self._dial_all, name=f"vhost-user-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, timeout: float = 30.0) -> bool:
        """Stop connecting, let what is in flight be finished and published, close the connection.

        False when commands still run after ``timeout`` seconds. Safe to repeat.
        """
        stopped = self._seat.stop(timeout)
        if self._thread is not None and stopped:
            self._thread.join()
            # One that was connected just before.
            stopped = self._seat.stop(timeout)
        return stopped

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

    def _dial_all(self) -> None:
        pause = _FIRST_PAUSE
        while not self._seat.stopping.is_set():
            served = self._dial()
            pause = _FIRST_PAUSE if served else min(2 * pause, _LONGEST_PAUSE)
            self._seat.stopping.wait(pause)

    def _dial(self) -> bool:
        """Connect and serve once; returns whether anything was served."""
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connected.settimeout(_CONNECT_SECONDS)
            connected.connect(os.fspath(self.path))
            connected.settimeout(None)
        except OSError as error:
            connected.close()
            if error.errno not in _NOT_THERE_YET and not isinstance(error, TimeoutError):
                self._seat.complaints.once(
                    ("connect", error.errno),
                    "%s: cannot connect to %s: %s; it is tried again",
                    self.name,
                    self.path,
                    error.strerror,
                )
            return False
        try:
            thread = self._seat.take(connected)
        except Exception:
            log.exception("%s: the front end at %s could not be served", self.name, self.path)
            return False
        if thread is None:
            return False
        thread.join()
        return True
