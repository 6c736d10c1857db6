"""Polls every open unit in the background: its reservations, then its capacity."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Callable
from typing import Final

from pyproxy.daemon.host import Host, Key, OpenUnit
from pyproxy.daemon.tasks import STOP_SECONDS, UnitTasks
from pyproxy.device.base import TransportError
from pyproxy.reservation.poll import Polled, UnitPoll
from pyproxy.scsi.command import Command, Result
from pyproxy.unit import was_heard

log = logging.getLogger(__name__)


class Poller:
    """Reads the units of ``host`` every ``seconds`` (0: never). ``start``, then ``stop`` before the host is closed.

    ``also`` looks at each unit after its reservations were read.
    """

    def __init__(self, host: Host, seconds: float, also: Callable[[OpenUnit], None] = lambda _: None) -> None:
        self._host = host
        self._seconds = seconds
        self._also = also
        self._changed = threading.Condition()
        self._tasks: Final = UnitTasks("poll")
        self._polls: dict[Key, UnitPoll] = {}
        self._thread = threading.Thread(target=self._run, name="poller", daemon=True)

    @property
    def seconds(self) -> float:
        """Time between two polls of a unit; 0 for none. May be set at any time."""
        return self._seconds

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        with self._changed:
            self._seconds = seconds
            self._changed.notify_all()

    def start(self) -> None:
        """Begin; the first poll comes after ``seconds``."""
        self._thread.start()

    def stop(self, seconds: float = STOP_SECONDS) -> frozenset[Key]:
        """Begin no poll any more, wait at most ``seconds``; returns the units whose device still holds one up."""
        self._tasks.stop()
        with self._changed:
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return self._tasks.join(seconds)

    def _run(self) -> None:
        while self._wait():
            for found in self._host.open_units():
                # A guest that is elsewhere, or on its way, has nothing here that a look could find changed.
                if self._host.not_served(found.unit.guest) is None:
                    self._begin(found)

    def _wait(self) -> bool:
        """Wait for the next time; False when stopping. A changed interval counts from now."""
        with self._changed:
            while not self._tasks.stopping:
                seconds = self._seconds
                notified = self._changed.wait(seconds if seconds > 0 else None)
                if not notified and seconds == self._seconds:
                    return True
        return False

    def _begin(self, found: OpenUnit) -> None:
        poll = self._polls.setdefault(found.key, UnitPoll())
        self._tasks.begin(found.key, lambda: self._poll(poll, found))

    def _poll(self, poll: UnitPoll, found: OpenUnit) -> None:
        device = found.unit.device

        def execute(command: Command) -> Result:
            if self._tasks.stopping:
                raise TransportError(errno.ECANCELED, "pyproxy is stopping")
            return found.unit.waits.run(lambda: device.execute(command), was_heard)

        ended = poll.run(found.unit.snooper, found.lock, execute)
        level = logging.INFO if ended is Polled.RESYNCED else logging.DEBUG
        log.log(level, "guest %s LUN %d: polled, %s", *found.key, ended)
        if not self._tasks.stopping:
            self._also(found)
