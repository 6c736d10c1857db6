"""A SCSI node that another process opened and passed over a Unix socket."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Self

from _fastpath.sgio_passed import PassedEngine
from pyproxy.device.node import SYSFS, NodeError, NodeKind, ScsiNode, identify_node
from pyproxy.device.sg import SgDevice


class PassedNode:
    """What a passed descriptor leads to, and a device that executes on that very descriptor. Use ``open``.

    The descriptor stays the caller's and must stay open while the device is used.
    """

    def __init__(self, node: ScsiNode, device: SgDevice) -> None:
        self.node = node
        self.device = device

    @classmethod
    def open(cls, descriptor: int, *, sysfs: Path = SYSFS) -> Self:
        """Tell which node a descriptor is; NodeError says why it is none that reservations pass through."""
        try:
            status = os.fstat(descriptor)
        except OSError as error:
            raise NodeError(error.errno or errno.EBADF, f"descriptor {descriptor}: {error.strerror}") from error
        name = _path_of(descriptor)
        node = identify_node(name, status, sysfs)
        if node.kind is NodeKind.BSG:
            raise NodeError(
                errno.EINVAL, f"{name}: is a bsg node, which takes SG_IO in a form of its own; pass a disk or /dev/sgN"
            )
        return cls(node, SgDevice(name, node, PassedEngine(descriptor, label=name), "sync"))

    @property
    def number(self) -> int:
        """The device number, as in ``st_rdev``."""
        return self.node.number

    @property
    def is_block(self) -> bool:
        """Whether it is a disk (/dev/sdX), not a generic node (/dev/sgN)."""
        return self.node.kind is NodeKind.BLOCK

    @property
    def address(self) -> str:
        """``H:C:T:L`` as the kernel counts them: two nodes of one I_T nexus and logical unit have the same."""
        return self.node.address

    def watch(self) -> int:
        """Open a file for a Presence; the caller closes it. Raises NodeError."""
        return self.node.watch(self.device.name)


def _path_of(descriptor: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return f"descriptor {descriptor}"
