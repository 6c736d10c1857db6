"""From a SCSI address to its device nodes, once the kernel and udev have made them."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SCSI_DEVICES = Path("/sys/bus/scsi/devices")


@dataclass(frozen=True, slots=True)
class Nodes:
    """One SCSI device's nodes: generic, block and bsg."""

    address: str
    sg: Path
    sd: Path
    bsg: Path

    @property
    def by_id(self) -> list[Path]:
        """The /dev/disk/by-id links that lead to the block node."""
        return [link for link in sorted(Path("/dev/disk/by-id").glob("*")) if link.resolve() == self.sd]


def settle() -> None:
    """Wait for udev to have handled all it knows of."""
    subprocess.run(["udevadm", "settle", "--timeout=60"], check=True)


def wait_for(condition: object, what: str, timeout: float = 300.0) -> None:
    """Poll ``condition()`` until it is true; TimeoutError names ``what``."""
    assert callable(condition)
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.02)


def nodes_of(address: str) -> Nodes:
    """The nodes of the disk at ``address`` (H:C:T:L), waiting until all of them are there."""
    device = SCSI_DEVICES / address

    def child(kind: str) -> Path:
        return next((device / kind).iterdir())

    def there() -> bool:
        try:
            found = [Path("/dev", child(kind).name) for kind in ("scsi_generic", "block")]
        except (FileNotFoundError, StopIteration):
            return False
        return all(path.exists() for path in [*found, Path("/dev/bsg", address)])

    wait_for(there, f"the nodes of SCSI device {address}")
    return Nodes(
        address,
        Path("/dev", child("scsi_generic").name),
        Path("/dev", child("block").name),
        Path("/dev/bsg", address),
    )
