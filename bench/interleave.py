"""Times several callables in turn, so that what changes on the machine changes for all of them."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Mapping
from time import perf_counter_ns


def interleave(subjects: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[int]]:
    """Call each subject once per round, A B A B; returns nanoseconds per call, one per round, after one warm-up."""
    times: dict[str, list[int]] = {name: [] for name in subjects}
    for subject in subjects.values():
        subject()
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(rounds):
            for name, subject in subjects.items():
                start = perf_counter_ns()
                subject()
                times[name].append(perf_counter_ns() - start)
    finally:
        if enabled:
            gc.enable()
    return times


def medians(times: Mapping[str, list[int]], operations: int) -> dict[str, float]:
    """Nanoseconds per operation, the median over the rounds."""
    return {name: statistics.median(each) / operations for name, each in times.items()}
