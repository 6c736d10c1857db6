"""``pyproxy serve`` on a machine without SCSI devices: a device is a file, which keeps an emulated unit's blocks.

    python -m tests.unit.daemon.files_as_nodes CONFIGURATION

A descriptor of that file, passed to a helper socket, leads to the unit, as that of /dev/sgN leads to a disk.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from pyproxy import config
from pyproxy.config import Config, GuestSection, UnitSection
from pyproxy.daemon import logs, server
from pyproxy.daemon.backing import Backing
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.device.node import identify_node
from pyproxy.scsi.transport_id import SasTransportId
from tests.unit.pr_helper.scene import FakeNode

US = SasTransportId(bytes.fromhex("5001405000000001"))
SIZE = 1 << 20


class Nodes:
    """The devices that are open, by their files' paths."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._backings: dict[str, Backing] = {}

    def open_backing(self, settings: Config, guest: GuestSection, section: UnitSection) -> Backing:
        assert section.device is not None
        path = os.path.realpath(section.device)
        unit = EmulatedUnit(SIZE, path=Path(path))
        backing = Backing(unit.nexus(US, 1), US, 1, unit.close, path)
        with self._lock:
            self._backings[path] = backing
        return backing

    def open_node(self, descriptor: int) -> FakeNode:
        path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115 -- no path, a magic link
        status = os.fstat(descriptor)
        with self._lock:
            backing = self._backings.get(path)
        if backing is None:
            identify_node(path, status)
            raise AssertionError(f"{path} is a real SCSI node")
        return FakeNode(backing.device, status.st_ino, path, Path(path))


def main() -> None:
    """Serve."""
    file = Path(sys.argv[1])
    settings = config.load(file)
    logs.configure(settings.daemon.log_level, settings.daemon.log_format)
    nodes = Nodes()
    server.serve(
        settings,
        lambda: print("serving", file=sys.stderr, flush=True),
        open_backing=nodes.open_backing,
        open_node=nodes.open_node,
        load=lambda: config.load(file),
    )


if __name__ == "__main__":
    main()
