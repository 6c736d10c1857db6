"""Notices that a unit has another capacity now, and tells its guest."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from pyproxy.daemon import failures
from pyproxy.daemon.host import Key, OpenUnit
from pyproxy.device.base import TransportError, UnexpectedReplyError
from pyproxy.device.capacity import Capacity, read_capacity
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.sense import CAPACITY_DATA_CHANGED
from pyproxy.tally import Tally

log = logging.getLogger(__name__)


class Capacities:
    """What each unit's capacity was when it was looked at last. ``announce`` hints to a guest that it is another one.

    Many targets report no unit attention when a unit grows, so that it is found by looking alone. From any thread.
    """

    def __init__(self, announce: Callable[[OpenUnit], None]) -> None:
        self._announce = announce
        self._lock = threading.Lock()
        self._known: dict[Key, Capacity | None] = {}
        self.changes = Tally()
        """How often one was another, by guest and LUN."""

    def known(self, found: OpenUnit) -> bool:
        """Whether the unit was looked at before."""
        with self._lock:
            return found.key in self._known

    def look(self, found: OpenUnit) -> None:
        """Read the capacity; where it is another one than before the guest is told, by event and by unit attention."""
        key, unit = found.key, found.unit
        try:
            now: Capacity | None = read_capacity(unit.device, unit.snooper.received)
        except (UnexpectedReplyError, DecodeError) as error:
            # A tape has none; one under another's RESERVE does not tell now.
            log.debug("guest %s LUN %d: its capacity is not known: %s", *key, error)
            now = None
        except TransportError as error:
            log.debug("guest %s LUN %d: its capacity is not known: %s", *key, failures.sentence(error))
            return
        with self._lock:
            before = self._known.get(key)
            self._known[key] = now if now is not None else before
        if now is None or before is None or now == before:
            return
        self.changes.add(key[0], str(key[1]))
        log.info("guest %s LUN %d: its capacity is %s now, it was %s", *key, now, before)
        if not unit.capacity_told:
            unit.raise_attention(CAPACITY_DATA_CHANGED)
        unit.capacity_told = False
        self._announce(found)
