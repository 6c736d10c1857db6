"""The one exception that SCSI codecs raise for bytes they cannot read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyproxy.scsi.sense import Sense


class DecodeError(ValueError):
    """Bytes from a guest or a device do not have the layout the standard gives them.

    The message names what was read, at which offset, and what was got and expected. ``sense`` is what a
    device server answers to such a command (sense key, ASC, ASCQ), or None where nothing is answered because
    the bytes came from a device.
    """

    def __init__(self, message: str, *, sense: Sense | None = None) -> None:
        super().__init__(message)
        self.sense = sense
