"""Polls every open unit in the background, each in a thread of its own so that a stuck device delays no other."""

from __future__ import annotations

import errno
import logging
import threading
import time
from typing import Final

from pyproxy.daemon import failures
from pyproxy.daemon.host import Host, OpenUnit
from pyproxy.device.base import TransportError
from pyproxy.reservation.poll import Polled, UnitPoll
from pyproxy.scsi.command import Command, Result

log = logging.getLogger(__name__)

Key = tuple[str, int]
"""Guest and LUN."""

STOP_SECONDS: Final = 1.0
"""How long to wait for polls under way when the daemon stops."""


class Poller:
    """Reads the units of ``host`` every ``seconds`` (0: never). ``start``, then ``stop`` before the host is closed."""

    def __init__(self, host: Host, seconds: float) -> None:
        self._host = host
        self._seconds = seconds
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._polls: dict[Key, UnitPoll] = {}
        self._running: dict[Key, threading.Thread] = {}
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
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
            threads = list(self._running.values())
        deadline = time.monotonic() + seconds
        for thread in (*((self._thread,) if self._thread.ident is not None else ()), *threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            return frozenset(key for key, thread in self._running.items() if thread.is_alive())

    def _run(self) -> None:
        while self._wait():
            for found in self._host.open_units():
                # A guest that is elsewhere, or on its way, has nothing here that a look could find changed.
                if self._host.not_served(found.unit.guest) is None:
                    self._begin(found)

    def _wait(self) -> bool:
        """Wait for the next time; False when stopping. A changed interval counts from now."""
        with self._changed:
            while not self._stopping.is_set():
                seconds = self._seconds
                notified = self._changed.wait(seconds if seconds > 0 else None)
                if not notified and seconds == self._seconds:
                    return True
        return False

    def _begin(self, found: OpenUnit) -> None:
        key = (found.unit.guest, found.unit.lun)
        with self._changed:
            if self._stopping.is_set() or key in self._running:
                return
            poll = self._polls.setdefault(key, UnitPoll())
            name = f"poll {found.unit.guest}/{found.unit.lun}"
            thread = threading.Thread(target=self._poll, args=(key, poll, found), name=name, daemon=True)
            self._running[key] = thread
        try:
            thread.start()
        except RuntimeError:
            log.exception("guest %s LUN %d: no thread to poll it can be started", *key)
            with self._changed:
                del self._running[key]

    def _poll(self, key: Key, poll: UnitPoll, found: OpenUnit) -> None:
        device = found.unit.device

        def execute(command: Command) -> Result:
            if self._stopping.is_set():
                raise TransportError(errno.ECANCELED, "pyproxy is stopping")
            return device.execute(command)

        try:
            ended = poll.run(found.unit.snooper, found.lock, execute)
        except Exception as error:
            told = failures.sentence(error)
            if told is None:
                log.exception("guest %s LUN %d: its poll failed inside pyproxy", *key)
            else:
                log.error("guest %s LUN %d: its poll failed: %s", *key, told)  # noqa: TRY400
        else:
            log.log(
                logging.INFO if ended is Polled.RESYNCED else logging.DEBUG, "guest %s LUN %d: polled, %s", *key, ended
            )
        finally:
            with self._changed:
                del self._running[key]
