"""Every metric there is: what is collected and what the documentation lists are both made from this table."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric as Family

PREFIX: Final = "pyproxy_"


class Kind(StrEnum):
    """How a value behaves."""

    COUNTER = "counter"
    """It only rises, from 0 when the daemon starts."""
    GAUGE = "gauge"
    """It is as it is now."""
    HISTOGRAM = "histogram"
    """How many values were at most so large."""
    INFO = "info"
    """It is 1; its labels say something."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One family. ``name`` is without prefix and without the suffix of its kind."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The name as Prometheus has it."""
        suffix = {Kind.COUNTER: "_total", Kind.INFO: "_info"}.get(self.kind, "")
        return f"{PREFIX}{self.name}{suffix}"

    def family(self) -> Family:
        """Return a family without samples."""
        make = {
            Kind.COUNTER: CounterMetricFamily,
            Kind.GAUGE: GaugeMetricFamily,
            Kind.HISTOGRAM: HistogramMetricFamily,
            Kind.INFO: InfoMetricFamily,
        }
        family: Family = make[self.kind](f"{PREFIX}{self.name}", self.help, labels=self.labels)
        return family


_GUEST: Final = ("guest",)
_UNIT: Final = ("guest", "lun")
_FRONT_END: Final = ("guest", "front_end")

METRICS: Final[tuple[Metric, ...]] = (
    Metric("build", Kind.INFO, "Version of pyproxy and name of the host.", ("version", "host")),
    Metric("start_time_seconds", Kind.GAUGE, "When the daemon started, in seconds since 1970."),
    Metric("collect_duration_seconds", Kind.GAUGE, "How long it took to collect these values."),
    # What guests' virtqueues carry.
    Metric("ring_requests", Kind.COUNTER, "Requests taken from the guest's virtqueues.", _GUEST),
    Metric(
        "ring_commands",
        Kind.COUNTER,
        "Requests by where they were executed: inline (the emulated unit), port (a device) or python (reservations and "
        "whatever is rare).",
        ("guest", "path"),
    ),
    Metric(
        "ring_bytes",
        Kind.COUNTER,
        "Data of the guest's requests: read (to it) or write.",
        ("guest", "direction"),
    ),
    Metric(
        "ring_batches",
        Kind.COUNTER,
        "How often the worker found requests; requests / batches is a batch's size.",
        _GUEST,
    ),
    Metric("ring_in_flight", Kind.GAUGE, "Requests taken from the guest's virtqueues and not answered yet.", _GUEST),
    Metric("ring_broken_queues", Kind.GAUGE, "Virtqueues that are not served because the guest broke them.", _GUEST),
    Metric("ring_malformed", Kind.COUNTER, "Descriptor chains that were no request.", _GUEST),
    Metric("ring_kicks", Kind.COUNTER, "Notifications by the guest that work is available.", _GUEST),
    Metric("ring_notifications", Kind.COUNTER, "Notifications of the guest that work is done.", _GUEST),
    Metric("ring_sleeps", Kind.COUNTER, "How often the worker went to sleep for want of work.", _GUEST),
    # The sockets.
    Metric("front_end_up", Kind.GAUGE, "1 where the guest's socket is there, 0 where it is not.", _FRONT_END),
    Metric("front_end_connections", Kind.GAUGE, "Connections to the guest's socket now.", _FRONT_END),
    Metric("front_end_accepted", Kind.COUNTER, "Connections to the guest's socket that were accepted.", _FRONT_END),
    Metric(
        "front_end_refused",
        Kind.COUNTER,
        "Connections to the guest's socket that were refused: peer (not allowed to connect) or full.",
        ("guest", "front_end", "reason"),
    ),
    Metric(
        "front_end_closed",
        Kind.COUNTER,
        "Connections to the guest's socket that ended, by why.",
        ("guest", "front_end", "reason"),
    ),
    Metric(
        "protocol_violations",
        Kind.COUNTER,
        "What a client did that its protocol does not allow: connections that ended for it, malformed requests.",
        _FRONT_END,
    ),
    Metric(
        "pr_helper_requests",
        Kind.COUNTER,
        "Requests through the guest's helper socket: in (PERSISTENT RESERVE IN) or out.",
        ("guest", "direction"),
    ),
    Metric(
        "pr_helper_straight",
        Kind.COUNTER,
        "PERSISTENT RESERVE IN of the guest's helper socket that did not enter Python.",
        _GUEST,
    ),
    # Logical units.
    Metric(
        "commands",
        Kind.COUNTER,
        "Commands of the guest's virtqueues to the logical unit since it was attached, by class; python: those that "
        "left the data plane (reservations and what is rare). SPC-2 RESERVE and RELEASE are left out until one "
        "occurs.",
        ("guest", "lun", "class"),
    ),
    Metric(
        "command_statuses",
        Kind.COUNTER,
        "How these ended; busy is BUSY and TASK SET FULL, none a failure without a status; what is rare is left out "
        "until it occurs.",
        ("guest", "lun", "status"),
    ),
    Metric(
        "command_sense_keys",
        Kind.COUNTER,
        "Sense keys of those that ended with CHECK CONDITION (SPC-4 4.5.6); what did not occur is left out.",
        ("guest", "lun", "sense_key"),
    ),
    Metric(
        "commands_refused",
        Kind.COUNTER,
        "Commands that were answered without asking the device, because the guest may not send them or they could not "
        "be migrated.",
        ("guest", "lun", "reason"),
    ),
    Metric(
        "command_bytes",
        Kind.COUNTER,
        "Data of these commands: read (to the guest) or write.",
        ("guest", "lun", "direction"),
    ),
    Metric("commands_in_flight", Kind.GAUGE, "Commands that the device of the logical unit has now.", _UNIT),
    Metric(
        "command_duration_seconds",
        Kind.HISTOGRAM,
        "How long the device had a command, from its virtqueue to its answer; the emulated unit executes on the spot "
        "and is not in it.",
        ("guest", "lun", "class"),
    ),
    Metric("unit_up", Kind.GAUGE, "1 where the logical unit can be used, 0 where it is away or in error.", _UNIT),
    Metric(
        "device_waiting_seconds",
        Kind.GAUGE,
        "For how long the device has answered nothing although commands of the guest or polls wait for it, or were "
        "given up since its last answer; 0 where it answers or is idle.",
        _UNIT,
    ),
    Metric("nexus_losses", Kind.COUNTER, "How often the I_T nexus was lost and made again (iSCSI).", _UNIT),
    Metric(
        "hotplug_events",
        Kind.COUNTER,
        "What became of the unit's device: detached, attached, resized.",
        ("guest", "lun", "event"),
    ),
    # Reservations.
    Metric("registered", Kind.GAUGE, "1 while the guest's I_T nexus is registered.", _UNIT),
    Metric(
        "reservation_type",
        Kind.GAUGE,
        "Type of the reservation that the guest holds (SPC-4 table 60): 1, 3, 5, 6, 7, 8; 0 for none.",
        _UNIT,
    ),
    Metric("pr_generation", Kind.GAUGE, "PRGENERATION of the logical unit as last read.", _UNIT),
    Metric("takeover_epoch", Kind.GAUGE, "How often the guest's claim on the logical unit was taken over.", _UNIT),
    Metric(
        "state_suspect", Kind.GAUGE, "1 for each reason why what is tracked may be wrong.", ("guest", "lun", "reason")
    ),
    Metric("state_fresh", Kind.GAUGE, "1 while nothing speaks against what is tracked.", _UNIT),
    Metric("unit_attentions_pending", Kind.GAUGE, "Unit attentions that wait for the guest's next command.", _UNIT),
    Metric("open_intents", Kind.GAUGE, "PERSISTENT RESERVE OUTs of the guest whose outcome is not known yet.", _UNIT),
    Metric(
        "pr_commands",
        Kind.COUNTER,
        "PERSISTENT RESERVE commands of the guest by service action and how they ended; what did not occur is left "
        "out.",
        ("guest", "lun", "action", "outcome"),
    ),
    Metric(
        "resyncs",
        Kind.COUNTER,
        "Readings of the unit's reservations, by what was found; what did not occur is left out.",
        ("guest", "lun", "result"),
    ),
    Metric("open_takeovers", Kind.GAUGE, "Takeovers that were begun here and have not ended."),
    # The store.
    Metric("store_commit_duration_seconds", Kind.HISTOGRAM, "How long the store took to make something durable."),
    Metric(
        "store_last_commit_seconds", Kind.GAUGE, "When the store last made something durable, in seconds since 1970."
    ),
    Metric("store_failures", Kind.COUNTER, "What the store could not do: opened, read, written.", ("operation",)),
    # Migrations.
    Metric(
        "migration_phase",
        Kind.GAUGE,
        "1 for the phase of the guest's latest migration; role is source or destination.",
        ("guest", "role", "phase"),
    ),
    Metric(
        "migration_over",
        Kind.GAUGE,
        "1 where the guest's latest migration has ended, 0 while something is waited for.",
        ("guest", "role"),
    ),
    Metric(
        "migration_phase_start_seconds",
        Kind.GAUGE,
        "When the phase of the guest's latest migration began, in seconds since 1970.",
        ("guest", "role"),
    ),
    Metric(
        "migration_phase_entries",
        Kind.COUNTER,
        "How often a migration came into a phase since the daemon started; the last phases tell its result.",
        ("role", "phase"),
    ),
    Metric(
        "handover_duration_seconds",
        Kind.HISTOGRAM,
        "How long handovers took: at the source from the guest's stop to its release, at the destination from the "
        "claims' arrival to their verification.",
        ("role",),
    ),
    Metric("guest_served", Kind.GAUGE, "1 where this host serves the guest, 0 where its gate is shut.", _GUEST),
)
