"""Live migration as it happens: QEMU hands a running guest to another QEMU, pyproxy its disk to another pyproxy.

Nothing here is ours but the two daemons: QEMU 7.2 or newer with vhost-user-scsi, Debian's kernel as the guest, fio that
verifies what it wrote, tgt over iSCSI with a name of its own for each host.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.vm.migrating import image
from tests.vm.migrating.hosts import DaemonHost, TwoHosts
from tests.vm.migrating.machine import GuestConsole, Qemu

FIO = (
    "fio --name=v --filename=/dev/sda --direct=1 --rw=randrw --bsrange=512-64k --size=8M --iodepth=8 --ioengine=libaio "
    "--verify=crc32c --verify_fatal=1 --time_based --runtime=3600 --numjobs=2 --offset_increment=16M --eta=never"
)


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
        self.console.run(f"({FIO} >/tmp/fio.log 2>&1; echo ended $? >>/tmp/fio.log) &")

    def check_fio(self) -> None:
        """It still runs and has found nothing wrong; it makes progress."""
        said = self.console.run("cat /tmp/fio.log")
        assert "ended" not in said, said
        progress = "cut -d' ' -f1- /sys/block/sda/stat | awk '{print $1 + $5}'"
        before = int(self.console.run(progress))
        self.console.run(f"for i in $(seq 300); do [ $({progress}) -gt {before} ] && exit 0; sleep 0.1; done; exit 1")

    def stop_fio(self) -> None:
        self.console.run("killall -INT fio; for i in $(seq 300); do pidof fio || exit 0; sleep 0.1; done; exit 1")
        said = self.console.run("cat /tmp/fio.log")
        assert "err= 0" in said, said
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
    """Rings, dirty pages and requests in flight; without a reservation nothing needs to be handed over."""
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
