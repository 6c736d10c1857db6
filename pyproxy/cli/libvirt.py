"""What libvirt's hook for QEMU guests has to do for pyproxy's.

libvirt calls no hook where a guest leaves before it has left; so its migration is armed from where the guest goes to.
Operations: https://libvirt.org/hooks.html.
"""

from __future__ import annotations

import time
from typing import Final

from pyproxy.daemon.documents import MigrationDocument
from pyproxy.daemon.operations import MigrateRequest, Operations
from pyproxy.migration.phases import Role, SourcePhase

ARRIVAL_SECONDS: Final = 30.0
"""How long libvirt is held, which has let go of a guest, until its claims are where it goes to."""
_LOOK_SECONDS: Final = 0.05


def hook(host: Operations, guest: str, operation: str, part: str) -> None:
    """Do what ``operation`` ``part`` of libvirt's hook means for ``guest``; nothing for a guest that is not pyproxy's.

    Raises what ``Operations.migrate`` raises: libvirt then calls off what it is about to do.
    """
    if (operation, part) not in _ACTIONS or guest not in {one.name for one in host.status().guests}:
        return
    _ACTIONS[operation, part](host, guest)


def _begins_to_arrive(host: Operations, guest: str) -> None:
    host.migrate(guest, MigrateRequest(action="invite"))


def _is_gone(host: Operations, guest: str) -> None:
    """Its QEMU has ended here: it has left, or never came."""
    found = _latest(host, guest)
    if found is None or found.over:
        return
    if found.role == Role.DESTINATION:
        host.migrate(guest, MigrateRequest(action="withdraw"))
        return
    if found.phase == SourcePhase.ARMED:
        # No virtqueues told that it has stopped: it has only a helper's socket.
        host.migrate(guest, MigrateRequest(action="hand-over"))
    deadline = time.monotonic() + ARRIVAL_SECONDS
    while found is not None and not found.ready and not found.over and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        found = _latest(host, guest)


def _latest(host: Operations, guest: str) -> MigrationDocument | None:
    return next((one for one in reversed(host.migrations().migrations) if one.guest == guest), None)


_ACTIONS: Final = {("migrate", "begin"): _begins_to_arrive, ("release", "end"): _is_gone}
