"""One SCSI command and what became of it, the two values every part of pyproxy exchanges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pyproxy.scsi.constants import Status
from pyproxy.scsi.sense import Sense, decode_sense

type_of_buffer = bytes | bytearray | memoryview

DEFAULT_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class Command:
    """A CDB with its data buffers.

    ``cdb`` is 6 to 32 bytes. ``data_out`` is what goes to the device: one buffer, or several that are
    gathered in order. ``data_in`` is either how many bytes to accept (the result then carries them), or
    writable buffers that are filled in place in order (the result's ``data`` is then empty). At most one
    of the two directions is used. ``timeout_ms`` 0 means the back end's default.
    """

    cdb: bytes
    data_out: type_of_buffer | Sequence[type_of_buffer] = b""
    data_in: int | Sequence[bytearray | memoryview] = 0
    timeout_ms: int = DEFAULT_TIMEOUT_MS


@dataclass(frozen=True, slots=True)
class Result:
    """What a device answered; a SCSI failure is a result, not an error.

    ``status`` is the SAM status byte; ``sense`` what the transport wrote (empty without CHECK CONDITION);
    ``data`` the bytes received when the command asked by count; ``host_status`` and ``driver_status`` as
    in ``sg_io_hdr``; ``residual`` bytes asked for but not transferred; ``duration_ms`` as the kernel
    counted. Only with ``host_status`` 0 does ``status`` come from the device.
    """

    status: int
    sense: bytes = b""
    data: bytes = b""
    host_status: int = 0
    driver_status: int = 0
    residual: int = 0
    duration_ms: int = 0

    @property
    def good(self) -> bool:
        """Whether the command reached the device and ended with GOOD."""
        return self.status == Status.GOOD and self.host_status == 0

    @property
    def conflict(self) -> bool:
        """Whether the device answered RESERVATION CONFLICT."""
        return self.status == Status.RESERVATION_CONFLICT and self.host_status == 0

    @property
    def decoded_sense(self) -> Sense | None:
        """The sense data of a CHECK CONDITION, or None where the status carries none (SPC-4 4.5)."""
        if self.status != Status.CHECK_CONDITION or self.host_status != 0:
            return None
        return decode_sense(self.sense)
