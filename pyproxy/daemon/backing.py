"""What a guest's unit stands on: a device node or an emulated unit, opened as the configuration says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from pyproxy.config import Config, GuestSection, UnitSection, emulated_serial
from pyproxy.daemon.failures import OperationError
from pyproxy.device.base import Device
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.device.sg import SgDevice
from pyproxy.scsi.transport_id import SasTransportId, TransportId


@dataclass(frozen=True, slots=True)
class Backing:
    """An open device; ``initiator`` and ``rtpi`` name the nexus where they are known. ``close`` releases it.

    ``address`` is H:C:T:L as the kernel counts it, None where the kernel does not know the device.
    """

    device: Device
    initiator: TransportId | None
    rtpi: int | None
    close: Callable[[], None]
    address: str | None = None


OpenBacking: TypeAlias = Callable[[Config, GuestSection, UnitSection], Backing]


def open_backing(config: Config, guest: GuestSection, section: UnitSection) -> Backing:
    """Open what ``section`` names. Raises TransportError, OperationError."""
    if section.device is not None:
        node = SgDevice.open(section.device, threads=section.threads, engine=section.engine)
        return Backing(node, section.initiator, section.rtpi, node.close, node.node.address)
    assert section.emulated is not None
    emulated = section.emulated
    if emulated.path is not None and not emulated.path.parent.is_dir():
        where = f"guest {guest.name} LUN {section.lun}"
        raise OperationError(f"{where}: the directory {emulated.path.parent} does not exist; make it", "no-directory")
    unit = EmulatedUnit(
        emulated.size,
        path=emulated.path,
        block_size=emulated.block_size,
        serial=emulated_serial(config, guest, section),
    )
    initiator, rtpi = section.initiator or host_port(config), section.rtpi or 1
    return Backing(unit.nexus(initiator, rtpi), initiator, rtpi, unit.close)


def host_port(config: Config) -> TransportId:
    """Return the initiator port of guests on emulated units where none is configured: one for each host name."""
    digest = hashlib.sha256(config.daemon.host_name.encode()).digest()
    return SasTransportId(bytes([0x30 | digest[0] & 0x0F, *digest[1:8]]))  # NAA 3h: locally assigned (SPC-4 7.8.6.6)
