"""``pyproxy adopt``."""

from __future__ import annotations

import click


def _key(_ctx: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    """Read a reservation key: "0x" and hex digits, or a decimal number, 1 to 2^64 - 1."""
    if text is None:
        return None
    try:
        key = int(text, 0)
    except ValueError:
        key = 0
    if not 0 < key < 1 << 64:
        raise click.BadParameter(f'"{text}" is not a key: 0x and 1 to 16 hex digits, not 0')
    return key


@click.command(
    short_help="Track a registration made elsewhere.",
    epilog="Examples: pyproxy adopt db 0; pyproxy adopt db 0 --key 0x1111",
)
@click.argument("guest")
@click.argument("lun", type=click.IntRange(0, 16383))
@click.option("--key", metavar="KEY", callback=_key, help="Try this key only [default: every registered key].")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def adopt(ctx: click.Context, guest: str, lun: int, key: int | None, as_json: bool) -> None:
    """Take over into the tracked state what GUEST has registered and reserved on LUN without pyproxy.

    Where the device lists who registered (READ FULL STATUS), that decides. Else the device is asked, key by key, with a
    REGISTER from the key to itself, which changes nothing. What stays ambiguous is told and not guessed. Exit status 0:
    it is certain now what the guest has.
    """
    from pyproxy.cli.access import operations
    from pyproxy.cli.output import print_json
    from pyproxy.daemon.documents import AdoptDocument, key_text
    from pyproxy.daemon.operations import AdoptRequest

    with operations(ctx.obj) as host:
        found: AdoptDocument = host.adopt(guest, lun, AdoptRequest(key=None if key is None else key_text(key)))
    told = f"guest {guest} LUN {lun}: {found.sentence}"
    if as_json:
        print_json(found)
    elif found.succeeded:
        click.echo(told)
    if not found.succeeded:
        click.echo(f"pyproxy: {told}", err=True)
        ctx.exit(1)
