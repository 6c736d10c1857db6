"""Who uses which nexus of which logical unit in this process, and the lock of each logical unit."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self


class NexusInUseError(Exception):
    """Two guests on one I_T nexus and one logical unit: they would share one registration and corrupt each other."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Exclusive use of one I_T nexus of one logical unit; a context manager, or ``release`` it."""

    unit: str
    nexus: str
    guest: str
    lun: int
    _registry: UnitRegistry = field(repr=False, compare=False)

    def release(self) -> None:
        """Let another guest have the nexus; safe to repeat."""
        self._registry._release(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


class UnitRegistry:
    """Shared by all guests of a process; logical units are told apart by identity name, whatever their path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[str, threading.RLock] = {}
        self._claims: dict[tuple[str, str], Claim] = {}

    def lock(self, unit: str) -> threading.RLock:
        """Return the lock that serialises PERSISTENT RESERVE OUTs of a logical unit with the reads that follow them."""
        with self._lock:
            return self._locks.setdefault(unit, threading.RLock())

    def claim(self, unit: str, nexus: str, guest: str, lun: int) -> Claim:
        """Take an I_T nexus of a logical unit for one LUN of one guest; raises NexusInUseError.

        ``nexus`` names the path as the unit sees it: initiator port and target port. One guest may have a unit once,
        because its state is kept under the guest and the unit.
        """
        with self._lock:
            holder = self._claims.get((unit, nexus))
            if holder is not None:
                raise NexusInUseError(
                    f"guest {guest} LUN {lun}: logical unit {unit} is served to guest {holder.guest} LUN {holder.lun} "
                    f"through the same nexus {nexus}; they would share one registration: give each guest an initiator "
                    "of its own, or remove one of the two"
                )
            twin = next((one for one in self._claims.values() if (one.unit, one.guest) == (unit, guest)), None)
            if twin is not None:
                raise NexusInUseError(
                    f"guest {guest} LUN {lun}: logical unit {unit} is LUN {twin.lun} of this guest already, through "
                    f"{twin.nexus}; what it reserves there is kept once for each unit: remove one of the two"
                )
            claim = Claim(unit, nexus, guest, lun, self)
            self._claims[unit, nexus] = claim
            return claim

    def _release(self, claim: Claim) -> None:
        with self._lock:
            if self._claims.get((claim.unit, claim.nexus)) is claim:
                del self._claims[claim.unit, claim.nexus]
