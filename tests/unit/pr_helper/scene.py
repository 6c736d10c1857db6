"""A helper server over emulated units on this machine: any descriptor stands for a device it is told to stand for."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pyproxy.device.base import Device
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.device.node import NodeError, identify_node
from pyproxy.frontend.listener import Listener
from pyproxy.frontend.pr_helper.server import PrHelperServer
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit

US = SasTransportId(bytes.fromhex("5001405000000001"))
OTHER = SasTransportId(bytes.fromhex("5001405000000002"))
MIB = 1 << 20


@dataclass
class FakeNode:
    """What a descriptor stands for."""

    device: Device
    number: int
    address: str
    lasting: Path
    is_block: bool = False

    def watch(self) -> int:
        return os.open(self.lasting, os.O_RDONLY)


class Blocking:
    """A device whose commands wait until they are let go."""

    def __init__(self, device: Device) -> None:
        self.name = device.name
        self.entered = threading.Event()
        self.release = threading.Event()
        self._device = device

    def execute(self, command: Command) -> Result:
        if command.cdb[0] == 0x5F:
            self.entered.set()
            assert self.release.wait(30)
        return self._device.execute(command)

    def execute_batch(self, commands: object) -> list[Result]:
        raise NotImplementedError

    def close(self) -> None:
        pass


@dataclass
class Scene:
    """One guest with one emulated unit behind a helper socket."""

    directory: Path
    store: SqliteStore
    unit: EmulatedUnit
    guest_unit: GuestUnit
    path: Path
    nodes: dict[int, FakeNode] = field(default_factory=dict)
    """By the inode of the descriptor's file."""
    resolved: list[tuple[str, str, str]] = field(default_factory=list)
    server: PrHelperServer | None = None
    counter: int = 0

    def device_file(self, device: Device | None = None) -> Path:
        """A file whose descriptors stand for ``device``, the unit's own unless another is given."""
        self.counter += 1
        path = self.directory / f"device-{self.counter}"
        path.touch()
        lasting = self.directory / f"lasting-{self.counter}"
        lasting.write_text("0\n", encoding="ascii")
        node = FakeNode(device or self.guest_unit.device, 0x800 + self.counter, f"{self.counter}:0:0:0", lasting)
        self.nodes[path.stat().st_ino] = node
        return path

    def open_node(self, descriptor: int) -> FakeNode:
        status = os.fstat(descriptor)
        node = self.nodes.get(status.st_ino)
        if node is None:
            identify_node(f"descriptor {descriptor}", status)
            raise NodeError(19, f"descriptor {descriptor} stands for nothing")
        return node

    def resolve(self, guest: str, identity: LogicalUnitIdentity, address: str) -> GuestUnit | None:
        self.resolved.append((guest, identity.name, address))
        return self.guest_unit if identity.name == self.guest_unit.snooper.identity_name else None

    def start(self, **options: object) -> PrHelperServer:
        self.server = PrHelperServer("g", Listener.bind(self.path), self.open_node, self.resolve, **options)
        self.server.start()
        return self.server


def identity_of(device: Device) -> str:
    from pyproxy.device.base import read_identity

    return read_identity(device).name


@contextmanager
def scene(directory: Path, *, migrate_pr: bool = True, **options: object) -> Iterator[Scene]:
    unit = EmulatedUnit(16 * MIB, serial="scene")
    with SqliteStore(directory / "state.db") as store:
        nexus = unit.nexus(US)
        snooper = Snooper("g", 0, identity_of(nexus), store, migrate_pr=migrate_pr, initiator=US, rtpi=1)
        made = Scene(directory, store, unit, GuestUnit("g", 0, nexus, snooper), directory / "pr.sock")
        if options.pop("start", True):
            made.start(**options)
        try:
            yield made
        finally:
            if made.server is not None:
                assert made.server.stop(10)
            unit.close()
