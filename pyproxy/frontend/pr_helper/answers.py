"""What a client is told about a command: the device's own answer, or what stands for a transport that failed.

Transport failures become the statuses and sense that QEMU's helper gives for the same error number or host status, so
that guests meet nothing new. Unlike there, a failure that is in no table is never GOOD.
"""

from __future__ import annotations

import errno
from typing import Final

from pyproxy.frontend.pr_helper.message import Reply
from pyproxy.scsi.command import Result
from pyproxy.scsi.constants import Status
from pyproxy.scsi.sense import (
    INTERNAL_TARGET_FAILURE,
    INVALID_FIELD_IN_CDB,
    MEDIUM_NOT_PRESENT,
    POWER_ON_RESET_OR_BUS_DEVICE_RESET,
    SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
    UNRECOVERED_READ_ERROR,
    Sense,
)

_IO_PROCESS_TERMINATED: Final = Sense(0xB, 0x00, 0x06)
_NO_RESPONSE_TO_SELECTION: Final = Sense(0xB, 0x05, 0x00)
_COMMUNICATION_FAILURE: Final = Sense(0xB, 0x08, 0x00)
_NEXUS_LOSS: Final = Sense(0xB, 0x29, 0x07)
_COMMAND_TIMEOUT: Final = Sense(0xB, 0x2E, 0x02)
_CLEARED_BY_DEVICE_SERVER: Final = Sense(0xB, 0x2F, 0x02)

_BY_ERRNO: Final[dict[int, Status | Sense]] = {
    errno.EBADE: Status.RESERVATION_CONFLICT,
    errno.EDOM: Status.TASK_SET_FULL,
    errno.EINVAL: INVALID_FIELD_IN_CDB,
    errno.ENODATA: UNRECOVERED_READ_ERROR,
    errno.ENOMEDIUM: MEDIUM_NOT_PRESENT,
    errno.ENOMEM: INTERNAL_TARGET_FAILURE,
    errno.ENOSPC: SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
    errno.EREMOTEIO: INTERNAL_TARGET_FAILURE,
}

_BY_HOST_STATUS: Final[dict[int, Status | Sense]] = {
    0x01: _NO_RESPONSE_TO_SELECTION,
    0x02: Status.BUSY,
    0x03: _COMMAND_TIMEOUT,
    0x04: _COMMUNICATION_FAILURE,
    0x05: _CLEARED_BY_DEVICE_SERVER,
    0x08: POWER_ON_RESET_OR_BUS_DEVICE_RESET,
    0x0E: _NEXUS_LOSS,
    0x10: INTERNAL_TARGET_FAILURE,
    0x11: Status.RESERVATION_CONFLICT,
    0x12: SPACE_ALLOCATION_FAILED_WRITE_PROTECT,
    0x13: UNRECOVERED_READ_ERROR,
}
"""DID_NO_CONNECT, BUS_BUSY, TIME_OUT, BAD_TARGET, ABORT, RESET, TRANSPORT_DISRUPTED, TARGET_FAILURE, NEXUS_FAILURE,
ALLOC_FAILURE and MEDIUM_ERROR of the Linux SCSI midlayer."""

_DRIVER_MASK: Final = 0x0F
_DRIVER_TIMEOUT: Final = 0x06
_DRIVER_SENSE: Final = 0x08


def reply_to_result(result: Result) -> Reply:
    """Return the reply for a command that the kernel answered."""
    if result.host_status:
        return _reply(_BY_HOST_STATUS.get(result.host_status, _IO_PROCESS_TERMINATED))
    driver = result.driver_status & _DRIVER_MASK
    if driver == _DRIVER_TIMEOUT:
        return Reply(Status.BUSY)
    if result.status == Status.CHECK_CONDITION or (result.status == Status.GOOD and driver == _DRIVER_SENSE):
        return Reply(Status.CHECK_CONDITION, result.sense) if result.sense else reply_with(_IO_PROCESS_TERMINATED)
    if result.status == Status.GOOD and driver:
        return reply_with(_IO_PROCESS_TERMINATED)
    return Reply(result.status, data=result.data)


def reply_to_errno(number: int | None) -> Reply:
    """Return the reply for a command that the kernel refused with this error number."""
    return _reply(_BY_ERRNO.get(number or 0, _IO_PROCESS_TERMINATED))


def reply_with(sense: Sense) -> Reply:
    """Return CHECK CONDITION with ``sense``, in fixed format."""
    return Reply(Status.CHECK_CONDITION, sense.encode())


def _reply(answer: Status | Sense) -> Reply:
    return reply_with(answer) if isinstance(answer, Sense) else Reply(answer)
