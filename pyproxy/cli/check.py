"""``pyproxy check-config``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    "check-config",
    short_help="Validate a configuration.",
    epilog="Example: pyproxy check-config /etc/pyproxy/pyproxy.toml",
)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.pass_obj
def check_config(config_file: Path | None, file: Path | None) -> None:
    """Validate a configuration FILE without using it.

    Without FILE: the configuration the other commands would read. Every mistake is told with its key and with what
    is allowed there; exit status 1 then.
    """
    from pyproxy import config

    checked = config.load(file or config_file)
    guests, units = len(checked.guest), sum(1 for _ in checked.units())
    click.echo(f"{checked.source}: valid, {_count(guests, 'guest')}, {_count(units, 'logical unit')}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
