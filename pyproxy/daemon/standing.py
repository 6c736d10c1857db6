"""The daemon as migrations see it: the guests' units that are open here, and the gates they are served through."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from pyproxy.daemon.gates import Gates
from pyproxy.daemon.host import Host, OpenUnit
from pyproxy.migration.capture import take_checkpoint
from pyproxy.migration.checkpoint import Checkpoint, Unit
from pyproxy.migration.messages import PathFacts
from pyproxy.migration.record import rfc3339
from pyproxy.reservation.executor import Port
from pyproxy.reservation.facts import Nexus
from pyproxy.scsi.sense import Sense
from pyproxy.store.base import Store

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class StandingUnit:
    """One open unit (``guest.MigratingUnit``)."""

    def __init__(self, host: Host, found: OpenUnit) -> None:
        self._host = host
        self._found = found

    @property
    def lun(self) -> int:
        """See MigratingUnit."""
        return self._found.unit.lun

    @property
    def port(self) -> Port:
        """See MigratingUnit."""
        return self._found.unit.device

    @property
    def nexus(self) -> Nexus | None:
        """See MigratingUnit."""
        return nexus_of(self._found)

    @property
    def facts(self) -> PathFacts:
        """See MigratingUnit."""
        found, nexus = self._found, self.nexus
        return PathFacts(
            lun=self.lun,
            unit=Unit.of(found.identity),
            initiator=None if nexus is None else str(nexus.transport_id),
            rtpi=None if nexus is None else nexus.rtpi,
            address=found.backing.address,
        )

    @property
    def lock(self) -> AbstractContextManager[object]:
        """See MigratingUnit."""
        return self._found.unit.snooper.unit_lock

    def blocker(self) -> str | None:
        """See MigratingUnit."""
        unit = self._found.unit
        if not unit.snooper.migrate_pr:
            return "migrate_pr is off for this guest: set migrate_pr = true and let the guest register again"
        if unit.state.spc2_reserved:
            return "the guest holds an SPC-2 RESERVE, which cannot be moved to another host; have it RELEASE the unit"
        if unit.state.all_tg_pt:
            return "the guest is registered through every target port (ALL_TG_PT), which cannot be moved"
        if not self._found.identity.unique:
            return "the unit has no world-wide unique name in VPD page 83h, another host could take a wrong one for it"
        return None

    def capture(self) -> Checkpoint:
        """See MigratingUnit."""
        with self.lock:
            return checkpoint_of(self._found)

    def load(self) -> None:
        """See MigratingUnit."""
        self._host.load_again(self._found)

    def heard(self, *attentions: Sense) -> None:
        """See MigratingUnit."""
        self._found.unit.snooper.received(*attentions)


class Standing:
    """The daemon (``guest.MigrationHost``)."""

    def __init__(self, host: Host, gates: Gates) -> None:
        self._host = host
        self._gates = gates
        self._boot_id = BOOT_ID.read_text().strip()

    @property
    def name(self) -> str:
        """See MigrationHost."""
        return self._host.config.daemon.host_name

    @property
    def boot_id(self) -> str:
        """See MigrationHost."""
        return self._boot_id

    @property
    def store(self) -> Store:
        """See MigrationHost."""
        return self._host.store

    def units(self, guest: str) -> Sequence[StandingUnit]:
        """See MigrationHost."""
        luns = sorted(section.lun for section in self._host.sections(guest))
        return [self.unit(guest, lun) for lun in luns]

    def unit(self, guest: str, lun: int) -> StandingUnit:
        """See MigrationHost."""
        return StandingUnit(self._host, self._host.open_unit(guest, lun))

    def shut_gate(self, guest: str, why: str) -> None:
        """See MigrationHost."""
        self._gates.shut(guest, why)

    def drain(self, guest: str, seconds: float) -> bool:
        """See MigrationHost."""
        return self._gates.drain(guest, seconds)

    def open_gate(self, guest: str) -> None:
        """See MigrationHost."""
        self._gates.open(guest)

    def running(self, guest: str) -> bool:
        """See MigrationHost."""
        return self._gates.running(guest)

    def halted(self, guest: str) -> None:
        """See MigrationHost."""
        self._gates.set_running(guest, False)


def checkpoint_of(found: OpenUnit) -> Checkpoint:
    """Read an open unit and write down what its guest has there; call with its lock held.

    Raises CheckpointRefusedError, SnapshotError, TransportError, StoreError.
    """
    snooper = found.unit.snooper
    # Under the guest's own RESERVE some devices refuse to be read; take_checkpoint says what is in the way.
    state = found.unit.state if found.unit.state.spc2_reserved else found.unit.resync()
    checkpoint = take_checkpoint(
        found.unit.device,
        guest=found.unit.guest,
        lun=found.unit.lun,
        state=state,
        identity=found.identity,
        created_at=rfc3339(time.time()),
        pending=snooper.attentions.pending,
        descriptor_sense=snooper.attentions.descriptor,
        on_attention=snooper.received,
    )
    snooper.flush()
    return checkpoint


def nexus_of(found: OpenUnit) -> Nexus | None:
    """Return how READ FULL STATUS names the nexus of an open unit, where that is known."""
    if found.backing.initiator is None:
        return None
    return Nexus(found.backing.initiator, found.backing.rtpi)
