"""``pyproxy checkpoint``, ``inspect`` and ``restore``."""

from __future__ import annotations

from pathlib import Path

import click

_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
_CHECKPOINT_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))


@click.command(short_help="Write down a guest's claim.", epilog="Example: pyproxy checkpoint db -o db.json")
@click.argument("guest")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path, dir_okay=False), help="Write there, not to the terminal."
)
@click.option("--lun", type=click.IntRange(0, 16383), help="Which logical unit, where the guest has several.")
@click.pass_obj
def checkpoint(config_file: Path | None, guest: str, output: Path | None, lun: int | None) -> None:
    """Write down what GUEST has registered and reserved, for another host to take over.

    The guest should be paused. The device is read first; where it contradicts what is tracked, or the guest holds
    what cannot be moved, nothing is written.
    """
    from pyproxy.cli.access import operations

    with operations(config_file) as host:
        document = host.checkpoint(guest, lun)
    if output is None:
        click.echo(document, nl=False)
        return
    _write(output, document)
    click.echo(f"pyproxy: guest {guest}: checkpoint written to {output}", err=True)


@click.command(short_help="Check and show a checkpoint.", epilog="Example: pyproxy inspect db.json")
@_CHECKPOINT_FILE
@_JSON
def inspect(file: Path, as_json: bool) -> None:
    """Check a checkpoint FILE and show what it says. FILE may be - for standard input."""
    from pyproxy.cli.output import print_table
    from pyproxy.migration.checkpoint import decode_checkpoint, describe, encode_checkpoint

    checked = decode_checkpoint(_read(file), str(file))
    if as_json:
        click.echo(encode_checkpoint(checked), nl=False)
        return
    print_table(f"{file}: valid checkpoint", ("", ""), describe(checked).items(), empty="")


@click.command(
    short_help="Take a guest's claim over to this host.",
    epilog="Examples: pyproxy restore db.json --source /dev/sg2; pyproxy restore db.json --source-dead",
)
@_CHECKPOINT_FILE
@click.option("--source", metavar="DEVICE", help="A node here through which the source host's nexus is reached.")
@click.option("--source-dead", is_flag=True, help="You state that the source host has stopped for good or is fenced.")
@click.option("--device", metavar="DEVICE", help="The guest's node here [default: the one configured for it].")
@click.option("--fence-ruled-out", is_flag=True, help="You state that no node fenced the guest meanwhile.")
@_JSON
@click.pass_obj
def restore(
    config_file: Path | None,
    file: Path,
    source: str | None,
    source_dead: bool,
    device: str | None,
    fence_ruled_out: bool,
    as_json: bool,
) -> None:
    """Take over what a checkpoint FILE's guest has registered and reserved, to this host.

    The unit is identified and read before anything is changed. With --source the reservation moves without lapsing;
    --source-dead is for a source that cannot act any more; with neither, nothing is changed and what would be needed is
    told. May be repeated at any point. Exit status 0: the guest may start here.
    """
    if source is not None and source_dead:
        raise click.UsageError("--source and --source-dead exclude each other: give one of the two.")

    from pyproxy.cli.access import operations
    from pyproxy.cli.output import print_json
    from pyproxy.daemon.documents import RestoreDocument
    from pyproxy.daemon.operations import RestoreRequest
    from pyproxy.migration.checkpoint import decode_checkpoint

    document = _read(file)
    decode_checkpoint(document, str(file))
    request = RestoreRequest(
        document=document,
        device=device,
        source=source,
        source_dead=source_dead,
        fence_ruled_out=fence_ruled_out,
    )
    with operations(config_file) as host:
        report: RestoreDocument = host.restore(request)
    if as_json:
        print_json(report)
    elif report.succeeded:
        _show(report)
    if not report.succeeded:
        click.echo(f"pyproxy: {report.sentence}", err=True)
        click.get_current_context().exit(1)


def _show(report: object) -> None:
    from pyproxy.cli.output import print_table
    from pyproxy.daemon.documents import RestoreDocument

    assert isinstance(report, RestoreDocument)
    click.echo(report.sentence)
    changes = [sent for sent in report.commands if sent.kind == "change"]
    if changes:
        rows = [(sent.side, sent.command, sent.why, sent.answer) for sent in changes]
        print_table("", ("on", "command", "why", "answer"), rows, empty="")
    if report.unit_attentions:
        click.echo(f"The guest will be told: {', '.join(report.unit_attentions)}.")


def _read(file: Path) -> bytes:
    from pyproxy.migration.checkpoint import LARGEST_DOCUMENT

    with click.open_file(str(file), "rb") as stream:
        data: bytes = stream.read(LARGEST_DOCUMENT + 1)
    return data


def _write(output: Path, document: bytes) -> None:
    """Write all of it or nothing: a half checkpoint must not take an old one's place."""
    import os
    import tempfile

    name: str | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(document)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(output)
    except OSError as error:
        if name is not None:
            Path(name).unlink(missing_ok=True)
        raise OSError(error.errno, f"the checkpoint cannot be written: {error.strerror}", str(output)) from error
