"""The guests' vhost-user controllers: opens them as the configuration says, with the guests' units on their targets."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from _fastpath.service import MEMORY_GONE
from pyproxy.config import Config, GuestSection, VhostUserSection, socket_path
from pyproxy.daemon import failures
from pyproxy.daemon.documents import VhostUserStatus
from pyproxy.daemon.gates import Gates
from pyproxy.daemon.host import Host, Key, OpenUnit
from pyproxy.daemon.sockets import SocketError, listen, peers_of
from pyproxy.frontend.vhost_user.data_plane import DataPlane
from pyproxy.frontend.vhost_user.dialer import VhostUserDialer
from pyproxy.frontend.vhost_user.server import VhostUserServer
from pyproxy.frontend.virtio_scsi.controller import ScsiController
from pyproxy.frontend.virtio_scsi.lun import Address
from pyproxy.frontend.virtio_scsi.traffic import Traffic
from pyproxy.scsi.sense import CAPACITY_DATA_CHANGED

log = logging.getLogger(__name__)

_CONTROL_AND_EVENT: Final = 2
_MILLISECONDS: Final = 1000


@dataclass(eq=False)
class _Served:
    """One guest's controller; ``attached`` are the LUNs on it, with what stands there."""

    controller: ScsiController
    server: VhostUserServer | VhostUserDialer
    path: str
    attached: dict[int, OpenUnit] = field(default_factory=dict)


class Controllers:
    """One controller for each guest of ``host`` that has a vhost_user table. Methods may be called from any thread.

    A socket that cannot be had, or a unit that cannot be used, is logged; the others are served, and ``open`` tries
    again.
    """

    def __init__(self, host: Host, gates: Gates) -> None:
        self._host = host
        self._gates = gates
        self._lock = threading.Lock()
        self._served: dict[str, _Served] = {}
        self._errors: dict[str, str] = {}
        self._stopping = False

    def open(self) -> None:
        """Serve the guests of the host's configuration that are not served yet, and attach units that are new."""
        config = self._host.config
        with self._lock:
            if self._stopping:
                return
            for guest in config.guest:
                if guest.vhost_user is None:
                    continue
                served = self._served.get(guest.name)
                if served is not None:
                    self._attach(guest, served)
                else:
                    self._open(config, guest, guest.vhost_user)

    def attach_open(self) -> None:
        """Attach the units that have been opened meanwhile; the others are not tried."""
        opened = frozenset(found.key for found in self._host.open_units())
        with self._lock:
            if self._stopping:
                return
            for guest in self._host.config.guest:
                served = self._served.get(guest.name)
                if served is not None:
                    self._attach(guest, served, opened)

    def detach(self, found: OpenUnit) -> None:
        """Take a unit from its guest's controller and tell the guest; when this returns no command runs there."""
        guest, lun = found.key
        with self._lock:
            served = self._served.get(guest)
            if served is None or self._stopping or served.attached.get(lun) is not found:
                return
        # Not under the lock: it waits for the commands that the device has.
        served.controller.detach(_address(found))
        with self._lock:
            del served.attached[lun]

    def capacity_changed(self, found: OpenUnit) -> None:
        """Tell the guest that a unit has another capacity now."""
        with self._lock:
            served = self._served.get(found.unit.guest)
        if served is not None:
            served.controller.parameter_changed(_address(found), CAPACITY_DATA_CHANGED.asc, CAPACITY_DATA_CHANGED.ascq)

    def status(self, guest: GuestSection) -> VhostUserStatus | None:
        """Return how a guest's controller is doing; None where it has none."""
        if guest.vhost_user is None:
            return None
        with self._lock:
            served, error = self._served.get(guest.name), self._errors.get(guest.name)
        if served is None:
            return VhostUserStatus(socket=str(socket_path(self._host.config, guest, guest.vhost_user)), error=error)
        return VhostUserStatus.of(served.path, served.server.counts(), served.controller.plane.counts())

    def traffic(self, guest: str) -> dict[int, Traffic]:
        """Return what passes to each of the guest's units, by LUN; nothing where it has no controller."""
        with self._lock:
            served = self._served.get(guest)
            found = {} if served is None else dict(served.attached)
        if served is None:
            return {}
        luns = {_address(one): lun for lun, one in found.items()}
        return {luns[address]: one for address, one in served.controller.traffic().items() if address in luns}

    def stop(self, seconds: float) -> bool:
        """Stop accepting, let what runs on devices be answered within ``seconds``; False when something still runs."""
        with self._lock:
            self._stopping = True
            served = list(self._served.values())
        if not served:
            return True
        with ThreadPoolExecutor(len(served), "vhost-user-stop") as threads:
            return all(threads.map(lambda one: _stop(one, seconds), served))

    def _open(self, config: Config, guest: GuestSection, section: VhostUserSection) -> None:
        path = socket_path(config, guest, section)
        name = f"guest {guest.name}"
        rings = section.queues + _CONTROL_AND_EVENT
        try:
            if section.connect:
                listener, peers = None, peers_of(section)
            else:
                listener, peers = listen(config, guest, section)
        except SocketError as error:
            self._errors[guest.name] = str(error)
            log.error("%s: its vhost-user socket cannot be opened: %s", name, error)  # noqa: TRY400
            return
        seconds = max(unit.timeout for unit in guest.unit)

        def broken(_queue: int, reason: str) -> None:
            if reason == MEMORY_GONE:
                server.memory_gone(reason)

        controller = ScsiController(
            name, rings, timeout_ms=_MILLISECONDS * seconds, broken=broken, poll_us=section.poll_us
        )
        plane = DataPlane.of(controller.plane)
        events = self._gates.rings(guest.name)
        self._gates.add_queues(guest.name, controller.plane)
        server: VhostUserServer | VhostUserDialer
        if listener is None:
            server = VhostUserDialer(name, path, rings, plane, peers=peers, events=events)
        else:
            server = VhostUserServer(name, listener, rings, plane, peers=peers, events=events)
        controller.negotiated(lambda: server.features)
        served = _Served(controller, server, str(path))
        self._attach(guest, served)
        server.start()
        self._errors.pop(guest.name, None)
        self._served[guest.name] = served
        log.info("%s: its disks are on %s", name, path)

    def _attach(self, guest: GuestSection, served: _Served, only: frozenset[Key] | None = None) -> None:
        """Attach the guest's units that are not attached yet, or of those ``only`` these."""
        for section in guest.unit:
            if section.lun in served.attached or (only is not None and (guest.name, section.lun) not in only):
                continue
            try:
                found = self._host.open_unit(guest.name, section.lun)
                port = found.backing.port()
            except Exception as error:
                told = failures.sentence(error)
                if told is None:
                    raise
                log.error("guest %s LUN %d is not on its controller: %s", guest.name, section.lun, told)  # noqa: TRY400
                continue
            served.controller.attach(
                _address(found),
                found.unit,
                port,
                timeout_ms=_MILLISECONDS * section.timeout,
            )
            served.attached[section.lun] = found


def _address(found: OpenUnit) -> Address:
    return Address(found.section.target, found.section.lun)


def _stop(served: _Served, seconds: float) -> bool:
    stopped = served.server.stop(seconds)
    if stopped:
        served.controller.close()
    return stopped
