"""A guest of our own front end that moves between two daemons, one of which is killed on the way."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass

from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.scsi import Answer, ScsiDriver
from tests.unit.pr_helper.exchange import parameters, prout
from tests.vm.migrating.hosts import DaemonHost

K = 0x1122334455667788
WRITE = bytes.fromhex("2a 00 00 00 00 00 00 00 01 00")


@dataclass
class MovingGuest:
    """A guest that runs at ``host``; ``driver`` is what its hypervisor has connected there."""

    host: DaemonHost
    driver: ScsiDriver | None = None

    def starts(self, host: DaemonHost) -> None:
        self.host = host
        self.driver = ScsiDriver(FrontEnd.connect(host.disks), request_queues=2)
        self.driver.start()

    def execute(self, cdb: bytes, data_out: bytes = b"") -> Answer:
        """Run one command, past unit attentions."""
        assert self.driver is not None
        return self.driver.execute_past_attentions(cdb, data_out)

    def claims(self, kind: int | None) -> None:
        """Register, and reserve with type ``kind``."""
        assert self.execute(prout(6, 24), parameters(0, K)).status == 0
        if kind is not None:
            assert self.execute(prout(1, 24, kind), parameters(K)).status == 0

    def gives_up(self) -> None:
        """Unregister, which ends the reservation."""
        assert self.execute(prout(3, 24), parameters(K)).status == 0

    def writes(self) -> bool:
        return self.execute(WRITE, bytes(512)).status == 0

    def moves(self, destination: DaemonHost, victim: DaemonHost, delay: float) -> str:
        """Move to ``destination``; ``victim`` is killed ``delay`` seconds after the guest is told to stop.

        The daemon is started again, and with it whatever it was at goes on. Where the source was killed before it knew
        that the guest had stopped, nothing has moved, and the guest goes on there. Returns in which phase the source
        was when both ran again.
        """
        source = self.host
        source.arm(destination.name)
        killer = threading.Timer(delay, victim.kill)
        killer.start()
        self.stops()
        killer.join()
        victim.start()
        phase = str(source.migration()["phase"])
        if phase == "cancelled":
            self.starts(source)
            assert self.writes()
            destination.until_phase("closed")
            return phase
        destination.until_phase("verified")
        self.starts(destination)
        assert self.writes()
        source.until_phase("released")
        destination.until_phase("committed")
        return phase

    def stops(self) -> None:
        """The hypervisor stops the rings and hangs up; its back end may be gone."""
        driver, self.driver = self.driver, None
        if driver is None:
            return
        with contextlib.closing(driver), contextlib.suppress(OSError):
            driver.stop()
