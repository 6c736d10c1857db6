"""The operations of a host, carried out in this process."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from pyproxy import __version__
from pyproxy.config import GuestSection, UnitSection
from pyproxy.daemon import failures
from pyproxy.daemon.documents import (
    AdoptDocument,
    CapabilitiesDocument,
    FullStatusDocument,
    GuestStatus,
    KeysDocument,
    MigrationDocument,
    MigrationsDocument,
    RegistrationDocument,
    ReservationDocument,
    RestoreDocument,
    StatusDocument,
    UnitStatus,
    key_text,
    type_text,
)
from pyproxy.daemon.failures import NotFoundError, OperationError
from pyproxy.daemon.front_ends import FrontEnds
from pyproxy.daemon.host import Host, OpenUnit
from pyproxy.daemon.leftovers import takeovers
from pyproxy.daemon.live import LiveDocument
from pyproxy.daemon.operations import AdoptRequest, MigrateRequest, RestoreRequest
from pyproxy.daemon.standing import checkpoint_of, nexus_of
from pyproxy.device.base import Device, execute_past_attentions
from pyproxy.device.sg import SgDevice
from pyproxy.migration.checkpoint import Checkpoint, decode_checkpoint, encode_checkpoint
from pyproxy.migration.record import load_records
from pyproxy.migration.restore import RestoreReport, restore
from pyproxy.reservation.classify import Decision
from pyproxy.reservation.snapshot import Snapshot, drive, read_snapshot
from pyproxy.reservation.state import Suspicion
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrInAction
from pyproxy.scsi.pr_cdb import PrIn
from pyproxy.scsi.pr_in import ReportCapabilities
from pyproxy.scsi.sense import Sense
from pyproxy.unit import GuestUnit

_CAPABILITIES_SIZE: Final = 8
_READ_TIMEOUT_MS: Final = 10_000


class LocalOperations:
    """Operations on ``host``; with the front ends of the daemon where one answers, else None."""

    def __init__(self, host: Host, front_ends: FrontEnds | None = None) -> None:
        self._host = host
        self._front_ends = front_ends

    def status(self) -> StatusDocument:
        """Return every guest and unit with its tracked state; units that are not open are tried."""
        return self._document(self._host.open_unit)

    def glance(self) -> StatusDocument:
        """Return the same without asking any device anything: a unit that is not open stays so."""
        opened = {found.key: found for found in self._host.open_units()}

        def find(guest: str, lun: int) -> OpenUnit:
            if (guest, lun) not in opened:
                raise OperationError("it is not open; pyproxy status tries it and says why", "not-open")
            return opened[guest, lun]

        return self._document(find)

    def _document(self, find: Callable[[str, int], OpenUnit]) -> StatusDocument:
        config = self._host.config
        ends = self._front_ends
        store = self._host.store  # a locked or damaged store is one failure, not one for each unit
        intents = Counter((one.guest, one.unit) for one in store.open_intents())
        guests = [
            GuestStatus(
                name=guest.name,
                migrate_pr=guest.migrate_pr,
                rawio=guest.rawio,
                units=[self._unit_status(guest, section, find, intents) for section in guest.unit],
                pr_helper=None if ends is None else ends.pr_helper.status(guest),
                vhost_user=None if ends is None else ends.vhost_user.status(guest),
            )
            for guest in config.guest
        ]
        return StatusDocument(
            version=__version__,
            host=config.daemon.host_name,
            daemon=ends is not None,
            pid=os.getpid(),
            configuration=config.source,
            guests=guests,
            open_takeovers=takeovers(store.journals()),
            stray_intents=self._host.stray_intents(),
        )

    def checkpoint(self, guest: str, lun: int | None) -> bytes:
        """Return the checkpoint document of one unit of a guest."""
        found = self._host.open_unit(guest, self._only_lun(guest) if lun is None else lun)
        _check_tracked(found.unit)
        with found.unit.snooper.unit_lock:
            return encode_checkpoint(checkpoint_of(found))

    def adopt(self, guest: str, lun: int, request: AdoptRequest) -> AdoptDocument:
        """Take a registration made without pyproxy into the tracked state; ambiguity is in the document."""
        unit = self._host.unit(guest, lun)
        _check_tracked(unit)
        if request.number == 0:
            raise OperationError("key 0 stands for no registration; name the key that is registered", "wrong-use")
        with unit.snooper.unit_lock:
            found = unit.adopt(request.number)
            pending = unit.snooper.attentions.pending
            return AdoptDocument.of(found, guest, lun, unit.state, pending)

    def restore(self, request: RestoreRequest) -> RestoreDocument:
        """Take the guest of a checkpoint over; the guest's unit here then tracks what it was given."""
        if request.source is not None and request.source_dead:
            raise OperationError("a source device and source-dead exclude each other: give one of the two", "wrong-use")
        checkpoint = decode_checkpoint(request.document)
        with contextlib.ExitStack() as opened:
            found, destination = self._destination(checkpoint, request.device, opened)
            if request.source is None:
                return RestoreDocument.of(self.take_over(checkpoint, destination, None, request, found))
            origin, source = self._source(request.source, destination, opened)
            return RestoreDocument.of(self.take_over(checkpoint, destination, source, request, found, origin))

    def take_over(
        self,
        checkpoint: Checkpoint,
        destination: Device,
        source: Device | None,
        request: RestoreRequest,
        found: OpenUnit | None,
        origin: OpenUnit | None = None,
    ) -> RestoreReport:
        """Run a takeover on open devices.

        ``found`` is the guest's unit here, which loads the result, or None; ``origin`` the unit that the source's
        nexus serves here, or None.
        """
        lock = self._host.unit_lock(checkpoint.unit.name) if found is None else found.unit.snooper.unit_lock
        to = _Listener(destination)
        since = to if source is destination else None if source is None else _Listener(source)
        with lock:
            move = functools.partial(
                restore,
                checkpoint,
                to,
                store=self._host.store,
                source=since,
                source_dead=request.source_dead,
                destination_nexus=None if found is None else nexus_of(found),
                fence_ruled_out=request.fence_ruled_out,
            )
            report = move()
            if found is not None and report.decision is Decision.ALREADY_DONE and report.state is None:
                # Done before: whether the guest still has it here is in the store once the unit was read.
                found.unit.resync()
                report = move()
            if found is not None and report.state is not None:
                self._host.load_again(found)
            elif found is not None:
                found.unit.snooper.received(*to.heard)
            if origin is not None and since is not None and since is not to:
                # Where the claim has moved, what was received on the way has moved with it.
                origin.unit.snooper.received(*() if report.succeeded else since.heard)
                origin.unit.snooper.suspect(Suspicion.POLL_MISMATCH)
        return report

    def migrate(self, guest: str, request: MigrateRequest) -> MigrationDocument:
        """Refuse: a migration outlives the command that asks for it."""
        self._host.sections(guest)
        raise OperationError(
            f"guest {guest}: no daemon runs here, and only a daemon can {request.action.replace('-', ' ')} a "
            "migration; start it: pyproxy serve",
            "no-daemon",
        )

    def live(self) -> LiveDocument:
        """Refuse: without a daemon nothing passes."""
        raise OperationError("no daemon runs here; start it: pyproxy serve", "no-daemon")

    def migrations(self) -> MigrationsDocument:
        """Return what the store knows of migrations."""
        records = load_records(self._host.store)
        return MigrationsDocument(migrations=[MigrationDocument.of_record(record) for record in records])

    def pr_keys(self, target: str) -> KeysDocument:
        """READ KEYS."""
        name, snapshot = self._snapshot(target)
        return KeysDocument(device=name, generation=snapshot.generation, keys=[key_text(key) for key in snapshot.keys])

    def pr_reservation(self, target: str) -> ReservationDocument:
        """READ RESERVATION."""
        return _reservation(*self._snapshot(target))

    def pr_status(self, target: str) -> FullStatusDocument:
        """Read keys, reservation and full status."""
        name, snapshot = self._snapshot(target, full_status=True)
        return FullStatusDocument(
            device=name,
            generation=snapshot.generation,
            keys=[key_text(key) for key in snapshot.keys],
            reservation=_reservation(name, snapshot),
            registrations=None if snapshot.full is None else [RegistrationDocument.of(one) for one in snapshot.full],
        )

    def pr_capabilities(self, target: str) -> CapabilitiesDocument:
        """REPORT CAPABILITIES, as the device answers it: not masked as for a guest."""
        cdb = PrIn(PrInAction.REPORT_CAPABILITIES, _CAPABILITIES_SIZE).encode()
        command = Command(cdb, data_in=_CAPABILITIES_SIZE, timeout_ms=_READ_TIMEOUT_MS)
        with self._port(target) as (device, on_attention):
            result = execute_past_attentions(device, command, on_attention)
            if not result.good:
                raise OperationError(
                    f"{device.name}: REPORT CAPABILITIES ended with status {result.status:02X}h, "
                    f"{result.decoded_sense or 'no sense'}; it has no persistent reservations, or another host holds a "
                    "RESERVE",
                    "refused-by-device",
                )
            return CapabilitiesDocument.of(device.name, ReportCapabilities.decode(result.data))

    def _unit_status(
        self,
        guest: GuestSection,
        section: UnitSection,
        find: Callable[[str, int], OpenUnit],
        intents: Mapping[tuple[str, str], int],
    ) -> UnitStatus:
        backing = str(section.device) if section.device is not None else "emulated"
        try:
            found = find(guest.name, section.lun)
        except Exception as error:
            told = failures.sentence(error)
            if told is None:
                raise
            away = self._host.away(guest.name, section.lun)
            return UnitStatus(
                lun=section.lun,
                device=backing,
                error=told,
                away_since=None if away is None else away.since,
            )
        state, snooper = found.unit.state, found.unit.snooper
        return UnitStatus(
            lun=section.lun,
            device=found.unit.device.name,
            identity=found.identity.name,
            registered=state.registered,
            key=key_text(state.key),
            reservation_type=None if state.type is None else int(state.type),
            reservation=type_text(state.type),
            aptpl=state.aptpl,
            generation=state.generation,
            epoch=state.epoch,
            fresh=state.fresh,
            suspect=list(state.suspect),
            spc2_reserved=state.spc2_reserved,
            pending_unit_attentions=[str(sense) for sense in snooper.attentions.pending],
            open_intents=intents.get((guest.name, snooper.identity_name), 0),
        )

    def _only_lun(self, guest: str) -> int:
        sections = self._host.sections(guest)
        if len(sections) == 1:
            return sections[0].lun
        luns = ", ".join(str(section.lun) for section in sections)
        raise OperationError(
            f"guest {guest} has {len(sections)} logical units (LUN {luns}), a checkpoint is of one: choose with --lun",
            "ambiguous-lun",
        )

    def _destination(
        self, checkpoint: Checkpoint, device: str | None, opened: contextlib.ExitStack
    ) -> tuple[OpenUnit | None, Device]:
        """Open what the guest is to use here: its configured unit, or the node that was named."""
        if device is None:
            try:
                found = self._host.open_unit(checkpoint.guest, checkpoint.lun)
            except NotFoundError as error:
                raise NotFoundError(f"{error}; add it there, or name the node with --device") from None
            return found, found.unit.device
        owner = _guest_and_lun(device) or self._host.find_node(device)
        if owner is None:
            return None, opened.enter_context(_open_node(device))
        if owner != (checkpoint.guest, checkpoint.lun):
            raise OperationError(
                f"{device} is LUN {owner[1]} of guest {owner[0]} here, the checkpoint is of LUN {checkpoint.lun} of "
                f"guest {checkpoint.guest}; they would share one registration: name another node",
                "nexus-in-use",
            )
        found = self._host.open_unit(*owner)
        return found, found.unit.device

    def _source(self, source: str, destination: Device, opened: contextlib.ExitStack) -> tuple[OpenUnit | None, Device]:
        """Open the source's node; the same object as the destination's where both lead to one SCSI device."""
        owner = _guest_and_lun(source) or self._host.find_node(source)
        if owner is not None:
            found = self._host.open_unit(*owner)
            return found, found.unit.device
        device = opened.enter_context(_open_node(source))
        one = isinstance(destination, SgDevice) and destination.node.device == device.node.device
        return None, destination if one else device

    def _snapshot(self, target: str, *, full_status: bool = False) -> tuple[str, Snapshot]:
        """Read a unit; what is a guest's is read through its snooper, which keeps the guest's unit attentions."""
        owner = _guest_and_lun(target) or self._host.find_node(target)
        if owner is not None:
            unit = self._host.unit(*owner)
            with unit.snooper.unit_lock:
                unit.resync()
                snapshot = unit.snooper.last_snapshot
            assert snapshot is not None
            return unit.device.name, snapshot
        with _open_node(target) as device:
            return device.name, drive(read_snapshot(full_status, capabilities=False), device.execute)

    @contextlib.contextmanager
    def _port(self, target: str) -> Iterator[tuple[Device, Callable[[Sense], None]]]:
        owner = _guest_and_lun(target) or self._host.find_node(target)
        if owner is None:
            with _open_node(target) as device:
                yield device, lambda _: None
            return
        unit = self._host.unit(*owner)
        with unit.snooper.unit_lock:
            yield unit.device, unit.snooper.received


class _Listener:
    """A port of a takeover that notes which unit attentions its commands received."""

    def __init__(self, device: Device) -> None:
        self.name = device.name
        self.heard: list[Sense] = []
        self._device = device

    def execute(self, command: Command) -> Result:
        result = self._device.execute(command)
        sense = result.decoded_sense
        if sense is not None and sense.is_unit_attention:
            self.heard.append(sense)
        return result


def _check_tracked(unit: GuestUnit) -> None:
    if not unit.snooper.migrate_pr:
        raise OperationError(
            f"guest {unit.guest} LUN {unit.lun}: migrate_pr is off, its reservations are not tracked and stay on this "
            "host; set migrate_pr = true and let the guest register again",
            "migrate-pr-off",
        )


@contextlib.contextmanager
def _open_node(path: str) -> Iterator[SgDevice]:
    with contextlib.closing(SgDevice.open(path, threads=1, slots=1)) as device:
        yield device


def _guest_and_lun(target: str) -> tuple[str, int] | None:
    """Read GUEST/LUN; None for a path."""
    if target.startswith("/"):
        return None
    guest, slash, lun = target.rpartition("/")
    if not (slash and guest and lun.isascii() and lun.isdigit() and len(lun) <= 5):
        raise NotFoundError(f'"{target}" is neither the path of a device node nor GUEST/LUN (such as guest/0)')
    return guest, int(lun)


def _reservation(name: str, snapshot: Snapshot) -> ReservationDocument:
    kind = snapshot.reservation_type
    named = kind is not None and not snapshot.all_registrants
    return ReservationDocument(
        device=name,
        generation=snapshot.generation,
        key=key_text(snapshot.reservation_key) if named else None,
        type=None if kind is None else int(kind),
        type_name=type_text(kind),
    )
