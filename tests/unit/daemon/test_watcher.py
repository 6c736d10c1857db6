"""Units that go and come back below a host: found by who they are, taken from and given to their guest's controller."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from _fastpath import lanes
from pyproxy import config
from pyproxy.config import Config, GuestSection, UnitSection
from pyproxy.daemon import away as away_module
from pyproxy.daemon import watcher as watcher_module
from pyproxy.daemon.away import AwayError, attached_units, nodes_to
from pyproxy.daemon.backing import Backing
from pyproxy.daemon.capacities import Capacities
from pyproxy.daemon.front_ends import FrontEnds
from pyproxy.daemon.host import Host
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.watcher import Watcher
from pyproxy.device.base import TransportError
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.device.node import NodeKind
from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.scsi import ScsiDriver
from pyproxy.frontend.virtio_scsi.event import CHANGE, Event, EventKind, ResetReason
from pyproxy.frontend.virtio_scsi.lun import Address, encode_event_lun
from pyproxy.frontend.virtio_scsi.response import Response
from pyproxy.scsi.command import Command
from pyproxy.scsi.transport_id import SasTransportId
from tests.vm.rig.nodes import wait_for

PORT = SasTransportId(bytes.fromhex("5001405000000001"))
KEY = (0xC0FFEE).to_bytes(8)
REGISTER = Command(bytes.fromhex("5f060000000000001800"), data_out=bytes(8) + KEY + bytes(8))
TEST_UNIT_READY = bytes(6)
PAGE_83 = bytes.fromhex("12 01 83 00 ff 00")


def ready(driver: ScsiDriver, lun: int) -> bool:
    """Whether the unit is; after the unit attention that the target's LUNs are others now, where it waits."""
    answers = [driver.execute(TEST_UNIT_READY, address=Address(0, lun)) for _ in range(2)]
    assert answers[0].sense[12:14] in (b"", b"\x3f\x0e", b"\x25\x00")
    return answers[1].status == 0


def event(lun: int, kind: EventKind, reason: int) -> Event:
    return Event(kind, encode_event_lun(Address(0, lun)), reason)


def removed(lun: int) -> Event:
    return event(lun, EventKind.TRANSPORT_RESET, ResetReason.REMOVED)


def rescan(lun: int) -> Event:
    return event(lun, EventKind.TRANSPORT_RESET, ResetReason.RESCAN)


@dataclass
class Disk:
    """A disk that stands below a machine: what is at an address and has a node's name while it is attached."""

    unit: EmulatedUnit
    address: str
    node: str
    attached: bool = True
    closing: threading.Event = field(default_factory=threading.Event)
    may_close: threading.Event = field(default_factory=threading.Event)


class Machine:
    """A sysfs tree and a host with guest web, whose LUNs 0 and 1 are on /dev/sg0 and /dev/sg1 at first."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.disks: list[Disk] = []
        self._stack = stack
        for number in range(2):
            self.attach(self.make(f"disk{number}"), f"3:0:0:{number}", f"sg{number}")
        units = "".join(f'[[guest.unit]]\nlun = {lun}\ndevice = "/dev/sg{lun}"\n' for lun in range(2))
        text = (
            f'[daemon]\nstate_dir = "{directory}/state"\nruntime_dir = "{directory}/run"\n'
            f'[[guest]]\nname = "web"\nvhost_user = {{ socket = "{directory}/web.sock" }}\n{units}'
        )
        self.host = stack.enter_context(closing(Host(config.parse(text, "test", {}), open_backing=self.open)))
        self.front_ends = FrontEnds(self.host)
        self.host.not_served = self.front_ends.gates.why
        stack.callback(self.front_ends.stop, 10)
        self.host.open_all()
        self.front_ends.open()
        self.capacities = Capacities(self.front_ends.vhost_user.capacity_changed)
        self.watcher = Watcher(self.host, self.front_ends, self.capacities, seconds=0.02)
        stack.callback(self.watcher.stop)
        self.operations = LocalOperations(self.host, self.front_ends)

    def make(self, serial: str, path: Path | None = None, size: int = 1 << 20) -> EmulatedUnit:
        unit = EmulatedUnit(size, serial=serial, path=path, power_on_attention=False)
        return self._stack.enter_context(closing(unit))

    def attach(self, unit: EmulatedUnit, address: str, node: str) -> Disk:
        device = self.directory / "sys" / "devices" / address
        (device / "scsi_generic" / node).mkdir(parents=True)
        page = unit.nexus(PORT).execute(Command(PAGE_83, data_in=255)).data
        (device / "vpd_pg83").write_bytes(page)
        entry = self.directory / "sys" / "class" / "scsi_device" / address
        entry.mkdir(parents=True)
        (entry / "device").symlink_to(device)
        disk = Disk(unit, address, node)
        disk.may_close.set()
        self.disks.append(disk)
        return disk

    def detach(self, disk: Disk) -> None:
        disk.attached = False
        entry = self.directory / "sys" / "class" / "scsi_device" / disk.address
        (entry / "device").unlink()
        entry.rmdir()
        (self.directory / "sys" / "devices" / disk.address).rename(self.directory / f"gone-{id(disk)}")

    def open(self, _config: Config, _guest: GuestSection, section: UnitSection) -> Backing:
        assert section.device is not None
        disk = next((disk for disk in self.disks if disk.attached and disk.node == section.device.name), None)
        if disk is None:
            raise TransportError(2, f"{section.device}: there is no such node")

        def close() -> None:
            disk.closing.set()
            assert disk.may_close.wait(30)

        return Backing(
            disk.unit.nexus(PORT),
            PORT,
            1,
            close,
            address=disk.address,
            kind=NodeKind.GENERIC,
            attached=lambda: disk.attached,
        )

    def driver(self) -> ScsiDriver:
        driver = ScsiDriver(FrontEnd.connect(self.directory / "web.sock"), event_buffers=32)
        self._stack.callback(driver.close)
        driver.start(extra=CHANGE)
        return driver

    def is_away(self, lun: int) -> bool:
        return self.host.away("web", lun) is not None

    def device(self, lun: int) -> str:
        (guest,) = self.operations.status().guests
        return guest.units[lun].device


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    sysfs = tmp_path / "sys"

    def nodes(away: away_module.Away) -> list[Path]:
        return nodes_to(away, sysfs=sysfs)

    monkeypatch.setattr("pyproxy.daemon.host.nodes_to", nodes)
    monkeypatch.setattr(watcher_module, "attached_units", lambda: attached_units(sysfs=sysfs))
    with ExitStack() as stack:
        yield Machine(tmp_path, stack)


def test_a_unit_comes_back_under_another_name_and_address(machine: Machine) -> None:
    driver = machine.driver()
    machine.watcher.start()
    assert machine.host.unit("web", 0).execute(REGISTER).good
    disk = machine.disks[0]
    machine.detach(disk)
    assert driver.events(1) == [removed(0)]
    assert not ready(driver, 0)
    assert ready(driver, 1)
    with pytest.raises(AwayError, match=r"guest web LUN 0: emulated:disk0 \(.*\) was detached 20.*attach it again"):
        machine.host.unit("web", 0)
    (guest,) = machine.operations.status().guests
    assert guest.units[0].away_since is not None
    assert guest.units[0].error is not None
    # Another disk has its name by now.
    machine.attach(machine.make("stranger"), "3:0:0:0", "sg0")
    machine.attach(disk.unit, "5:0:0:9", "sg7")
    assert driver.events(1) == [rescan(0)]
    assert ready(driver, 0)
    found = machine.host.open_unit("web", 0)
    assert (found.backing.address, found.unit.state.key, found.unit.state.fresh) == ("5:0:0:9", 0xC0FFEE, True)
    assert found.section.device == Path("/dev/sg0"), "the configuration is what it was"


def test_the_helper_and_the_commands_find_a_unit_where_it_is_now(machine: Machine) -> None:
    """By the path that is configured they would reach the disk that has its name."""
    machine.watcher.start()
    machine.detach(machine.disks[0])
    wait_for(lambda: machine.is_away(0), "LUN 0 to be away")
    assert machine.host.find_node("/dev/sg0") is None
    assert machine.host.find_node("/dev/sg1") == ("web", 1)


def test_another_path_that_was_there_before_is_another_nexus(machine: Machine) -> None:
    """The guest is not registered there: the unit waits for its own path."""
    disk = machine.disks[0]
    machine.attach(disk.unit, "4:0:0:0", "sg8")
    machine.watcher.start()
    wait_for(lambda: machine.watcher._others.get(("web", 0)) == {"4:0:0:0"}, "the other path to be noticed")
    machine.detach(disk)
    wait_for(lambda: machine.is_away(0), "LUN 0 to be away")
    wait_for(lambda: not machine.watcher._tasks.running, "it to be looked for")
    assert machine.is_away(0)
    machine.attach(disk.unit, disk.address, "sg9")
    wait_for(lambda: not machine.is_away(0), "LUN 0 to be back")
    assert machine.host.open_unit("web", 0).backing.address == disk.address


def test_a_device_that_only_looks_like_the_unit_is_left_alone(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel has read page 83h when the device was attached; it may be another unit by now."""
    disk = machine.disks[0]
    machine.watcher.start()
    machine.detach(disk)
    wait_for(lambda: machine.is_away(0), "LUN 0 to be away")
    remapped = machine.attach(disk.unit, "3:0:0:0", "sg5")
    remapped.unit = machine.make("stranger")
    wait_for(lambda: "it is left alone" in caplog.text, "it to be looked at")
    wait_for(lambda: not machine.watcher._tasks.running, "the look to end")
    assert machine.is_away(0)
    assert caplog.text.count("it is left alone") == 1, "told once"


def test_a_unit_does_not_come_back_before_its_old_device_is_released(machine: Machine) -> None:
    """Also where the old device does not let go: nobody waits for it but its own thread."""
    driver = machine.driver()
    disk = machine.disks[0]
    disk.may_close.clear()
    machine.watcher.start()
    machine.detach(disk)
    assert driver.events(1) == [removed(0)]
    assert disk.closing.wait(30)
    machine.attach(disk.unit, "3:0:0:0", "sg5")
    with pytest.raises(AwayError, match="was detached, the commands it had are waited for"):
        machine.host.unit("web", 0)
    assert "waited for" in str(machine.operations.status().guests[0].units[0].error)
    assert ready(driver, 1)
    disk.may_close.set()
    assert driver.events(1) == [rescan(0)]


def test_the_last_unit_of_a_target(machine: Machine) -> None:
    driver = machine.driver()
    machine.watcher.start()
    for disk in machine.disks[:2]:
        machine.detach(disk)
    assert sorted(driver.events(2), key=lambda one: one.lun) == [removed(0), removed(1)]
    assert driver.execute(TEST_UNIT_READY).response == Response.BAD_TARGET


def test_a_unit_that_could_not_be_opened_is_tried_again(machine: Machine) -> None:
    late = machine.disks.pop()
    machine.host.close()
    with ExitStack() as stack:
        host = stack.enter_context(closing(Host(machine.host.config, open_backing=machine.open)))
        host.open_all()
        watcher = Watcher(host, FrontEnds(host), Capacities(lambda _: None), seconds=0.02)
        stack.callback(watcher.stop)
        watcher.start()
        assert [found.unit.lun for found in host.open_units()] == [0]
        machine.disks.append(late)
        wait_for(lambda: len(host.open_units()) == 2, "LUN 1 to be opened")


@pytest.mark.parametrize("received", [False, True])
def test_a_unit_that_grows(machine: Machine, received: bool) -> None:
    """One event and one unit attention, whether or not the guest has received the device's own before."""
    driver = machine.driver()
    machine.watcher.start()
    found = machine.host.open_unit("web", 0)
    wait_for(lambda: machine.capacities.known(found), "the first look")
    unit = machine.disks[0].unit
    unit.blocks *= 2
    if received:
        found.unit.observe_lane(TEST_UNIT_READY, lanes.EVENT_UNIT_ATTENTION, 0x2A, 0x09)
    machine.capacities.look(found)
    assert driver.events(1) == [event(0, EventKind.PARAM_CHANGE, 0x2A | 0x09 << 8)]
    answer = driver.execute(TEST_UNIT_READY)
    assert (answer.status, answer.sense[12:14]) == ((0, b"") if received else (2, b"\x2a\x09"))
    machine.capacities.look(found)
    assert driver.execute(TEST_UNIT_READY).status == 0
