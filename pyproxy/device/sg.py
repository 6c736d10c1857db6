"""The pass-through back end: a logical unit behind /dev/sgN, /dev/sdX, /dev/bsg/* or a link to one of them."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final, Literal, Self

from _fastpath.sgio import Engine
from _fastpath.sgio_async import AsyncEngine
from _fastpath.sgio_bsg import BsgEngine
from _fastpath.sgio_sync import SyncEngine
from pyproxy.device.engine import EngineDevice
from pyproxy.device.node import SYSFS, NodeError, NodeKind, ScsiNode, identify_node

EngineName = Literal["auto", "sync", "async", "bsg"]

SG_GET_VERSION_NUM: Final = 0x2282
_OLDEST_SG_IO = 30_000

_HOST_STATUSES_OF_LOSS = frozenset({0x01, 0x04, 0x07, 0x0E})
"""DID_NO_CONNECT, BAD_TARGET, ERROR, TRANSPORT_DISRUPTED: what commands of a removed device end with."""

_FITTING: Final[dict[NodeKind, tuple[EngineName, ...]]] = {
    NodeKind.GENERIC: ("async", "sync"),
    NodeKind.BLOCK: ("sync",),
    NodeKind.BSG: ("bsg",),
}

_OPEN_REMEDIES = {
    errno.ENOENT: "there is no such node; 'pyproxy devices' lists what this machine has",
    errno.EACCES: "run as a user who may read and write the node, or give that user access to it",
    errno.EPERM: "run as a user who may read and write the node; in a container, allow the device",
    errno.EBUSY: "another process has it open exclusively; find it with 'fuser' and end it",
    errno.ENXIO: "the device is offline or being removed; bring it back before it is used",
    errno.ENODEV: "the device is gone; attach it again",
    errno.EROFS: "the medium is write-protected",
    errno.EMFILE: "raise the limit of open files (LimitNOFILE=) or lower 'slots' and 'threads'",
}

_COMMAND_REMEDIES = {
    errno.EPERM: "the kernel's command filter refused it; give the process CAP_SYS_RAWIO, or use the /dev/sgN node "
    "opened for reading and writing",
    errno.EACCES: "the descriptor is not open for writing; open the node for reading and writing",
    errno.EINVAL: "the transfer is larger or in more pieces than the host adapter takes (max_hw_sectors_kb and "
    "max_segments in the queue's sysfs directory)",
    errno.EIO: "the transfer is larger than the host adapter takes (max_hw_sectors_kb in the queue's sysfs directory)",
    errno.ENOMEM: "the kernel has no memory for its buffer now; the command may be repeated",
    errno.ENODEV: "the device is gone; attach it again and let the daemon identify it anew",
    errno.ENXIO: "the device is offline; set its state to running when the cause is gone",
    errno.ETIMEDOUT: "the kernel did not end the command long after its timeout; look at the host adapter",
}


class SgDevice(EngineDevice):
    """A logical unit reached by the kernel's SCSI pass-through, as the I_T nexus this host is. Use ``open``.

    Any number of threads may execute commands at once.
    """

    def __init__(self, name: str, node: ScsiNode, engine: Engine, engine_name: EngineName) -> None:
        super().__init__(name, engine, _COMMAND_REMEDIES)
        self._node = node
        self._engine_name = engine_name

    @classmethod
    def open(
        cls,
        path_or_fd: str | os.PathLike[str] | int,
        *,
        threads: int = 4,
        slots: int = 16,
        engine: EngineName = "auto",
        sysfs: Path = SYSFS,
    ) -> Self:
        """Open a node by path (links are followed) or by an open descriptor, which stays the caller's.

        ``threads`` is how many commands the sync and bsg engines execute at once, ``slots`` the same for the async
        engine; ``engine`` auto picks async for /dev/sgN, sync for disks and bsg for /dev/bsg nodes. Raises NodeError.
        """
        if isinstance(path_or_fd, int):
            return cls._open_descriptor(_name_of(path_or_fd), path_or_fd, threads, slots, engine, sysfs)
        name = os.fspath(path_or_fd)
        try:
            # Looked at before it is opened: opening some devices (a watchdog, a tape) does something.
            expected = identify_node(name, Path(name).stat(), sysfs)
            fd = _open_node(name, expected)
        except NodeError:
            raise
        except OSError as error:
            raise _cannot_open(name, error) from error
        try:
            if os.fstat(fd).st_rdev != expected.number:
                raise NodeError(errno.ENODEV, f"{name}: became another device while it was opened; try again")
            return cls._open_descriptor(name, fd, threads, slots, engine, sysfs)
        finally:
            os.close(fd)

    @classmethod
    def _open_descriptor(cls, name: str, fd: int, threads: int, slots: int, engine: EngineName, sysfs: Path) -> Self:
        try:
            node = identify_node(name, os.fstat(fd), sysfs)
            writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
            _check_sg_io(name, fd)
        except NodeError:
            raise
        except OSError as error:
            raise _cannot_open(name, error) from error
        chosen = _choose_engine(name, node, engine, writable)
        try:
            if chosen == "async":
                # sg refuses write and read on a file opened with other credentials: always one of our own.
                made: Engine = AsyncEngine(f"/proc/self/fd/{fd}", slots, label=name)
            elif chosen == "bsg":
                made = BsgEngine(fd, threads, label=name)
            else:
                made = SyncEngine(fd, threads, label=name)
        except OSError as error:
            raise _cannot_open(name, error) from error
        return cls(name, node, made, chosen)

    @property
    def node(self) -> ScsiNode:
        """Kind, device number and SCSI address of the node."""
        return self._node

    @property
    def engine_name(self) -> EngineName:
        """Which engine that is: sync, async or bsg."""
        return self._engine_name

    def _lost(self, host_status: int) -> bool:
        # It was queued before the device went: the device may or may not have executed it.
        return host_status in _HOST_STATUSES_OF_LOSS and not self._node.present


def _name_of(fd: int) -> str:
    try:
        return str(Path(f"/proc/self/fd/{fd}").readlink())
    except OSError:
        return f"descriptor {fd}"


def _open_node(name: str, node: ScsiNode) -> int:
    # O_NONBLOCK: neither wait for a process that has it open exclusively nor look for a medium.
    flags = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        return os.open(name, os.O_RDWR | flags)
    except OSError as error:
        # A write-protected disk can still be read, and reserved.
        if error.errno != errno.EROFS or node.kind is not NodeKind.BLOCK:
            raise
        return os.open(name, os.O_RDONLY | flags)


def _cannot_open(name: str, error: OSError) -> NodeError:
    number = error.errno or errno.EIO
    remedy = _OPEN_REMEDIES.get(number)
    return NodeError(number, f"{name}: cannot be opened: {os.strerror(number)}" + (f"; {remedy}" if remedy else ""))


def _check_sg_io(name: str, fd: int) -> None:
    try:
        answer = fcntl.ioctl(fd, SG_GET_VERSION_NUM, bytes(4))
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL):
            raise
        raise NodeError(errno.ENODEV, f"{name}: its driver does not pass SCSI commands through") from error
    (version,) = struct.unpack("=i", answer)
    if version < _OLDEST_SG_IO:
        raise NodeError(errno.ENODEV, f"{name}: its driver's SG_IO is version {version}, too old; 30000 is needed")


def _choose_engine(name: str, node: ScsiNode, asked: EngineName, writable: bool) -> EngineName:
    fitting = _FITTING[node.kind]
    if asked == "auto":
        return "sync" if fitting[0] == "async" and not writable else fitting[0]
    if asked not in fitting:
        raise NodeError(
            errno.EINVAL,
            f"{name}: the {asked} engine does not work on a {node.kind} node; use {' or '.join(fitting)}",
        )
    if asked == "async" and not writable:
        raise NodeError(errno.EACCES, f"{name}: the async engine needs the node open for reading and writing")
    return asked
