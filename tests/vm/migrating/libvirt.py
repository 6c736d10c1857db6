"""Two libvirt daemons as two hosts on one machine: host names, directories and hooks of their own.

Each runs in a mount and a UTS namespace, because libvirt refuses to migrate to the host a guest is on. Needs root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import termios
import time
import tty
from pathlib import Path
from typing import Final, Self

from tests.vm.boot import PROJECT, tsc_khz
from tests.vm.migrating.hosts import GUEST, DaemonHost
from tests.vm.migrating.image import INITRAMFS, VMLINUX
from tests.vm.migrating.machine import KERNEL_OPTIONS

HOOK: Final = PROJECT / "deploy" / "libvirt" / "pyproxy"
START_SECONDS: Final = 120.0
_PRIVATE: Final = ("/run", "/etc/libvirt", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt")

_INNER: Final = """
set -e
mount --make-rprivate /
for one in {private}; do mkdir -p $one; mount -t tmpfs none $one; done
mount --bind {home} {here}
hostname {name}.example.org
for one in passwd group; do cp /etc/$one /run/$one; done
echo "libvirt-qemu:x:64055:64055::/:/bin/false" >>/run/passwd
echo "libvirt-qemu:x:64055:" >>/run/group
for one in passwd group; do mount --bind /run/$one /etc/$one; done
mkdir -p /etc/libvirt/hooks/qemu.d
cp {hook} /etc/libvirt/hooks/qemu.d/
cat >/etc/libvirt/libvirtd.conf <<END
unix_sock_dir = "{home}/libvirt"
auth_unix_rw = "none"
auth_unix_ro = "none"
host_uuid = "{uuid}"
log_outputs = "3:stderr"
END
cat >/etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
remember_owner = 0
stdio_handler = "file"
END
PATH={home}/bin:$PATH exec libvirtd
"""

_PYPROXY: Final = """#!/bin/sh
echo "$*" >>{home}/hook.log
PYPROXY_CONFIG={home}/pyproxy.toml exec {python} -m pyproxy "$@"
"""

_DOMAIN: Final = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{guest}</name>
  <uuid>5ca1ab1e-0000-4000-8000-000000000001</uuid>
  <memory unit='MiB'>512</memory>
  <memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>
  <vcpu>2</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{kernel}</kernel><initrd>{initrd}</initrd><cmdline>{options}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='custom' match='exact'><model>qemu64</model></cpu>
  <devices>
    <emulator>{emulator}</emulator>
    <serial type='pty'/>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-chardev'/><qemu:arg value='socket,id=disks,path={disks}'/>
    <qemu:arg value='-device'/>
    <qemu:arg value='vhost-user-scsi-pci,id=hba,chardev=disks,num_queues=2,bus=pcie.0,addr=0x10'/>
  </qemu:commandline>
</domain>
"""


class Tty:
    """The guest's serial line, with the calls of a socket that ``GuestConsole`` uses."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        tty.setraw(self._fd, termios.TCSANOW)

    def fileno(self) -> int:
        return self._fd

    def recv(self, count: int) -> bytes:
        try:
            return os.read(self._fd, count)
        except OSError:  # the other end is gone
            return b""

    def sendall(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        os.close(self._fd)


class Libvirt:
    """The libvirt daemon of ``host``, whose directory guests find at ``here``."""

    def __init__(self, host: DaemonHost, here: Path) -> None:
        self.host = host
        self.here = here
        self.name = host.name
        self.console: Tty | None = None
        home = host.home
        (home / "libvirt").mkdir()
        (home / "bin").mkdir()
        here.mkdir(exist_ok=True)
        shim = home / "bin" / "pyproxy"
        shim.write_text(_PYPROXY.format(home=home, python=sys.executable), encoding="utf-8")
        shim.chmod(0o755)
        self._log = (home / "libvirtd.log").open("w+b")
        self._uri = f"qemu+unix:///system?socket={home}/libvirt/libvirt-sock"
        inner = _INNER.format(
            private=" ".join(_PRIVATE),
            home=home,
            here=here,
            name=host.name,
            hook=HOOK,
            uuid=f"{ord(host.name):08d}-0000-4000-8000-000000000000",
        )
        self._daemon = subprocess.Popen(
            ["unshare", "-m", "-u", "sh", "-c", inner],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            cwd=PROJECT,
        )

    def __enter__(self) -> Self:
        deadline = time.monotonic() + START_SECONDS
        while self.virsh("version", check=False) is None:
            assert self._daemon.poll() is None, self.told()
            assert time.monotonic() < deadline, f"libvirtd does not answer:\n{self.told()}"
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.virsh("destroy", GUEST, check=False)
        self._daemon.terminate()
        self._daemon.wait()
        if self.console is not None:
            self.console.close()
        self._log.close()

    def told(self) -> str:
        """What libvirtd complains about."""
        return Path(str(self._log.name)).read_text(encoding="utf-8", errors="replace")

    def hooks(self) -> list[str]:
        """How libvirt called pyproxy's hook so far."""
        log = self.host.home / "hook.log"
        return log.read_text(encoding="utf-8").splitlines() if log.exists() else []

    def virsh(self, *words: str, check: bool = True) -> str | None:
        """What virsh prints; None where it fails and that is not checked."""
        done = subprocess.run(
            ["virsh", "-q", "-c", self._uri, *words], capture_output=True, text=True, timeout=300, check=False
        )
        if done.returncode and check:
            raise AssertionError(f"virsh {' '.join(words)}:\n{done.stderr}\n{self.told()}")
        return None if done.returncode else done.stdout.strip()

    def boot(self) -> None:
        """Start the guest here."""
        emulator = shutil.which("qemu-system-x86_64")
        domain = _DOMAIN.format(
            guest=GUEST,
            kernel=VMLINUX,
            initrd=INITRAMFS,
            options=f"{KERNEL_OPTIONS} tsc_early_khz={tsc_khz()}",
            emulator=emulator,
            disks=self.here / "db.sock",
        )
        file = self.host.home / "domain.xml"
        file.write_text(domain, encoding="utf-8")
        self.virsh("create", str(file))
        self.open_console()

    def open_console(self) -> None:
        """Connect to the serial line of the guest that is here."""
        if self.console is not None:
            self.console.close()
        self.console = Tty(str(self.virsh("ttyconsole", GUEST)))

    def begin_migration(self, to: Libvirt, *more: str) -> subprocess.Popen[str]:
        """Let libvirt migrate the guest."""
        migration = f"unix://{self.host.home.parent}/libvirt.migration"
        words = ["virsh", "-q", "-c", self._uri, "migrate", "--live", *more, GUEST, to._uri, "--migrateuri", migration]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def migrate(self, to: Libvirt, *more: str, status: int = 0) -> str:
        """Let libvirt migrate the guest, and say what it said."""
        with self.begin_migration(to, *more) as running:
            told, _ = running.communicate(timeout=300)
        assert running.returncode == status, f"{told}\n{self.told()}\n{to.told()}\n{self.hooks()}\n{to.hooks()}"
        return told

    def state(self) -> str:
        """What libvirt says of the guest here; "" where it has none."""
        return self.virsh("domstate", GUEST, check=False) or ""
