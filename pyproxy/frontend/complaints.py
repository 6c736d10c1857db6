"""Warnings that a client can cause, each told once: nobody at a socket may fill the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Hashable
from typing import Final

log = logging.getLogger(__name__)

CAPACITY: Final = 256


class Complaints:
    """Remembers what was said, up to 256 different things."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: set[Hashable] = set()

    def once(self, about: Hashable, message: str, *arguments: object) -> None:
        """Log a warning unless one ``about`` the same thing was."""
        with self._lock:
            if about in self._told or len(self._told) >= CAPACITY:
                return
            self._told.add(about)
            last = len(self._told) == CAPACITY
        suffix = "; no further complaints about clients are logged" if last else " (logged once)"
        log.warning(message + suffix, *arguments)
