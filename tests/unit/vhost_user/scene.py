"""A controller with emulated units behind its vhost-user socket, on any data plane."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from _fastpath.block_port import BlockPort
from pyproxy.connected import PeerPolicy
from pyproxy.device.base import read_identity
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.frontend.listener import Listener
from pyproxy.frontend.vhost_user.data_plane import DataPlane
from pyproxy.frontend.vhost_user.dialer import VhostUserDialer
from pyproxy.frontend.vhost_user.ring_events import RingListener
from pyproxy.frontend.vhost_user.server import VhostUserServer
from pyproxy.frontend.virtio_scsi.controller import ScsiController
from pyproxy.frontend.virtio_scsi.domain import Domain
from pyproxy.frontend.virtio_scsi.handler import ControllerHandler
from pyproxy.frontend.virtio_scsi.lun import Address
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit
from tests.unit.vhost_user.reference_plane import ReferenceController

US = SasTransportId(bytes.fromhex("5001405000000001"))
MIB = 1 << 20
RINGS = 3


@dataclass
class Scene:
    directory: Path
    store: SqliteStore
    domain: Domain
    handler: ControllerHandler
    controller: object
    emulated: dict[Address, EmulatedUnit]
    server: VhostUserServer | VhostUserDialer | None = None
    broken: list[tuple[int, str]] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.directory / "scsi.sock"

    def unit(self, target: int = 0, lun: int = 0) -> GuestUnit:
        found = self.domain.unit(Address(target, lun))
        assert found is not None
        return found

    def plane(self) -> DataPlane:
        """The data plane of the fast path, or the one in plain Python."""
        if isinstance(self.controller, ScsiController):
            return DataPlane.of(self.controller.plane)
        return self.controller.plane()

    def listen(
        self, *, rings: int = RINGS, peers: PeerPolicy | None = None, events: RingListener | None = None
    ) -> VhostUserServer:
        listener = Listener.bind(self.path)
        self.server = VhostUserServer("guest g", listener, rings, self.plane(), peers=peers, events=events)
        self.server.start()
        if isinstance(self.controller, ScsiController):
            self.controller.negotiated(lambda: self.server.features)
        return self.server

    def dial(self, *, rings: int = RINGS) -> VhostUserDialer:
        self.server = VhostUserDialer("guest g", self.path, rings, self.plane())
        self.server.start()
        return self.server


MakeController = Callable[[ControllerHandler, int], ReferenceController]


@contextmanager
def scene(
    directory: Path,
    addresses: tuple[tuple[int, int], ...] = ((0, 0),),
    *,
    make: MakeController | None = ReferenceController,
    rings: int = RINGS,
) -> Iterator[Scene]:
    """Units at these targets and LUNs; ``make`` None is the fast path's controller."""
    emulated: dict[Address, EmulatedUnit] = {}
    with SqliteStore(directory / "state.db") as store:
        broken: list[tuple[int, str]] = []

        def note(index: int, why: str) -> None:
            broken.append((index, why))

        whole = ScsiController("guest g", rings, broken=note) if make is None else None
        domain = Domain() if whole is None else whole.domain
        for target, lun in addresses:
            unit = EmulatedUnit(16 * MIB, serial=f"t{target}l{lun}")
            nexus = unit.nexus(US)
            snooper = Snooper("g", lun, read_identity(nexus).name, store, migrate_pr=True, initiator=US, rtpi=1)
            guest_unit = GuestUnit("g", lun, nexus, snooper)
            emulated[Address(target, lun)] = unit
            if whole is None:
                domain.add(Address(target, lun), guest_unit)
            else:
                whole.attach(Address(target, lun), guest_unit, BlockPort(unit.medium, nexus.gate))
        if whole is None:
            handler = ControllerHandler("guest g", domain, broken=note)
            controller = make(handler, rings)
        else:
            handler, controller = whole.handler, whole
        made = Scene(directory, store, domain, handler, controller, emulated, broken=broken)
        try:
            yield made
        finally:
            if made.server is not None:
                assert made.server.stop(60)
            controller.close()
            for unit in emulated.values():
                unit.close()
