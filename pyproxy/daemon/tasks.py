"""Work on units in the background, each in a thread of its own so that a stuck device delays no other unit."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from pyproxy.daemon import failures
from pyproxy.daemon.host import Key

log = logging.getLogger(__name__)

STOP_SECONDS: Final = 1.0
"""How long to wait for work under way when the daemon stops."""


class UnitTasks:
    """Runs one piece of ``what`` (a word, such as "poll") at a time for each unit. From any thread."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._lock = threading.Lock()
        self._stopping = False
        self._running: dict[Key, threading.Thread] = {}

    @property
    def stopping(self) -> bool:
        """Whether nothing is begun any more."""
        return self._stopping

    @property
    def running(self) -> frozenset[Key]:
        """The units that have some work."""
        with self._lock:
            return frozenset(self._running)

    def begin(self, key: Key, work: Callable[[], None]) -> None:
        """Begin the work, unless the unit has some already or nothing is begun any more. Its errors are logged."""
        thread = threading.Thread(
            target=self._run, args=(key, work), name=f"{self._what} {key[0]}/{key[1]}", daemon=True
        )
        with self._lock:
            if self._stopping or key in self._running:
                return
            self._running[key] = thread
        try:
            thread.start()
        except RuntimeError:
            log.exception("guest %s LUN %d: no thread for its %s can be started", *key, self._what)
            with self._lock:
                del self._running[key]

    def stop(self) -> None:
        """Begin nothing any more."""
        with self._lock:
            self._stopping = True

    def join(self, seconds: float) -> frozenset[Key]:
        """Wait at most so long for what runs; returns the units whose device still holds it up."""
        deadline = time.monotonic() + seconds
        with self._lock:
            threads = list(self._running.values())
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._lock:
            return frozenset(key for key, thread in self._running.items() if thread.is_alive())

    def _run(self, key: Key, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            told = failures.sentence(error)
            if told is None:
                log.exception("guest %s LUN %d: its %s failed inside pyproxy", *key, self._what)
            else:
                log.error("guest %s LUN %d: its %s failed: %s", *key, self._what, told)  # noqa: TRY400
        finally:
            with self._lock:
                del self._running[key]
