"""``pyproxy serve``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Run the daemon.", epilog="Example: pyproxy --config /etc/pyproxy/pyproxy.toml serve")
@click.pass_obj
def serve(config_file: Path | None) -> None:
    """Run the daemon in the foreground.

    SIGTERM and SIGINT finish the commands under way and end it with exit status 0. Without a configuration file it
    serves one guest with one emulated unit of 1 GiB, everything under a private runtime directory.
    """
    import logging

    from pyproxy import config
    from pyproxy.daemon import server

    settings = config.load(config_file)
    logging.basicConfig(level=logging.INFO, format="pyproxy: %(levelname)s: %(message)s")

    def ready() -> None:
        guests = ", ".join(guest.name for guest in settings.guest)
        click.echo(f"pyproxy: serving {guests} ({settings.source}) on {settings.daemon.control_socket}", err=True)

    server.serve(settings, ready)
