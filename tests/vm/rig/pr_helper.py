"""A helper socket over LIO units, as the daemon makes it: descriptors are what they are, units by identity and path."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyproxy.device.base import read_identity
from pyproxy.device.passed import PassedNode
from pyproxy.device.sg import SgDevice
from pyproxy.frontend.listener import Listener
from pyproxy.frontend.pr_helper.server import PrHelperServer
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit
from tests.vm.rig.lio import LioNexus


@dataclass
class HelperRig:
    """The server of guest ``g`` and its units by SCSI address."""

    path: Path
    server: PrHelperServer
    units: dict[str, GuestUnit]
    identities: dict[str, LogicalUnitIdentity]

    def resolve(self, guest: str, identity: LogicalUnitIdentity, address: str) -> GuestUnit | None:
        assert guest == "g"
        known = self.identities.get(address)
        return self.units[address] if known is not None and known.matches(identity) else None


@contextmanager
def helper(directory: Path, *nexuses: LioNexus, migrate_pr: bool = True, **options: object) -> Iterator[HelperRig]:
    """Serve these nexuses' units to guest ``g`` on a socket in ``directory``."""
    with ExitStack() as stack:
        store = stack.enter_context(SqliteStore(directory / "state.db"))
        units, identities = {}, {}
        for lun, nexus in enumerate(nexuses):
            device = stack.enter_context(SgDevice.open(nexus.sg, threads=1, slots=1))
            identity = read_identity(device)
            snooper = Snooper(
                "g",
                lun,
                identity.name if not lun else f"{identity.name}-{lun}",
                store,
                migrate_pr=migrate_pr,
                initiator=nexus.transport_id,
                rtpi=nexus.relative_target_port,
            )
            units[nexus.nodes.address] = GuestUnit("g", lun, device, snooper)
            identities[nexus.nodes.address] = identity
        path = directory / "pr.sock"
        rig: HelperRig

        def resolve(guest: str, identity: LogicalUnitIdentity, address: str) -> GuestUnit | None:
            return rig.resolve(guest, identity, address)

        server = PrHelperServer("g", Listener.bind(path), PassedNode.open, resolve, **options)
        rig = HelperRig(path, server, units, identities)
        server.start()
        try:
            yield rig
        finally:
            assert server.stop(30)
