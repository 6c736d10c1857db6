"""Write pyproxy.json, the dashboard for Grafana 10 and later; ``--check`` only says whether it is current.

Usage: python deploy/grafana/build.py [--check]
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.builders import prometheus, stat, timeseries
from grafana_foundation_sdk.builders.common import ReduceDataOptions, VizLegendOptions
from grafana_foundation_sdk.builders.dashboard import Dashboard, DatasourceVariable, QueryVariable, Row
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DataSourceRef, VariableRefresh

FILE: Final = Path(__file__).with_name("pyproxy.json")
SOURCE: Final = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HOSTS: Final = 'instance=~"$host"'
_GUESTS: Final = 'instance=~"$host",guest=~"$guest"'


@dataclass(frozen=True, slots=True)
class Shown:
    """One panel: a number (``stat``) or lines, each a query with its legend; ``unit`` is Grafana's."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    stat: bool = False
    help: str = ""


def _rate(metric: str, by: str, more: str = "") -> str:
    return f"sum by ({by}) (rate(pyproxy_{metric}{{{_GUESTS}{more}}}[$__rate_interval]))"


def _quantile(part: float) -> str:
    return f"histogram_quantile({part}, {_rate('command_duration_seconds_bucket', 'guest, lun, le')})"


_STORE_RATE: Final = f"rate(pyproxy_store_commit_duration_seconds_bucket{{{_HOSTS}}}[$__rate_interval])"
_HANDOVERS: Final = "pyproxy_handover_duration_seconds"

ROWS: Final[dict[str, tuple[Shown, ...]]] = {
    "Overview": (
        Shown("Daemons that answer", ((f'sum(up{{job="pyproxy",{_HOSTS}}})', ""),), stat=True),
        Shown("Guests served", ((f"sum(pyproxy_guest_served{{{_HOSTS}}})", ""),), stat=True),
        Shown("Units registered", ((f"sum(pyproxy_registered{{{_HOSTS}}})", ""),), stat=True),
        Shown("Units that cannot be used", ((f"count(pyproxy_unit_up{{{_HOSTS}}} == 0) or vector(0)", ""),), stat=True),
        Shown("States in doubt", ((f"count(pyproxy_state_fresh{{{_HOSTS}}} == 0) or vector(0)", ""),), stat=True),
        Shown(
            "Migrations under way", ((f"count(pyproxy_migration_over{{{_HOSTS}}} == 0) or vector(0)", ""),), stat=True
        ),
        Shown("Commands", ((_rate("commands_total", "guest"), "{{guest}}"),), "ops"),
        Shown("Data", ((_rate("command_bytes_total", "guest, direction"), "{{guest}} {{direction}}"),), "Bps"),
    ),
    "Guests": (
        Shown(
            "Commands by class", ((_rate("commands_total", "guest, lun, class"), "{{guest}}/{{lun}} {{class}}"),), "ops"
        ),
        Shown(
            "Commands that did not end with GOOD",
            (
                (
                    _rate("command_statuses_total", "guest, lun, status", ',status!="good"'),
                    "{{guest}}/{{lun}} {{status}}",
                ),
            ),
            "ops",
        ),
        Shown(
            "Latency of devices",
            ((_quantile(0.5), "{{guest}}/{{lun}} median"), (_quantile(0.99), "{{guest}}/{{lun}} 99 %")),
            "s",
            help="The emulated unit executes on the spot and is not in it.",
        ),
        Shown(
            "Commands in flight",
            ((f"pyproxy_commands_in_flight{{{_GUESTS}}}", "{{guest}}/{{lun}}"),),
            help="On devices.",
        ),
        Shown(
            "Sense keys of CHECK CONDITIONs",
            (
                (
                    _rate("command_sense_keys_total", "guest, lun, sense_key") + " or vector(0)",
                    "{{guest}}/{{lun}} {{sense_key}}",
                ),
            ),
            "ops",
        ),
        Shown(
            "Size of batches",
            ((f"{_rate('ring_requests_total', 'guest')} / {_rate('ring_batches_total', 'guest')}", "{{guest}}"),),
            help="Requests that the worker found at once.",
        ),
        Shown(
            "Devices that do not answer",
            ((f"pyproxy_device_waiting_seconds{{{_GUESTS}}}", "{{guest}}/{{lun}} at {{instance}}"),),
            "s",
        ),
        Shown(
            "Refused commands and violations of protocols",
            (
                (_rate("commands_refused_total", "guest, lun, reason"), "{{guest}}/{{lun}} refused: {{reason}}"),
                (_rate("protocol_violations_total", "guest, front_end"), "{{guest}} {{front_end}}"),
            ),
            "ops",
        ),
        Shown("Connections", ((f"pyproxy_front_end_connections{{{_GUESTS}}}", "{{guest}} {{front_end}}"),)),
        Shown(
            "Connections refused or ended",
            (
                (_rate("front_end_refused_total", "guest, reason"), "{{guest}} refused: {{reason}}"),
                (_rate("front_end_closed_total", "guest, reason"), "{{guest}} ended: {{reason}}"),
            ),
            "ops",
        ),
    ),
    "Reservations and migrations": (
        Shown("Registered", ((f"pyproxy_registered{{{_GUESTS}}}", "{{guest}}/{{lun}} at {{instance}}"),)),
        Shown(
            "Type of the reservation held",
            ((f"pyproxy_reservation_type{{{_GUESTS}}}", "{{guest}}/{{lun}} at {{instance}}"),),
            help="0 none, 1 write exclusive, 3 exclusive access, 5 and 6 registrants only, 7 and 8 all registrants.",
        ),
        Shown(
            "PERSISTENT RESERVE by service action and outcome",
            ((_rate("pr_commands_total", "guest, lun, action, outcome"), "{{guest}}/{{lun}} {{action}} {{outcome}}"),),
            "ops",
        ),
        Shown(
            "Readings of reservations",
            ((_rate("resyncs_total", "guest, lun, result"), "{{guest}}/{{lun}} {{result}}"),),
            "ops",
        ),
        Shown(
            "How long the store takes",
            (
                (
                    f"histogram_quantile(0.99, sum by (instance, le) ({_STORE_RATE}))",
                    "{{instance}} 99 %",
                ),
            ),
            "s",
        ),
        Shown(
            "How long handovers took",
            (
                (
                    f"{_HANDOVERS}_sum{{{_HOSTS}}} / ({_HANDOVERS}_count{{{_HOSTS}}} > 0) or vector(0)",
                    "{{instance}} {{role}}",
                ),
            ),
            "s",
            help="The mean since the daemon started.",
        ),
        Shown("PRGENERATION", ((f"pyproxy_pr_generation{{{_GUESTS}}}", "{{guest}}/{{lun}} at {{instance}}"),)),
        Shown(
            "Reasons for doubt",
            (
                (f"pyproxy_state_suspect{{{_GUESTS}}}", "{{guest}}/{{lun}} {{reason}}"),
                (f"1 - pyproxy_state_fresh{{{_GUESTS}}}", "{{guest}}/{{lun}}"),
            ),
        ),
        Shown(
            "Not known yet",
            (
                (f"pyproxy_open_intents{{{_GUESTS}}}", "intents {{guest}}/{{lun}}"),
                (f"pyproxy_open_takeovers{{{_HOSTS}}}", "takeovers at {{instance}}"),
            ),
        ),
        Shown(
            "Phase of the latest migration",
            (
                (f"pyproxy_migration_phase{{{_GUESTS}}}", "{{guest}} {{role}} {{phase}}"),
                (f"pyproxy_guest_served{{{_GUESTS}}}", "{{guest}} served at {{instance}}"),
            ),
        ),
    ),
}


def queries() -> list[str]:
    """Return every query, with the variables as Grafana has them."""
    return [query for row in ROWS.values() for shown in row for query, _ in shown.queries]


def dashboard() -> str:
    """Return the dashboard as JSON."""
    made = (
        Dashboard("pyproxy")
        .uid("pyproxy")
        .tags(["scsi", "virtualization"])
        .refresh("15s")
        .time("now-1h", "now")
        .readonly()
        .with_variable(DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .with_variable(_variable("host", "Host", "label_values(pyproxy_build_info, instance)"))
        .with_variable(_variable("guest", "Guest", 'label_values(pyproxy_guest_served{instance=~"$host"}, guest)'))
    )
    for title, row in ROWS.items():
        made = made.with_row(Row(title))
        for shown in row:
            made = made.with_panel(_stat(shown) if shown.stat else _lines(shown))
    return JSONEncoder(sort_keys=True, indent=2).encode(made.build()) + "\n"


def _variable(name: str, label: str, query: str) -> QueryVariable:
    return (
        QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
    )


def _stat(shown: Shown) -> stat.Panel:
    ((query, _),) = shown.queries
    return (
        stat.Panel()
        .title(shown.title)
        .datasource(SOURCE)
        .height(4)
        .span(4)
        .reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(prometheus.Dataquery().expr(query).ref_id("A"))
    )


def _lines(shown: Shown) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(shown.title)
        .description(shown.help)
        .datasource(SOURCE)
        .unit(shown.unit)
        .min(0)
        .height(8)
        .span(12)
        .legend(
            VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM).show_legend(True)
        )
    )
    for number, (query, legend) in enumerate(shown.queries):
        panel = panel.with_target(prometheus.Dataquery().expr(query).legend_format(legend).ref_id("ABCDEFGH"[number]))
    return panel


def main(arguments: list[str]) -> int:
    """Write the file, or say that it is not current."""
    text = dashboard()
    if "--check" in arguments:
        if FILE.exists() and FILE.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write(f"{FILE} is not current; type: python {Path(__file__).name}\n")
        return 1
    FILE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
