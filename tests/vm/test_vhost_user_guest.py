"""Debian's own virtio-scsi driver and tools on our controller: QEMU and its guest there, this process here.

The units are emulated here; what the guest sees of them is looked at with sg3-utils and the kernel's log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from _fastpath.block_port import BlockPort
from pyproxy.device.base import read_identity
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.frontend.virtio_scsi.lun import Address
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.command import Command
from pyproxy.unit import GuestUnit
from tests.unit.vhost_user.scene import MIB, US, Scene, scene
from tests.vm.guest_shell import COMMAND_SECONDS, GuestShell, guest_shell

HOTPLUG, CHANGE, EVENT_IDX, INDIRECT = 1 << 1, 1 << 2, 1 << 29, 1 << 28
HOST = "/sys/bus/pci/drivers/virtio-pci/*/virtio*/host*"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("vhost-user")
    with scene(directory, ((0, 0), (0, 1), (2, 5)), make=None, rings=4) as made:
        made.listen(rings=4)
        yield made


@pytest.fixture(scope="module")
def guest(host: Scene) -> Iterator[GuestShell]:
    options = [
        *("-object", "memory-backend-memfd,id=ram,size=1024M,share=on", "-machine", "memory-backend=ram"),
        *("-chardev", f"socket,id=scsi,path={host.path}"),
        *("-device", "vhost-user-scsi-pci,chardev=scsi,id=hba,num_queues=2"),
    ]
    with guest_shell(host.directory / "vm", qemu_options=options) as shell:
        shell.run("modprobe virtio_scsi && udevadm settle --timeout=60")
        shell.eventually("[ -e /sys/class/scsi_device/*:2:5/device/generic ]")
        yield shell


def number(guest: GuestShell) -> str:
    """The guest's number of the SCSI host that is our controller."""
    return guest.run(
        "grep -l '^virtio_scsi$' /sys/class/scsi_host/*/proc_name | sed 's,.*/host\\([0-9]*\\)/.*,\\1,'"
    ).strip()


def node(guest: GuestShell, target: int, lun: int) -> str:
    """The generic node of a unit in the guest."""
    path = f"/sys/class/scsi_device/{number(guest)}:0:{target}:{lun}/device/scsi_generic"
    guest.eventually(f"[ -e {path} ]")
    return "/dev/" + guest.run(f"ls {path}").strip()


def disk(guest: GuestShell, target: int, lun: int) -> str:
    path = f"/sys/class/scsi_device/{number(guest)}:0:{target}:{lun}/device/block"
    guest.eventually(f"[ -e {path} ]")
    return "/dev/" + guest.run(f"ls {path}").strip()


def test_linux_finds_every_unit_and_nothing_else(host, guest):
    found = guest.run(f"ls /sys/class/scsi_device | grep '^{number(guest)}:' | sort").split()
    assert found == [f"{number(guest)}:0:0:0", f"{number(guest)}:0:0:1", f"{number(guest)}:0:2:5"]
    features = host.server.features
    assert features & HOTPLUG
    assert features & CHANGE
    assert features & EVENT_IDX
    assert features & INDIRECT


def test_sg_luns(guest):
    assert "0001000000000000" in guest.run(f"sg_luns {node(guest, 0, 0)}")
    assert guest.run(f"sg_luns -s 2 {node(guest, 0, 0)}").count("0000000000") >= 3
    assert "0005000000000000" in guest.run(f"sg_luns {node(guest, 2, 5)}")


def test_data_written_through_the_guest_is_on_the_unit(host, guest):
    block = disk(guest, 0, 1)
    guest.run(
        "cd $(mktemp -d) && dd if=/dev/urandom of=x bs=1M count=8 && "
        f"dd if=x of={block} bs=256k oflag=direct && dd if={block} of=y bs=64k count=128 iflag=direct && cmp x y"
    )
    # In requests of one block, several at a time.
    guest.run(
        f"fio --name=v --filename={block} --direct=1 --rw=randwrite --bs=4k --size=2M --iodepth=16 --ioengine=libaio "
        "--verify=crc32c --do_verify=1 --numjobs=1 --minimal >/dev/null",
        seconds=300,
    )
    guest.run(f"printf pyproxy >/tmp/mark && dd if=/tmp/mark of={block} conv=sync bs=512 oflag=direct")
    read = host.unit(0, 1).execute(Command(bytes.fromhex("28 00 00 00 00 00 00 00 01 00"), data_in=512))
    assert read.data[:7] == b"pyproxy"


def test_reservations_of_the_guest_are_tracked(host, guest):
    generic = node(guest, 0, 0)
    guest.run(f"sg_persist --out --register --param-sark=abc123 {generic}")
    assert "0xabc123" in guest.run(f"sg_persist --in -k {generic}")
    guest.run(f"sg_persist --out --reserve --param-rk=abc123 --prout-type=1 {generic}")
    assert "Write Exclusive" in guest.run(f"sg_persist --in -r {generic}")
    assert host.unit().state.key == 0xABC123
    assert host.unit().state.holds
    # What is refused to every guest of pyproxy, seen through its driver.
    refused = guest.run(
        f"sg_persist --out --register-move --param-rk=abc123 --param-sark=1 --relative-target-port=1 "
        f"--transport-id=sas,5001405000000009 {generic}",
        check=False,
    )
    assert "Invalid field in cdb" in refused or "Illegal request" in refused
    guest.run(f"sg_persist --out --clear --param-rk=abc123 {generic}")
    assert host.unit().state.key in (0, None)


def test_a_reset_of_the_unit(guest):
    generic = node(guest, 0, 0)
    guest.run(f"sg_turs {generic}", check=False)
    guest.run(f"sg_reset -d {generic}")
    assert "Bus device reset function occurred" in guest.run(f"sg_turs -v {generic}", check=False)
    guest.run(f"sg_turs {generic}")


def test_a_unit_is_plugged_and_unplugged(host, guest):
    unit = EmulatedUnit(4 * MIB, serial="plugged", power_on_attention=False)
    nexus = unit.nexus(US)
    snooper = Snooper("g", 7, read_identity(nexus).name, host.store, migrate_pr=True, initiator=US, rtpi=1)
    # Linux calls LUN 300 by its flat address, 412Ch.
    for lun, called in ((7, 7), (300, 0x412C)):
        host.controller.attach(Address(1, lun), GuestUnit("g", lun, nexus, snooper), BlockPort(unit.medium, nexus.gate))
        block = disk(guest, 1, called)
        assert guest.run(f"blockdev --getsize64 {block}").strip() == str(4 * MIB)
        guest.run(f"dd if={block} of=/dev/null bs=64k iflag=direct")
        host.controller.detach(Address(1, lun))
        guest.eventually(f"[ ! -e /sys/class/scsi_device/{number(guest)}:0:1:{called} ]")
    unit.close()


def test_a_unit_that_grows(host, guest):
    """The guest's kernel looks at the capacity again because of the event alone."""
    place = Address(2, 5)
    seen: list[bytes] = []
    execute = host.handler.execute
    host.handler.execute = lambda *arguments: seen.append(bytes(arguments[2][:2])) or execute(*arguments)
    try:
        disk(guest, 2, 5)
        seen.clear()
        assert host.controller.parameter_changed(place, 0x2A, 0x09)
        deadline = time.monotonic() + COMMAND_SECONDS
        while not any(cdb[0] in (0x25, 0x9E) for cdb in list(seen)):
            assert time.monotonic() < deadline, [cdb.hex() for cdb in seen]
            time.sleep(0.05)
    finally:
        del host.handler.execute


def test_the_driver_goes_and_comes(host, guest):
    """Every ring is stopped and started again; nothing of the guest's state is lost."""
    guest.run(f"sg_persist --out --register --param-sark=77 {node(guest, 0, 0)}")
    for _ in range(2):
        guest.run("modprobe -r virtio_scsi && modprobe virtio_scsi && udevadm settle --timeout=60")
        guest.eventually(f"[ -e /sys/class/scsi_device/{number(guest)}:0:2:5/device/generic ]")
    assert "0x77" in guest.run(f"sg_persist --in -k {node(guest, 0, 0)}")
    assert host.unit().state.key == 0x77
    assert host.server.counts().accepted == 1
    assert host.broken == []


def test_what_the_guest_leaves_behind(host, guest, tmp_path: Path):
    """Its machine is switched off in the middle of a load; every ring is given back."""
    guest.begin(f"dd if={disk(guest, 0, 1)} of=/dev/null bs=4k iflag=direct")
    guest.machine.stop()
    deadline = 60.0
    host.server.stop(deadline)
    counts = host.server.counts()
    assert counts.connections == 0
    assert sum(counts.closed.values()) == 1
