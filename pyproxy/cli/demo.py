"""``pyproxy demo``."""

from __future__ import annotations

import click


@click.command(short_help="See a reservation move between hosts.", epilog="Example: pyproxy demo --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def demo(as_json: bool) -> None:
    """Show a reservation move between two hosts, on an emulated unit in memory. Needs no privileges, changes nothing.

    A guest on host-a registers, reserves Write Exclusive and writes; a third initiator is refused. host-a checkpoints,
    host-b takes over with PREEMPT, the guest goes on writing there and host-a gets RESERVATION CONFLICT. Everything
    shown is read from the unit; exit status 1 if anything is not as it should be.
    """
    from pyproxy.cli.output import console, print_json
    from pyproxy.demo import run, show

    document = run()
    if as_json:
        print_json(document)
    else:
        show(document, console())
    for failure in document.failures:
        click.echo(f"pyproxy: demo: {failure}", err=True)
    if document.failures:
        click.get_current_context().exit(1)
