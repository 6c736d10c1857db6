"""The pass-through back end: a logical unit behind /dev/sgN, /dev/sdX, /dev/bsg/* or a link to one of them."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, Self, TypeVar

from _fastpath.lanes import LaneRunner
from _fastpath.sgio import DIRECTION_IN, DIRECTION_NONE, DIRECTION_OUT, MAX_TRANSFER, Batch, Engine
from _fastpath.sgio_async import AsyncEngine
from _fastpath.sgio_bsg import BsgEngine
from _fastpath.sgio_sync import SyncEngine
from pyproxy.device.base import LaneOutcome, TransportError, results_of
from pyproxy.device.node import SYSFS, NodeError, NodeKind, ScsiNode, identify_node
from pyproxy.scsi.command import Command, Result

EngineName = Literal["auto", "sync", "async", "bsg"]
T = TypeVar("T")

SG_GET_VERSION_NUM: Final = 0x2282
_OLDEST_SG_IO = 30_000
_SMALLEST_BATCH = 8
_LARGEST_KEPT_BATCH = 1024
_OVERRUN: Final = 64
"""Bytes of memory behind what a command receives. The kernel's own target (LIO) writes up to 32 bytes past the
ALLOCATION LENGTH of READ FULL STATUS, and through its local ports those are the caller's memory."""

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


class SgDevice:
    """A logical unit reached by the kernel's SCSI pass-through, as the I_T nexus this host is. Use ``open``.

    Any number of threads may execute commands at once.
    """

    def __init__(self, name: str, node: ScsiNode, engine: Engine, engine_name: EngineName) -> None:
        self._name = name
        self._node = node
        self._engine = engine
        self._engine_name = engine_name
        self._own = threading.local()

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
    def name(self) -> str:
        """The path it was opened by; for a descriptor, the path it leads to."""
        return self._name

    @property
    def node(self) -> ScsiNode:
        """Kind, device number and SCSI address of the node."""
        return self._node

    @property
    def engine(self) -> Engine:
        """The engine that executes batches of C commands on this device."""
        return self._engine

    @property
    def engine_name(self) -> EngineName:
        """Which engine that is: sync, async or bsg."""
        return self._engine_name

    def execute(self, command: Command) -> Result:
        """Run one command to its end. Raises TransportError; ValueError for a command no device could be sent."""
        (outcome,), _ = self._run((command,), self._engine.run)
        if isinstance(outcome, TransportError):
            raise outcome
        return outcome

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        """Run commands submitted together; the device may reorder them. Raises as ``execute``.

        The TransportError of a batch carries every command's outcome.
        """
        if not commands:
            return []
        outcomes, _ = self._run(commands, self._engine.run)
        return results_of(outcomes)

    def execute_lanes(self, commands: Sequence[Command]) -> LaneOutcome:
        """Run commands submitted together but for PERSISTENT RESERVE IN and OUT. Raises as ``LaneDevice`` says."""
        if not commands:
            return LaneOutcome([], [])
        answered, (left, events) = self._run(commands, self._lanes(len(commands)).run)
        outcomes: list[Result | TransportError | None] = [*answered]
        for index in left:
            outcomes[index] = None
        return LaneOutcome(outcomes, events)

    def close(self) -> None:
        """Wait for commands that are running, then release the node; safe to repeat."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _run(self, commands: Sequence[Command], run: Callable[[Batch], T]) -> tuple[list[Result | TransportError], T]:
        """Have ``run`` execute the commands as one batch; each one's outcome, and what ``run`` returned."""
        batch = self._batch(len(commands))
        try:
            received = [_add(batch, command) for command in commands]
            try:
                ran = run(batch)
            except ValueError as error:
                raise TransportError(errno.EBADF, str(error)) from error
            return [
                self._outcome(batch, index, received[index], command) for index, command in enumerate(commands)
            ], ran
        finally:
            batch.clear()

    def _batch(self, size: int) -> Batch:
        """Give this thread a batch of its own, kept unless it is huge."""
        kept: Batch | None = getattr(self._own, "batch", None)
        if kept is None or kept.capacity < size:
            kept = Batch(max(_SMALLEST_BATCH, size))
            if size <= _LARGEST_KEPT_BATCH:
                self._own.batch = kept
        return kept

    def _lanes(self, size: int) -> LaneRunner:
        """Give this thread a lane runner of its own, with room for an event of every command of a batch."""
        if size > _LARGEST_KEPT_BATCH:
            return LaneRunner(self._engine, size)
        kept: LaneRunner | None = getattr(self._own, "lanes", None)
        if kept is None:
            kept = self._own.lanes = LaneRunner(self._engine, _LARGEST_KEPT_BATCH)
        return kept

    def _outcome(
        self, batch: Batch, index: int, received: memoryview | None, command: Command
    ) -> Result | TransportError:
        status, sense, host_status, driver_status, residual, duration_ms, error = batch.result(index)
        if error != 0:
            return self._transport_error(error, command, fate_unknown=batch.fate_unknown(index))
        if host_status in _HOST_STATUSES_OF_LOSS and not self._node.present:
            # It was queued before the device went: the device may or may not have executed it.
            return self._transport_error(errno.ENODEV, command, fate_unknown=True)
        data = b"" if received is None else bytes(received[: len(received) - max(0, residual)])
        return Result(status, sense, data, host_status, driver_status, residual, duration_ms)

    def _transport_error(self, error: int, command: Command, *, fate_unknown: bool) -> TransportError:
        fate = "; the device may have executed it" if fate_unknown else ""
        remedy = _COMMAND_REMEDIES.get(error)
        return TransportError(
            error,
            f"{self._name}: command {command.cdb[0]:02X}h was not answered: {os.strerror(error)}{fate}"
            + (f"; {remedy}" if remedy else ""),
            fate_unknown=fate_unknown,
        )


def _add(batch: Batch, command: Command) -> memoryview | None:
    """Append the command; the buffer that receives its data where it asked for a count of bytes."""
    if command.data_out:
        if command.data_in:
            raise ValueError(
                f"command {command.cdb[0]:02X}h has data in both directions, which pass-through cannot carry"
            )
        batch.add(command.cdb, DIRECTION_OUT, command.data_out, command.timeout_ms)
        return None
    if isinstance(command.data_in, int):
        if not 0 <= command.data_in <= MAX_TRANSFER:
            raise ValueError(f"{command.data_in} bytes of data is not between 0 and {MAX_TRANSFER}")
        if command.data_in == 0:
            batch.add(command.cdb, DIRECTION_NONE, (), command.timeout_ms)
            return None
        received = memoryview(bytearray(command.data_in + _OVERRUN))[: command.data_in]
        batch.add(command.cdb, DIRECTION_IN, received, command.timeout_ms)
        return received
    batch.add(command.cdb, DIRECTION_IN, command.data_in, command.timeout_ms)
    return None


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
