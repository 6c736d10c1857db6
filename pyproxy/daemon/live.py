"""What passes now and who holds what, as the status page and ``pyproxy top`` show it.

Counters only rise, so that whoever reads two documents has the rate between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct

from pyproxy.daemon.documents import (
    GuestStatus,
    MigrationDocument,
    UnitStatus,
    type_text,
)
from pyproxy.daemon.host import Key, OpenUnit
from pyproxy.frontend.virtio_scsi.traffic import Traffic

if TYPE_CHECKING:
    from pyproxy.daemon.sources import Sources


class LiveUnit(Struct, frozen=True, kw_only=True):
    """One logical unit.

    ``holder`` is who holds the reservation: guest (this one), another, nobody, or unknown (not read yet, or the guest
    is on its way to another host); ``reservation`` its type in words. ``commands`` ended, ``failed`` of them not with
    GOOD; bytes are data; ``timed`` commands took ``seconds`` together on the device. ``waiting`` is for how many
    seconds the device has not answered.
    """

    lun: int
    device: str
    error: str | None
    registered: bool
    key: str | None
    holder: str
    reservation: str | None
    fresh: bool
    suspect: list[str]
    commands: int
    failed: int
    bytes_read: int
    bytes_written: int
    in_flight: int
    timed: int
    seconds: float
    waiting: float


class LiveMigration(Struct, frozen=True, kw_only=True):
    """A guest's latest migration; ``since`` (RFC 3339) is when it came into its phase."""

    role: str
    peer: str
    phase: str
    since: str | None
    text: str
    over: bool


class LiveGuest(Struct, frozen=True, kw_only=True):
    """One guest. ``not_served`` says why it is not served on this host, None where it is."""

    name: str
    not_served: str | None
    connections: int
    units: list[LiveUnit]
    migration: LiveMigration | None


class LiveDocument(Struct, frozen=True, kw_only=True):
    """One host at ``now``; it was ``started`` (both in seconds since 1970)."""

    host: str
    version: str
    now: float
    started: float
    guests: list[LiveGuest]


def live(sources: Sources, now: float) -> LiveDocument:
    """Put together what is known of each guest ``now`` (seconds since 1970); raises what the sources raise."""
    status, opened = sources.status(), sources.units()
    latest = {one.guest: one for one in sources.migrations().migrations}
    return LiveDocument(
        host=status.host,
        version=status.version,
        now=now,
        started=sources.started,
        guests=[
            _guest(one, latest.get(one.name), sources.why_shut(one.name), sources.traffic(one.name), opened)
            for one in status.guests
        ],
    )


def _guest(
    guest: GuestStatus,
    migration: MigrationDocument | None,
    not_served: str | None,
    traffic: Mapping[int, Traffic],
    opened: Mapping[Key, OpenUnit],
) -> LiveGuest:
    ends = [end for end in (guest.vhost_user, guest.pr_helper) if end is not None]
    leaving = migration is not None and migration.role == "source" and not migration.served_here
    return LiveGuest(
        name=guest.name,
        not_served=not_served,
        connections=sum(end.connections for end in ends),
        units=[
            _unit(one, traffic.get(one.lun), opened.get((guest.name, one.lun)), leaving=leaving) for one in guest.units
        ],
        migration=None if migration is None else _migration(migration),
    )


def _migration(found: MigrationDocument) -> LiveMigration:
    return LiveMigration(
        role=found.role,
        peer=found.peer,
        phase=found.phase,
        since=found.phases[-1].at if found.phases else None,
        text=found.text,
        over=found.over,
    )


def _unit(unit: UnitStatus, traffic: Traffic | None, found: OpenUnit | None, *, leaving: bool) -> LiveUnit:
    # What was tracked here is on its way: only the other host knows what has become of it.
    holder, reservation = ("unknown", None) if leaving else _holder(unit, found)
    good, total = (0, 0) if traffic is None else (traffic.statuses[0], sum(traffic.statuses))
    return LiveUnit(
        lun=unit.lun,
        device=unit.device,
        error=unit.error,
        registered=unit.registered,
        key=unit.key if unit.registered else None,
        holder=holder,
        reservation=reservation,
        fresh=unit.fresh,
        suspect=unit.suspect,
        commands=total,
        failed=total - good,
        bytes_read=0 if traffic is None else traffic.bytes_read,
        bytes_written=0 if traffic is None else traffic.bytes_written,
        in_flight=0 if traffic is None else traffic.in_flight,
        timed=0 if traffic is None else sum(one.total for one in traffic.latency),
        seconds=0.0 if traffic is None else sum(one.seconds for one in traffic.latency),
        waiting=waiting(traffic, found),
    )


def waiting(traffic: Traffic | None, found: OpenUnit | None) -> float:
    """Return for how many seconds a unit's device has answered nothing although something waits for it."""
    return max(0.0 if traffic is None else traffic.waiting, 0.0 if found is None else found.unit.waits.longest)


def _holder(unit: UnitStatus, found: OpenUnit | None) -> tuple[str, str | None]:
    """Say who holds the reservation, and its type in words."""
    if unit.reservation is not None:
        return "guest", unit.reservation
    seen = None if found is None else found.unit.snooper.last_snapshot
    if found is None or seen is None:
        return "unknown", None
    kind = seen.reservation_type
    # What was the guest's own when it was read, it has released since.
    if kind is None or found.unit.snooper.saw_own_reservation:
        return "nobody", None
    return "another", type_text(int(kind))
