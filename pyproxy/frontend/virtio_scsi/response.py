"""Response codes of virtio-scsi (virtio 1.2, 5.6.6.1), and which one a command's outcome becomes.

A status of the logical unit is always delivered with OK, RESERVATION CONFLICT too. Other codes stand for commands
that have no status: QEMU's own mapping of host statuses, which is what guests know.
"""

from __future__ import annotations

import errno
from enum import IntEnum
from typing import Final

from pyproxy.device.base import TransportError
from pyproxy.scsi.command import Result


class Response(IntEnum):
    """The response byte."""

    OK = 0
    OVERRUN = 1
    ABORTED = 2
    BAD_TARGET = 3
    RESET = 4
    BUSY = 5
    TRANSPORT_FAILURE = 6
    TARGET_FAILURE = 7
    NEXUS_FAILURE = 8
    FAILURE = 9
    FUNCTION_SUCCEEDED = 10
    FUNCTION_REJECTED = 11
    INCORRECT_LUN = 12


_BY_HOST_STATUS: Final = {
    0x01: Response.BAD_TARGET,
    0x02: Response.BUSY,
    0x03: Response.ABORTED,
    0x04: Response.BAD_TARGET,
    0x05: Response.ABORTED,
    0x08: Response.RESET,
    0x0E: Response.TRANSPORT_FAILURE,
    0x0F: Response.TRANSPORT_FAILURE,
    0x10: Response.TARGET_FAILURE,
    0x11: Response.NEXUS_FAILURE,
    0x14: Response.TRANSPORT_FAILURE,
}
"""DID_NO_CONNECT, BUS_BUSY, TIME_OUT, BAD_TARGET, ABORT, RESET, TRANSPORT_DISRUPTED, TRANSPORT_FAILFAST,
TARGET_FAILURE, NEXUS_FAILURE and TRANSPORT_MARGINAL of the Linux SCSI midlayer."""

_GONE: Final = frozenset({errno.ENODEV, errno.ENXIO, errno.EBADF, errno.ENOENT})
_SHORT_OF: Final = frozenset({errno.ENOMEM, errno.EAGAIN, errno.EBUSY, errno.ENOBUFS, errno.EMFILE, errno.ENFILE})

_NOT_TWICE: Final = frozenset({0x16, 0x17, 0x1B, 0x56, 0x57, 0x5F, 0x89})
"""RESERVE, RELEASE, START STOP UNIT, PERSISTENT RESERVE OUT and COMPARE AND WRITE: what they do a second time is not
what they did the first time."""


def response_of(result: Result) -> Response:
    """Return the response for a command that was executed; OK where the logical unit gave it a status."""
    if result.host_status == 0:
        return Response.OK
    return _BY_HOST_STATUS.get(result.host_status, Response.FAILURE)


def response_to_error(cdb: bytes, error: TransportError) -> Response:
    """Return the response for a command that could not be executed, or whose fate is unknown.

    A guest repeats what ends with TRANSPORT_FAILURE, so a command that must not be executed twice without the guest
    having looked is ABORTED where it may have been executed.
    """
    if error.fate_unknown:
        return Response.ABORTED if cdb[0] in _NOT_TWICE else Response.TRANSPORT_FAILURE
    if error.errno in _GONE:
        return Response.BAD_TARGET
    if error.errno in _SHORT_OF:
        return Response.BUSY
    return Response.FAILURE
