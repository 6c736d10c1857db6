"""The wiring: constructs the store, snoopers and guests' units from the configuration, and connects them."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from msgspec.structs import replace

from pyproxy.config import Config, GuestSection, UnitSection
from pyproxy.daemon import failures
from pyproxy.daemon.away import Away, AwayError, nodes_to
from pyproxy.daemon.backing import Backing, Backings, OpenBacking
from pyproxy.daemon.documents import StrayIntents
from pyproxy.daemon.failures import NotFoundError, OperationError
from pyproxy.daemon.leftovers import stray_intents, takeovers
from pyproxy.daemon.lock import StateLock
from pyproxy.device.base import Device, TransportError, read_identity
from pyproxy.device.emulated.outcome import EmulatedUnitError
from pyproxy.device.node import identify_node
from pyproxy.migration.record import rfc3339
from pyproxy.reservation.poll import TryLock
from pyproxy.reservation.registry import Claim, UnitRegistry
from pyproxy.reservation.snapshot import SnapshotError
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import Suspicion
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import IscsiTransportId
from pyproxy.store.base import Store
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit

log = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, int]
"""Guest and LUN."""

STORE_FILE: Final = "reservations.sqlite3"
_UNNAMED: Final = "this host's path"


@dataclass(frozen=True, slots=True)
class OpenUnit:
    """A guest's unit that is open, and what it stands on."""

    section: UnitSection
    unit: GuestUnit
    identity: LogicalUnitIdentity
    backing: Backing
    claim: Claim
    lock: TryLock
    """The logical unit's lock, ``unit_lock`` of the snooper."""

    @property
    def key(self) -> Key:
        """Guest and LUN."""
        return self.unit.guest, self.unit.lun

    def close_device(self) -> None:
        """Close what it stands on, after the commands under way; that it cannot be closed is only logged."""
        try:
            self.backing.close()
        except OSError:
            log.exception("guest %s LUN %d: its device could not be closed", *self.key)


class Host:
    """The guests of one host. Nothing is opened or locked before it is needed; ``close`` releases everything.

    ``open_backing`` opens a unit's device. Methods may be called from any thread.
    """

    def __init__(self, config: Config, *, open_backing: OpenBacking | None = None) -> None:
        self.config = config
        self._open_backing = open_backing if open_backing is not None else Backings().open
        self._registry = UnitRegistry()
        # Leaf lock of the tables below; each unit is opened under a lock of its own, so that a stuck device holds up
        # nobody else.
        self._lock = threading.Lock()
        self._store_lock = threading.Lock()
        self._opening: dict[Key, threading.RLock] = {}
        self._units: dict[Key, OpenUnit] = {}
        self._away: dict[Key, Away] = {}
        self._state_lock: StateLock | None = None
        self._store: SqliteStore | None = None
        self._closed = False
        self._serving = False
        self.not_served: Callable[[str], str | None] = lambda _: None
        """Why a guest is not served on this host; None where it is. Set before ``open_all``."""

    @property
    def store(self) -> Store:
        """The store, opened under the exclusive lock of the state directory. Raises StateLockedError, StoreError."""
        with self._store_lock:
            if self._closed:
                raise OperationError(f"{self.config.daemon.host_name} is being stopped; ask again later", "stopping")
            if self._state_lock is None:
                self._state_lock = StateLock(self.config.daemon.state_dir)
            if self._store is None:
                self._store = SqliteStore(self.config.daemon.state_dir / STORE_FILE)
            return self._store

    def open_all(self) -> None:
        """Open the store and every unit, read every unit's reservations back, and adopt where it is configured.

        A unit that cannot be used is logged and tried again when it is asked for; the others are served. Raises what
        ``store`` raises.
        """
        _ = self.store
        self._serving = True
        self._open_each()
        self._tell_leftovers()

    def reload(self, config: Config) -> list[OpenUnit]:
        """Go on with another configuration that has all guests and units of this one, and open what it adds.

        As with ``open_all``, a unit that cannot be used is logged. Returns the units that it made larger.
        """
        self.config = config
        grown = [found for found in self.open_units() if self._grow(found)]
        self._open_each()
        return grown

    def _grow(self, found: OpenUnit) -> bool:
        """Give an emulated unit the size that is configured; whether it did."""
        wanted = self.section(*found.key).emulated
        if wanted is None or found.backing.grow is None or wanted == found.section.emulated:
            return False
        try:
            found.backing.grow(wanted)
        except (EmulatedUnitError, ValueError) as error:
            log.error("guest %s LUN %d does not grow: %s", *found.key, error)  # noqa: TRY400
            return False
        return True

    def _open_each(self) -> None:
        for guest, section in self.config.units():
            try:
                self.open_unit(guest.name, section.lun)
            except Exception as error:
                told = failures.sentence(error)
                if told is None:
                    raise
                log.error("guest %s LUN %d cannot be served now: %s", guest.name, section.lun, told)  # noqa: TRY400

    def _tell_leftovers(self) -> None:
        for taken in takeovers(self.store.journals()):
            log.warning(
                "guest %s on %s: a takeover (%s) was begun %s and has not ended; restore the same checkpoint again",
                taken.guest,
                taken.unit,
                taken.id,
                taken.started,
            )
        for stray in self.stray_intents():
            log.warning(
                "guest %s on %s: %d PERSISTENT RESERVE OUT of unknown outcome, but it is not configured; configure it "
                "again to have that resolved",
                stray.guest,
                stray.unit,
                stray.open_intents,
            )

    def stray_intents(self) -> list[StrayIntents]:
        """Return the open intents that none of the configured units resolves."""
        names: dict[str, list[str]] = {}
        for found in self.open_units():
            names.setdefault(found.unit.guest, []).append(found.unit.snooper.identity_name)
        return stray_intents(self.store.open_intents(), self.config, names)

    def unit(self, guest: str, lun: int) -> GuestUnit:
        """Return a guest's unit, opened. Raises NotFoundError, and what opening raises."""
        return self.open_unit(guest, lun).unit

    def open_unit(self, guest: str, lun: int) -> OpenUnit:
        """Return a guest's unit with what belongs to it, opened and read back as far as the device allows."""
        section = self.section(guest, lun)
        key = (guest, lun)
        with self._lock:
            found = self._units.get(key)
            opening = self._opening.setdefault(key, threading.RLock())
        if found is not None:
            return found
        with opening:
            with self._lock:
                found, away = self._units.get(key), self._away.get(key)
            if found is None:
                owner = self._guest(guest)
                found = self._open(owner, section) if away is None else self._open_again(owner, section, away)
                with self._lock:
                    self._units[key] = found
                    self._away.pop(key, None)
        return found

    @property
    def opened_store(self) -> SqliteStore | None:
        """The store where it is open, to tell how it is doing."""
        return self._store

    def open_units(self) -> list[OpenUnit]:
        """Return the units that are open now."""
        with self._lock:
            return list(self._units.values())

    def away(self, guest: str, lun: int) -> Away | None:
        """Return what is known of a unit whose device was detached; None for one that is not away."""
        with self._lock:
            return self._away.get((guest, lun))

    def begin_absence(self, found: OpenUnit, others: frozenset[str]) -> bool:
        """Note that the device of an open unit was detached: nobody finds the unit from now on.

        ``others`` are the addresses of other paths to it. Returns False where it was noted before.
        """
        assert found.backing.kind is not None
        away = Away(found.identity, found.unit.device.name, rfc3339(time.time()), found.backing.kind, others)
        with self._lock:
            if self._units.get(found.key) is not found:
                return False
            del self._units[found.key]
            self._away[found.key] = away
        return True

    def end_absence(self, found: OpenUnit) -> None:
        """Release what a unit that is away stood on, once its front ends have let go of it: it can come back.

        Waits for the commands under way.
        """
        with found.unit.snooper.unit_lock:
            pass
        found.close_device()
        found.claim.release()
        away = self.away(*found.key)
        if away is not None:
            away.leaving = False

    def load_again(self, found: OpenUnit) -> None:
        """Make an open unit forget what it tracks and load it from the store, after a takeover wrote it there."""
        found.unit.snooper.load()
        _read_back(found.unit)

    def section(self, guest: str, lun: int) -> UnitSection:
        """Return the configuration of a guest's unit; raises NotFoundError."""
        units = self.sections(guest)
        found = next((unit for unit in units if unit.lun == lun), None)
        if found is None:
            known = ", ".join(str(unit.lun) for unit in units)
            raise NotFoundError(f"guest {guest} has no LUN {lun} ({self.config.source}); its LUNs: {known}")
        return found

    def sections(self, guest: str) -> tuple[UnitSection, ...]:
        """Return the configuration of a guest's units; raises NotFoundError."""
        return self._guest(guest).unit

    def find_node(self, path: str) -> Key | None:
        """Return guest and LUN of the unit that is configured on the node ``path``, by whatever name, or None."""
        wanted, node = os.path.realpath(path), _scsi_device(path)
        with self._lock:
            opened, away = dict(self._units), set(self._away)
        for guest, unit in self.config.units():
            key = (guest.name, unit.lun)
            if unit.device is None or key in away:
                continue  # what has the node of a unit that is away is another one
            if key in opened and opened[key].backing.address is not None and node is not None:
                if opened[key].backing.address == node.name:
                    return key
                continue
            if os.path.realpath(unit.device) == wanted or (node is not None and _scsi_device(unit.device) == node):
                return guest.name, unit.lun
        return None

    def unit_lock(self, name: str) -> AbstractContextManager[object]:
        """Return the lock of the logical unit ``name`` (its identity name), whether or not a guest here has it."""
        return self._registry.lock(name)

    def close(self, leave: Collection[Key] = ()) -> None:
        """Release every unit, the store and the lock; safe to repeat.

        The devices of ``leave`` (guest and LUN) are not closed: a command that is running there would be waited for.
        """
        with self._lock:
            units, self._units = list(self._units.values()), {}
        for unit in units:
            unit.claim.release()
            if unit.key not in leave:
                unit.close_device()
        with self._store_lock:
            self._closed = True
            if self._store is not None:
                self._store.close()
                self._store = None
            if self._state_lock is not None:
                self._state_lock.release()
                self._state_lock = None

    def _guest(self, name: str) -> GuestSection:
        guest = self.config.find_guest(name)
        if guest is None:
            known = ", ".join(guest.name for guest in self.config.guest)
            raise NotFoundError(f"there is no guest {name} ({self.config.source}); the guests: {known}")
        return guest

    def _open_again(self, guest: GuestSection, section: UnitSection, away: Away) -> OpenUnit:
        """Open a unit that was away by whatever node leads to it now."""
        who = f"guest {guest.name} LUN {section.lun}: {away.name} ({away.identity.name})"
        if away.leaving:
            raise AwayError(f"{who} was detached, the commands it had are waited for")
        problem: str | None = None
        for node in nodes_to(away):
            try:
                return self._open(guest, section, away, node)
            except Exception as error:
                told = failures.sentence(error)
                if told is None:
                    raise
                problem = told
        what = problem or "attach it again, the node may be another one then"
        raise AwayError(f"{who} was detached {away.since}; {what}", problem)

    def _open(
        self, guest: GuestSection, section: UnitSection, away: Away | None = None, node: Path | None = None
    ) -> OpenUnit:
        """Open a unit as it is configured, or one that was away by another node; raises where it is another one."""
        _ = self.store
        backing = self._open_backing(self.config, guest, section if node is None else replace(section, device=node))
        try:
            eaten: list[Sense] = []
            identity = read_identity(backing.device, eaten.append)
            if away is not None:
                _check_same(away, identity, backing.device)
            name = _store_name(guest, section, backing.device, identity)
            claim = self._claim(guest, section, identity, backing)
            try:
                unit = self._guest_unit(guest, section, backing, name)
                unit.snooper.received(*eaten)
                if backing.loss is not None:
                    backing.loss.listen(lambda: unit.snooper.suspect(Suspicion.NEXUS_LOST))
                _read_back(unit)
                if self._serving and section.adopt and self.not_served(guest.name) is None:
                    _adopt(unit)
            except BaseException:
                claim.release()
                raise
        except BaseException:
            backing.close()
            raise
        return OpenUnit(section, unit, identity, backing, claim, self._registry.lock(name))

    def _guest_unit(self, guest: GuestSection, section: UnitSection, backing: Backing, name: str) -> GuestUnit:
        snooper = Snooper(
            guest.name,
            section.lun,
            name,
            self.store,
            migrate_pr=guest.migrate_pr,
            initiator=backing.initiator,
            rtpi=backing.rtpi,
            unit_lock=self._registry.lock(name),
        )
        return GuestUnit(guest.name, section.lun, backing.device, snooper, rawio=guest.rawio)

    def _claim(
        self, guest: GuestSection, section: UnitSection, identity: LogicalUnitIdentity, backing: Backing
    ) -> Claim:
        """Refuse a second guest on one nexus: nexuses differ only where both are named and the names differ."""
        name = _nexus_name(backing)
        with self._lock:
            others = list(self._units.values())
        for other in others:
            if other.identity.matches(identity) and _UNNAMED in (name, other.claim.nexus):
                return self._registry.claim(other.claim.unit, other.claim.nexus, guest.name, section.lun)
        return self._registry.claim(identity.name, name, guest.name, section.lun)


def _check_same(away: Away, identity: LogicalUnitIdentity, device: Device) -> None:
    if not away.is_same(identity):
        raise AwayError(f"{device.name} is {identity.name}, not {away.identity.name}; it is left alone")


def _nexus_name(backing: Backing) -> str:
    initiator, rtpi = backing.initiator, backing.rtpi
    if isinstance(initiator, IscsiTransportId) and initiator.isid is not None:
        # A session's own: guests with initiator names of their own differ, whatever target port they end at.
        return str(initiator)
    return _UNNAMED if initiator is None or rtpi is None else f"{initiator} to target port {rtpi}"


def _store_name(guest: GuestSection, section: UnitSection, device: Device, identity: LogicalUnitIdentity) -> str:
    """Return what the unit is called in the store: its world-wide name, which a migration needs anyway."""
    if identity.unique:
        return identity.name
    if guest.migrate_pr:
        raise OperationError(
            f"guest {guest.name} LUN {section.lun}: {device.name} has no world-wide unique name in VPD page 83h, no "
            "other host could recognise it; use another device, or set migrate_pr = false for this guest",
            "no-identity",
        )
    return f"{identity.name} at {device.name}"


def _scsi_device(path: str | os.PathLike[str]) -> Path | None:
    """Return what /dev/sgN, /dev/sdX and bsg nodes of one SCSI device have in common; None for anything else."""
    try:
        return identify_node(os.fspath(path), Path(path).stat()).device
    except OSError:
        return None


def _read_back(unit: GuestUnit) -> None:
    try:
        unit.resync()
    except (SnapshotError, TransportError) as error:
        log.warning("guest %s LUN %d: stays suspect: %s", unit.guest, unit.lun, failures.sentence(error))


def _adopt(unit: GuestUnit) -> None:
    try:
        unit.adopt()  # logs what it came to
    except (SnapshotError, TransportError) as error:
        log.warning("guest %s LUN %d: nothing is adopted: %s", unit.guest, unit.lun, failures.sentence(error))
