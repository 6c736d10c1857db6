"""What the socket of a controller counts; plain numbers that a scrape turns into metrics."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Counts:
    """One reading. ``connections`` is of now; ``closed`` is by ``CloseReason``."""

    connections: int = 0
    accepted: int = 0
    refused_peers: int = 0
    refused_connections: int = 0
    closed: dict[str, int] = field(default_factory=dict)


class Counters:
    """Counts; methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[str] = Counter()
        self._closed: Counter[str] = Counter()

    def event(self, name: str) -> None:
        """Count one of accepted, refused_peers and refused_connections."""
        with self._lock:
            self._events[name] += 1

    def ended(self, reason: str) -> None:
        """Count a connection that ended."""
        with self._lock:
            self._closed[reason] += 1

    def read(self, connections: int) -> Counts:
        """Return all counts; the argument is how many connections there are now."""
        with self._lock:
            return Counts(
                connections=connections,
                accepted=self._events["accepted"],
                refused_peers=self._events["refused_peers"],
                refused_connections=self._events["refused_connections"],
                closed=dict(self._closed),
            )
