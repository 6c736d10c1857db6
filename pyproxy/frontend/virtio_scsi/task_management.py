"""Task management of a controller (SAM-5 7, virtio 1.2, 5.6.6.2): what each function does to the guest's commands.

The data plane hands over a function once the commands that the guest sent before have ended: what a device has begun
cannot be called back, and the guest is told that a task ended only when it has. So there is never a task to abort here.
Other initiators' commands are out of reach, so CLEAR TASK SET is ABORT TASK SET, and a LOGICAL UNIT RESET reaches the
device only where the operator allows it; the guest gets the unit attention of a reset in either case.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

from pyproxy.frontend.virtio_scsi.control import (
    NotificationRequest,
    TaskManagement,
    TaskManagementRequest,
    decode_control,
)
from pyproxy.frontend.virtio_scsi.domain import Domain
from pyproxy.frontend.virtio_scsi.lun import WELL_KNOWN, Address, decode_lun
from pyproxy.frontend.virtio_scsi.response import Response
from pyproxy.scsi.sense import BUS_DEVICE_RESET_FUNCTION, IT_NEXUS_LOSS
from pyproxy.unit import GuestUnit

log = logging.getLogger(__name__)


Reset: TypeAlias = Callable[[GuestUnit], bool]
"""Resets a logical unit for all its initiators; False where that is not done."""


def no_reset(_: GuestUnit) -> bool:
    """Leave the device alone."""
    return False


def answer_control(request: bytes, domain: Domain, reset: Reset, name: str) -> bytes:
    """Carry out a request of the control queue and return its answer; empty where it is none that is known."""
    decoded = decode_control(request)
    if decoded is None:
        log.warning("%s: a control request of no known layout (%s) is left unanswered", name, request[:24].hex())
        return b""
    address = decode_lun(decoded.lun)
    if isinstance(decoded, NotificationRequest):
        # No event can be subscribed to; only where the request goes is looked at.
        return decoded.answer(_reachable(address, domain))
    return decoded.answer(_manage(decoded, address, domain, reset, name))


def _reachable(address: Address | None, domain: Domain) -> Response:
    if address is None or (address != WELL_KNOWN and not domain.luns(address.target)):
        return Response.BAD_TARGET
    if address != WELL_KNOWN and domain.unit(address) is None:
        return Response.INCORRECT_LUN
    return Response.OK


def _manage(
    request: TaskManagementRequest,
    address: Address | None,
    domain: Domain,
    reset: Reset,
    name: str,
) -> Response:
    if address is None or address == WELL_KNOWN or not domain.luns(address.target):
        return Response.BAD_TARGET
    try:
        function = TaskManagement(request.subtype)
    except ValueError:
        return Response.FUNCTION_REJECTED
    if function is TaskManagement.I_T_NEXUS_RESET:
        # Whatever its LUN is: the function is about the target.
        for unit in domain.units(address.target):
            unit.raise_attention(IT_NEXUS_LOSS)
        log.info("%s: I_T NEXUS RESET of target %d", name, address.target)
        return Response.OK
    found = domain.unit(address)
    if found is None:
        return Response.INCORRECT_LUN
    if function is TaskManagement.CLEAR_ACA:
        # No unit here supports auto contingent allegiance (NORMACA is 0).
        return Response.FUNCTION_REJECTED
    log.info("%s: %s of LUN %d", name, function.name.replace("_", " "), address.lun)
    if function is TaskManagement.LOGICAL_UNIT_RESET and not reset(found):
        found.raise_attention(BUS_DEVICE_RESET_FUNCTION)
    # To QUERY TASK and QUERY TASK SET: there is none; FUNCTION SUCCEEDED would say that there is.
    return Response.OK
