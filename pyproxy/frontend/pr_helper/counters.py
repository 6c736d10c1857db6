"""What a helper socket counts; plain numbers that a scrape turns into metrics."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Counts:
    """One reading.

    ``requests`` by "in" and "out", ``replies`` by SAM status, ``closed`` by reason. ``straight`` are the PERSISTENT
    RESERVE IN among them that ended with GOOD without entering Python.
    """

    connections: int = 0
    accepted: int = 0
    refused_peers: int = 0
    refused_connections: int = 0
    straight: int = 0
    requests: dict[str, int] = field(default_factory=dict)
    replies: dict[int, int] = field(default_factory=dict)
    closed: dict[str, int] = field(default_factory=dict)


class Counters:
    """Counts; methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._events: Counter[str] = Counter()
        self._requests: Counter[str] = Counter()
        self._replies: Counter[int] = Counter()
        self._closed: Counter[str] = Counter()

    def event(self, name: str, amount: int = 1) -> None:
        """Count one of accepted, refused_peers, refused_connections and straight."""
        with self._lock:
            self._events[name] += amount

    def served(self, *, is_out: bool, status: int) -> None:
        """Count a request that was answered."""
        with self._lock:
            self._requests["out" if is_out else "in"] += 1
            self._replies[status] += 1

    def ended(self, reason: str) -> None:
        """Count a connection that ended."""
        with self._lock:
            self._closed[reason] += 1

    def read(self, connections: int, straight: int) -> Counts:
        """Return all counts; the arguments are of connections that are open now."""
        with self._lock:
            total = self._events["straight"] + straight
            requests, replies = Counter(self._requests), Counter(self._replies)
            requests["in"] += total
            replies[0] += total
            return Counts(
                connections=connections,
                accepted=self._events["accepted"],
                refused_peers=self._events["refused_peers"],
                refused_connections=self._events["refused_connections"],
                straight=total,
                requests=dict(requests),
                replies=dict(replies),
                closed=dict(self._closed),
            )
