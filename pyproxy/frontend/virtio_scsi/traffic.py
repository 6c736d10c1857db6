"""What passes through a controller to each logical unit, as the data plane counts it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import add
from typing import Final

from pyproxy.scsi.constants import SenseKey, Status
from pyproxy.scsi.sense import decode_sense
from pyproxy.tally import Spread

CLASSES: Final = ("other", "read", "write", "reserve", "reserve_spc2")
"""Of commands, by what they do, in the data plane's order (``CDB_CLASS_*``)."""
STATUSES: Final = ("good", "check_condition", "busy", "reservation_conflict", "other", "none")
"""SAM status; ``busy`` is BUSY and TASK SET FULL, ``none`` a command that a response ended instead."""
_KNOWN_KEYS: Final = {key.value: key.name.lower() for key in SenseKey}
SENSE_KEYS: Final = tuple(_KNOWN_KEYS.get(key, "reserved") for key in range(16))
"""Of CHECK CONDITIONs, by their number."""
LATENCIES: Final = ("read", "write", "other")
BOUNDS: Final = tuple(10e-6 * 2**power for power in range(21))
"""Upper bounds of the buckets of latency, in seconds; one more bucket has what took longer."""
_BUCKETS: Final = len(BOUNDS) + 1


@dataclass(frozen=True, slots=True)
class Traffic:
    """One unit's, since it was attached.

    ``commands`` are by ``CLASSES``, ``statuses`` by ``STATUSES``, ``sense_keys`` by ``SENSE_KEYS``; of those that
    Python executed the commands are in ``python`` alone. ``waiting`` is for how many seconds the device has answered
    nothing although it has commands. ``latency`` is of commands that a device had, by ``LATENCIES``: the emulated unit
    executes on the spot.
    """

    target: int
    lun: int
    in_flight: int
    waiting: float
    commands: tuple[int, ...]
    statuses: tuple[int, ...]
    bytes_read: int
    bytes_written: int
    python: int
    sense_keys: tuple[int, ...]
    latency: tuple[Spread, ...]

    @classmethod
    def of(cls, target: int, lun: int, in_flight: int, waiting: int, numbers: tuple[int, ...]) -> Traffic:
        """Read what ``Controller.traffic`` returns of a unit."""
        left = iter(numbers)
        commands = tuple(next(left) for _ in CLASSES)
        statuses = tuple(next(left) for _ in STATUSES)
        bytes_read, bytes_written, python = next(left), next(left), next(left)
        sense_keys = tuple(next(left) for _ in SENSE_KEYS)
        counts = [tuple(next(left) for _ in range(_BUCKETS)) for _ in LATENCIES]
        latency = tuple(Spread(one, next(left) / 1e9, BOUNDS) for one in counts)
        if next(left, None) is not None:
            raise ValueError(f"the data plane counts {len(numbers)} things of a unit, not those known here")
        return cls(
            target=target,
            lun=lun,
            in_flight=in_flight,
            waiting=waiting / 1e9,
            commands=commands,
            statuses=statuses,
            bytes_read=bytes_read,
            bytes_written=bytes_written,
            python=python,
            sense_keys=sense_keys,
            latency=latency,
        )

    def __add__(self, answers: Answers) -> Traffic:
        """Return this with what Python has answered for the unit."""
        return replace(
            self,
            statuses=tuple(map(add, self.statuses, answers.statuses)),
            sense_keys=tuple(map(add, self.sense_keys, answers.sense_keys)),
            bytes_read=self.bytes_read + answers.bytes_read,
            bytes_written=self.bytes_written + answers.bytes_written,
        )


class Answers:
    """How commands of a unit ended that Python executed; one thread adds to it, any may read it."""

    def __init__(self) -> None:
        self.statuses = [0] * len(STATUSES)
        self.sense_keys = [0] * len(SENSE_KEYS)
        self.bytes_read = 0
        self.bytes_written = 0

    def add(self, response: int, status: int, sense: bytes, to_guest: int, from_guest: int) -> None:
        """Count one answer, with the bytes that were moved."""
        self.statuses[_status(response, status)] += 1
        self.bytes_read += to_guest
        self.bytes_written += from_guest
        if not response and status == Status.CHECK_CONDITION:
            found = decode_sense(sense)
            self.sense_keys[0 if found is None else found.key] += 1


def _status(response: int, status: int) -> int:
    if response:
        return STATUSES.index("none")
    return _STATUS_OF.get(status, STATUSES.index("other"))


_STATUS_OF: Final[dict[int, int]] = {
    Status.GOOD: 0,
    Status.CHECK_CONDITION: 1,
    Status.BUSY: 2,
    Status.TASK_SET_FULL: 2,
    Status.RESERVATION_CONFLICT: 3,
}
