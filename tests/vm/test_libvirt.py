"""libvirt migrates a running guest; all that pyproxy has of it is the hook in deploy/libvirt."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.vm.migrating import image
from tests.vm.migrating.hosts import GUEST, TwoHosts
from tests.vm.migrating.libvirt import Libvirt
from tests.vm.migrating.machine import GuestConsole

KEY = 0x5CA1AB1E
WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5


class Both:
    """Two hosts with their libvirt, and the guest's console where it is."""

    def __init__(self, hosts: TwoHosts, stack: ExitStack) -> None:
        self.hosts = hosts
        here = hosts.directory / "here"
        self.a, self.b = (stack.enter_context(Libvirt(host, here)) for host in (hosts.a, hosts.b))
        self.a.boot()
        self.guest = GuestConsole(self.a)
        self.guest.wait_until_up()
        self.guest.run(f"sg_persist -n -o -G -S {KEY:x} /dev/sda")
        self.guest.run(f"sg_persist -n -o -R -K {KEY:x} -T {WRITE_EXCLUSIVE_REGISTRANTS_ONLY} /dev/sda")

    def claimed_by(self, libvirt: Libvirt) -> None:
        """The guest has its claim at that host, there alone, sees it, and can write."""
        self.guest.at = libvirt
        beside = self.hosts.beside(libvirt.host)
        assert self.hosts.keys() == [KEY]
        assert self.hosts.reservation() == (KEY, WRITE_EXCLUSIVE_REGISTRANTS_ONLY)
        assert self.hosts.conflicts_as(beside)
        assert f"{KEY:#x}" in self.guest.run("sg_persist -n -i -r /dev/sda")
        self.guest.run("dd if=/dev/zero of=/dev/sda bs=4096 count=16 oflag=direct")


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    image.make()
    with (
        tempfile.TemporaryDirectory(prefix="pyproxy-libvirt-") as directory,
        TwoHosts(Path(directory)) as hosts,
        ExitStack() as stack,
    ):
        yield Both(hosts, stack)


def test_there_and_back(both: Both) -> None:
    for source, to in ((both.a, both.b), (both.b, both.a)):
        source.migrate(to)
        assert (source.state(), to.state()) == ("", "running")
        to.open_console()
        to.host.until_phase("committed")
        source.host.until_phase("released")
        both.claimed_by(to)
        assert f"libvirt-hook {GUEST} migrate begin -" in to.hooks()


def test_called_off(both: Both) -> None:
    """The operator aborts the job while memory is still being copied: nothing has moved, and nothing stays armed."""
    both.a.virsh("migrate-setspeed", GUEST, "1")
    with both.a.begin_migration(both.b) as running:
        both.a.host.until_phase("armed")
        both.a.virsh("domjobabort", GUEST)
        running.communicate(timeout=300)
    assert running.returncode == 1
    both.a.virsh("migrate-setspeed", GUEST, "8796093022207")
    both.a.host.until_phase("cancelled")
    both.b.host.until_phase("closed")
    assert both.a.state() == "running"
    both.claimed_by(both.a)


def test_a_destination_that_cannot_take_the_guest(both: Both) -> None:
    """libvirt does not even begin, and says what pyproxy said."""
    both.b.host.kill()
    told = both.a.migrate(both.b, status=1)
    both.b.host.start()
    assert "no daemon runs here" in told
    assert both.a.state() == "running"
    both.claimed_by(both.a)


def test_guests_that_are_not_ours(both: Both) -> None:
    """Other guests, and operations that mean nothing here, are let pass without a word."""
    for words in (("other", "migrate", "begin", "-"), (GUEST, "started", "begin", "-"), (GUEST, "release", "end", "-")):
        assert both.a.host.command("libvirt-hook", *words) == ""


def test_a_guest_without_virtqueues(both: Both) -> None:
    """A guest with only a helper's socket is handed over when libvirt lets go of it, and taken back where it fails."""
    both.a.virsh("destroy", GUEST)
    both.b.host.command("migrate", GUEST, "--from", "any")
    both.a.host.command("libvirt-hook", GUEST, "release", "end", "-")
    assert both.a.host.migration()["ready"]
    assert both.b.host.migration()["phase"] == "verified"
    assert both.hosts.registered_with(both.b.host) == KEY
    both.b.host.command("libvirt-hook", GUEST, "release", "end", "-")
    both.a.host.until_phase("reclaimed")
    both.b.host.until_phase("closed")
    assert both.hosts.registered_with(both.a.host) == KEY
