"""``pyproxy migrate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from pyproxy.daemon.documents import MigrationDocument
    from pyproxy.daemon.operations import MigrateRequest, Operations

_LOOK_SECONDS: Final = 0.2
_ANY: Final = "any"


@click.command(
    short_help="Move a guest's claims to another host.",
    epilog="Examples: pyproxy migrate db --to host-b; pyproxy migrate db --status; pyproxy migrate db --cancel",
)
@click.argument("guest", required=False)
@click.option("--to", metavar="HOST", help="The peer that the guest goes to.")
@click.option("--now", is_flag=True, help="The guest has stopped: hand over now, and wait until the peer is ready.")
@click.option("--from", "source", metavar="HOST", help="The peer that the guest comes from; any: whichever serves it.")
@click.option("--withdraw", is_flag=True, help="The guest does not come here after all: tell the peer it was to leave.")
@click.option(
    "--qmp",
    type=click.Path(path_type=Path),
    metavar="SOCKET",
    help="QEMU's monitor here: have QEMU wait for the claims, and call its migration off where they do not come.",
)
@click.option("--uri", help="With --qmp: begin QEMU's migration to this address too [default: somebody else does].")
@click.option("--wait", is_flag=True, help="Wait until the migration is over.")
@click.option("--status", is_flag=True, help="Show migrations, of GUEST or of all.")
@click.option("--cancel", is_flag=True, help="The guest stays here: take back what was handed over.")
@click.option(
    "--destination-dead",
    is_flag=True,
    help="With --cancel: you state that the guest does not run at the destination and never will.",
)
@click.option("--source-dead", is_flag=True, help="You state that the source host is dead: take the claims over.")
@click.option("--fence-ruled-out", is_flag=True, help="With either: you state that no node fenced the guest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_obj
def migrate(
    config_file: Path | None,
    guest: str | None,
    to: str | None,
    now: bool,
    source: str | None,
    withdraw: bool,
    qmp: Path | None,
    uri: str | None,
    wait: bool,
    status: bool,
    cancel: bool,
    destination_dead: bool,
    source_dead: bool,
    fence_ruled_out: bool,
    as_json: bool,
) -> None:
    """Move what GUEST has registered and reserved to another host while its hypervisor moves the guest.

    With --to everything is checked, and the handover armed: it begins when the guest stops here, and the guest is
    served there once its claims are. --from does the same from where the guest goes to. With --now the guest has
    stopped already (paused by you or a hook). A guest that starts here again takes its claims back. Exit status 0:
    done, or with --now the guest may start there.
    """
    from pyproxy.cli.access import operations

    exclusive = {
        "--to": to is not None,
        "--from": source is not None,
        "--withdraw": withdraw,
        "--status": status,
        "--cancel": cancel,
        "--source-dead": source_dead,
    }
    _check_use(guest, [name for name, given in exclusive.items() if given], now=now)
    if destination_dead and not cancel:
        raise click.UsageError("--destination-dead goes with --cancel.")
    if fence_ruled_out and not (destination_dead or source_dead):
        raise click.UsageError("--fence-ruled-out goes with --source-dead or --destination-dead.")
    if qmp is not None and (to is None or now):
        raise click.UsageError("--qmp goes with --to, and without --now.")
    if uri is not None and qmp is None:
        raise click.UsageError("--uri goes with --qmp.")
    with operations(config_file) as host:
        if status or guest is None:
            _show_all(host, guest, as_json=as_json)
            return
        for request in _requests(
            to,
            source,
            now=now,
            withdraw=withdraw,
            cancel=cancel,
            source_dead=source_dead,
            peer_dead=destination_dead,
            ruled_out=fence_ruled_out,
        ):
            found = host.migrate(guest, request)
        if qmp is not None:
            from pyproxy.cli.switchover import drive

            if not as_json:
                click.echo(_sentence(found), err=True)
            drive(host, found, qmp, uri)
        follow = now or wait or cancel or source_dead or qmp is not None
        if follow:
            found = _follow(host, found, until_over=not now or wait, quiet=as_json)
        _tell(found, as_json=as_json, follow=follow, cancel=cancel, source_dead=source_dead)


def _check_use(guest: str | None, chosen: list[str], *, now: bool) -> None:
    if len(chosen) > 1:
        raise click.UsageError(f"{' and '.join(chosen)} exclude each other: give one of them.")
    if now and any(one != "--to" for one in chosen):
        raise click.UsageError(f"--now and {chosen[0]} exclude each other.")
    if "--status" not in chosen and guest is None:
        raise click.UsageError("Name the guest; pyproxy migrate --status shows all.")
    if not chosen and not now:
        raise click.UsageError(
            "Say what to do: --to HOST, --from HOST, --now, --status, --cancel, --withdraw or --source-dead."
        )


def _requests(
    to: str | None,
    source: str | None,
    *,
    now: bool,
    withdraw: bool,
    cancel: bool,
    source_dead: bool,
    peer_dead: bool,
    ruled_out: bool,
) -> list[MigrateRequest]:
    from pyproxy.daemon.operations import MigrateRequest

    if source is not None:
        return [MigrateRequest(action="invite", source=None if source == _ANY else source)]
    if withdraw:
        return [MigrateRequest(action="withdraw")]
    if cancel:
        return [MigrateRequest(action="cancel", peer_dead=peer_dead, fence_ruled_out=ruled_out)]
    if source_dead:
        return [MigrateRequest(action="source-dead", fence_ruled_out=ruled_out)]
    arm = [MigrateRequest(action="arm", to=to)] if to is not None else []
    return [*arm, *([MigrateRequest(action="hand-over")] if now else [])]


def _follow(host: Operations, begun: MigrationDocument, *, until_over: bool, quiet: bool) -> MigrationDocument:
    """Show each phase as it comes, until it is over, or the destination is ready for the guest."""
    import time

    shown = 0
    text = ""
    while True:
        found = latest(host, begun)
        for phase in found.phases[shown:]:
            if not quiet:
                click.echo(f"{phase.at} {phase.phase}: {phase.why}", err=True)
        shown = len(found.phases)
        if found.text and found.text != text and not quiet:
            click.echo(f"  {found.text}", err=True)
        text = found.text
        if found.over or (not until_over and found.ready) or found.phase == "verified":
            return found
        time.sleep(_LOOK_SECONDS)


def latest(host: Operations, begun: MigrationDocument) -> MigrationDocument:
    """Return how a migration stands now."""
    return next(
        one for one in host.migrations().migrations if (one.migration, one.role) == (begun.migration, begun.role)
    )


def _tell(found: MigrationDocument, *, as_json: bool, follow: bool, cancel: bool, source_dead: bool) -> None:
    """Say how it stands; exit status 1 where it did not come to what was asked for."""
    from pyproxy.cli.output import print_json

    wanted = {"released", "committed"}
    if cancel:
        wanted = {"cancelled", "reclaimed", "closed"}
    elif source_dead:
        wanted = {"verified", "committed"}
    done = not follow or found.phase in wanted or (found.ready and not cancel)
    if as_json:
        print_json(found)
    elif done:
        click.echo(_sentence(found))
    if not done:
        click.echo(f"pyproxy: {_sentence(found)}{': ' if found.text else ''}{found.text}", err=True)
        click.get_current_context().exit(1)


def _sentence(found: MigrationDocument) -> str:
    who, peer = f"guest {found.guest}", found.peer
    if found.ready:
        return f"{who}: its claims are at {peer}; start it there"
    return {
        "prepared": f"{who}: expected from {peer}; it is served here once its claims are here",
        "armed": f"{who}: ready to move to {peer}; the handover begins when it stops here",
        "released": f"{who} is served by {peer}",
        "cancelled": f"{who}: the migration is cancelled, nothing has moved, it is served here",
        "reclaimed": f"{who} has its claims here again and is served",
        "closed": f"{who} is {peer}'s and is not served here; to serve it here without its claims, cancel again",
        "verified": f"{who}: its claims are here; start it",
        "committed": f"{who} is served here",
    }.get(found.phase, f"{who}: the migration {_TOWARDS[found.role]} {peer} is {found.phase}")


def _show_all(host: Operations, guest: str | None, *, as_json: bool) -> None:
    from pyproxy.cli.output import print_json, print_table
    from pyproxy.daemon.documents import MigrationsDocument

    known = host.migrations().migrations
    found = [one for one in known if guest in (None, one.guest)]
    if as_json:
        print_json(MigrationsDocument(migrations=found))
        return
    rows = [
        (one.guest, f"{_TOWARDS[one.role]} {one.peer}", one.phase, one.served_here, one.phases[-1].at, one.text)
        for one in found
    ]
    print_table("", ("guest", "migration", "phase", "served here", "since", "waits for"), rows, empty="no migrations")


_TOWARDS: Final = {"source": "to", "destination": "from"}
