"""Makes a guest's registration at this host whole again where the other host died while it took the claim over.

The dead host may have registered the guest's key K at its own nexus, and had this host's registration changed to a
random key N, under which this host then holds the reservation. Nothing else speaks for the guest any more, so it is
put right from here, whatever another node does meanwhile:

    this nexus has K, and so has the dead one:  REGISTER K -> N here, then as below
    this nexus has N, the dead one K:           PREEMPT K by N, REGISTER N -> K
    this nexus has N, nobody K:                 the guest was fenced: a PREEMPT of K met the dead nexus. REGISTER N -> 0

The dead nexus' registration with K thus tells that the guest was not fenced, up to the PREEMPT that removes it. Where
other nodes share K, a PREEMPT would meet them, so that registration stays and is read once more at the end.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum, auto
from typing import Final

import msgspec

from pyproxy.migration.checkpoint import Checkpoint
from pyproxy.migration.guest import MigratingUnit
from pyproxy.migration.unit import identify
from pyproxy.reservation.facts import UNSAFE_VENDORS
from pyproxy.reservation.snapshot import Snapshot, drive, past_attentions, read_snapshot
from pyproxy.scsi.command import Command
from pyproxy.scsi.constants import PrOutAction, PrType
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import BASIC_SIZE, ParameterList
from pyproxy.scsi.sense import Sense

log = logging.getLogger(__name__)

_SHARED: Final = "other nodes share that key and a PREEMPT would remove them too"
_UNSAFE: Final = "this target cannot PREEMPT under a reservation of all registrants"
_NO_HOLDER: Final = PrType.WRITE_EXCLUSIVE
"""The type field of a PREEMPT that takes no reservation: 0 is refused by LIO and SCST."""


class Stage(StrEnum):
    """How far the removal of the dead nexus' registration is."""

    NAMED = auto()
    """This nexus may have the random key."""
    REMOVING = auto()
    """The PREEMPT may have been sent."""
    REMOVED = auto()
    """It was answered GOOD: that K is gone is our own doing."""


class Repair(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is durable of a repair: its random key, 16 hexadecimal digits, and the stage."""

    key: str
    stage: Stage

    @property
    def number(self) -> int:
        """The key as a number."""
        return int(self.key, 16)


class End(StrEnum):
    """How it stands with this host's nexus."""

    WHOLE = auto()
    """It is registered with the guest's key, and holds what the guest held."""
    FENCED = auto()
    """The guest was fenced; nothing is registered for it any more."""
    NOT_HERE = auto()
    """It is registered with none of the keys: the claim has left, or was fenced at this nexus."""
    UNSURE = auto()
    """K is gone, and whether by a fence or by our own PREEMPT is not known; only a person can say."""


@dataclass(frozen=True, slots=True)
class Repaired:
    """The end, and a sentence for the operator where there is something to know."""

    end: End
    sentence: str = ""


class RepairError(OSError):
    """A command did not end in a way that tells what to do; nothing is lost by trying again."""


def repair(
    unit: MigratingUnit,
    claim: Checkpoint,
    lent: Iterable[int],
    known: Repair | None,
    keep: Callable[[Repair], None],
    draw: Callable[[frozenset[int]], int],
    *,
    fence_ruled_out: bool,
) -> Repaired:
    """Bring this host's nexus back to the claim's key; safe to repeat. Call with the unit's lock held.

    ``lent`` are the keys that the dead host had registered through this nexus; ``known`` is what was kept of an
    earlier try, ``keep`` makes it durable. ``fence_ruled_out`` answers UNSURE. Raises RepairError, SnapshotError and
    what the device raises.
    """
    return _Nexus(unit, claim, known, keep, fence_ruled_out).repair(tuple(lent), draw)


class _Nexus:
    def __init__(
        self,
        unit: MigratingUnit,
        claim: Checkpoint,
        known: Repair | None,
        keep: Callable[[Repair], None],
        fence_ruled_out: bool,
    ) -> None:
        self._unit = unit
        self._key = claim.key
        self._shared = claim.keys.count(claim.key) - 1
        self._type = claim.held or _NO_HOLDER
        self._aptpl = bool(claim.nexus.aptpl)
        self._known = known
        self._keep_row = keep
        self._fence_ruled_out = fence_ruled_out

    def repair(self, lent: tuple[int, ...], draw: Callable[[frozenset[int]], int]) -> Repaired:
        own = self._own(lent)
        if own is None:
            return Repaired(End.NOT_HERE)
        snapshot = self._read()
        if own == self._key:
            if self._count(snapshot) <= 1 + self._shared:
                return Repaired(End.WHOLE)
            if self._shared:
                return Repaired(End.WHOLE, self._left(_SHARED))
            if self._type.all_registrants and identify(self._unit.port).vendor in UNSAFE_VENDORS:
                return Repaired(End.WHOLE, self._left(_UNSAFE))
            own = draw(frozenset(snapshot.keys))
            self._keep(own, Stage.NAMED)
            if not self._register(self._key, own):
                raise RepairError("the registration was changed meanwhile; it is looked at again")
        return self._from(own)

    def _from(self, own: int) -> Repaired:
        """Go on with the random key at this nexus."""
        known = self._known
        stage = known.stage if known is not None and known.number == own else Stage.NAMED
        if stage is not Stage.REMOVED and self._count(self._read()) <= self._shared:
            if stage is not Stage.REMOVING:
                return self._fenced(own)
            if not self._fence_ruled_out:
                return Repaired(
                    End.UNSURE,
                    f"{self._unit.port.name}: the dead host's registration with the guest's key is gone, by a PREEMPT "
                    "of this host that was interrupted or by a fence of another node; where no node fenced the guest "
                    "say so: pyproxy migrate GUEST --cancel --destination-dead --fence-ruled-out",
                )
        elif self._shared:
            return self._renamed_beside(own)
        elif stage is not Stage.REMOVED:
            self._keep(own, Stage.REMOVING)
            if not self._preempt(own):
                self._keep(own, Stage.NAMED)
                raise RepairError("a registration was changed meanwhile; it is looked at again")
            self._keep(own, Stage.REMOVED)
        if not self._register(own, self._key):
            return Repaired(End.NOT_HERE)
        return Repaired(End.WHOLE)

    def _renamed_beside(self, own: int) -> Repaired:
        """Others share K: the dead nexus' registration cannot be removed alone, and is the witness of a fence."""
        if not self._register(own, self._key):
            return Repaired(End.NOT_HERE)
        if self._count(self._read()) <= 1 + self._shared:
            return self._fenced(self._key)
        return Repaired(End.WHOLE, self._left(_SHARED))

    def _fenced(self, own: int) -> Repaired:
        self._register(own, 0)
        return Repaired(End.FENCED, f"{self._unit.port.name}: the guest was fenced while its claim was handed over")

    def _left(self, why: str) -> str:
        return (
            f"{self._unit.port.name}: the dead host's registration with the guest's key stays, because {why}; it ends "
            "when that host registers again or unregisters"
        )

    def _own(self, lent: tuple[int, ...]) -> int | None:
        """Which key this nexus has: REGISTER from a key to itself changes nothing and is refused to all others."""
        kept = (self._known.number,) if self._known is not None else ()
        return next((key for key in dict.fromkeys((self._key, *kept, *lent)) if self._register(key, key)), None)

    def _count(self, snapshot: Snapshot) -> int:
        return snapshot.keys.count(self._key)

    def _read(self) -> Snapshot:
        snapshot = drive(read_snapshot(full_status=False, capabilities=False), self._unit.port.execute)
        self._unit.heard(*snapshot.unit_attentions)
        return snapshot

    def _register(self, key: int, new: int) -> bool:
        return self._change(PrOutAction.REGISTER, 0, ParameterList(key, new, aptpl=self._aptpl))

    def _preempt(self, own: int) -> bool:
        return self._change(PrOutAction.PREEMPT, int(self._type), ParameterList(own, self._key))

    def _change(self, action: PrOutAction, kind: int, parameters: ParameterList) -> bool:
        """Whether it was GOOD; False for RESERVATION CONFLICT; raises RepairError, SnapshotError."""
        command = Command(PrOut(action, 0, kind, BASIC_SIZE).encode(), parameters.encode())
        attentions: list[Sense] = []
        try:
            result = drive(past_attentions(command, action.name, attentions), self._unit.port.execute)
        finally:
            self._unit.heard(*attentions)
        if not result.good and not result.conflict:
            raise RepairError(f"{action.name} on {self._unit.port.name} ended with {result.status:#04x}")
        log.info("%s on %s: %s", action.name, self._unit.port.name, "GOOD" if result.good else "RESERVATION CONFLICT")
        return result.good

    def _keep(self, own: int, stage: Stage) -> None:
        self._known = Repair(key=f"{own:016x}", stage=stage)
        self._keep_row(self._known)
