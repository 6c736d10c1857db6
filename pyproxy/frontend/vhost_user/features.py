"""What is offered to a front end, and what is refused when it is set without having been offered.

QEMU acknowledges every protocol feature that it knows and is offered, so only what is implemented is. Several virtio
features it does not filter by the back end's offer: they are set whether we offer them or not.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ProtocolFeature(IntEnum):
    """Bit numbers of the vhost-user protocol features that are named here."""

    MQ = 0
    LOG_SHMFD = 1
    REPLY_ACK = 3
    BACKEND_REQ = 5
    PAGEFAULT = 8
    CONFIG = 9
    INFLIGHT_SHMFD = 12
    RESET_DEVICE = 13
    INBAND_NOTIFICATIONS = 14
    CONFIGURE_MEM_SLOTS = 15
    STATUS = 16
    SHARED_OBJECT = 18
    DEVICE_STATE = 19
    GET_VRING_BASE_SKIP_DRAIN = 23


class Feature(IntEnum):
    """Bit numbers of the virtio (1.2, 5.6.3 and 6) and vhost features that are named here."""

    SCSI_HOTPLUG = 1
    SCSI_CHANGE = 2
    SCSI_T10_PI = 3
    LOG_ALL = 26
    ANY_LAYOUT = 27
    INDIRECT_DESC = 28
    EVENT_IDX = 29
    PROTOCOL_FEATURES = 30
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    NOTIFICATION_DATA = 38
    RING_RESET = 40


def bits_of(*features: int) -> int:
    """Return the mask of bit numbers."""
    mask = 0
    for feature in features:
        mask |= 1 << feature
    return mask


OFFERED_PROTOCOL: Final = bits_of(
    ProtocolFeature.MQ,
    ProtocolFeature.LOG_SHMFD,
    ProtocolFeature.REPLY_ACK,
    ProtocolFeature.INFLIGHT_SHMFD,
    ProtocolFeature.RESET_DEVICE,
    ProtocolFeature.CONFIGURE_MEM_SLOTS,
)

OFFERED: Final = bits_of(
    Feature.SCSI_HOTPLUG,
    Feature.LOG_ALL,
    Feature.ANY_LAYOUT,
    Feature.INDIRECT_DESC,
    Feature.EVENT_IDX,
    Feature.PROTOCOL_FEATURES,
    Feature.VERSION_1,
)

IMPOSSIBLE: Final = bits_of(
    Feature.ACCESS_PLATFORM,
    Feature.RING_PACKED,
    Feature.IN_ORDER,
    Feature.NOTIFICATION_DATA,
    Feature.RING_RESET,
)
"""They change the format of the rings or what addresses mean: refused. Other bits that were not offered change
nothing here, and QEMU sets some of them all the same (``param_change=on`` is SCSI_CHANGE)."""


def has(mask: int, feature: int) -> bool:
    """Whether a mask has the bit of a feature."""
    return bool(mask >> feature & 1)
