"""Requests of the control queue as bytes (virtio 1.2, 5.6.6.2): task management and asynchronous notification.

The device reads little-endian fields:

    task management   24: u32 type 0, u32 subtype, lun[8], u64 tag       answered with 1 byte: response
    notification      16: u32 type 1 or 2, lun[8], u32 events            answered with 5: u32 events, response
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

_TYPE = struct.Struct("<I")
_TASK_MANAGEMENT = struct.Struct("<II8sQ")
_NOTIFICATION = struct.Struct("<I8sI")
_NOTIFICATION_ANSWER = struct.Struct("<IB")


class ControlType(IntEnum):
    """What a control request is."""

    TASK_MANAGEMENT = 0
    AN_QUERY = 1
    AN_SUBSCRIBE = 2


class TaskManagement(IntEnum):
    """Task management functions (SAM-5 7)."""

    ABORT_TASK = 0
    ABORT_TASK_SET = 1
    CLEAR_ACA = 2
    CLEAR_TASK_SET = 3
    I_T_NEXUS_RESET = 4
    LOGICAL_UNIT_RESET = 5
    QUERY_TASK = 6
    QUERY_TASK_SET = 7


@dataclass(frozen=True, slots=True)
class TaskManagementRequest:
    """A task management function; ``subtype`` may be none that is known, ``lun`` is the field as it came."""

    subtype: int
    lun: bytes
    tag: int = 0

    def encode(self) -> bytes:
        """Return the 24 bytes."""
        return _TASK_MANAGEMENT.pack(ControlType.TASK_MANAGEMENT, self.subtype, self.lun, self.tag)

    def answer(self, response: int) -> bytes:
        """Return the answer."""
        return bytes([response])


@dataclass(frozen=True, slots=True)
class NotificationRequest:
    """AN QUERY, or with ``subscribe`` AN SUBSCRIBE; ``events`` is the mask asked for."""

    subscribe: bool
    lun: bytes
    events: int

    def encode(self) -> bytes:
        """Return the 16 bytes."""
        kind = ControlType.AN_SUBSCRIBE if self.subscribe else ControlType.AN_QUERY
        return _NOTIFICATION.pack(kind, self.lun, self.events)

    def answer(self, response: int) -> bytes:
        """Return the answer; no event is ever announced."""
        return _NOTIFICATION_ANSWER.pack(0, response)


LARGEST_REQUEST: Final = _TASK_MANAGEMENT.size


def decode_control(request: bytes) -> TaskManagementRequest | NotificationRequest | None:
    """Read a request of the control queue, whatever follows it; None where it is cut or of no known type."""
    if len(request) < _TYPE.size:
        return None
    (kind,) = _TYPE.unpack_from(request)
    if kind == ControlType.TASK_MANAGEMENT and len(request) >= _TASK_MANAGEMENT.size:
        _, subtype, lun, tag = _TASK_MANAGEMENT.unpack_from(request)
        return TaskManagementRequest(subtype, lun, tag)
    if kind in (ControlType.AN_QUERY, ControlType.AN_SUBSCRIBE) and len(request) >= _NOTIFICATION.size:
        _, lun, events = _NOTIFICATION.unpack_from(request)
        return NotificationRequest(kind == ControlType.AN_SUBSCRIBE, lun, events)
    return None
