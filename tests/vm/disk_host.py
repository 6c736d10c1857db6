"""What stands outside of a machine whose disks are pyproxy's: tgt, and a daemon with two controllers.

controller one              controller two
  target 0 LUN 0  shared      target 0 LUN 0  shared    one emulated unit in a file, two I_T nexuses
  target 0 LUN 1  large       target 0 LUN 1  remote    emulated, 4096-byte blocks | tgt over iSCSI
  target 1 LUN 2  remote                                tgt over iSCSI, the same unit under another name
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from pyproxy.frontend.api import DaemonUnreachableError, connect
from tests.rig.tgt import TgtTarget

QUEUES = 4
SHARED_SERIAL = "SHARED"
LARGE_SERIAL = "LARGE"
SHARED_MIB = 256
LARGE_MIB = 64
REMOTE_MIB = 256
START_SECONDS = 300.0
TARGET_KEY = "opt/org.example.pyproxy/target"
"""The key of QEMU's firmware configuration device under which the machine finds portal and name of the target."""
HOST_SEEN_INSIDE = "10.0.2.2"

_CONFIGURATION = """
[daemon]
host_name = "outside"
runtime_dir = "{directory}/run"
state_dir = "{directory}/state"

[[guest]]
name = "one"
rawio = true
vhost_user = {{ socket = "{directory}/one.sock", queues = {queues} }}

[[guest.unit]]
lun = 0
initiator = "sas:5001405000000001"
emulated = {{ size = "{shared}MiB", path = "{directory}/shared.img", serial = "{shared_serial}" }}

[[guest.unit]]
lun = 1
emulated = {{ size = "{large}MiB", block_size = 4096, serial = "{large_serial}" }}

[[guest.unit]]
lun = 2
target = 1
iscsi = {{ url = "{url}", initiator = "iqn.2026-01.org.example:one" }}

[[guest]]
name = "two"
rawio = true
vhost_user = {{ socket = "{directory}/two.sock", queues = {queues} }}

[[guest.unit]]
lun = 0
initiator = "sas:5001405000000002"
emulated = {{ size = "{shared}MiB", path = "{directory}/shared.img", serial = "{shared_serial}" }}

[[guest.unit]]
lun = 1
iscsi = {{ url = "{url}", initiator = "iqn.2026-01.org.example:two" }}
"""


class DiskHost(AbstractContextManager[Sequence[str]]):
    """Entered, it is up and returns the options that give QEMU both controllers; left, all of it ends."""

    def __init__(self, memory_mib: int = 2048) -> None:
        self._memory_mib = memory_mib
        self._stack = ExitStack()

    def __enter__(self) -> Sequence[str]:
        try:
            return self._start()
        except BaseException:
            self._stack.close()
            raise

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> Sequence[str]:
        # Unix sockets have short names.
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pyproxy-disk-")))
        target = self._stack.enter_context(TgtTarget(directory, size_mib=REMOTE_MIB))
        configuration = directory / "pyproxy.toml"
        configuration.write_text(
            _CONFIGURATION.format(
                directory=directory,
                queues=QUEUES,
                shared=SHARED_MIB,
                shared_serial=SHARED_SERIAL,
                large=LARGE_MIB,
                large_serial=LARGE_SERIAL,
                url=target.url,
            ),
            encoding="utf-8",
        )
        self._serve(configuration, directory)
        options = [
            *("-object", f"memory-backend-memfd,id=shared-memory,size={self._memory_mib}M,share=on"),
            *("-numa", "node,memdev=shared-memory"),
        ]
        for name in ("one", "two"):
            options += ["-chardev", f"socket,id=char-{name},path={directory}/{name}.sock"]
            options += ["-device", f"vhost-user-scsi-pci,id={name},chardev=char-{name},num_queues={QUEUES}"]
        # The machine's own kernel reaches the target too, past pyproxy.
        options += ["-netdev", "user,id=network", "-device", "virtio-net-pci,netdev=network,romfile="]
        options += ["-fw_cfg", f"name={TARGET_KEY},string={HOST_SEEN_INSIDE}:{target.port} {target.name}"]
        return options

    def _serve(self, configuration: Path, directory: Path) -> None:
        log = self._stack.enter_context((directory / "daemon.log").open("wb"))
        daemon = subprocess.Popen(
            [sys.executable, "-m", "pyproxy", "--config", str(configuration), "serve"], stdout=log, stderr=log
        )
        self._stack.callback(_stop, daemon)
        deadline = time.monotonic() + START_SECONDS
        while True:
            told = (directory / "daemon.log").read_text(encoding="utf-8")
            assert daemon.poll() is None, f"the daemon ended:\n{told}"
            try:
                connect(directory / "run" / "control.sock")
            except DaemonUnreachableError:
                assert time.monotonic() < deadline, f"the daemon does not answer:\n{told}"
                time.sleep(0.1)
            else:
                return


def _stop(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(60)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
