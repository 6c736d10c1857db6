"""Live migration as it happens: QEMU hands a running guest to another QEMU, pyproxy its disk to another pyproxy.

Nothing here is ours but the two daemons: QEMU 7.2 or newer with vhost-user-scsi, Debian's kernel as the guest, fio that
verifies what it wrote, tgt over iSCSI with a name of its own for each host.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.vm.migrating import image
from tests.vm.migrating.hosts import GUEST, DaemonHost, TwoHosts
from tests.vm.migrating.machine import GuestConsole, Qemu

KEY = 0x5CA1AB1E
FIO = (
    "fio --name=v --filename=/dev/sda --direct=1 --rw=randrw --bsrange=512-64k --size=4M --iodepth=8 --ioengine=libaio "
    "--verify=crc32c --verify_fatal=1 --numjobs=2 --offset_increment=16M --eta=never"
)
"""One pass: writes and reads in random order, then reads all of it back."""


class MovingGuest:
    """The guest, its console, and the QEMU and host it runs on."""

    def __init__(self, hosts: TwoHosts, stack: ExitStack) -> None:
        self.hosts = hosts
        self._stack = stack
        self._count = 0
        self.at = hosts.a
        self.qemu = self.new_qemu(hosts.a)
        self.console = GuestConsole(self.qemu)
        self.console.wait_until_up()

    def new_qemu(self, host: DaemonHost, *, incoming: bool = False) -> Qemu:
        self._count += 1
        name = f"qemu-{self._count}"
        uri = f"unix:{self.hosts.directory}/{name}.mig" if incoming else None
        return self._stack.enter_context(Qemu(self.hosts.directory, name, host.disks, incoming=uri))

    def uri(self, qemu: Qemu) -> str:
        return f"unix:{self.hosts.directory}/{qemu.name}.mig"

    def landed(self, qemu: Qemu, host: DaemonHost) -> None:
        """The guest runs there now; the QEMU it came from is ended, as a hypervisor's manager does it."""
        qemu.until("running")
        self.qemu.kill()
        self.qemu, self.at, self.console.at = qemu, host, qemu

    def start_fio(self) -> None:
        """Run one pass after the other until told to stop; a signal would end fio before its last verification."""
        self.console.run("rm -f /tmp/stop /tmp/stopped")
        self.console.run(
            f"(while [ ! -e /tmp/stop ]; do {FIO} >/tmp/fio.log 2>&1 || {{ echo failed >>/tmp/fio.log; break; }}; "
            "done; touch /tmp/stopped) &"
        )

    def check_fio(self) -> None:
        """It still runs and has found nothing wrong; it makes progress."""
        said = self.console.run("cat /tmp/fio.log; ls /tmp/stopped 2>/dev/null || true")
        assert "failed" not in said, said
        assert "stopped" not in said, said
        progress = "cut -d' ' -f1- /sys/block/sda/stat | awk '{print $1 + $5}'"
        before = int(self.console.run(progress))
        self.console.run(f"for i in $(seq 300); do [ $({progress}) -gt {before} ] && exit 0; sleep 0.1; done; exit 1")

    def stop_fio(self) -> None:
        """Let the pass end, with its verification, and look at what it found."""
        self.console.run("touch /tmp/stop")
        for _ in range(20):
            ended = self.console.run(
                "for i in $(seq 100); do [ -e /tmp/stopped ] && echo yes && break; sleep 0.1; done"
            )
            if ended:
                break
        else:
            raise AssertionError(self.console.run("cat /tmp/fio.log /sys/block/sda/stat; ps"))
        said = self.console.run("cat /tmp/fio.log")
        assert "err= 0" in said, said
        assert "failed" not in said, said
        assert "verify" not in said.lower().replace("verify=", ""), said


@pytest.fixture(scope="module")
def hosts() -> Iterator[TwoHosts]:
    image.make()
    with tempfile.TemporaryDirectory(prefix="pyproxy-moving-") as directory, TwoHosts(Path(directory)) as made:
        yield made


@pytest.fixture(scope="module")
def guest(hosts: TwoHosts) -> Iterator[MovingGuest]:
    with ExitStack() as stack:
        yield MovingGuest(hosts, stack)


def test_no_byte_is_lost_between_two_daemons(hosts, guest):
    """Rings, dirty pages and requests in flight; without a reservation nothing needs to be handed over.

    The first here: once a guest was handed over, each later move must be armed.
    """
    guest.start_fio()
    guest.check_fio()
    for _ in range(4):
        to = hosts.beside(guest.at)
        qemu = guest.new_qemu(to, incoming=True)
        guest.qemu.ask("migrate", uri=guest.uri(qemu))
        assert guest.qemu.until_migration("completed", "failed") == "completed"
        guest.landed(qemu, to)
        guest.check_fio()
    guest.stop_fio()


def move(hosts: TwoHosts, guest: MovingGuest) -> None:
    """Arm the handover, let QEMU migrate, and see both sides come to the end."""
    source, to = guest.at, hosts.beside(guest.at)
    source.command("migrate", GUEST, "--to", to.name)
    qemu = guest.new_qemu(to, incoming=True)
    guest.qemu.ask("migrate", uri=guest.uri(qemu))
    assert guest.qemu.until_migration("completed", "failed") == "completed"
    guest.landed(qemu, to)
    to.until_phase("committed")
    source.until_phase("released")


def claim(guest: MovingGuest, kind: int | None, key: int = KEY) -> None:
    """Register in the guest, and reserve."""
    guest.console.run(f"sg_persist -n -o -G -S {key:x} /dev/sda")
    if kind is not None:
        guest.console.run(f"sg_persist -n -o -R -K {key:x} -T {kind} /dev/sda")


def give_up(guest: MovingGuest, key: int = KEY) -> None:
    """Unregister in the guest, which releases what it holds."""
    guest.console.run(f"sg_persist -n -o -G -K {key:x} -S 0 /dev/sda")


def shown(guest: MovingGuest) -> str:
    """What the guest reads of its claim; PRGENERATION is left out, which counts our steps too."""
    said = guest.console.run("sg_persist -n -i -k /dev/sda; sg_persist -n -i -r /dev/sda")
    return "\n".join(line for line in said.splitlines() if "generation" not in line.lower())


def holds_here(hosts: TwoHosts, guest: MovingGuest, kind: int | None) -> None:
    """The target says that the guest's claim is its present host's, and nobody else has it."""
    assert hosts.keys() == [KEY]
    assert hosts.registered_with(guest.at) == KEY
    assert hosts.registered_with(hosts.beside(guest.at)) is None
    held = hosts.reservation()
    if kind is None:
        assert held is None
        return
    assert held is not None
    assert held[1] == kind
    assert hosts.conflicts(), "a bystander's write conflicts"
    assert hosts.conflicts_as(hosts.beside(guest.at)), "so does one under the name of the host it left"


def ends_here(hosts: TwoHosts, guest: MovingGuest, kind: int | None) -> None:
    """The guest's work went well and goes on, its claim is here; then both come to their end."""
    guest.check_fio()
    holds_here(hosts, guest, kind)
    guest.stop_fio()
    give_up(guest)


@pytest.mark.parametrize("kind", [1, 3, 5, 6, 7, 8, None])
def test_a_claim_moves_with_the_guest_and_back(hosts, guest, kind):
    claim(guest, kind)
    before = shown(guest)
    guest.start_fio()
    for _ in range(2):
        guest.check_fio()
        move(hosts, guest)
        holds_here(hosts, guest, kind)
        assert shown(guest) == before
    guest.check_fio()
    guest.stop_fio()
    give_up(guest)
    assert hosts.keys() == []


def test_twenty_times_to_and_fro(hosts, guest):
    claim(guest, 5)
    before = shown(guest)
    guest.start_fio()
    for _ in range(20):
        move(hosts, guest)
        assert hosts.keys() == [KEY]
        assert hosts.reservation() == (KEY, 5)
    guest.check_fio()
    assert shown(guest) == before
    guest.stop_fio()
    give_up(guest)


@pytest.mark.parametrize(
    ("kind", "when", "how"),
    [
        (6, "copying", "cancelled"),
        (None, "copying", "killed"),
        (6, "switching", "cancelled"),
        (6, "switching", "killed"),
        (7, "switching", "killed"),
        (None, "switching", "cancelled"),
    ],
)
def test_a_migration_that_fails_leaves_the_guest_where_it_was(hosts, guest, kind, when, how):
    """The destination's QEMU is killed, or the migration cancelled: before the handover, or when that is done."""
    source, to = guest.at, hosts.beside(guest.at)
    claim(guest, kind)
    before = shown(guest)
    guest.start_fio()
    source.command("migrate", GUEST, "--to", to.name)
    qemu = guest.new_qemu(to, incoming=True)
    pause = [{"capability": "pause-before-switchover", "state": when == "switching"}]
    guest.qemu.ask("migrate-set-capabilities", capabilities=pause)
    slow = when == "copying"
    guest.qemu.ask("migrate-set-parameters", **{"max-bandwidth": (1 << 20) if slow else (1 << 40)})
    guest.qemu.ask("migrate", uri=guest.uri(qemu))
    assert guest.qemu.until_migration("active" if slow else "pre-switchover", "failed") != "failed"
    if not slow:
        assert source.migration()["ready"]
        assert to.migration()["phase"] == "verified"
        assert hosts.registered_with(to) == KEY
    if how == "killed":
        qemu.kill()
    if how == "cancelled" or not slow:
        guest.qemu.ask("migrate_cancel")
    assert guest.qemu.until_migration("cancelled", "failed")
    guest.qemu.until("running")
    if slow:
        source.command("migrate", GUEST, "--cancel")
    source.until_phase("cancelled" if slow else "reclaimed")
    to.until_phase("closed")
    qemu.kill()
    guest.qemu.ask("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": False}])
    guest.qemu.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
    assert shown(guest) == before
    ends_here(hosts, guest, kind)


def test_the_hypervisor_waits_for_the_claims(hosts, guest):
    source, to = guest.at, hosts.beside(guest.at)
    claim(guest, 6)
    guest.start_fio()
    qemu = guest.new_qemu(to, incoming=True)
    said = source.command("migrate", GUEST, "--to", to.name, "--qmp", str(guest.qemu.qmp), "--uri", guest.uri(qemu))
    assert f"guest {GUEST} is served by {to.name}" in said
    guest.landed(qemu, to)
    to.until_phase("committed")
    ends_here(hosts, guest, 6)


def test_the_hypervisor_calls_off_what_the_claims_do_not_follow(hosts, guest):
    """The other daemon stands still once it has said yes: the guest goes on where it was, and has its claim there."""
    source, to = guest.at, hosts.beside(guest.at)
    claim(guest, 6)
    guest.start_fio()
    qemu = guest.new_qemu(to, incoming=True)
    guest.qemu.ask("migrate-set-parameters", **{"max-bandwidth": 8 << 20})
    with source.begin(
        "migrate", GUEST, "--to", to.name, "--qmp", str(guest.qemu.qmp), "--uri", guest.uri(qemu)
    ) as running:
        source.until_phase("armed")
        assert guest.qemu.until_migration("active", "pre-switchover", "failed") == "active"
        to.freeze()
        guest.qemu.ask("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        assert guest.qemu.until_migration("cancelled", "failed", seconds=300) == "cancelled"
        to.thaw()
        said, _ = running.communicate(timeout=120)
    assert running.returncode == 1, said
    assert "its claims here again" in said
    guest.qemu.until("running")
    source.until_phase("reclaimed")
    to.until_phase("closed")
    qemu.kill()
    guest.qemu.ask("migrate-set-capabilities", capabilities=[{"capability": "pause-before-switchover", "state": False}])
    ends_here(hosts, guest, 6)


def test_a_guest_started_twice_is_served_once(hosts, guest):
    """``cont`` at the source after the migration is the operator's split brain: nothing of it reaches the disk."""
    source, to = guest.at, hosts.beside(guest.at)
    claim(guest, 5)
    source.command("migrate", GUEST, "--to", to.name)
    old, qemu = guest.qemu, guest.new_qemu(to, incoming=True)
    old.ask("migrate", uri=guest.uri(qemu))
    assert old.until_migration("completed", "failed") == "completed"
    qemu.until("running")
    to.until_phase("committed")
    source.until_phase("released")
    old.ask("cont")
    old.until("running")
    deadline = time.monotonic() + 60
    while "has started here and is not served" not in source.told():
        assert time.monotonic() < deadline, source.told()
        time.sleep(0.05)
    assert source.migration()["phase"] == "released"
    guest.landed(qemu, to)
    holds_here(hosts, guest, 5)
    give_up(guest)
