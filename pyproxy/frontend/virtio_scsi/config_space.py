"""The configuration space of a virtio-scsi controller (virtio 1.2, 5.6.4): 36 bytes, little-endian.

QEMU serves it from its own properties and takes CONFIG from a back end that offers it, so a front end of ours does
not offer it; a driver reads it here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Self

from pyproxy.frontend.virtio_scsi.lun import LARGEST_LUN, LARGEST_TARGET

SIZE: Final = 36
SENSE_SIZE: Final = 96
CDB_SIZE: Final = 32

_LAYOUT = struct.Struct("<7I2HI")


@dataclass(frozen=True, slots=True)
class ControllerConfig:
    """What the driver may read, with the values QEMU gives; ``max_sectors`` counts 512-byte units."""

    num_queues: int = 1
    seg_max: int = 126
    max_sectors: int = 65535
    cmd_per_lun: int = 128
    event_info_size: int = 16
    sense_size: int = SENSE_SIZE
    cdb_size: int = CDB_SIZE
    max_channel: int = 0
    max_target: int = LARGEST_TARGET
    max_lun: int = LARGEST_LUN

    def encode(self) -> bytes:
        """Return the 36 bytes; raises ValueError where a value does not fit its field."""
        try:
            return _LAYOUT.pack(
                self.num_queues,
                self.seg_max,
                self.max_sectors,
                self.cmd_per_lun,
                self.event_info_size,
                self.sense_size,
                self.cdb_size,
                self.max_channel,
                self.max_target,
                self.max_lun,
            )
        except struct.error as error:
            raise ValueError(f"{self} does not fit its fields: {error}") from None

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read 36 bytes; raises ValueError."""
        if len(data) != SIZE:
            raise ValueError(f"the configuration space has {SIZE} bytes, got {len(data)}")
        return cls(*_LAYOUT.unpack(data))

    def written(self, offset: int, data: bytes) -> Self:
        """Return the space after a driver wrote to it.

        Only sense_size and cdb_size are writable, and other values than 96 and 32 are refused as QEMU's vhost devices
        refuse them: raises ValueError.
        """
        if offset < 0 or offset + len(data) > SIZE:
            raise ValueError(f"{len(data)} bytes at offset {offset} are outside the configuration space")
        before = self.encode()
        after = type(self).decode(before[:offset] + data + before[offset + len(data) :])
        if after != self:
            raise ValueError(f"{data.hex()} at offset {offset} of the configuration space changes what is fixed")
        return after
