"""Guests on their way between hosts: connects the engine of migrations to the daemon, its peers and its operators."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Final

from pyproxy.config import Config, Endpoint, MigrationSection
from pyproxy.daemon.documents import MigrationDocument, MigrationsDocument
from pyproxy.daemon.gates import Gates
from pyproxy.daemon.host import Host
from pyproxy.daemon.operations import MigrateRequest
from pyproxy.daemon.standing import Standing
from pyproxy.daemon.tcp import bind_tcp
from pyproxy.frontend.listener import Listener
from pyproxy.migration.engine import Engine, MigrationError
from pyproxy.migration.peer import Peer
from pyproxy.migration.phases import DestinationPhase, Role, SourcePhase
from pyproxy.migration.record import Record, seconds_of
from pyproxy.migration.transport.client import Address, HttpPeer
from pyproxy.migration.transport.server import Listening, TransportServer
from pyproxy.migration.transport.tls import Credentials
from pyproxy.tally import Durations, Tally

log = logging.getLogger(__name__)


class Peers(Mapping[str, Peer]):
    """The configured peers by name."""

    def __init__(self, config: Config) -> None:
        own, credentials = config.daemon.host_name, credentials_of(config.migration)
        self._peers = {
            peer.name: HttpPeer(peer.name, Address(*Endpoint.parse(peer.address)), own, credentials)
            for peer in config.peer
        }

    def __getitem__(self, name: str) -> Peer:
        """Return a peer; raises KeyError."""
        return self._peers[name]

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self._peers)

    def __len__(self) -> int:
        """Count them."""
        return len(self._peers)

    def close(self) -> None:
        """Close what is open to them."""
        for peer in self._peers.values():
            peer.close()


class MigrationFigures:
    """How often migrations came into a phase, by side, and how long guests' claims were on their way."""

    def __init__(self) -> None:
        self.phases = Tally()
        self.handovers: dict[str, Durations] = {Role.SOURCE: Durations(), Role.DESTINATION: Durations()}

    def told(self, record: Record) -> None:
        """Count that a migration has come into the phase it is in."""
        self.phases.add(record.role, record.phase)
        first, last = _HANDOVER[Role(record.role)]
        if record.at is last:
            began = [one.at for one in record.trail if one.phase == first]
            if began:
                seconds = seconds_of(record.trail[-1].at) - seconds_of(began[-1])
                self.handovers[record.role].add(max(0.0, seconds))


_HANDOVER: Final = {
    Role.SOURCE: (SourcePhase.DRAINING, SourcePhase.RELEASED),
    Role.DESTINATION: (DestinationPhase.RECEIVED, DestinationPhase.VERIFIED),
}
"""From the guest's stop to its release at the source; from the claims' arrival to their verification."""


class Migrations:
    """The migrations of one daemon.

    ``resume`` before any guest is served, then ``start``, and ``listen`` in the event loop; ``close`` before the front
    ends are stopped, which may wait for a handover.
    """

    def __init__(self, host: Host, gates: Gates) -> None:
        self._host = host
        self._gates = gates
        self._peers = Peers(host.config)
        self.figures = MigrationFigures()
        section = host.config.migration or MigrationSection()
        self.engine = Engine(
            Standing(host, gates),
            self._peers,
            drain_seconds=section.drain_seconds,
            hold_seconds=section.hold_seconds,
            told=self.figures.told,
        )
        self._server: TransportServer | None = None
        self._listener: Listener | None = None

    def resume(self) -> None:
        """Shut the gates of guests that are not this host's; raises StoreError, RecordError."""
        self.engine.resume()
        self._gates.events = self.engine

    def start(self) -> None:
        """Go on with what is not over."""
        self.engine.start()

    async def listen(self) -> None:
        """Answer the peers, where that is configured; raises OSError, CredentialsError."""
        section = self._host.config.migration
        if section is None or section.listen is None:
            return
        endpoint = Endpoint.parse(section.listen)
        credentials = None if endpoint.path is not None else credentials_of(section)
        if endpoint.path is not None:
            self._listener = Listener.bind(endpoint.path)
            bound = self._listener.socket
        else:
            bound = bind_tcp(endpoint, "peers cannot be listened to")
        server = TransportServer(Listening(bound, credentials), self.engine, list(self._peers))
        try:
            await server.start()
        except BaseException:
            bound.close()
            await self.unlisten()
            raise
        self._server = server
        log.info("peers reach this host at %s", section.listen)

    async def unlisten(self) -> None:
        """Answer no peer any more."""
        if self._server is not None:
            await self._server.stop()
            self._server = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Let nobody wait; what is not over goes on after the next start."""
        self.engine.close()
        self._peers.close()

    def ask(self, guest: str, request: MigrateRequest) -> MigrationDocument:
        """Do what an operator asks for; raises MigrationError, StoreError and what opening the units raises."""
        engine = self.engine
        match request.action:
            case "arm":
                if request.to is None:
                    raise MigrationError("name the peer to migrate to", "wrong-use")
                engine.migrate(guest, request.to)
            case "invite":
                engine.invite(guest, request.source)
            case "withdraw":
                engine.withdraw(guest)
            case "hand-over":
                engine.hand_over(guest)
            case "cancel":
                engine.cancel(guest, destination_dead=request.peer_dead, fence_ruled_out=request.fence_ruled_out)
            case "source-dead":
                engine.source_dead(guest, fence_ruled_out=request.fence_ruled_out)
        return MigrationDocument.of(engine.latest(guest))

    def status(self) -> MigrationsDocument:
        """Return what is known of all guests' migrations, latest last."""
        return MigrationsDocument(migrations=[MigrationDocument.of(work) for work in self.engine.works()])


def credentials_of(section: MigrationSection | None) -> Credentials | None:
    """Return the paths of certificate, key and authority; None where they are not all configured."""
    if section is None or section.certificate is None or section.key is None or section.ca is None:
        return None
    return Credentials(section.certificate, section.key, section.ca)
