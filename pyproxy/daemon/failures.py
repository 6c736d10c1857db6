"""Which errors are expected, and the sentence each is told in, by the command line and by the control API alike."""

from __future__ import annotations

import errno
from typing import Final

from pyproxy.config import ConfigError
from pyproxy.device.base import TransportError, UnexpectedReplyError
from pyproxy.frontend.api import ApiError
from pyproxy.hypervisor.qmp import QemuError
from pyproxy.migration.capture import CheckpointRefusedError
from pyproxy.migration.checkpoint import CheckpointError
from pyproxy.migration.engine import MigrationError
from pyproxy.migration.peer import PeerError
from pyproxy.migration.record import RecordError
from pyproxy.migration.transport.tls import CredentialsError
from pyproxy.reservation.registry import NexusInUseError
from pyproxy.reservation.snapshot import SnapshotError
from pyproxy.reservation.state import StateDocumentError
from pyproxy.scsi.errors import DecodeError
from pyproxy.store.base import StoreError


class OperationError(RuntimeError):
    """What was asked for cannot be done; the text says why and what to do, ``reason`` is a word for programs."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class NotFoundError(OperationError):
    """There is no such guest, unit or device."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "not-found")


_TOLD_AS_THEY_ARE: Final = (
    ApiError,
    CheckpointError,
    CheckpointRefusedError,
    ConfigError,
    DecodeError,
    CredentialsError,
    MigrationError,
    NexusInUseError,
    PeerError,
    QemuError,
    RecordError,
    OperationError,
    SnapshotError,
    StateDocumentError,
    StoreError,
    UnexpectedReplyError,
)


def sentence(error: BaseException) -> str | None:
    """Return what to tell the operator, or None when the error is a defect of ours and deserves its traceback."""
    if isinstance(error, _TOLD_AS_THEY_ARE):
        return str(error)
    if isinstance(error, TransportError):
        return error.strerror or str(error)
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename is not None else ""
        return f"{where}{error.strerror or error}{_advice(error)}"
    return None


def reason(error: BaseException) -> str:
    """Return the word for programs: ``transport``, ``store``, ``snapshot``, ``not-found`` and so on."""
    if isinstance(error, OperationError | ApiError | MigrationError):
        return error.reason
    if isinstance(error, SnapshotError):
        return str(error.reason)
    return type(error).__name__.removesuffix("Error").lower()


def _advice(error: OSError) -> str:
    if type(error) is PermissionError and error.errno in (errno.EACCES, errno.EPERM):
        return "; run as a user who may use it"
    return ""
