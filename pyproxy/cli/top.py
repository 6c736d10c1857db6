"""``pyproxy top``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyproxy.daemon.live import LiveDocument, LiveGuest, LiveUnit

_HOLDERS = {"guest": "this guest", "another": "another nexus", "nobody": "nobody", "unknown": "not known here"}
_HUNG_SECONDS = 5.0


@click.command(short_help="Watch what passes.", epilog="Example: pyproxy top --interval 1")
@click.option("--interval", "-i", type=click.FloatRange(min=0.2), default=2.0, show_default=True, help="Seconds.")
@click.option("--count", "-n", type=click.IntRange(min=1), help="End after so many readings.  [default: at Ctrl-C]")
@click.pass_obj
def top(config_file: Path | None, interval: float, count: int | None) -> None:
    """Watch guests, who holds what, throughput and latency, as the running daemon tells.

    Into a pipe each reading is printed below the one before.
    """
    from rich.live import Live

    from pyproxy.cli.access import operations
    from pyproxy.cli.output import console

    with operations(config_file) as host:
        before, now = None, host.live()
        screen = console()
        left = count
        with Live(console=screen, auto_refresh=False, screen=screen.is_terminal, transient=False) as live:
            try:
                while True:
                    shown = view(now, before)
                    if screen.is_terminal:
                        live.update(shown, refresh=True)
                    else:
                        screen.print(shown)
                    if left is not None:
                        left -= 1
                        if left == 0:
                            break
                    time.sleep(interval)
                    before, now = now, host.live()
            except KeyboardInterrupt:
                return


def view(now: LiveDocument, before: LiveDocument | None) -> RenderableType:
    """Return one screen: rates are between the two readings, and a dash where there is no earlier one."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    same = before is not None and before.started == now.started
    olds = {(guest.name, unit.lun): unit for guest in before.guests for unit in guest.units} if before and same else {}
    seconds = max(now.now - before.now, 1e-3) if before is not None else 1.0
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("guest", "LUN"):
        table.add_column(name, no_wrap=True)
    for name in ("holder", "state"):
        table.add_column(name, overflow="fold", min_width=10)
    for name in ("cmd/s", "read", "written", "latency", "queue"):
        table.add_column(name, justify="right", no_wrap=True)
    for guest in now.guests:
        for unit in guest.units:
            text, style = _state(guest, unit)
            rates = _rates(unit, olds.get((guest.name, unit.lun)), seconds)
            table.add_row(
                Text(guest.name),
                str(unit.lun),
                _HOLDERS[unit.holder] + (f": {unit.reservation}" if unit.reservation else ""),
                Text(text, style=style),
                *rates,
                str(unit.in_flight),
            )
    head = Text(f"{now.host}: pyproxy {now.version}, up {_span(now.now - now.started)}", style="bold")
    moving = [Text(_migration(guest), style="yellow") for guest in now.guests if _moves(guest)]
    return Group(head, table, *moving)


def _state(guest: LiveGuest, unit: LiveUnit) -> tuple[str, str]:
    if unit.error is not None:
        return unit.error, "red"
    if unit.waiting >= _HUNG_SECONDS:
        return f"no answer for {_span(unit.waiting)}", "red"
    if guest.not_served is not None:
        return "not served here", "yellow"
    if not unit.fresh:
        return f"in doubt: {', '.join(unit.suspect)}", "yellow"
    return "fresh", "green"


def _moves(guest: LiveGuest) -> bool:
    return guest.migration is not None and not guest.migration.over


def _migration(guest: LiveGuest) -> str:
    found = guest.migration
    assert found is not None
    where = "to" if found.role == "source" else "from"
    text = f": {found.text}" if found.text else ""
    return f"guest {guest.name}: migration {where} {found.peer} is {found.phase}{text}"


def _rates(unit: LiveUnit, old: LiveUnit | None, seconds: float) -> tuple[str, str, str, str]:
    # Counters begin anew when a unit is attached again.
    if old is None or unit.commands < old.commands:
        return "-", "-", "-", "-"
    timed = unit.timed - old.timed
    return (
        f"{(unit.commands - old.commands) / seconds:.0f}",
        _bytes((unit.bytes_read - old.bytes_read) / seconds),
        _bytes((unit.bytes_written - old.bytes_written) / seconds),
        _span((unit.seconds - old.seconds) / timed) if timed > 0 else "-",
    )


def _bytes(per_second: float) -> str:
    from pyproxy.cli.output import size_text

    return f"{size_text(round(per_second))}/s"


def _span(seconds: float) -> str:
    for limit, factor, unit, digits in ((1e-3, 1e6, "us", 0), (1.0, 1e3, "ms", 2), (120.0, 1.0, "s", 1)):
        if seconds < limit:
            return f"{seconds * factor:.{digits}f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
