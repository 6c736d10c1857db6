"""The serve gates: whether a guest's commands are begun on this host, by whatever way they come in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from pyproxy.daemon.failures import OperationError
from pyproxy.frontend.serve_gate import ServeGate
from pyproxy.migration.guest import GuestEvents


class HeldQueues(Protocol):
    """Queues that stand still while the gate is shut (``_fastpath.controller.Controller``)."""

    def shut_gate(self) -> None:
        """Take no request from now on."""

    def drain_gate(self, seconds: float) -> bool:
        """Wait until what was taken is answered."""

    def open_gate(self) -> None:
        """Take requests again."""


class _Guest:
    """One guest's gate and its ways in."""

    def __init__(self, knocked: Callable[[], None]) -> None:
        self.gate = ServeGate(knocked)
        self.lock = threading.Lock()
        self.queues: list[HeldQueues] = []
        self.shutting: list[Callable[[], None]] = []
        self.running = False


class GuestRings:
    """Hears of one guest's rings (``vhost_user.ring_events.RingListener``)."""

    def __init__(self, gates: Gates, guest: str) -> None:
        self._gates = gates
        self._guest = guest

    def stopped(self) -> None:
        """Pass on that the last request ring was stopped."""
        self._gates.set_running(self._guest, False)
        if self._gates.events is not None:
            self._gates.events.stopped(self._guest)

    def started(self) -> None:
        """Pass on that a request ring was started."""
        self._gates.set_running(self._guest, True)
        if self._gates.events is not None:
            self._gates.events.started(self._guest)

    def left(self) -> None:
        """Pass on that the front end is gone."""
        self._gates.set_running(self._guest, False)
        if self._gates.events is not None:
            self._gates.events.left(self._guest)


class Gates:
    """Gates of all guests, open at first. ``events`` hears of their rings. Methods may be called from any thread.

    A gate may be shut before its guest's front ends are opened: they begin shut.
    """

    def __init__(self) -> None:
        self.events: GuestEvents | None = None
        self._lock = threading.Lock()
        self._guests: dict[str, _Guest] = {}

    def gate(self, guest: str) -> ServeGate:
        """Return the gate for the ways in that count their commands."""
        return self._guest(guest).gate

    def rings(self, guest: str) -> GuestRings:
        """Return who is to hear of the guest's rings."""
        return GuestRings(self, guest)

    def add_queues(self, guest: str, queues: HeldQueues) -> None:
        """Let the gate hold queues too; call before they are started."""
        found = self._guest(guest)
        with found.lock:
            found.queues.append(queues)
            if found.gate.why is not None:
                queues.shut_gate()

    def add_shutting(self, guest: str, act: Callable[[], None]) -> None:
        """Call ``act`` whenever the gate has been shut, before ``shut`` returns."""
        found = self._guest(guest)
        with found.lock:
            found.shutting.append(act)

    def shut(self, guest: str, why: str) -> None:
        """Begin no command of the guest from now on; what began before goes on. Safe to repeat."""
        found = self._guest(guest)
        with found.lock:
            found.gate.shut(why)
            for queues in found.queues:
                queues.shut_gate()
            for act in found.shutting:
                act()

    def drain(self, guest: str, seconds: float) -> bool:
        """Wait, with the gate shut, until the guest's commands have ended; False where some have not."""
        found = self._guest(guest)
        deadline = time.monotonic() + seconds
        with found.lock:
            waits = [found.gate.drain, *(queues.drain_gate for queues in found.queues)]
        return all(wait(max(0.0, deadline - time.monotonic())) for wait in waits)

    def open(self, guest: str) -> None:
        """Serve the guest again, what waited first; safe to repeat."""
        found = self._guest(guest)
        with found.lock:
            found.gate.open()
            for queues in found.queues:
                queues.open_gate()

    def why(self, guest: str) -> str | None:
        """Return why the gate is shut; None while it is open."""
        return self._guest(guest).gate.why

    def running(self, guest: str) -> bool:
        """Whether a front end has started request rings of the guest and not stopped them, gate open or shut."""
        return self._guest(guest).running

    def set_running(self, guest: str, running: bool) -> None:
        """Note what a front end did, or an operator says."""
        self._guest(guest).running = running

    @contextmanager
    def entered(self, guest: str) -> Iterator[None]:
        """Run one command of the guest; raises OperationError where the gate is shut."""
        gate = self._guest(guest).gate
        if not gate.enter():
            raise OperationError(f"guest {guest} is not served on this host now: {gate.why}", "gate-shut")
        try:
            yield
        finally:
            gate.leave()

    def give_up(self) -> None:
        """Let no command wait for a gate any more: the daemon stops."""
        with self._lock:
            guests = list(self._guests.values())
        for guest in guests:
            guest.gate.give_up()

    def _guest(self, name: str) -> _Guest:
        with self._lock:
            found = self._guests.get(name)
            if found is None:
                # A command that waits says what rings would: the guest runs here.
                found = self._guests[name] = _Guest(GuestRings(self, name).started)
            return found
