"""The embedded logical unit: a conforming SCSI block device without hardware."""

from pyproxy.device.emulated.nexus import EmulatedNexus
from pyproxy.device.emulated.outcome import EmulatedUnitError
from pyproxy.device.emulated.unit import EmulatedUnit

__all__ = ["EmulatedNexus", "EmulatedUnit", "EmulatedUnitError"]
