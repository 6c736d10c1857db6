"""``pyproxy serve``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(short_help="Run the daemon.", epilog="Example: pyproxy --config /etc/pyproxy/pyproxy.toml serve")
@click.pass_obj
def serve(config_file: Path | None) -> None:
    """Run the daemon in the foreground.

    SIGTERM and SIGINT finish the commands under way and end it with exit status 0. SIGHUP reads the configuration
    again: guests and units that were added are served, and what takes a restart is told. Without a configuration file
    it serves one guest with one emulated unit of 1 GiB, everything under a private runtime directory.
    """
    import logging

    from pyproxy import config
    from pyproxy.daemon import logs, server

    settings = config.load(config_file)
    logs.configure(settings.daemon.log_level, settings.daemon.log_format)

    def ready() -> None:
        guests = ", ".join(guest.name for guest in settings.guest)
        logging.getLogger("pyproxy").info(
            "serving %s (%s) on %s", guests, settings.source, settings.daemon.control_socket
        )

    server.serve(settings, ready, load=lambda: config.load(config_file))
