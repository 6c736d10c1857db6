"""What the control API answers with, and what the commands print with ``--json``.

64-bit keys are text ("0x" and 16 hex digits), so that no reader of JSON rounds them.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from pyproxy.device.discover import ListedDevice
from pyproxy.frontend.pr_helper.counters import Counts
from pyproxy.frontend.vhost_user.counters import Counts as VhostCounts
from pyproxy.migration.phases import OVER, SERVED_HERE
from pyproxy.migration.record import Record
from pyproxy.migration.restore import RestoreReport
from pyproxy.migration.work import Work
from pyproxy.reservation.adopt import Adoption
from pyproxy.reservation.snapshot import Snapshot
from pyproxy.reservation.state import NexusState
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.pr_in import RegistrationDescriptor, ReportCapabilities
from pyproxy.scsi.sense import Sense


def key_text(key: int) -> str:
    """Return a reservation key as documents carry it."""
    return f"0x{key:016x}"


def type_text(type_: int | None) -> str | None:
    """Return a reservation type in the standard's words ("Write Exclusive - Registrants Only"), None for none."""
    if type_ is None:
        return None
    try:
        words = PrType(type_).name.split("_")
    except ValueError:
        return f"reserved type {type_:X}h"
    text = " ".join(word.capitalize() for word in words[:2])
    return text if len(words) == 2 else f"{text} - {' '.join(word.capitalize() for word in words[2:])}"


class VersionDocument(Struct, frozen=True, kw_only=True):
    """Which daemon answers."""

    version: str
    host: str
    pid: int


class UnitStatus(Struct, frozen=True, kw_only=True):
    """One logical unit of a guest. ``error`` says why it cannot be used; then only the first four are set.

    ``away_since`` is when its device was detached, None where it was not.
    """

    lun: int
    device: str
    error: str | None = None
    away_since: str | None = None
    identity: str | None = None
    registered: bool = False
    key: str = key_text(0)
    reservation_type: int | None = None
    reservation: str | None = None
    aptpl: bool | None = None
    generation: int | None = None
    epoch: int = 0
    fresh: bool = False
    suspect: list[str] = []
    spc2_reserved: bool = False
    pending_unit_attentions: list[str] = []
    open_intents: int = 0


class PrHelperStatus(Struct, frozen=True, kw_only=True):
    """A guest's helper socket: who is connected and what was asked since the daemon started.

    ``straight`` are the PERSISTENT RESERVE IN that did not enter Python, ``closed`` counts connections by why they
    ended. ``error`` says why there is no socket.
    """

    socket: str
    error: str | None = None
    connections: int = 0
    accepted: int = 0
    refused_peers: int = 0
    refused_connections: int = 0
    requests_in: int = 0
    requests_out: int = 0
    straight: int = 0
    closed: dict[str, int] = {}

    @classmethod
    def of(cls, socket: str, counts: Counts) -> PrHelperStatus:
        """Return the document for a socket that is served."""
        return cls(
            socket=socket,
            connections=counts.connections,
            accepted=counts.accepted,
            refused_peers=counts.refused_peers,
            refused_connections=counts.refused_connections,
            requests_in=counts.requests.get("in", 0),
            requests_out=counts.requests.get("out", 0),
            straight=counts.straight,
            closed=counts.closed,
        )


class VhostUserStatus(Struct, frozen=True, kw_only=True):
    """A guest's controller: whether a front end is connected and what passed since the daemon started.

    ``rings`` has the data plane's counters by name. ``error`` says why there is no socket.
    """

    socket: str
    error: str | None = None
    connections: int = 0
    accepted: int = 0
    refused_peers: int = 0
    refused_connections: int = 0
    closed: dict[str, int] = {}
    rings: dict[str, int] = {}

    @classmethod
    def of(cls, socket: str, counts: VhostCounts, rings: dict[str, int]) -> VhostUserStatus:
        """Return the document for a controller that is served."""
        return cls(
            socket=socket,
            connections=counts.connections,
            accepted=counts.accepted,
            refused_peers=counts.refused_peers,
            refused_connections=counts.refused_connections,
            closed=counts.closed,
            rings=rings,
        )


class GuestStatus(Struct, frozen=True, kw_only=True):
    """One guest. ``pr_helper`` and ``vhost_user`` are None where they are not configured or no daemon runs."""

    name: str
    migrate_pr: bool
    rawio: bool
    units: list[UnitStatus]
    pr_helper: PrHelperStatus | None = None
    vhost_user: VhostUserStatus | None = None


class TakeoverStatus(Struct, frozen=True, kw_only=True):
    """A takeover that was begun here and has not ended; ``procedure`` is P1, P2, P3 or empty."""

    id: str
    guest: str
    unit: str
    procedure: str
    started: str
    steps: int


class StrayIntents(Struct, frozen=True, kw_only=True):
    """PERSISTENT RESERVE OUTs of unknown outcome of a guest or logical unit that is not configured any more."""

    guest: str
    unit: str
    open_intents: int


class StatusDocument(Struct, frozen=True, kw_only=True):
    """The whole host. ``daemon`` tells whether a running daemon answered, else a command read it by itself."""

    version: str
    host: str
    daemon: bool
    pid: int
    configuration: str
    guests: list[GuestStatus]
    open_takeovers: list[TakeoverStatus] = []
    stray_intents: list[StrayIntents] = []


class KeysDocument(Struct, frozen=True, kw_only=True):
    """READ KEYS."""

    device: str
    generation: int
    keys: list[str]


class ReservationDocument(Struct, frozen=True, kw_only=True):
    """READ RESERVATION; ``type`` None when nothing is reserved."""

    device: str
    generation: int
    key: str | None
    type: int | None
    type_name: str | None


class RegistrationDocument(Struct, frozen=True, kw_only=True):
    """One registration of READ FULL STATUS."""

    key: str
    holder: bool
    type: int | None
    type_name: str | None
    all_target_ports: bool
    relative_target_port: int | None
    initiator: str | None

    @classmethod
    def of(cls, descriptor: RegistrationDescriptor) -> RegistrationDocument:
        """Return the document for one descriptor."""
        kind = descriptor.type if descriptor.holder else None
        return cls(
            key=key_text(descriptor.key),
            holder=descriptor.holder,
            type=kind,
            type_name=type_text(kind),
            all_target_ports=descriptor.all_tg_pt,
            relative_target_port=None if descriptor.all_tg_pt else descriptor.rtpi,
            initiator=None if descriptor.transport_id is None else str(descriptor.transport_id),
        )


class FullStatusDocument(Struct, frozen=True, kw_only=True):
    """Everything readable: keys and reservation, and READ FULL STATUS where the device has it (else None)."""

    device: str
    generation: int
    keys: list[str]
    reservation: ReservationDocument
    registrations: list[RegistrationDocument] | None


class CapabilitiesDocument(Struct, frozen=True, kw_only=True):
    """REPORT CAPABILITIES."""

    device: str
    replace_lost_reservation: bool
    compatible_reservation_handling: bool
    specify_initiator_ports: bool
    all_target_ports: bool
    persist_through_power_loss: bool
    persist_through_power_loss_active: bool
    allow_commands: int
    types: list[int] | None
    type_names: list[str] | None

    @classmethod
    def of(cls, device: str, reply: ReportCapabilities) -> CapabilitiesDocument:
        """Return the document; the types are None when the device does not say (TMV 0)."""
        types = sorted(int(type_) for type_ in reply.types) if reply.tmv else None
        return cls(
            device=device,
            replace_lost_reservation=reply.rlr_c,
            compatible_reservation_handling=reply.crh,
            specify_initiator_ports=reply.sip_c,
            all_target_ports=reply.atp_c,
            persist_through_power_loss=reply.ptpl_c,
            persist_through_power_loss_active=reply.ptpl_a,
            allow_commands=reply.allow_commands,
            types=types,
            type_names=None if types is None else [str(type_text(type_)) for type_ in types],
        )


class DeviceDocument(Struct, frozen=True, kw_only=True):
    """One SCSI device of this machine; ``error`` says why the rest could not be read, sizes are bytes."""

    address: str
    type: int
    vendor: str
    product: str
    revision: str
    nodes: list[str]
    identity: str | None
    identity_unique: bool
    size: int | None
    block_size: int | None
    capabilities: CapabilitiesDocument | None
    error: str | None

    @classmethod
    def of(cls, device: ListedDevice) -> DeviceDocument:
        """Return the document for one listed device."""
        name = device.nodes[0] if device.nodes else device.address
        return cls(
            address=device.address,
            type=device.type,
            vendor=device.vendor,
            product=device.product,
            revision=device.revision,
            nodes=list(device.nodes),
            identity=device.identity,
            identity_unique=device.unique,
            size=device.size,
            block_size=device.block_size,
            capabilities=None if device.capabilities is None else CapabilitiesDocument.of(name, device.capabilities),
            error=device.error,
        )


class ShownDocument(Struct, frozen=True, kw_only=True):
    """Registrations and reservation of a unit at one moment; ``registrations`` None where the device lacks it."""

    generation: int
    keys: list[str]
    reservation_key: str | None
    reservation_type: int | None
    reservation: str | None
    registrations: list[RegistrationDocument] | None

    @classmethod
    def of(cls, snapshot: Snapshot) -> ShownDocument:
        """Return the document for a snapshot."""
        kind = snapshot.reservation_type
        named = kind is not None and not snapshot.all_registrants
        return cls(
            generation=snapshot.generation,
            keys=[key_text(key) for key in snapshot.keys],
            reservation_key=key_text(snapshot.reservation_key) if named else None,
            reservation_type=None if kind is None else int(kind),
            reservation=type_text(kind),
            registrations=None if snapshot.full is None else [RegistrationDocument.of(one) for one in snapshot.full],
        )


class AdoptDocument(Struct, frozen=True, kw_only=True):
    """How an adoption ended.

    ``succeeded``: it is certain now what the guest has. ``decision`` is a word for programs, ``sentence`` for people.
    ``key`` and ``reservation_type`` are what is tracked afterwards, ``probed`` the keys that were tried with REGISTER.
    """

    guest: str
    lun: int
    succeeded: bool
    decision: str
    sentence: str
    key: str | None
    reservation_type: int | None
    reservation: str | None
    fresh: bool
    probed: list[str]
    pending_unit_attentions: list[str]

    @classmethod
    def of(cls, adoption: Adoption, guest: str, lun: int, state: NexusState, pending: Iterable[Sense]) -> AdoptDocument:
        """Return the document for an adoption after which ``state`` is tracked and ``pending`` waits for the guest."""
        return cls(
            guest=guest,
            lun=lun,
            succeeded=adoption.decision.certain and state.fresh,
            decision=adoption.decision.value,
            sentence=adoption.sentence,
            key=key_text(state.key) if state.registered else None,
            reservation_type=None if state.type is None else int(state.type),
            reservation=type_text(state.type),
            fresh=state.fresh,
            probed=[key_text(key) for key in adoption.probed],
            pending_unit_attentions=[str(sense) for sense in pending],
        )


class SentDocument(Struct, frozen=True, kw_only=True):
    """One command a takeover sent: to which side, what for, and what was answered."""

    side: str
    command: str
    kind: str
    why: str
    answer: str


class PhaseDocument(Struct, frozen=True, kw_only=True):
    """When a migration came into a phase (RFC 3339, UTC), and why."""

    phase: str
    at: str
    why: str


class MigratingUnitDocument(Struct, frozen=True, kw_only=True):
    """One unit in a migration: how the last takeover of its claim ended. ``same_nexus``: nothing is to be moved."""

    lun: int
    unit: str
    same_nexus: bool
    decision: str
    sentence: str


class MigrationDocument(Struct, frozen=True, kw_only=True):
    """One migration as this host sees it.

    ``role`` is source or destination, ``peer`` the other host. ``text`` says what is waited for or what was refused.
    ``served_here``: the guest is served by this host in this phase. ``ready``: the guest's claims are at the
    destination, which waits for it to start. ``over``: nothing is waited for.
    """

    migration: str
    guest: str
    role: str
    peer: str
    phase: str
    text: str
    served_here: bool
    ready: bool
    over: bool
    epoch: int
    started: str
    phases: list[PhaseDocument]
    units: list[MigratingUnitDocument]

    @classmethod
    def of(cls, work: Work) -> MigrationDocument:
        """Return the document of a migration."""
        return cls.of_record(work.record, work.text, ready=work.ready)

    @classmethod
    def of_record(cls, record: Record, text: str | None = None, *, ready: bool = False) -> MigrationDocument:
        """Return the document of what a store keeps of a migration."""
        return cls(
            migration=record.migration,
            guest=record.guest,
            role=record.role,
            peer=record.peer,
            phase=record.phase,
            text=record.text if text is None else text,
            served_here=record.at in SERVED_HERE,
            ready=ready,
            over=record.at in OVER,
            epoch=record.epoch,
            started=record.started,
            phases=[PhaseDocument(phase=one.phase, at=one.at, why=one.why) for one in record.trail],
            units=[
                MigratingUnitDocument(
                    lun=one.lun,
                    unit=one.unit,
                    same_nexus=one.same_nexus,
                    decision=one.decision,
                    sentence=one.sentence,
                )
                for one in record.units
            ],
        )


class MigrationsDocument(Struct, frozen=True, kw_only=True):
    """Migrations, in the order they were begun."""

    migrations: list[MigrationDocument]


class RestoreDocument(Struct, frozen=True, kw_only=True):
    """How a restore ended.

    ``decision`` is a word for programs, ``sentence`` for people. ``procedure`` is P1, P2, P3 or empty.
    ``service_actions`` are the PERSISTENT RESERVE OUTs that moved the claim, ``commands`` everything sent. ``key`` and
    ``reservation`` are what the guest has on this host now.
    """

    succeeded: bool
    decision: str
    sentence: str
    procedure: str
    service_actions: list[str]
    commands: list[SentDocument]
    before: ShownDocument | None
    after: ShownDocument | None
    unit_attentions: list[str]
    key: str | None
    reservation: str | None
    epoch: int | None

    @classmethod
    def of(cls, report: RestoreReport) -> RestoreDocument:
        """Return the document for a report."""
        state = report.state
        return cls(
            succeeded=report.succeeded,
            decision=report.decision.value,
            sentence=report.sentence,
            procedure=report.procedure,
            service_actions=list(report.service_actions),
            commands=[
                SentDocument(
                    side=sent.side.value, command=sent.name, kind=sent.kind.value, why=sent.why, answer=sent.answer
                )
                for sent in report.commands
            ],
            before=None if report.before is None else ShownDocument.of(report.before),
            after=None if report.after is None else ShownDocument.of(report.after),
            unit_attentions=[str(sense) for sense in report.attentions],
            key=key_text(state.key) if state is not None and state.registered else None,
            reservation=None if state is None else type_text(state.type),
            epoch=None if state is None else state.epoch,
        )
