"""Watches for devices that are detached, come back or change: uevents say when to look, looking says what is so."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Iterable
from functools import partial
from typing import Final

from pyproxy.daemon import failures
from pyproxy.daemon.away import AwayError, attached_units
from pyproxy.daemon.capacities import Capacities
from pyproxy.daemon.front_ends import FrontEnds
from pyproxy.daemon.host import Host, Key, OpenUnit
from pyproxy.daemon.tasks import STOP_SECONDS, UnitTasks
from pyproxy.device.uevents import Uevent, UeventSocket
from pyproxy.tally import Tally

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 5.0
"""Between two looks where no uevent asks for one: they can be lost, and some places have none."""
_OF_DEVICES: Final = frozenset({"scsi", "scsi_generic", "block", "bsg"})


class Watcher:
    """Keeps the units of ``host`` and what its guests see of them in step with the devices of this machine.

    A unit whose device is detached is taken from its guest and is away; it comes back, to the same place, with a device
    that says it is that unit, whatever it is called now. A unit that could not be opened is tried again. A capacity
    that changed is told. ``start``, then ``stop`` before the host is closed.
    """

    def __init__(
        self, host: Host, front_ends: FrontEnds, capacities: Capacities, seconds: float = LOOK_SECONDS
    ) -> None:
        self._host = host
        self._front_ends = front_ends
        self._capacities = capacities
        self._seconds = seconds
        self._tasks: Final = UnitTasks("hotplug")
        self._told: dict[Key, str] = {}
        self.events = Tally()
        """Devices that were detached and attached, by guest and LUN."""
        self._others: dict[Key, frozenset[str]] = {}
        self._wake = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin, with a look."""
        self._thread.start()

    def stop(self, seconds: float = STOP_SECONDS) -> frozenset[Key]:
        """Begin nothing any more, wait at most ``seconds``; returns the units whose device still holds something up."""
        self._tasks.stop()
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)
            if self._thread.ident is not None:
                self._thread.join()
            os.close(self._wake)
            self._wake = -1
        return self._tasks.join(seconds)

    def _run(self) -> None:
        with contextlib.ExitStack() as stack:
            events: UeventSocket | None = None
            try:
                events = stack.enter_context(UeventSocket())
            except OSError as error:
                log.warning(
                    "no uevents here (%s): devices that come and go are noticed within %d s", error, self._seconds
                )
            heard: list[Uevent] = []
            missed = True
            while not self._tasks.stopping:
                try:
                    self._look(heard, everything=missed)
                except Exception:
                    log.exception("looking at the devices of this machine failed inside pyproxy")
                heard, missed = self._wait(events)

    def _wait(self, events: UeventSocket | None) -> tuple[list[Uevent], bool]:
        """Wait for uevents about SCSI devices, at most for the time of the next look.

        Returns them, and whether there may be more: time has passed, or some were lost.
        """
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        if events is not None:
            poll.register(events, select.POLLIN)
        if not poll.poll(self._seconds * 1000):
            return [], True
        if events is None or self._tasks.stopping:
            return [], False
        heard, lost = events.receive()
        return [one for one in heard if one.subsystem in _OF_DEVICES and one.scsi_address is not None], lost

    def _look(self, heard: Iterable[Uevent], *, everything: bool) -> None:
        resized = {event.scsi_address for event in heard if event.capacity_changed}
        came = everything or any(event.action in ("add", "change", "bind") for event in heard)
        opened = {found.key: found for found in self._host.open_units()}
        for key, found in opened.items():
            if not found.backing.attached():
                self._tasks.begin(key, partial(self._detached, found))
            elif found.backing.address in resized or not self._capacities.known(found):
                self._tasks.begin(key, partial(self._capacities.look, found))
        if came:
            self._note_paths(opened.values())
            for guest, section in self._host.config.units():
                key = (guest.name, section.lun)
                if key not in opened:
                    self._tasks.begin(key, partial(self._open, key))
        self._front_ends.vhost_user.attach_open()

    def _note_paths(self, opened: Iterable[OpenUnit]) -> None:
        """Note which other paths the units have: where one is detached, the unit is not to go on by another nexus."""
        attached = attached_units()
        for found in opened:
            paths = {device.name for device in attached.get(found.identity.name, ())}
            if found.backing.address is not None:
                self._others[found.key] = frozenset(paths - {found.backing.address})

    def _detached(self, found: OpenUnit) -> None:
        if not self._host.begin_absence(found, self._others.get(found.key, frozenset())):
            return
        self.events.add(found.key[0], str(found.key[1]), "detached")
        log.warning(
            "guest %s LUN %d: %s (%s) was detached; the guest has it back when it is attached again",
            *found.key,
            found.unit.device.name,
            found.identity.name,
        )
        self._front_ends.let_go(found)
        self._host.end_absence(found)
        self._open(found.key)

    def _open(self, key: Key) -> None:
        """Open a unit that is not open, where that is possible now; a reason why not is told once."""
        told: str | None
        try:
            found = self._host.open_unit(*key)
        except AwayError as error:
            told = error.problem
        except Exception as error:
            told = failures.sentence(error)
            if told is None:
                raise
        else:
            self._told.pop(key, None)
            self.events.add(key[0], str(key[1]), "attached")
            log.info("guest %s LUN %d: is served by %s now", *key, found.unit.device.name)
            self._capacities.look(found)
            self._front_ends.vhost_user.attach_open()
            return
        if told is not None and self._told.get(key) != told:
            self._told[key] = told
            log.warning("guest %s LUN %d cannot be served now: %s", *key, told)
