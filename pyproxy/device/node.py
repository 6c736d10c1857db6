"""What a device node is: told by file type, device number and sysfs, before anything is opened or sent."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from pyproxy.device.base import TransportError

SYSFS: Final = Path("/sys")
_LASTING_ATTRIBUTE: Final = "type"
"""Every SCSI device has it in sysfs, and reading it costs the kernel next to nothing."""
_LISTING = "'pyproxy devices' lists what this machine has"


class NodeError(TransportError):
    """A path or descriptor is no SCSI node that pyproxy can drive; the message names it, the cause and the remedy."""


class NodeKind(StrEnum):
    """The three kinds of node through which Linux passes SCSI commands."""

    GENERIC = "/dev/sgN"
    BLOCK = "SCSI disk"
    BSG = "/dev/bsg"


_KINDS = {"scsi_generic": NodeKind.GENERIC, "block": NodeKind.BLOCK, "bsg": NodeKind.BSG}

_FILE_TYPES = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True, slots=True)
class ScsiNode:
    """A node of a logical unit.

    ``entry`` is its directory in sysfs with all links resolved, ``device`` that of the SCSI device, whose last
    component is H:C:T:L; ``number`` is the device number (major and minor in one, as in ``st_rdev``).
    """

    kind: NodeKind
    number: int
    link: Path
    entry: Path
    device: Path

    @property
    def address(self) -> str:
        """Host, channel, target and LUN as the kernel counts them: ``H:C:T:L``."""
        return self.device.name

    def watch(self, name: str) -> int:
        """Open a file that can be read as long as this very device is attached; the caller closes it.

        Another device that gets the same number later does not bring it back to life. ``name`` is
        what errors call it. Raises NodeError.
        """
        try:
            return os.open(self.device / _LASTING_ATTRIBUTE, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NodeError(errno.ENODEV, f"{name}: the device is gone; attach it again") from error

    @property
    def present(self) -> bool:
        """Whether this very device is still attached; its number may meanwhile be another's."""
        try:
            return self.link.resolve(strict=True) == self.entry
        except OSError:
            return False


def identify_node(name: str, status: os.stat_result, sysfs: Path = SYSFS) -> ScsiNode:
    """Tell which SCSI node a file with this ``stat`` is; NodeError says why it is none."""
    if not (stat.S_ISBLK(status.st_mode) or stat.S_ISCHR(status.st_mode)):
        what = _FILE_TYPES.get(stat.S_IFMT(status.st_mode), "no device node")
        raise NodeError(errno.ENODEV, f"{name}: is {what}, not a SCSI device node; {_LISTING}")
    directory = "block" if stat.S_ISBLK(status.st_mode) else "char"
    number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
    link = sysfs / "dev" / directory / number
    try:
        entry = link.resolve(strict=True)
    except OSError:
        raise NodeError(
            errno.ENODEV, f"{name}: the kernel has no {directory} device {number}; it is gone, remove the stale node"
        ) from None
    kind = _KINDS.get(_subsystem(entry))
    if kind is None:
        raise NodeError(errno.ENODEV, f"{name}: is a {directory} device but not a SCSI device; {_LISTING}")
    if (entry / "partition").exists():
        raise NodeError(
            errno.EINVAL,
            f"{name}: is a partition, and SCSI commands address the whole disk; use /dev/{entry.parent.name}",
        )
    device = entry / "device"
    if _subsystem(device) != "scsi" or not (device / "type").exists():
        raise NodeError(errno.ENODEV, f"{name}: is not a logical unit of a SCSI host{_paths_below(entry)}; {_LISTING}")
    return ScsiNode(kind, status.st_rdev, link, entry, device.resolve())


def _subsystem(entry: Path) -> str:
    try:
        return (entry / "subsystem").readlink().name
    except OSError:
        return ""


def _paths_below(entry: Path) -> str:
    """For device mapper and the like: the disks it is made of, since reservations are made on each path."""
    try:
        below = sorted(slave.name for slave in (entry / "slaves").iterdir())
    except OSError:
        return ""
    return f" but made of {', '.join(below)}: name one of these" if below else ""
