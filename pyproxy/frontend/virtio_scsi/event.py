"""Events as the guest gets them on the event queue (virtio 1.2, 5.6.6.3): 16 bytes, little-endian.

0  u32     event; bit 31: events before this one were lost
4  lun[8]
12  u32     reason
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from pyproxy.frontend.virtio_scsi.lun import Address, encode_event_lun

EVENT_SIZE: Final = 16
EVENTS_MISSED: Final = 1 << 31

HOTPLUG: Final = 1 << 1
CHANGE: Final = 1 << 2
"""Feature bits that the guest has to have acknowledged."""

_EVENT = struct.Struct("<I8sI")


class EventKind(IntEnum):
    """The event field."""

    NO_EVENT = 0
    TRANSPORT_RESET = 1
    ASYNC_NOTIFY = 2
    PARAM_CHANGE = 3


class ResetReason(IntEnum):
    """The reason of TRANSPORT_RESET."""

    HARD_RESET = 0
    RESCAN = 1
    REMOVED = 2


@dataclass(frozen=True, slots=True)
class Event:
    """One event; ``lun`` is the field as it is sent."""

    kind: int
    lun: bytes
    reason: int
    missed: bool = False

    def encode(self) -> bytes:
        """Return the 16 bytes."""
        return _EVENT.pack(self.kind | (EVENTS_MISSED if self.missed else 0), self.lun, self.reason)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read 16 bytes; raises ValueError."""
        if len(data) != EVENT_SIZE:
            raise ValueError(f"an event has {EVENT_SIZE} bytes, got {len(data)}")
        kind, lun, reason = _EVENT.unpack(data)
        return cls(kind & ~EVENTS_MISSED, lun, reason, bool(kind & EVENTS_MISSED))


class Announcer:
    """Tells the guest what changed, where it acknowledged that it listens.

    ``send`` puts an event on the queue and returns False where the guest has no buffer there (the data plane then says
    so with the next one); ``features`` are the negotiated ones of now.
    """

    def __init__(self, send: Callable[[bytes], bool], features: Callable[[], int]) -> None:
        self._send = send
        self._features = features

    def added(self, address: Address) -> bool:
        """Say that a logical unit has come; returns whether the guest was told."""
        return self._tell(HOTPLUG, EventKind.TRANSPORT_RESET, address, ResetReason.RESCAN)

    def removed(self, address: Address) -> bool:
        """Say that a logical unit is gone; returns whether the guest was told."""
        return self._tell(HOTPLUG, EventKind.TRANSPORT_RESET, address, ResetReason.REMOVED)

    def parameter_changed(self, address: Address, asc: int, ascq: int) -> bool:
        """Say that a unit attention with these codes waits for the guest; returns whether it was told.

        Linux reads the capacity again for 2A/00, 2A/01 and 2A/09.
        """
        return self._tell(CHANGE, EventKind.PARAM_CHANGE, address, asc | ascq << 8)

    def _tell(self, feature: int, kind: EventKind, address: Address, reason: int) -> bool:
        if not self._features() & feature:
            return False
        return self._send(Event(kind, encode_event_lun(address), reason).encode())
