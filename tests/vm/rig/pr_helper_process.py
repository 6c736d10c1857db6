"""The helper's server in a process of its own, over one LIO nexus: one to kill, to watch, and to let clients loose on.

It is forked from a process that has imported everything, since on the emulated processor a new interpreter takes
seconds to start.
"""

from __future__ import annotations

import multiprocessing
import resource
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

from pyproxy.device.base import read_identity
from pyproxy.device.passed import PassedNode
from pyproxy.device.sg import SgDevice
from pyproxy.frontend.listener import Listener
from pyproxy.frontend.pr_helper.counters import Counts
from pyproxy.frontend.pr_helper.server import PrHelperServer
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.transport_id import TransportId
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit
from tests.vm.rig.lio import LioNexus

GUEST = "g"
READY_TIMEOUT = 120.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


@dataclass(frozen=True, slots=True)
class Served:
    """What the process serves: guest ``g`` with one unit at ``node``; ``directory`` holds the store and the socket."""

    directory: Path
    node: Path
    address: str
    initiator: TransportId
    rtpi: int
    straight: bool = True

    @property
    def database(self) -> Path:
        return self.directory / "state.db"

    @property
    def socket(self) -> Path:
        return self.directory / "pr.sock"

    @classmethod
    def of(cls, directory: Path, nexus: LioNexus, *, straight: bool = True) -> Self:
        return cls(directory, nexus.sg, nexus.nodes.address, nexus.transport_id, nexus.relative_target_port, straight)


class HelperProcess:
    """Serves from entering to leaving, which stops it orderly; ``kill`` ends it at once."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self._told, ours = _context.Pipe()
        self._process = _context.Process(target=_serve, args=(served, ours), daemon=True)
        self._process.start()
        ours.close()

    def __enter__(self) -> Self:
        try:
            self.wait_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.exitcode is None:
            self._told.close()
            self._process.join(READY_TIMEOUT)
        assert self._process.exitcode in (0, -9), f"the helper's process ended with {self._process.exitcode}"

    def wait_ready(self) -> None:
        """Wait until it has read the unit back and accepts clients."""
        assert self._told.poll(READY_TIMEOUT), "the helper's process does not come up"
        assert self._told.recv() == "ready"

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.join(READY_TIMEOUT)
        assert self._process.exitcode == -9
        self._told.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def resident(self) -> int:
        """Bytes of memory it holds."""
        return int(Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()

    @property
    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    @property
    def counts(self) -> Counts:
        """What it has counted."""
        self._told.send("counts")
        assert self._told.poll(READY_TIMEOUT)
        counts = self._told.recv()
        assert isinstance(counts, Counts)
        return counts


def _serve(served: Served, told: Connection) -> None:
    """Serve until the other end of ``told`` is closed."""
    with (
        SqliteStore(served.database) as store,
        SgDevice.open(served.node, threads=1, slots=1) as device,
    ):
        identity = read_identity(device)
        snooper = Snooper(GUEST, 0, identity.name, store, migrate_pr=True, initiator=served.initiator, rtpi=served.rtpi)
        unit = GuestUnit(GUEST, 0, device, snooper)

        def resolve(guest: str, found: LogicalUnitIdentity, address: str) -> GuestUnit | None:
            return unit if found.matches(identity) and address == served.address else None

        # As the daemon starts: what was tracked is read back before anybody is served.
        unit.resync()
        server = PrHelperServer(GUEST, Listener.bind(served.socket), PassedNode.open, resolve, straight=served.straight)
        server.start()
        told.send("ready")
        try:
            while told.recv() == "counts":
                told.send(server.counts())
        except EOFError:
            pass
        assert server.stop(30)
