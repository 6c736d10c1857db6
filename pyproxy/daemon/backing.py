"""What a guest's unit stands on: a device node, an iSCSI session or an emulated unit, opened as configured."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from _fastpath.block_port import BlockPort
from _fastpath.port import Port
from _fastpath.sg_port import SgPort
from pyproxy.config import Config, EmulatedSection, GuestSection, UnitSection, emulated_serial, iscsi_settings
from pyproxy.daemon.failures import OperationError
from pyproxy.device.base import Device, TransportError
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.device.iscsi import IscsiDevice
from pyproxy.device.node import NodeError, NodeKind, ScsiNode, identify_node
from pyproxy.device.presence import Presence
from pyproxy.device.sg import SgDevice
from pyproxy.scsi.transport_id import SasTransportId, TransportId


class NexusLoss:
    """Passes on that the nexus was lost, to whoever listens now or was not there yet. Called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listener: Callable[[], None] | None = None
        self._lost = False
        self.count = 0
        """How often it was lost."""

    def __call__(self, _sentence: str) -> None:
        """Take note of a loss, which was logged with this sentence."""
        with self._lock:
            listener = self._listener
            self._lost = listener is None
            self.count += 1
        if listener is not None:
            listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Tell ``listener`` from now on, and at once what nobody was told."""
        with self._lock:
            self._listener = listener
            lost, self._lost = self._lost, False
        if lost:
            listener()


@dataclass(frozen=True, slots=True)
class Backing:
    """An open device; ``initiator`` and ``rtpi`` name the nexus where they are known. ``close`` releases it.

    ``address`` is H:C:T:L as the kernel counts it and ``kind`` that of the node, None where the kernel does not know
    the device; ``attached`` tells whether it is the kernel's still. ``port`` makes what a guest's controller submits to
    without Python; None where every command goes through ``device``. ``loss`` tells when the nexus was lost, where that
    can be known. ``grow`` gives an emulated unit the size that is configured now.
    """

    device: Device
    initiator: TransportId | None
    rtpi: int | None
    close: Callable[[], None]
    address: str | None = None
    kind: NodeKind | None = None
    attached: Callable[[], bool] = lambda: True
    port: Callable[[], Port | BlockPort | None] = lambda: None
    loss: NexusLoss | None = None
    grow: Callable[[EmulatedSection], None] | None = None


OpenBacking: TypeAlias = Callable[[Config, GuestSection, UnitSection], Backing]


class Backings:
    """Opens what units stand on. Guests that name one file share the emulated unit in it, each as its own nexus."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: dict[str, _SharedUnit] = {}

    def open(self, config: Config, guest: GuestSection, section: UnitSection) -> Backing:
        """Open what ``section`` names. Raises TransportError, OperationError."""
        if section.device is not None:
            node = SgDevice.open(section.device, threads=section.threads, engine=section.engine)
            try:
                presence = Presence(node.node.watch(node.name))
            except BaseException:
                node.close()
                raise
            ports = _NodePorts(section.device, node.node, section.threads)
            return Backing(
                node,
                section.initiator,
                section.rtpi,
                _both(ports.close, node.close),
                address=node.node.address,
                kind=node.node.kind,
                attached=lambda: presence.attached,
                port=ports.open,
            )
        if section.iscsi is not None:
            loss = NexusLoss()
            session = IscsiDevice.open(
                iscsi_settings(section.iscsi),
                host=config.daemon.host_name,
                guest=guest.name,
                lun=section.lun,
                on_nexus_lost=loss,
            )
            rtpi = section.rtpi or session.rtpi
            return Backing(session, session.initiator, rtpi, session.close, port=session.port, loss=loss)
        assert section.emulated is not None
        unit, close, grow = self._emulated(config, guest, section, section.emulated)
        initiator, rtpi = section.initiator or host_port(config), section.rtpi or 1
        nexus = unit.nexus(initiator, rtpi)
        return Backing(nexus, initiator, rtpi, close, port=lambda: BlockPort(unit.medium, nexus.gate), grow=grow)

    def _emulated(
        self, config: Config, guest: GuestSection, section: UnitSection, emulated: EmulatedSection
    ) -> tuple[EmulatedUnit, Callable[[], None], Callable[[EmulatedSection], None]]:
        """Return the unit, what releases it, and what makes it larger."""
        serial = emulated_serial(config, guest, section)
        if emulated.path is None:
            unit = EmulatedUnit(emulated.size, block_size=emulated.block_size, serial=serial)
            return unit, unit.close, lambda larger: unit.grow(larger.size)
        where = f"guest {guest.name} LUN {section.lun}"
        if not emulated.path.parent.is_dir():
            raise OperationError(
                f"{where}: the directory {emulated.path.parent} does not exist; make it", "no-directory"
            )
        path = os.path.realpath(emulated.path)
        with self._lock:
            shared = self._files.get(path)
            if shared is None:
                unit = EmulatedUnit(emulated.size, path=emulated.path, block_size=emulated.block_size, serial=serial)
                shared = self._files[path] = _SharedUnit(unit, emulated)
            elif shared.section != emulated:
                raise OperationError(
                    f"{where}: {path} is open already with another size, block size or serial; make them equal",
                    "different-unit",
                )
            shared.users += 1
        return shared.unit, lambda: self._release(path), shared.grow

    def _release(self, path: str) -> None:
        with self._lock:
            shared = self._files[path]
            shared.users -= 1
            if shared.users == 0:
                del self._files[path]
                shared.unit.close()


class _NodePorts:
    """The ports of controllers on one node, each on an open file of its own."""

    def __init__(self, path: Path, node: ScsiNode, threads: int) -> None:
        self._path = path
        self._node = node
        self._threads = threads
        self._ports: list[tuple[SgPort, int]] = []

    def open(self) -> SgPort:
        """Open the node once more; raises TransportError."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise TransportError(
                error.errno or errno.EIO, f"{self._path}: cannot be opened again for a controller: {error.strerror}"
            ) from error
        try:
            self._check(descriptor)
            port = SgPort(descriptor, self._threads, label=str(self._path))
        except BaseException:
            os.close(descriptor)
            raise
        self._ports.append((port, descriptor))
        return port

    def _check(self, descriptor: int) -> None:
        if identify_node(str(self._path), os.fstat(descriptor)).entry != self._node.entry:
            raise NodeError(errno.ENODEV, f"{self._path}: became another device after it was opened; try again")

    def close(self) -> None:
        """End the ports after the commands they have."""
        while self._ports:
            port, descriptor = self._ports.pop()
            port.close()
            os.close(descriptor)


def _both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    def close() -> None:
        try:
            first()
        finally:
            second()

    return close


@dataclass
class _SharedUnit:
    unit: EmulatedUnit
    section: EmulatedSection
    users: int = 0

    def grow(self, section: EmulatedSection) -> None:
        self.unit.grow(section.size)
        self.section = section


def open_backing(config: Config, guest: GuestSection, section: UnitSection) -> Backing:
    """Open what one unit alone stands on; as ``Backings.open``."""
    return Backings().open(config, guest, section)


def host_port(config: Config) -> TransportId:
    """Return the initiator port of guests on emulated units where none is configured: one for each host name."""
    digest = hashlib.sha256(config.daemon.host_name.encode()).digest()
    return SasTransportId(bytes([0x30 | digest[0] & 0x0F, *digest[1:8]]))  # NAA 3h: locally assigned (SPC-4 7.8.6.6)
