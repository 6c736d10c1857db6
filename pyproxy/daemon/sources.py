"""What a daemon can tell of itself without asking any device: for its metrics, its status page and ``pyproxy top``."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pyproxy.daemon.capacities import Capacities
from pyproxy.daemon.documents import MigrationsDocument, StatusDocument
from pyproxy.daemon.front_ends import FrontEnds
from pyproxy.daemon.host import Host, Key, OpenUnit
from pyproxy.daemon.live import LiveDocument, live
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.migrations import MigrationFigures, Migrations
from pyproxy.daemon.watcher import Watcher
from pyproxy.frontend.virtio_scsi.traffic import Traffic
from pyproxy.tally import Spread


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """How the store is doing: ``last`` is when the last commit ended (seconds since 1970, 0: none yet)."""

    commits: Spread
    last: float
    failures: dict[tuple[str, ...], int]


class Sources:
    """A daemon's, which was ``started`` at so many seconds since 1970.

    Methods may be called from any thread and raise what reading the store raises.
    """

    def __init__(
        self,
        host: Host,
        front_ends: FrontEnds,
        migrations: Migrations,
        watcher: Watcher,
        capacities: Capacities,
        started: float,
    ) -> None:
        self.started = started
        self._host = host
        self._front_ends = front_ends
        self._migrations = migrations
        self._watcher = watcher
        self._capacities = capacities
        self._operations = LocalOperations(host, front_ends)

    def status(self) -> StatusDocument:
        """Return every guest and unit as it is tracked."""
        return self._operations.glance()

    def migrations(self) -> MigrationsDocument:
        """Return what is known of migrations."""
        return self._migrations.status()

    def figures(self) -> MigrationFigures:
        """Return what was counted of migrations."""
        return self._migrations.figures

    def why_shut(self, guest: str) -> str | None:
        """Return why a guest is not served, or None."""
        return self._front_ends.gates.why(guest)

    def traffic(self, guest: str) -> Mapping[int, Traffic]:
        """Return what passes to a guest's units, by LUN."""
        return self._front_ends.vhost_user.traffic(guest)

    def units(self) -> Mapping[Key, OpenUnit]:
        """Return the units that are open."""
        return {found.key: found for found in self._host.open_units()}

    def hotplug(self) -> Mapping[tuple[str, ...], int]:
        """Return events by guest, LUN and kind: detached, attached, resized."""
        resized = {(*names, "resized"): count for names, count in self._capacities.changes.read().items()}
        return self._watcher.events.read() | resized

    def store(self) -> StoreFigures | None:
        """Return how the store is doing; None where it is not open."""
        store = self._host.opened_store
        return None if store is None else StoreFigures(store.commits, store.last_commit, store.failures.read())

    def live(self) -> LiveDocument:
        """Return what passes now; raises what reading the store raises."""
        return live(self, time.time())
