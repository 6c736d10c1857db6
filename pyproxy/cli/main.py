"""The ``pyproxy`` command: options every command shares, and how a failure is told.

Exit status: 0 done, 1 failed, 2 wrong use. What a command needs is imported when it runs, so that help is quick.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from pyproxy import __version__
from pyproxy.cli.adopt import adopt
from pyproxy.cli.check import check_config
from pyproxy.cli.demo import demo
from pyproxy.cli.devices import devices
from pyproxy.cli.hooks import libvirt_hook
from pyproxy.cli.migrate import migrate
from pyproxy.cli.pr import pr
from pyproxy.cli.serve import serve
from pyproxy.cli.status import status
from pyproxy.cli.takeover import checkpoint, inspect, restore
from pyproxy.cli.top import top


class Failure(click.ClickException):
    """An expected failure: one clear sentence on standard error, exit status 1."""

    exit_code = 1

    def show(self, file: Any = None) -> None:
        """Print the sentence."""
        click.echo(f"pyproxy: {self.format_message()}", file=file or sys.stderr)


class Commands(click.Group):
    """The group that turns expected errors into one sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise
        except Exception as error:
            from pyproxy.daemon.failures import sentence

            told = sentence(error)
            if told is None:
                raise
            raise Failure(told) from error


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Begin with: pyproxy demo",
)
@click.option(
    "--config",
    "-c",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="PYPROXY_CONFIG",
    help="Configuration file [default: /etc/pyproxy/pyproxy.toml where it exists, else one emulated unit].",
)
@click.version_option(__version__, "--version", prog_name="pyproxy", message="%(prog)s %(version)s")
@click.pass_context
def main(ctx: click.Context, config_file: Path | None) -> None:
    """SCSI passthrough proxy whose guests keep their persistent reservations when they move."""
    ctx.obj = config_file
    # What a command has to tell it tells itself; only serve writes a log.
    logging.getLogger("pyproxy").addHandler(logging.NullHandler())


for command in (
    serve,
    demo,
    status,
    top,
    devices,
    pr,
    adopt,
    checkpoint,
    inspect,
    restore,
    migrate,
    libvirt_hook,
    check_config,
):
    main.add_command(command)
