"""Whether a SCSI device that was attached once still is, whatever has its names and numbers now."""

from __future__ import annotations

import os


class Presence:
    """Holds a file of the device's in sysfs, which can be read as long as that very device is attached.

    ``descriptor`` is closed with the last reference.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def __del__(self) -> None:
        os.close(self.descriptor)

    @property
    def attached(self) -> bool:
        """Whether the device is still attached."""
        try:
            return bool(os.pread(self.descriptor, 1, 0))
        except OSError:
            return False
