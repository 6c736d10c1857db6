"""Turns what a daemon knows into families of samples, each time it is asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Final

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from pyproxy.daemon.documents import (
    GuestStatus,
    MigrationDocument,
    MigrationsDocument,
    PrHelperStatus,
    StatusDocument,
    UnitStatus,
    VhostUserStatus,
)
from pyproxy.daemon.metrics.catalogue import METRICS, PREFIX
from pyproxy.frontend.virtio_scsi.traffic import BOUNDS, CLASSES, LATENCIES, STATUSES, Latency, Traffic

_COARSE: Final = 2
_PATHS: Final = ("inline", "port", "python")
_PLAIN: Final = ("requests", "malformed", "kicks", "notifications", "sleeps")


class _Samples:
    """The families of one collection; a name that is not in the catalogue is a KeyError."""

    def __init__(self) -> None:
        self.families: dict[str, Family] = {metric.name: metric.family() for metric in METRICS}
        self._suffix = {metric.name: metric.shown.removeprefix(PREFIX + metric.name) for metric in METRICS}
        self._labels = {metric.name: metric.labels for metric in METRICS}

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add a sample with values for the labels of its family, in their order."""
        family = self.families[name]
        family.add_sample(family.name + self._suffix[name], dict(zip(self._labels[name], labels, strict=True)), value)

    def add_histogram(self, name: str, latency: Latency, step: int, *labels: str) -> None:
        """Add a histogram of the family with every ``step``-th bound; one that has counted nothing is left out."""
        if not any(latency.counts):
            return
        family = self.families[name]
        named = dict(zip(self._labels[name], labels, strict=True))
        total = 0
        for number, (bound, count) in enumerate(zip((*BOUNDS, float("inf")), latency.counts, strict=True)):
            total += count
            if number % step == 0 or number == len(BOUNDS):
                family.add_sample(f"{family.name}_bucket", {**named, "le": _bound_text(bound)}, total)
        family.add_sample(f"{family.name}_count", named, total)
        family.add_sample(f"{family.name}_sum", named, latency.seconds)


class DaemonCollector(Collector):
    """Asks ``status`` and ``migrations`` at each collection.

    ``why_shut`` says why a guest is not served, or None; ``traffic`` what passes to its units, by LUN. ``detail``:
    latency by class of command, in twice as many buckets.
    """

    def __init__(
        self,
        status: Callable[[], StatusDocument],
        migrations: Callable[[], MigrationsDocument],
        why_shut: Callable[[str], str | None],
        traffic: Callable[[str], Mapping[int, Traffic]],
        *,
        started: float,
        detail: bool,
    ) -> None:
        self._status = status
        self._migrations = migrations
        self._why_shut = why_shut
        self._traffic = traffic
        self._started = started
        self._detail = detail

    def describe(self) -> list[Family]:
        """Return the families without samples."""
        return [metric.family() for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """Yield every family; raises what ``status`` raises."""
        began = time.perf_counter()
        samples = _Samples()
        status = self._status()
        samples.add("build", 1, status.version, status.host)
        samples.add("start_time_seconds", self._started)
        samples.add("open_takeovers", len(status.open_takeovers))
        for guest in status.guests:
            self._guest(samples, guest)
        latest = {(one.guest, one.role): one for one in self._migrations().migrations}
        for migration in latest.values():
            _migration(samples, migration)
        samples.add("collect_duration_seconds", time.perf_counter() - began)
        yield from samples.families.values()

    def _guest(self, samples: _Samples, guest: GuestStatus) -> None:
        samples.add("guest_served", float(self._why_shut(guest.name) is None), guest.name)
        if guest.vhost_user is not None:
            _front_end(samples, guest.name, "vhost_user", guest.vhost_user)
            _rings(samples, guest.name, guest.vhost_user.rings)
        if guest.pr_helper is not None:
            _front_end(samples, guest.name, "pr_helper", guest.pr_helper)
            samples.add("pr_helper_requests", guest.pr_helper.requests_in, guest.name, "in")
            samples.add("pr_helper_requests", guest.pr_helper.requests_out, guest.name, "out")
            samples.add("pr_helper_straight", guest.pr_helper.straight, guest.name)
        traffic = self._traffic(guest.name)
        for unit in guest.units:
            _unit(samples, guest.name, unit)
            if unit.lun in traffic:
                _unit_traffic(samples, (guest.name, str(unit.lun)), traffic[unit.lun], detail=self._detail)


def _bound_text(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(bound)


def _front_end(samples: _Samples, guest: str, name: str, found: PrHelperStatus | VhostUserStatus) -> None:
    samples.add("front_end_up", float(found.error is None), guest, name)
    samples.add("front_end_connections", found.connections, guest, name)
    samples.add("front_end_accepted", found.accepted, guest, name)
    samples.add("front_end_refused", found.refused_peers, guest, name, "peer")
    samples.add("front_end_refused", found.refused_connections, guest, name, "full")
    for reason, count in found.closed.items():
        samples.add("front_end_closed", count, guest, name, reason)


def _rings(samples: _Samples, guest: str, rings: dict[str, int]) -> None:
    for name in _PLAIN:
        samples.add(f"ring_{name}", rings.get(name, 0), guest)
    for path in _PATHS:
        samples.add("ring_commands", rings.get(path, 0), guest, path)
    samples.add("ring_bytes", rings.get("bytes_in", 0), guest, "read")
    samples.add("ring_bytes", rings.get("bytes_out", 0), guest, "write")


def _unit(samples: _Samples, guest: str, unit: UnitStatus) -> None:
    names = guest, str(unit.lun)
    samples.add("unit_up", float(unit.error is None and unit.away_since is None), *names)
    samples.add("unit_away", float(unit.away_since is not None), *names)
    if unit.error is not None:
        return
    samples.add("registered", float(unit.registered), *names)
    samples.add("reservation_type", unit.reservation_type or 0, *names)
    if unit.generation is not None:
        samples.add("pr_generation", unit.generation, *names)
    samples.add("takeover_epoch", unit.epoch, *names)
    samples.add("state_fresh", float(unit.fresh), *names)
    for reason in unit.suspect:
        samples.add("state_suspect", 1, *names, reason)
    samples.add("unit_attentions_pending", len(unit.pending_unit_attentions), *names)
    samples.add("open_intents", unit.open_intents, *names)


def _unit_traffic(samples: _Samples, names: tuple[str, str], found: Traffic, *, detail: bool) -> None:
    for name, count in zip(CLASSES, found.commands, strict=True):
        samples.add("commands", count, *names, name)
    samples.add("commands", found.python, *names, "python")
    for name, count in zip(STATUSES, found.statuses, strict=True):
        samples.add("command_statuses", count, *names, name)
    samples.add("command_bytes", found.bytes_read, *names, "read")
    samples.add("command_bytes", found.bytes_written, *names, "write")
    samples.add("commands_in_flight", found.in_flight, *names)
    if detail:
        for name, latency in zip(LATENCIES, found.latency, strict=True):
            samples.add_histogram("command_duration_seconds", latency, 1, *names, name)
    else:
        counts = tuple(map(sum, zip(*(one.counts for one in found.latency), strict=True)))
        together = Latency(counts, sum(one.seconds for one in found.latency))
        samples.add_histogram("command_duration_seconds", together, _COARSE, *names, "all")


def _migration(samples: _Samples, migration: MigrationDocument) -> None:
    names = migration.guest, migration.role
    samples.add("migration_phase", 1, *names, migration.phase)
    samples.add("migration_over", float(migration.over), *names)
    began = datetime.fromisoformat(migration.phases[-1].at) if migration.phases else None
    if began is not None:
        samples.add("migration_phase_start_seconds", began.timestamp(), *names)
