"""Turns what a daemon knows into families of samples, each time it is asked."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from pyproxy.daemon.documents import (
    GuestStatus,
    MigrationDocument,
    PrHelperStatus,
    UnitStatus,
    VhostUserStatus,
)
from pyproxy.daemon.host import Key, OpenUnit
from pyproxy.daemon.live import waiting
from pyproxy.daemon.metrics.catalogue import METRICS, PREFIX
from pyproxy.daemon.sources import Sources, StoreFigures
from pyproxy.frontend.pr_helper.session import CloseReason as PrHelperReason
from pyproxy.frontend.vhost_user.session import CloseReason as VhostUserReason
from pyproxy.frontend.virtio_scsi.traffic import BOUNDS, CLASSES, LATENCIES, SENSE_KEYS, STATUSES, Traffic
from pyproxy.migration.record import seconds_of
from pyproxy.tally import Spread

_COARSE: Final = 3
_USUAL: Final = frozenset({"other", "read", "write", "good", "check_condition", "reservation_conflict"})
"""Classes and statuses that are told of every unit; the rest where they occurred."""
_PATHS: Final = ("inline", "port", "python")
_PLAIN: Final = ("requests", "batches", "in_flight", "broken_queues", "malformed", "kicks", "notifications", "sleeps")


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

    def add_histogram(self, name: str, spread: Spread, *labels: str, step: int = 1) -> None:
        """Add a histogram of the family with every ``step``-th bound."""
        family = self.families[name]
        named = dict(zip(self._labels[name], labels, strict=True))
        total = 0
        for number, (bound, count) in enumerate(zip((*spread.bounds, float("inf")), spread.counts, strict=True)):
            total += count
            if number % step == 0 or number == len(spread.bounds):
                family.add_sample(f"{family.name}_bucket", {**named, "le": _bound_text(bound)}, total)
        family.add_sample(f"{family.name}_count", named, total)
        family.add_sample(f"{family.name}_sum", named, spread.seconds)

    def add_counts(self, name: str, counts: Mapping[tuple[str, ...], int], *labels: str) -> None:
        """Add one sample for each of ``counts``, whose words are the labels after ``labels``."""
        for words, count in counts.items():
            self.add(name, count, *labels, *words)


class DaemonCollector(Collector):
    """Collects what ``sources`` tell at each collection. ``detail``: latency by class of command, in more buckets."""

    def __init__(self, sources: Sources, *, detail: bool) -> None:
        self._sources = sources
        self._detail = detail

    def describe(self) -> list[Family]:
        """Return the families without samples."""
        return [metric.family() for metric in METRICS]

    def collect(self) -> Iterator[Family]:
        """Yield every family; raises what reading the store raises."""
        began = time.perf_counter()
        samples, sources = _Samples(), self._sources
        status = sources.status()
        samples.add("build", 1, status.version, status.host)
        samples.add("start_time_seconds", sources.started)
        samples.add("open_takeovers", len(status.open_takeovers))
        opened = sources.units()
        for guest in status.guests:
            self._guest(samples, guest, opened)
        samples.add_counts("hotplug_events", sources.hotplug())
        latest = {(one.guest, one.role): one for one in sources.migrations().migrations}
        for migration in latest.values():
            _migration(samples, migration)
        figures = sources.figures()
        samples.add_counts("migration_phase_entries", figures.phases.read())
        for role, durations in figures.handovers.items():
            samples.add_histogram("handover_duration_seconds", durations.read(), role)
        _store(samples, sources.store())
        samples.add("collect_duration_seconds", time.perf_counter() - began)
        yield from samples.families.values()

    def _guest(self, samples: _Samples, guest: GuestStatus, opened: Mapping[Key, OpenUnit]) -> None:
        samples.add("guest_served", float(self._sources.why_shut(guest.name) is None), guest.name)
        if guest.vhost_user is not None:
            rings = guest.vhost_user.rings
            violations = violations_of(VhostUserReason, guest.vhost_user.closed) + rings.get("malformed", 0)
            _front_end(samples, guest.name, "vhost_user", guest.vhost_user, violations)
            _rings(samples, guest.name, rings)
        if guest.pr_helper is not None:
            violations = violations_of(PrHelperReason, guest.pr_helper.closed)
            _front_end(samples, guest.name, "pr_helper", guest.pr_helper, violations)
            samples.add("pr_helper_requests", guest.pr_helper.requests_in, guest.name, "in")
            samples.add("pr_helper_requests", guest.pr_helper.requests_out, guest.name, "out")
            samples.add("pr_helper_straight", guest.pr_helper.straight, guest.name)
        traffic = self._sources.traffic(guest.name)
        for unit in guest.units:
            names = guest.name, str(unit.lun)
            found, passed = opened.get((guest.name, unit.lun)), traffic.get(unit.lun)
            _unit(samples, names, unit)
            samples.add("device_waiting_seconds", waiting(passed, found), *names)
            if found is not None:
                _tallies(samples, names, found)
            if passed is not None:
                _unit_traffic(samples, names, passed, detail=self._detail)


def _bound_text(bound: float) -> str:
    return "+Inf" if bound == float("inf") else repr(bound)


def violations_of(reasons: type[PrHelperReason] | type[VhostUserReason], closed: Mapping[str, int]) -> int:
    """Return how many connections ended because the client did what the protocol does not allow."""
    return sum(closed.get(reason.value, 0) for reason in reasons if reason.violation)


def _front_end(
    samples: _Samples, guest: str, name: str, found: PrHelperStatus | VhostUserStatus, violations: int
) -> None:
    samples.add("protocol_violations", violations, guest, name)
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


def _unit(samples: _Samples, names: tuple[str, str], unit: UnitStatus) -> None:
    samples.add("unit_up", float(unit.error is None and unit.away_since is None), *names)
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


def _tallies(samples: _Samples, names: tuple[str, str], found: OpenUnit) -> None:
    unit, snooper = found.unit, found.unit.snooper
    samples.add_counts("pr_commands", snooper.commands.read(), *names)
    samples.add_counts("resyncs", snooper.resyncs.read(), *names)
    samples.add_counts("commands_refused", unit.refused.read() | snooper.refused.read(), *names)
    if found.backing.loss is not None:
        samples.add("nexus_losses", found.backing.loss.count, *names)


def _store(samples: _Samples, store: StoreFigures | None) -> None:
    if store is None:
        return
    samples.add_histogram("store_commit_duration_seconds", store.commits)
    samples.add("store_last_commit_seconds", store.last)
    for operation in ("opened", "read", "written"):
        samples.add("store_failures", store.failures.get((operation,), 0), operation)


def _unit_traffic(samples: _Samples, names: tuple[str, str], found: Traffic, *, detail: bool) -> None:
    for name, count in zip(CLASSES, found.commands, strict=True):
        if count or name in _USUAL:
            samples.add("commands", count, *names, name)
    samples.add("commands", found.python, *names, "python")
    for name, count in zip(STATUSES, found.statuses, strict=True):
        if count or name in _USUAL:
            samples.add("command_statuses", count, *names, name)
    for name, count in zip(SENSE_KEYS, found.sense_keys, strict=True):
        if count:
            samples.add("command_sense_keys", count, *names, name)
    samples.add("command_bytes", found.bytes_read, *names, "read")
    samples.add("command_bytes", found.bytes_written, *names, "write")
    samples.add("commands_in_flight", found.in_flight, *names)
    if detail:
        for name, latency in zip(LATENCIES, found.latency, strict=True):
            if latency.total:
                samples.add_histogram("command_duration_seconds", latency, *names, name)
    else:
        counts = tuple(map(sum, zip(*(one.counts for one in found.latency), strict=True)))
        together = Spread(counts, sum(one.seconds for one in found.latency), BOUNDS)
        if together.total:
            samples.add_histogram("command_duration_seconds", together, *names, "all", step=_COARSE)


def _migration(samples: _Samples, migration: MigrationDocument) -> None:
    names = migration.guest, migration.role
    samples.add("migration_phase", 1, *names, migration.phase)
    samples.add("migration_over", float(migration.over), *names)
    if migration.phases:
        samples.add("migration_phase_start_seconds", seconds_of(migration.phases[-1].at), *names)
