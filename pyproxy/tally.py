"""Plain numbers that many threads add to and a scrape reads: how often something happened, and how long it took."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final, TypeVar

T = TypeVar("T")

BOUNDS: Final = tuple(100 * 4**power / 1e6 for power in range(10))
"""Upper bounds of the buckets of durations, in seconds: 0.1 ms to 26 s; one more bucket has what took longer."""


class Tally:
    """Counts by a tuple of words. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, *words: str, count: int = 1) -> None:
        """Count once more what these words name."""
        with self._lock:
            self._counts[words] = self._counts.get(words, 0) + count

    def read(self) -> dict[tuple[str, ...], int]:
        """Return what was counted so far."""
        with self._lock:
            return dict(self._counts)


@dataclass(frozen=True, slots=True)
class Spread:
    """How many took at most so long, by ``bounds`` (seconds) and beyond, and all of them together in ``seconds``."""

    counts: tuple[int, ...]
    seconds: float
    bounds: tuple[float, ...] = BOUNDS

    @property
    def total(self) -> int:
        """How many there were."""
        return sum(self.counts)


class Durations:
    """Counts how long something took. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        """Count one that took so long."""
        bucket = next((number for number, bound in enumerate(BOUNDS) if seconds <= bound), len(BOUNDS))
        with self._lock:
            self._counts[bucket] += 1
            self._seconds += seconds

    def read(self) -> Spread:
        """Return what was counted so far."""
        with self._lock:
            return Spread(tuple(self._counts), self._seconds)


class Waits:
    """Tells for how long something that is waited for has not come. Methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._began: dict[object, float] = {}
        self._silent: float | None = None

    def run(self, call: Callable[[], T], heard: Callable[[T], bool] = lambda _: True) -> T:
        """Call and wait; raises what ``call`` raises. ``heard`` tells of its result whether an answer came at all."""
        token, began = object(), self._clock()
        with self._lock:
            self._began[token] = began
        answered = False
        try:
            result = call()
            answered = heard(result)
        finally:
            with self._lock:
                del self._began[token]
                if answered:
                    self._silent = None
                elif self._silent is None:
                    self._silent = began
        return result

    @property
    def longest(self) -> float:
        """Seconds since the oldest wait began, or the first of those that were given up since an answer came.

        0 where nothing waits and the last answer came.
        """
        with self._lock:
            known = [*self._began.values(), *(() if self._silent is None else (self._silent,))]
        return max(0.0, self._clock() - min(known)) if known else 0.0
