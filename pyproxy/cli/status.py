"""``pyproxy status``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pyproxy.daemon.documents import PrHelperStatus, UnitStatus, VhostUserStatus


@click.command(short_help="Show every guest's units and claims.", epilog="Example: pyproxy status --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def status(config_file: Path | None, as_json: bool) -> None:
    """Show every guest's logical units and what is reserved there.

    Asks the running daemon; where none runs, opens the units itself.
    """
    from pyproxy.cli.access import operations
    from pyproxy.cli.output import print_json, print_table

    with operations(config_file) as host:
        document = host.status()
    if as_json:
        print_json(document)
        return
    by = f"daemon {document.pid}" if document.daemon else "no daemon runs"
    rows = [
        (
            guest.name,
            unit.lun,
            unit.device,
            unit.identity,
            unit.key if unit.registered else None,
            unit.reservation,
            unit.error or "; ".join(_remarks(guest.migrate_pr, unit)),
        )
        for guest in document.guests
        for unit in guest.units
    ]
    print_table(
        f"{document.host}: {by}, {document.configuration}",
        ("guest", "LUN", "device", "identity", "key", "holds", "remarks"),
        rows,
        empty="no guests",
    )
    for guest in document.guests:
        if guest.pr_helper is not None:
            click.echo(_helper(guest.name, guest.pr_helper))
        if guest.vhost_user is not None:
            click.echo(_controller(guest.name, guest.vhost_user))
    for taken in document.open_takeovers:
        click.echo(
            f"guest {taken.guest} on {taken.unit}: a takeover ({taken.id}) was begun {taken.started} and has not "
            "ended; restore the same checkpoint again"
        )
    for stray in document.stray_intents:
        click.echo(
            f"guest {stray.guest} on {stray.unit}: {stray.open_intents} PERSISTENT RESERVE OUT of unknown outcome, but "
            "it is not configured; configure it again to have that resolved"
        )


def _helper(name: str, helper: PrHelperStatus) -> str:
    if helper.error is not None:
        return f"guest {name}: no helper socket on {helper.socket}: {helper.error}"
    return (
        f"guest {name}: PERSISTENT RESERVE on {helper.socket}, {helper.connections} connections, "
        f"{helper.requests_in + helper.requests_out} requests"
    )


def _controller(name: str, controller: VhostUserStatus) -> str:
    if controller.error is not None:
        return f"guest {name}: no controller on {controller.socket}: {controller.error}"
    connected = "a guest is connected" if controller.connections else "no guest is connected"
    return f"guest {name}: disks on {controller.socket}, {connected}"


def _remarks(migrate_pr: bool, unit: UnitStatus) -> list[str]:
    remarks = ["fresh" if unit.fresh else f"suspect: {', '.join(unit.suspect)}"]
    if not migrate_pr:
        remarks = ["migrate_pr is off"]
    if unit.spc2_reserved:
        remarks.append("SPC-2 RESERVE held, cannot move")
    if unit.open_intents:
        remarks.append(f"{unit.open_intents} PR OUT unresolved")
    if unit.pending_unit_attentions:
        remarks.append(f"pending: {', '.join(unit.pending_unit_attentions)}")
    return remarks
