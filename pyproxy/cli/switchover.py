"""The part of ``pyproxy migrate`` that drives QEMU."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Final

from pyproxy.cli.migrate import latest
from pyproxy.daemon.documents import MigrationDocument
from pyproxy.daemon.operations import MigrateRequest, Operations
from pyproxy.frontend.api import ApiError
from pyproxy.hypervisor.qmp import connected
from pyproxy.hypervisor.switchover import Ending, switch

ARRIVAL_SECONDS: Final = 30.0
"""How long the guest, which is stopped, may wait for its claims before it is let go on where it was."""
_LOOK_SECONDS: Final = 0.02
_ON_THE_WAY: Final = ("armed", "draining", "capturing", "offering", "offered")


class _Claims:
    """The claims of one migration, as the daemon tells of them (``switchover.Handover``)."""

    def __init__(self, host: Operations, begun: MigrationDocument) -> None:
        self._host = host
        self._begun = begun

    async def claims_arrive(self) -> bool:
        """See Handover."""
        deadline = time.monotonic() + ARRIVAL_SECONDS
        while time.monotonic() < deadline:
            found = await asyncio.to_thread(self._look)
            if found.ready:
                return True
            if found.phase not in _ON_THE_WAY:
                return False
            await asyncio.sleep(_LOOK_SECONDS)
        return False

    def _look(self) -> MigrationDocument:
        found = latest(self._host, self._begun)
        if found.phase == "armed":
            # No virtqueues told that the guest has stopped: it has only a helper's socket.
            try:
                return self._host.migrate(found.guest, MigrateRequest(action="hand-over"))
            except ApiError:
                return latest(self._host, self._begun)  # they did in this moment
        return found


def drive(host: Operations, begun: MigrationDocument, monitor: Path, uri: str | None) -> Ending:
    """See QEMU's migration of an armed guest through; raises QemuError, after which the guest's is called off."""

    async def run() -> Ending:
        async with connected(monitor) as qemu:
            return await switch(qemu, _Claims(host, begun), uri)

    ending = None
    try:
        ending = asyncio.run(run())
    finally:
        if ending is not Ending.MIGRATED and latest(host, begun).phase == "armed":
            host.migrate(begun.guest, MigrateRequest(action="cancel"))  # it never stopped: nothing has moved
    return ending
