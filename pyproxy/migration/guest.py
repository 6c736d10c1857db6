"""What a migration needs of the daemon it runs in: the guest's units, and the gate through which it is served."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from pyproxy.migration.checkpoint import Checkpoint
from pyproxy.migration.messages import PathFacts
from pyproxy.reservation.executor import Port
from pyproxy.reservation.facts import Nexus
from pyproxy.scsi.sense import Sense
from pyproxy.store.base import Store


class MigratingUnit(Protocol):
    """One logical unit of the guest as this host reaches it."""

    @property
    def lun(self) -> int:
        """Its LUN at the guest."""

    @property
    def port(self) -> Port:
        """The device; commands sent there pass neither gate nor snooper."""

    @property
    def nexus(self) -> Nexus | None:
        """How READ FULL STATUS names this host's nexus, where known."""

    @property
    def facts(self) -> PathFacts:
        """The unit and the path to it, for the other side."""

    @property
    def lock(self) -> AbstractContextManager[object]:
        """Held while the claim is read or moved: nothing else of this daemon uses the nexus for reservations then."""

    def blocker(self) -> str | None:
        """Why the guest's claim could not be moved now (``migrate_pr`` off, SPC-2 RESERVE, ALL_TG_PT), or None."""

    def capture(self) -> Checkpoint:
        """Read the device and write the claim down; raises CheckpointRefusedError and what the device raises."""

    def load(self) -> None:
        """Forget what is tracked, load it from the store and read the device, after the claim has moved."""

    def heard(self, *attentions: Sense) -> None:
        """Keep unit attentions that were received here and are the guest's."""


class MigrationHost(Protocol):
    """The daemon, as migrations see it. Methods may be called from any thread."""

    @property
    def name(self) -> str:
        """This host's name."""

    @property
    def boot_id(self) -> str:
        """Which kernel this is: paths with one address are one I_T nexus on one kernel only."""

    @property
    def store(self) -> Store:
        """The durable state."""

    def units(self, guest: str) -> Sequence[MigratingUnit]:
        """Return the guest's units in LUN order, open; raises OperationError and the like where that fails."""

    def unit(self, guest: str, lun: int) -> MigratingUnit:
        """Return one of the guest's units, open; raises as ``units`` does."""

    def shut_gate(self, guest: str, why: str) -> None:
        """Serve no command of the guest from now on; ``why`` is told to whoever asks.

        Returns when no new one can begin; what began before goes on. Safe to repeat.
        """

    def drain(self, guest: str, seconds: float) -> bool:
        """Wait, with the gate shut, until the guest's commands have ended; False where some have not."""

    def open_gate(self, guest: str) -> None:
        """Serve the guest again; safe to repeat."""

    def running(self, guest: str) -> bool:
        """Whether a front end has started rings of the guest here and not stopped them, gate open or shut."""

    def halted(self, guest: str) -> None:
        """Note that the guest has stopped, though no front end has said so."""


class GuestEvents(Protocol):
    """What front ends tell migrations. Called in a front end's thread, gate open or shut."""

    def stopped(self, guest: str) -> None:
        """Hear that the last request ring was stopped (GET_VRING_BASE); the reply waits until this returns.

        A handover that is armed for this runs inside.
        """

    def started(self, guest: str) -> None:
        """Hear that a request ring was started; commands wait where the gate is shut. Does not block."""

    def left(self, guest: str) -> None:
        """Hear that the front end has closed its connection. Does not block."""
