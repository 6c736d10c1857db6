"""What a front end's session tells about the guest's request rings, and when."""

from __future__ import annotations

import logging
from typing import Final, Protocol

log = logging.getLogger(__name__)

FIRST_REQUEST_RING: Final = 2


class RingListener(Protocol):
    """Told in the session's thread; what it raises is logged and changes nothing."""

    def stopped(self) -> None:
        """Hear that the last request ring was stopped; the front end's answer waits until this returns."""

    def started(self) -> None:
        """Hear that a request ring was started. Does not block."""

    def left(self) -> None:
        """Hear that the front end has closed its connection. Does not block."""


class RingWatch:
    """Follows the started request rings of one session for ``listener``, if there is one."""

    def __init__(self, listener: RingListener | None) -> None:
        self._listener = listener
        self._started: set[int] = set()

    def started(self, index: int) -> None:
        """Note that a ring was started."""
        if index < FIRST_REQUEST_RING:
            return
        self._started.add(index)
        self._tell("started")

    def stopped(self, index: int) -> None:
        """Note that a ring was stopped; returns when the listener has heard of the last one."""
        if index not in self._started:
            return
        self._started.remove(index)
        if not self._started:
            self._tell("stopped")

    def left(self) -> None:
        """Note that the front end is gone, and that no ring is served any more."""
        self._started.clear()
        self._tell("left")

    def _tell(self, event: str) -> None:
        if self._listener is None:
            return
        try:
            getattr(self._listener, event)()
        except Exception:
            log.exception("what follows when rings are %s failed inside pyproxy", event)
