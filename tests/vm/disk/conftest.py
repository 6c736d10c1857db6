"""The disks of this machine that are pyproxy's, by what they stand on."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.vm.disk_host import LARGE_SERIAL, SHARED_SERIAL
from tests.vm.rig.nodes import wait_for

DEVICES = Path("/sys/bus/scsi/devices")


@dataclass(frozen=True)
class Disk:
    """One logical unit as this machine has it; ``address`` is (host, channel, target, LUN)."""

    address: tuple[int, int, int, int]
    serial: str
    sd: Path
    sg: Path

    @property
    def blocks_path(self) -> Path:
        return Path("/sys/block") / self.sd.name


@dataclass(frozen=True)
class Disks:
    """``shared`` and ``remote`` are one unit each, by two controllers."""

    shared: tuple[Disk, Disk]
    large: Disk
    remote: tuple[Disk, Disk]


def _found() -> list[Disk]:
    """The disks of all virtio-scsi controllers, in the order of their addresses."""
    disks = []
    for host in Path("/sys/class/scsi_host").iterdir():
        if (host / "proc_name").read_text(encoding="ascii").strip() != "virtio_scsi":
            continue
        for device in DEVICES.glob(f"{host.name.removeprefix('host')}:*:*:*"):
            blocks, generics = [*device.glob("block/*")], [*device.glob("scsi_generic/*")]
            if not blocks or not generics:
                continue
            sd, sg = Path("/dev") / blocks[0].name, Path("/dev") / generics[0].name
            page = subprocess.run(["sg_vpd", "--page=sn", "--raw", str(sg)], capture_output=True, check=False).stdout
            one, two, three, four = map(int, device.name.split(":"))
            disks.append(Disk((one, two, three, four), page[4:].decode("ascii", "replace").strip(), sd, sg))
    return sorted(disks, key=lambda disk: disk.address)


@pytest.fixture(scope="session")
def disks() -> Disks:
    found: list[Disk] = []

    def there() -> bool:
        found[:] = _found()
        return len(found) == 5

    wait_for(there, f"five disks of virtio-scsi; there are {found}")
    shared = [disk for disk in found if disk.serial == SHARED_SERIAL]
    (large,) = [disk for disk in found if disk.serial == LARGE_SERIAL]
    remote = [disk for disk in found if disk.serial not in (SHARED_SERIAL, LARGE_SERIAL)]
    return Disks((shared[0], shared[1]), large, (remote[0], remote[1]))
