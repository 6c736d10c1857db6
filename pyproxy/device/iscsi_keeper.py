"""Keeps an iSCSI session: serves it while nobody uses it, and makes a lost one again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from pyproxy.device.base import TransportError

log = logging.getLogger(__name__)

_TICK_MS: Final = 1000
_FIRST_PAUSE: Final = 1.0
_LONGEST_PAUSE: Final = 30.0
_SHORT_LIFE: Final = 10.0
_SHORT_LIVES: Final = 5
"""So many sessions in a row that lasted less than _SHORT_LIFE seconds are made again at once, then after pauses."""

_LOSSES: Final = {
    1: "the connection was closed",
    2: "the target was silent",
    3: "a command did not end in time and could not be aborted",
    4: "the session failed",
}
"""LOST_* of ``_fastpath.iscsi``, which need not be there."""


class Session(Protocol):
    """What is kept: the part of an IscsiEngine that the keeper needs."""

    def tend(self, timeout_ms: int) -> tuple[bool, bool, int | None]:
        """Wait, do what is due: (connected, closed, what the session was lost by or None)."""

    @property
    def last_words(self) -> str:
        """What the library said when the session failed."""


class Keeper:
    """A thread that tends ``session`` until it is closed.

    A lost session is first told to ``on_lost``, then ``connect`` is called until it does not raise TransportError, with
    pauses that grow from 1 to 30 seconds. The connection is repeated, never a command. Where one session after the
    other is lost soon after it was made there are such pauses as well: two initiators of one name and ISID evict each
    other for ever.
    """

    def __init__(
        self,
        session: Session,
        name: str,
        connect: Callable[[], None],
        on_lost: Callable[[str], None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._name = name
        self._connect = connect
        self._on_lost = on_lost
        self._clock = clock
        self._thread = threading.Thread(target=self.run, name=f"keeper of {name}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread, which ends when the session was closed."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def run(self) -> None:
        """Tend until the session is closed."""
        pause, due, told = _FIRST_PAUSE, 0.0, ""
        made_at, short_lives = self._clock(), 0
        lost_at: float | None = None
        while True:
            wait = _TICK_MS if lost_at is None else max(0, min(_TICK_MS, round((due - self._clock()) * 1000)))
            connected, closed, loss = self._session.tend(wait)
            if closed:
                return
            if loss is not None:
                lost_at, pause, told = self._clock(), _FIRST_PAUSE, ""
                short_lives = short_lives + 1 if lost_at - made_at < _SHORT_LIFE else 0
                due = lost_at + self._wait_out(short_lives)
                self._tell(loss)
            if connected:
                if lost_at is not None:
                    made_at = self._clock()
                    log.warning("%s: logged in again, %.1f s after the loss", self._name, made_at - lost_at)
                lost_at = None
                continue
            if lost_at is None:
                lost_at = self._clock()
            if self._clock() < due:
                continue
            try:
                self._connect()
            except TransportError as error:
                due = self._clock() + pause
                pause = min(2 * pause, _LONGEST_PAUSE)
                if str(error) != told:
                    told = str(error)
                    log.warning("%s; tried again for as long as the unit is in use", told)

    def _wait_out(self, short_lives: int) -> float:
        """Return the pause before a session is made again of which so many in a row were lost at once."""
        if short_lives <= _SHORT_LIVES:
            return 0.0
        pause = float(min(2 ** (short_lives - _SHORT_LIVES), _LONGEST_PAUSE))
        log.warning(
            "%s: %d sessions in a row were lost within %d s of their login; made again after %d s. Look whether "
            "another initiator uses the same name and ISID",
            self._name,
            short_lives,
            _SHORT_LIFE,
            pause,
        )
        return pause

    def _tell(self, loss: int) -> None:
        """Log the loss and report it; what the listener raises must not end the keeping."""
        words = self._session.last_words if loss == 4 else ""
        sentence = (
            f"{self._name}: the I_T nexus was lost: {_LOSSES[loss]}"
            + (f" ({' '.join(words.split())})" if words else "")
            + "; commands in flight may or may not have been executed, registrations may be gone"
        )
        log.warning("%s", sentence)
        if self._on_lost is None:
            return
        try:
            self._on_lost(sentence)
        except Exception:
            log.exception("%s: whoever was to learn of the lost nexus failed", self._name)
