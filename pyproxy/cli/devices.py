"""``pyproxy devices``."""

from __future__ import annotations

import click


@click.command(short_help="List this machine's SCSI devices.", epilog="Example: pyproxy devices --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def devices(as_json: bool) -> None:
    """List the SCSI devices of this machine: identity, capacity, reservation capabilities."""
    from pyproxy.cli.output import print_json, print_table, size_text
    from pyproxy.daemon.documents import DeviceDocument
    from pyproxy.device.discover import list_devices

    found = [DeviceDocument.of(device) for device in list_devices()]
    if as_json:
        print_json(found)
        return
    rows = [
        (
            device.address,
            " ".join(device.nodes),
            f"{device.vendor} {device.product}".strip(),
            device.identity,
            None if device.size is None else size_text(device.size),
            device.error or _reservations(device.capabilities),
        )
        for device in found
    ]
    print_table(
        "",
        ("H:C:T:L", "nodes", "product", "identity", "capacity", "persistent reservations"),
        rows,
        empty="This machine has no SCSI devices that can be seen here (is the sg module loaded?).",
    )


def _reservations(capabilities: object) -> str:
    from pyproxy.daemon.documents import CapabilitiesDocument

    if not isinstance(capabilities, CapabilitiesDocument):
        return "not supported"
    types = "types not told" if capabilities.types is None else f"types {', '.join(map(str, capabilities.types))}"
    persistent = "kept through power loss" if capabilities.persist_through_power_loss_active else "lost at power loss"
    return f"{types}; {persistent}"
