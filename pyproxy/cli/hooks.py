"""``pyproxy libvirt-hook``."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(
    "libvirt-hook",
    short_help="Do what libvirt's hook for QEMU guests asks for.",
    epilog="Example: pyproxy libvirt-hook db migrate begin -",
)
@click.argument("guest")
@click.argument("operation")
@click.argument("part", required=False, default="")
@click.argument("more", nargs=-1, expose_value=False)
@click.pass_obj
def libvirt_hook(config_file: Path | None, guest: str, operation: str, part: str) -> None:
    """Arm a migration when libvirt begins to receive GUEST here, hand over or call off when it has ended here.

    deploy/libvirt/pyproxy calls it, which goes to /etc/libvirt/hooks/qemu.d/ on each host. The arguments are those
    that libvirt gives its hook: the guest's name, the operation ("migrate"), its part ("begin") and what may follow.
    Guests that are not in pyproxy's configuration, and other operations, are let pass.
    Exit status 1: the guest cannot be received, so libvirt does not begin to.
    """
    from pyproxy.cli.access import operations
    from pyproxy.cli.libvirt import hook

    if not sys.stdin.isatty():
        sys.stdin.buffer.read()  # the domain's XML, which libvirt wants to be rid of
    with operations(config_file) as host:
        hook(host, guest, operation, part)
