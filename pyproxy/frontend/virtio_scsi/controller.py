"""One guest's virtio-scsi controller whole: its units, their answers, and the data plane that serves its queues."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

from _fastpath.block_port import BlockPort
from _fastpath.controller import DEFAULT_POLL_US, Controller
from _fastpath.port import Port
from _fastpath.verdict import Verdicts
from pyproxy.frontend.virtio_scsi.domain import Domain
from pyproxy.frontend.virtio_scsi.event import Announcer
from pyproxy.frontend.virtio_scsi.handler import ControllerHandler
from pyproxy.frontend.virtio_scsi.lun import Address
from pyproxy.frontend.virtio_scsi.task_management import Reset, no_reset
from pyproxy.frontend.virtio_scsi.traffic import Traffic
from pyproxy.policy import verdicts
from pyproxy.scsi.command import DEFAULT_TIMEOUT_MS
from pyproxy.unit import GuestUnit


class ScsiController:
    """The controller called ``name`` with ``queues`` queues, control and event queue included.

    ``plane`` is for ``DataPlane.of`` and a server of ``pyproxy.frontend.vhost_user``; give ``negotiated`` that server's
    features, or the guest is told of no change. The rest is as with ``ControllerHandler`` and the fast path's
    Controller. Methods may be called from any thread that is not inside the handler.
    """

    def __init__(
        self,
        name: str,
        queues: int,
        *,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        reset: Reset = no_reset,
        broken: Callable[[int, str], None] | None = None,
        poll_us: int = DEFAULT_POLL_US,
        workers: int = 1,
    ) -> None:
        self.name = name
        self.domain = Domain()
        self.handler = ControllerHandler(name, self.domain, timeout_ms=timeout_ms, reset=reset, broken=broken)
        self.plane = Controller(self.handler, queues, poll_us=poll_us, workers=workers)
        self._timeout_ms = timeout_ms
        self._features: Callable[[], int] = lambda: 0
        self._announcer = Announcer(self.plane.send_event, lambda: self._features())
        self._lock = threading.Lock()

    def negotiated(self, features: Callable[[], int]) -> None:
        """Ask there what the guest negotiated; 0 means that there is no guest."""
        self._features = features

    def attach(
        self,
        address: Address,
        unit: GuestUnit,
        port: Port | BlockPort | None = None,
        *,
        timeout_ms: int | None = None,
    ) -> None:
        """Put a unit at a target and LUN, and tell a guest that is there already.

        ``port`` is what the unit's device offers workers without the GIL, and ``timeout_ms`` what a command may take
        there (the controller's where it is left out); without a port every command goes through ``unit``. Raises
        ValueError where a unit is there already.
        """
        with self._lock:
            self.domain.add(address, unit)
            try:
                self.plane.attach(
                    *address,
                    port,
                    verdicts=_verdicts(unit.rawio, unit.snooper.migrate_pr),
                    waiting=unit.snooper.attentions.waiting,
                    timeout_ms=timeout_ms or self._timeout_ms,
                )
            except BaseException:
                self.domain.remove(address)
                raise
            if self._features():
                self.handler.inventory_changed(address.target, but_for=unit)
                self._announcer.added(address)

    def detach(self, address: Address) -> GuestUnit:
        """Take a unit away; when this returns nothing of the guest runs on it. Raises KeyError without one."""
        with self._lock:
            unit = self.domain.remove(address)
            self.plane.detach(*address)
            self.handler.wait_until_idle()
            self.handler.answers.pop(address, None)
            if self._features():
                self.handler.inventory_changed(address.target)
                self._announcer.removed(address)
            return unit

    def parameter_changed(self, address: Address, asc: int, ascq: int) -> bool:
        """Hint at a unit attention that waits for the guest, such as 2A/09 (the capacity); whether it was told."""
        return self._announcer.parameter_changed(address, asc, ascq)

    def traffic(self) -> dict[Address, Traffic]:
        """Return what passes to each unit, by where it is."""
        counted = [Traffic.of(*one) for one in self.plane.traffic()]
        answers = self.handler.answers
        return {
            at: one + answers[at] if at in answers else one for one in counted if (at := Address(one.target, one.lun))
        }

    def close(self) -> None:
        """End the data plane; the units stay their owner's. Safe to repeat."""
        self.plane.close()


@functools.lru_cache
def _verdicts(rawio: bool, migrate_pr: bool) -> Verdicts:
    """One table for all units that are used alike; it is never changed afterwards."""
    return verdicts(rawio=rawio, migrate_pr=migrate_pr)
