"""The SCSI domain of one controller: which of the guest's logical units answers at which target and LUN."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from pyproxy.frontend.virtio_scsi.lun import Address, check_address
from pyproxy.unit import GuestUnit


class Domain:
    """Targets with their logical units. Methods may be called from any thread; readers take no lock."""

    def __init__(self, units: Mapping[Address, GuestUnit] | None = None) -> None:
        self._lock = threading.Lock()
        self._units: dict[Address, GuestUnit] = {}
        for address, unit in (units or {}).items():
            self.add(address, unit)

    def add(self, address: Address, unit: GuestUnit) -> None:
        """Put a unit there; ValueError where one is, or where none can be."""
        check_address(address)
        with self._lock:
            if address in self._units:
                raise ValueError(f"there is a logical unit at target {address.target}, LUN {address.lun} already")
            self._units = self._units | {address: unit}

    def remove(self, address: Address) -> GuestUnit:
        """Take the unit away; KeyError where there is none."""
        with self._lock:
            unit = self._units[address]
            self._units = {known: other for known, other in self._units.items() if known != address}
            return unit

    def unit(self, address: Address) -> GuestUnit | None:
        """Return the unit there, None where there is none."""
        return self._units.get(address)

    def luns(self, target: int) -> tuple[int, ...]:
        """Return the LUNs of a target in order; none: there is no such target."""
        return tuple(sorted(address.lun for address in self._units if address.target == target))

    def units(self, target: int) -> tuple[GuestUnit, ...]:
        """Return the units of a target, by LUN."""
        known = self._units
        return tuple(known[address] for address in sorted(known) if address.target == target)

    @property
    def all_units(self) -> tuple[GuestUnit, ...]:
        """Every unit there is."""
        return tuple(self._units.values())

    @property
    def targets(self) -> tuple[int, ...]:
        """The targets that have units, in order."""
        return tuple(sorted({address.target for address in self._units}))
