"""Unit attention conditions pending for one I_T nexus (SAM-5 5.14)."""

from __future__ import annotations

from collections import deque
from typing import Final

from pyproxy.scsi.sense import Sense

_RESET: Final = 0x29
_LIMIT: Final = 16


class PendingAttentions:
    """The conditions in the order they are reported; each is pending once.

    A reset or power on condition goes first, and power on wipes out the others: what they told is void.
    """

    def __init__(self) -> None:
        self._queue: deque[Sense] = deque()

    def __bool__(self) -> bool:
        return bool(self._queue)

    def __len__(self) -> int:
        return len(self._queue)

    def establish(self, sense: Sense) -> None:
        """Add a condition. Beyond 16 the oldest is dropped, which no sequence of real events reaches."""
        if sense in self._queue:
            return
        if sense.asc == _RESET:
            self._queue.appendleft(sense)
            return
        if len(self._queue) >= _LIMIT:
            self._queue.popleft()
        self._queue.append(sense)

    def restart(self, sense: Sense) -> None:
        """Forget everything pending and establish only this."""
        self._queue.clear()
        self._queue.append(sense)

    def first(self) -> Sense:
        """Return the next condition to report without clearing it; IndexError when none is pending."""
        return self._queue[0]

    def take(self) -> Sense:
        """Return the next condition to report and clear it; IndexError when none is pending."""
        return self._queue.popleft()
