"""The guests' helper sockets: opens them as the configuration says, and connects them to the host's units."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeAlias

from pyproxy.config import Config, GuestSection, PrHelperSection, socket_path
from pyproxy.daemon.documents import PrHelperStatus
from pyproxy.daemon.gates import Gates
from pyproxy.daemon.host import Host, OpenUnit
from pyproxy.daemon.sockets import SocketError, listen
from pyproxy.device.node import NodeError, identify_node
from pyproxy.device.passed import PassedNode
from pyproxy.frontend.pr_helper.server import PrHelperServer
from pyproxy.frontend.pr_helper.service import OpenNode
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.unit import GuestUnit

log = logging.getLogger(__name__)

Activated: TypeAlias = Iterable[tuple[str, socket.socket]]
"""Listening sockets of the service manager, each with the name of the guest it is for."""

_MILLISECONDS: Final = 1000


class PrSockets:
    """One server for each guest of ``host`` that has a helper socket. Methods may be called from any thread.

    A socket that cannot be had is logged and told by ``status``; the other guests are served, and ``open`` tries again.
    """

    def __init__(
        self, host: Host, gates: Gates, activated: Activated = (), *, open_node: OpenNode = PassedNode.open
    ) -> None:
        self._host = host
        self._gates = gates
        self._open_node = open_node
        self._activated = dict(activated)
        self._lock = threading.Lock()
        self._servers: dict[str, PrHelperServer] = {}
        self._errors: dict[str, str] = {}
        self._stopping = False

    def open(self) -> None:
        """Serve the guests of the host's configuration that are not served yet, and resolve units anew for all."""
        config = self._host.config
        with self._lock:
            if self._stopping:
                return
            for guest in config.guest:
                if guest.pr_helper is not None and guest.name not in self._servers:
                    self._open(config, guest, guest.pr_helper)
            self._refuse_strangers(config)
            for server in self._servers.values():
                server.forget_units()

    def forget_units(self, guest: str) -> None:
        """Resolve the units of a guest anew with its next requests."""
        with self._lock:
            server = self._servers.get(guest)
        if server is not None:
            server.forget_units()

    def status(self, guest: GuestSection) -> PrHelperStatus | None:
        """Return how a guest's socket is doing; None where it has none."""
        if guest.pr_helper is None:
            return None
        with self._lock:
            server, error = self._servers.get(guest.name), self._errors.get(guest.name)
        if server is None:
            return PrHelperStatus(socket=str(socket_path(self._host.config, guest, guest.pr_helper)), error=error)
        return PrHelperStatus.of(server.address, server.counts())

    def stop(self, seconds: float) -> bool:
        """Stop accepting, let what runs on devices be answered within ``seconds``; False when something still runs."""
        with self._lock:
            self._stopping = True
            servers = list(self._servers.values())
        if not servers:
            return True
        with ThreadPoolExecutor(len(servers), "pr-helper-stop") as threads:
            return all(threads.map(lambda server: server.stop(seconds), servers))

    def _open(self, config: Config, guest: GuestSection, section: PrHelperSection) -> None:
        given = self._activated.pop(guest.name, None)
        try:
            listener, peers = listen(config, guest, section, given)
        except SocketError as error:
            self._errors[guest.name] = str(error)
            log.error("guest %s: its helper socket cannot be opened: %s", guest.name, error)  # noqa: TRY400
            if given is not None:
                given.close()
            return
        server = PrHelperServer(
            guest.name,
            listener,
            self._open_node,
            self._resolve,
            peers=peers,
            timeout_ms=_MILLISECONDS * max(unit.timeout for unit in guest.unit),
            gate=self._gates.gate(guest.name),
        )
        self._gates.add_shutting(guest.name, server.gate_shut)
        server.start()
        self._errors.pop(guest.name, None)
        self._servers[guest.name] = server
        log.info("guest %s: its PERSISTENT RESERVE comes in on %s", guest.name, server.address)

    def _refuse_strangers(self, config: Config) -> None:
        """Close the service manager's sockets that belong to no guest: a client would wait there for ever."""
        while self._activated:
            name, given = self._activated.popitem()
            log.error(
                "the service manager passed a socket named %s, but %s has no guest of that name with a pr_helper "
                "table; add it there, or correct FileDescriptorName=",
                name,
                config.source,
            )
            given.close()

    def _resolve(self, name: str, identity: LogicalUnitIdentity, address: str) -> GuestUnit | None:
        """Return the guest's unit that a passed descriptor leads to: the same logical unit by the same I_T nexus.

        A unit is registered through one path; the same one by another path is another nexus.
        """
        guest = self._host.config.find_guest(name)
        if guest is None:
            return None
        opened = {found.unit.lun: found for found in self._host.open_units() if found.unit.guest == name}
        for section in guest.unit:
            found = opened.get(section.lun)
            if section.device is None:
                continue
            away = self._host.away(name, section.lun) if found is None else None
            if away is not None:
                if not away.is_same(identity):
                    continue
                found = self._host.open_unit(name, section.lun)
            if _address(found, section.device) != address:
                continue
            if found is None:
                found = self._host.open_unit(name, section.lun)
            if found.identity.matches(identity):
                return found.unit
        return None


def _address(found: OpenUnit | None, device: os.PathLike[str]) -> str | None:
    """Return ``H:C:T:L`` of a unit that is open, or of its node where it is not; None where there is none."""
    if found is not None:
        return found.backing.address
    try:
        return identify_node(os.fspath(device), os.stat(device)).address  # noqa: PTH116 -- any path-like
    except (NodeError, OSError):
        return None
