"""QEMU itself connects to us, or we to it; its firmware finds and reads the disks; it stops, resets and migrates."""

from __future__ import annotations

import subprocess

import pytest

from pyproxy.frontend.vhost_user.message import Request, name_of
from pyproxy.frontend.vhost_user.session import Session
from pyproxy.scsi.command import Command
from tests.unit.vhost_user.qemu import arguments, qemu, until

DISK = "virtio-scsi vendor='PYPROXY' product='EMULATED DISK'"
BOOT_SECTOR = b"\xfa\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa"
"""cli; hlt; jmp -1: what the firmware starts when it boots from the disk."""
READ_BOOT_SECTOR = bytes.fromhex("28 00 00 00 00 00 00 00 01 00")


def make_bootable(guest, address: tuple[int, int] = (0, 0)) -> None:
    unit = guest.unit(*address)
    unit.execute(Command(bytes(6)))
    assert unit.execute(Command(bytes.fromhex("2a 00 00 00 00 00 00 00 01 00"), data_out=BOOT_SECTOR)).good


@pytest.fixture
def said(monkeypatch) -> list[str]:
    """The names of all messages that front ends send."""
    names: list[str] = []
    receive = Session.receive

    def remember(session, message):
        names.append(name_of(message.request))
        return receive(session, message)

    monkeypatch.setattr(Session, "receive", remember)
    return names


@pytest.mark.parametrize("listens", [False, True])
def test_the_firmware_finds_every_disk_and_boots(scenes, tmp_path, listens):
    guest = scenes((0, 0), (0, 3), (2, 1), rings=4)
    make_bootable(guest)
    if listens:
        guest.dial(rings=4)
    else:
        guest.listen(rings=4)
    with qemu(tmp_path / "qemu", guest.path, listens=listens, queues=2) as machine:
        until(lambda: "Booting from 0000:7c00" in machine.bios, "booting from the disk", machine)
        assert machine.bios.count(DISK) == 3
        assert guest.server.counts().connections == 1
        assert guest.server.features >> 32 & 1
    until(lambda: guest.server.counts().closed == {"end-of-stream": 1}, "the end of the connection")
    assert guest.server.counts().connections == 0


def test_the_handshake_of_a_machine_that_does_not_run(scenes, tmp_path, said):
    guest = scenes()
    guest.listen()
    with qemu(tmp_path / "qemu", guest.path, extra=("-S",)) as machine:
        assert machine.ask("query-status")["running"] is False
        assert said[:7] == [
            "GET_FEATURES",
            "GET_PROTOCOL_FEATURES",
            "SET_PROTOCOL_FEATURES",
            "GET_QUEUE_NUM",
            "GET_MAX_MEM_SLOTS",
            "SET_OWNER",
            "GET_FEATURES",
        ]
        assert said[7:13] == ["SET_VRING_CALL", "SET_VRING_ERR"] * 3
        assert set(said[13:]) <= {"RESET_DEVICE"}


def test_it_stops_goes_on_and_resets(scenes, tmp_path, said):
    guest = scenes()
    make_bootable(guest)
    guest.listen()
    with qemu(tmp_path / "qemu", guest.path) as machine:
        until(lambda: machine.bios.count("Booting from 0000:7c00") == 1, "booting", machine)
        for _ in range(3):
            starts = said.count("SET_VRING_KICK")
            machine.ask("stop")
            assert said[-1] == "GET_VRING_BASE"
            machine.ask("cont")
            until(lambda before=starts: said.count("SET_VRING_KICK") > before, "the ring being started", machine)
        machine.ask("system_reset")
        until(lambda: machine.bios.count("Booting from 0000:7c00") == 2, "booting again", machine)
        assert "RESET_DEVICE" in said
    assert "unable" not in machine.log


def test_a_guest_of_another_controller_is_turned_away(scenes, tmp_path):
    guest = scenes()
    guest.listen()
    with qemu(tmp_path / "qemu", guest.path, extra=("-S",)) as machine:
        other = tmp_path / "other"
        other.mkdir()
        second = subprocess.run(arguments(other, guest.path), capture_output=True, check=False, timeout=120)
        assert second.returncode != 0
        assert guest.server.counts().refused_connections == 1
        assert machine.process.poll() is None
    until(lambda: guest.server.counts().connections == 0, "the end of the connection")
    with qemu(tmp_path / "again", guest.path, extra=("-S",)):
        assert guest.server.counts().accepted == 2


@pytest.mark.parametrize(
    "device", [",packed=on", ",disable-legacy=on,iommu_platform=on", ",t10_pi=on", ",param_change=off,hotplug=off"]
)
def test_features_that_users_turn_on(scenes, tmp_path, device):
    """SeaBIOS acknowledges VERSION_1 alone, so whatever a property offers to the guest, the disk is found."""
    guest = scenes()
    make_bootable(guest)
    guest.listen()
    with qemu(tmp_path / "qemu", guest.path, device=device) as machine:
        until(lambda: "Booting from 0000:7c00" in machine.bios, "booting", machine)


def test_migration_between_two_machines(scenes, tmp_path, said):
    """Both sides have a controller of their own on their own copy of the disk; the dirty log is QEMU's."""
    source, destination = scenes(), scenes()
    for guest in (source, destination):
        make_bootable(guest)
        guest.listen()
    channel = tmp_path / "migration.sock"
    with (
        qemu(tmp_path / "destination", destination.path, extra=("-incoming", f"unix:{channel}")) as there,
        qemu(tmp_path / "source", source.path) as here,
    ):
        until(lambda: "Booting from 0000:7c00" in here.bios, "booting", here)
        starts = said.count("SET_VRING_KICK")
        here.ask("migrate", uri=f"unix:{channel}")

        def ended() -> bool:
            state = here.ask("query-migrate").get("status")
            assert state != "failed", here.ask("query-migrate")
            return state == "completed"

        until(ended, "the end of the migration", here)
        until(lambda: there.ask("query-status")["running"], "the guest running there", there)
        until(lambda: said.count("SET_VRING_KICK") > starts, "its ring being started", there)
        logged = said[said.index("SET_LOG_BASE") :]
        assert logged[1:3] == ["SET_FEATURES", "SET_VRING_ADDR"]
        # The guest goes on there: it can be reset, and its firmware reads the disk again.
        there.ask("system_reset")
        until(lambda: "Booting from 0000:7c00" in there.bios, "booting there", there)
    assert "blocker" not in here.log
    assert Request.SET_LOG_BASE.name in said
