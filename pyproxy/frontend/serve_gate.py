"""Whether commands of one guest are begun at all, for the ways in that count their commands one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class ServeGate:
    """Open at first. Methods may be called from any thread.

    ``knocked`` is called, in the thread of a command that begins to wait, when there is one for a shut gate.
    """

    def __init__(self, knocked: Callable[[], None] = lambda: None) -> None:
        self._knocked = knocked
        self._changed = threading.Condition()
        self._why: str | None = None
        self._running = 0
        self._given_up = False

    @property
    def why(self) -> str | None:
        """Why the gate is shut; None while it is open."""
        with self._changed:
            return self._why

    def enter(self, seconds: float = 0.0) -> bool:
        """Begin a command, waiting so long for a shut gate to open; False where it stays shut. Then ``leave``."""
        if seconds > 0 and self._why is not None:  # without the lock: an open gate costs no second one
            self._knocked()
        with self._changed:
            self._changed.wait_for(lambda: self._why is None or self._given_up, seconds)
            if self._why is not None:
                return False
            self._running += 1
            return True

    def leave(self) -> None:
        """End a command that was begun."""
        with self._changed:
            self._running -= 1
            self._changed.notify_all()

    def if_open(self, act: Callable[[], None]) -> None:
        """Do something quick, unless the gate is shut; it is not shut meanwhile."""
        with self._changed:
            if self._why is None:
                act()

    def shut(self, why: str) -> None:
        """Begin no command from now on; those that run go on. Safe to repeat, with another reason."""
        with self._changed:
            self._why = why

    def drain(self, seconds: float) -> bool:
        """Wait until what runs has ended; False where something still runs after ``seconds``."""
        deadline = time.monotonic() + seconds
        with self._changed:
            return self._changed.wait_for(lambda: self._running == 0, max(0.0, deadline - time.monotonic()))

    def open(self) -> None:
        """Begin commands again; safe to repeat."""
        with self._changed:
            self._why = None
            self._changed.notify_all()

    def give_up(self) -> None:
        """Let nobody wait for a shut gate any more: the daemon stops."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()
