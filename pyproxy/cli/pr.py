"""``pyproxy pr``: what a device says about its persistent reservations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

_DEVICE = click.argument("device")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


@click.group(
    short_help="Read persistent reservations.",
    epilog="Examples: pyproxy pr keys /dev/sg1; pyproxy pr status web/0 --json",
)
def pr() -> None:
    """Read persistent reservations (PERSISTENT RESERVE IN).

    DEVICE is a device node, or GUEST/LUN as configured. A node that belongs to a guest is read through that guest's
    unit, so that no unit attention of the guest is lost.
    """


@pr.command(epilog="Example: pyproxy pr keys /dev/sg1")
@_DEVICE
@_JSON
@click.pass_obj
def keys(config_file: Path | None, device: str, as_json: bool) -> None:
    """Show the registered keys, one for each I_T nexus (READ KEYS)."""
    from pyproxy.cli.output import print_json, print_table
    from pyproxy.daemon.documents import KeysDocument

    document: KeysDocument = _read(config_file, lambda host: host.pr_keys(device))
    if as_json:
        print_json(document)
        return
    print_table(
        f"{document.device}: PRGENERATION {document.generation}",
        ("registered key",),
        [(key,) for key in document.keys],
        empty=f"{document.device}: nobody is registered (PRGENERATION {document.generation})",
    )


@pr.command(epilog="Example: pyproxy pr reservation /dev/sg1")
@_DEVICE
@_JSON
@click.pass_obj
def reservation(config_file: Path | None, device: str, as_json: bool) -> None:
    """Show the reservation and its holder's key (READ RESERVATION)."""
    from pyproxy.cli.output import print_json
    from pyproxy.daemon.documents import ReservationDocument

    document: ReservationDocument = _read(config_file, lambda host: host.pr_reservation(device))
    if as_json:
        print_json(document)
        return
    click.echo(f"{document.device}: {_reservation_sentence(document)} (PRGENERATION {document.generation})")


@pr.command(epilog="Example: pyproxy pr status /dev/sg1")
@_DEVICE
@_JSON
@click.pass_obj
def status(config_file: Path | None, device: str, as_json: bool) -> None:
    """Show who is registered and who holds the reservation (READ FULL STATUS where the device has it)."""
    from pyproxy.cli.output import print_json, print_table
    from pyproxy.daemon.documents import FullStatusDocument

    document: FullStatusDocument = _read(config_file, lambda host: host.pr_status(device))
    if as_json:
        print_json(document)
        return
    if document.registrations is None:
        rows: list[tuple[object, ...]] = [(key, None, None, None) for key in document.keys]
    else:
        rows = [
            (entry.key, entry.initiator, "all" if entry.all_target_ports else entry.relative_target_port, entry.holder)
            for entry in document.registrations
        ]
    click.echo(f"{document.device}: {_reservation_sentence(document.reservation)}")
    print_table(
        f"PRGENERATION {document.generation}",
        ("registered key", "initiator", "target port", "holder"),
        rows,
        empty=f"nobody is registered (PRGENERATION {document.generation})",
    )
    if document.registrations is None and document.keys:
        click.echo("The device does not tell who registered which key (no READ FULL STATUS).")


@pr.command(epilog="Example: pyproxy pr capabilities /dev/sg1")
@_DEVICE
@_JSON
@click.pass_obj
def capabilities(config_file: Path | None, device: str, as_json: bool) -> None:
    """Show what the device can do with reservations (REPORT CAPABILITIES)."""
    from pyproxy.cli.output import print_json, print_table
    from pyproxy.daemon.documents import CapabilitiesDocument

    document: CapabilitiesDocument = _read(config_file, lambda host: host.pr_capabilities(device))
    if as_json:
        print_json(document)
        return
    names = ["not told"] if document.type_names is None else document.type_names
    rows = [
        ("reservation types", "\n".join(names)),
        ("persistence through power loss (APTPL)", document.persist_through_power_loss),
        ("APTPL in force", document.persist_through_power_loss_active),
        ("compatible with RESERVE and RELEASE (CRH)", document.compatible_reservation_handling),
        ("registering other initiators (SIP_C)", document.specify_initiator_ports),
        ("registering at all target ports (ATP_C)", document.all_target_ports),
        ("REPLACE LOST RESERVATION (RLR_C)", document.replace_lost_reservation),
        ("ALLOW COMMANDS", document.allow_commands),
    ]
    print_table(document.device, ("capability", ""), rows, empty="")


def _read(config_file: Path | None, ask: Callable[[Any], Any]) -> Any:
    from pyproxy.cli.access import operations

    with operations(config_file) as host:
        return ask(host)


def _reservation_sentence(document: Any) -> str:
    if document.type is None:
        return "not reserved"
    holder = "every registrant holds it" if document.key is None else f"held with key {document.key}"
    return f"reserved, {document.type_name}, {holder}"
