"""What passes through a controller to each logical unit, as the data plane counts it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CLASSES: Final = ("other", "read", "write", "reserve", "reserve_spc2")
"""Of commands, by what they do, in the data plane's order (``CDB_CLASS_*``)."""
STATUSES: Final = ("good", "check_condition", "busy", "reservation_conflict", "other", "none")
"""SAM status; ``busy`` is BUSY and TASK SET FULL, ``none`` a command that a response ended instead."""
LATENCIES: Final = ("read", "write", "other")
BOUNDS: Final = tuple(10e-6 * 2**power for power in range(21))
"""Upper bounds of the buckets of latency, in seconds; one more bucket has what took longer."""
_BUCKETS: Final = len(BOUNDS) + 1


@dataclass(frozen=True, slots=True)
class Latency:
    """Of one kind of commands: how many took at most so long, by ``BOUNDS`` and beyond, and ``seconds`` together."""

    counts: tuple[int, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """One unit's, since it was attached.

    ``commands`` are by ``CLASSES``, ``statuses`` by ``STATUSES``; those that Python executed are in ``python`` alone.
    ``latency`` is of commands that a device had, by ``LATENCIES``: the emulated unit executes on the spot.
    """

    target: int
    lun: int
    in_flight: int
    commands: tuple[int, ...]
    statuses: tuple[int, ...]
    bytes_read: int
    bytes_written: int
    python: int
    latency: tuple[Latency, ...]

    @classmethod
    def of(cls, target: int, lun: int, in_flight: int, numbers: tuple[int, ...]) -> Traffic:
        """Read what ``Controller.traffic`` returns of a unit."""
        left = iter(numbers)
        commands = tuple(next(left) for _ in CLASSES)
        statuses = tuple(next(left) for _ in STATUSES)
        bytes_read, bytes_written, python = next(left), next(left), next(left)
        counts = [tuple(next(left) for _ in range(_BUCKETS)) for _ in LATENCIES]
        latency = tuple(Latency(one, next(left) / 1e9) for one in counts)
        if next(left, None) is not None:
            raise ValueError(f"the data plane counts {len(numbers)} things of a unit, not those known here")
        return cls(target, lun, in_flight, commands, statuses, bytes_read, bytes_written, python, latency)
