"""A daemon on a disk of this machine, with a guest that is driven by our own front end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.scsi import ScsiDriver
from pyproxy.frontend.virtio_scsi.event import CHANGE
from tests.vm.rig.lio import LioNexus
from tests.vm.rig.nodes import Nodes
from tests.vm.rig.operated import OperatedHost


class DrivenHost(OperatedHost):
    """A host whose guest has the disk by a controller, and a helper socket too."""

    def __init__(self, directory: Path, nexus: LioNexus | Nodes) -> None:
        self.path, self.helper = directory / "disk.sock", directory / "helper.sock"
        keys = f'vhost_user = {{ socket = "{self.path}" }}\npr_helper = {{ socket = "{self.helper}" }}'
        super().__init__(directory, "a", nexus, guest_keys=keys)

    def connect(self) -> FrontEnd:
        return FrontEnd.connect(self.path)

    def unit(self) -> dict[str, object]:
        """What the daemon says of it."""
        return self.status(self.here)


@contextlib.contextmanager
def serving(directory: Path, nexus: LioNexus | Nodes) -> Iterator[tuple[DrivenHost, ScsiDriver]]:
    """A daemon and a guest's driver, which end well; the daemon's log is printed."""
    with contextlib.ExitStack() as stack:
        host = DrivenHost(directory, nexus)
        stack.callback(host.stop, signal.SIGKILL)
        host.start()
        driver = stack.enter_context(contextlib.closing(ScsiDriver(host.connect(), event_buffers=32)))
        driver.start(extra=CHANGE)
        try:
            yield host, driver
            driver.stop()
            assert host.stop() == 0
        finally:
            print(host.log.read_text())
    assert "failed inside pyproxy" not in host.log.read_text()
