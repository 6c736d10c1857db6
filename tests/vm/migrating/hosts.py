"""Two daemons as two hosts, one target of tgt that both reach under names of their own, and somebody else beside them.

host a ── iqn...:a ──┐
                     ├── tgt ── iqn...:other: looks at the claims, writes, fences
host b ── iqn...:b ──┘
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import msgspec

from pyproxy.daemon.operations import MigrateRequest
from pyproxy.daemon.remote import RemoteOperations
from pyproxy.device.iscsi import IscsiDevice
from pyproxy.device.iscsi_settings import IscsiSettings
from pyproxy.frontend.api import DaemonUnreachableError, connect
from tests.iscsi.commands import attention, keys, pr_out, write
from tests.iscsi.hosts import reservation
from tests.rig.tgt import TgtTarget

GUEST: Final = "db"
DISK_MIB: Final = 64
START_SECONDS: Final = 120.0

_CONFIGURATION: Final = """
[daemon]
host_name = "{name}"
runtime_dir = "{home}/run"
state_dir = "{home}/state"

[[guest]]
name = "{guest}"
vhost_user = {{ socket = "{home}/db.sock", queues = 2 }}

[[guest.unit]]
lun = 0
{backing}

[migration]
hold_seconds = 15
{listen}

[[peer]]
name = "{peer}"
address = "{address}"
"""


@dataclass(frozen=True)
class Way:
    """How a daemon is reached by its peer, and it by that one: lines of [migration], the peer's address, and words in
    front of the command that runs the daemon there."""

    listen: str
    address: str
    within: tuple[str, ...] = ()


def initiator_of(name: str) -> str:
    """The iSCSI name under which a host's guest reaches the target."""
    return f"iqn.2026-01.org.example:{name}"


class DaemonHost:
    """One ``pyproxy serve``. ``backing`` is the guest's unit's line, ``more`` configuration behind the usual.

    Without a ``way`` the two daemons speak over Unix sockets.
    """

    def __init__(
        self, directory: Path, name: str, peer: str, backing: str, more: str = "", *, way: Way | None = None
    ) -> None:
        self.name = name
        self.home = directory / name
        self.home.mkdir()
        self.disks = self.home / "db.sock"
        self._file = self.home / "pyproxy.toml"
        way = way or Way(f'listen = "{self.home}/peer.sock"', f"{directory / peer}/peer.sock")
        self._within = way.within
        text = _CONFIGURATION.format(
            name=name,
            home=self.home,
            peer=peer,
            listen=way.listen,
            address=way.address,
            guest=GUEST,
            backing=backing,
        )
        self._file.write_text(text + more, encoding="utf-8")
        self._log = self.home / "daemon.log"
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Serve, and wait until the control socket answers."""
        with self._log.open("ab") as log:
            self._daemon = subprocess.Popen(self._words("serve"), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert self._daemon.poll() is None, f"the daemon ended:\n{self.told()}"
            try:
                connect(self.home / "run" / "control.sock")
            except DaemonUnreachableError:
                assert time.monotonic() < deadline, f"the daemon does not answer:\n{self.told()}"
                time.sleep(0.05)
            else:
                return

    def kill(self) -> None:
        """End the daemon without a farewell; safe to repeat."""
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None

    def freeze(self) -> None:
        """Stop the daemon without ending it: it answers nobody until ``thaw``."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the daemon go on."""
        assert self._daemon is not None
        self._daemon.send_signal(signal.SIGCONT)

    def told(self) -> str:
        """The daemon's log."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """Start the command line on this host's configuration."""
        return subprocess.Popen(self._words(*words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def command(self, *words: str, status: int = 0, seconds: float = 120.0) -> str:
        """Run the command line on this host's configuration; what it printed."""
        with self.begin(*words) as running:
            try:
                output, _ = running.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                running.kill()
                output, _ = running.communicate()
                raise AssertionError(f"pyproxy {' '.join(words)} hangs:\n{output}\n{self.told()}") from None
        assert running.returncode == status, f"pyproxy {' '.join(words)}: {running.returncode}\n{output}\n{self.told()}"
        return output

    def unit_status(self) -> dict[str, object]:
        """What ``pyproxy status --json`` says of the guest's unit."""
        (guest,) = self.operations().status().guests
        (unit,) = guest.units
        return dict(msgspec.to_builtins(unit))

    def migration(self) -> dict[str, object]:
        """The guest's latest migration, as ``pyproxy migrate --status --json`` shows it."""
        return dict(msgspec.to_builtins(self.operations().migrations().migrations[-1]))

    def arm(self, to: str) -> None:
        """Do what ``pyproxy migrate --to`` does, which takes seconds to start in a virtual machine."""
        self.operations().migrate(GUEST, MigrateRequest(action="arm", to=to))

    def operations(self) -> RemoteOperations:
        """The daemon's operations over its control socket."""
        return RemoteOperations(connect(self.home / "run" / "control.sock"))

    def until_phase(self, *wanted: str, seconds: float = 120.0) -> dict[str, object]:
        """Wait until the guest's latest migration is in one of these phases."""
        deadline = time.monotonic() + seconds
        while (found := self.migration())["phase"] not in wanted:
            assert time.monotonic() < deadline, f"{self.name}: {found}\n{self.told()}"
            time.sleep(0.02)
        return found

    def _words(self, *words: str) -> list[str]:
        return [*self._within, sys.executable, "-m", "pyproxy", "--config", str(self._file), *words]


class TwoHosts:
    """Entered, target and both daemons are up. ``directory`` has a short name (Unix sockets are in it)."""

    def __init__(self, directory: Path, more: tuple[str, str] = ("", "")) -> None:
        self.directory = directory
        self._more = more
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.target = self._stack.enter_context(TgtTarget(self.directory, size_mib=DISK_MIB))
            self.a, self.b = (
                DaemonHost(self.directory, name, peer, self._backing(name), more)
                for (name, peer), more in zip((("a", "b"), ("b", "a")), self._more, strict=True)
            )
            for host in (self.a, self.b):
                self._stack.callback(host.kill)
                host.start()
            self.other = self._device("other")
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _backing(self, name: str) -> str:
        return f'iscsi = {{ url = "{self.target.url}", initiator = "{initiator_of(name)}" }}'

    def beside(self, host: DaemonHost) -> DaemonHost:
        """The other of the two hosts."""
        return self.b if host is self.a else self.a

    def keys(self) -> list[int]:
        """READ KEYS, as the bystander sees it."""
        self.settle()
        return keys(self.other)

    def reservation(self) -> tuple[int, int] | None:
        """READ RESERVATION, as the bystander sees it: key and type."""
        self.settle()
        return reservation(self.other)

    def registered_with(self, host: DaemonHost) -> int | None:
        """The key that a host's own nexus is registered with, as the host's daemon reads it back."""
        host.command("status")
        key = str(host.unit_status()["key"])
        return int(key, 16) or None

    def fence(self, key: int, own: int, kind: int) -> None:
        """PREEMPT ``key`` as the bystander, who registers with ``own`` for it."""
        self.settle()
        assert self.other.execute(pr_out(0, sa_key=own)).good
        assert self.other.execute(pr_out(4, key=own, sa_key=key, kind=kind)).good

    def conflicts(self) -> bool:
        """Whether a write of the bystander ends with RESERVATION CONFLICT."""
        self.settle()
        return self.other.execute(write((DISK_MIB << 11) - 1, bytes(512))).conflict

    def conflicts_as(self, host: DaemonHost) -> bool:
        """Whether a write under a host's initiator name, through a session of its own, meets a conflict."""
        with closing(self._open(initiator_of(host.name), f"beside-{host.name}")) as device:
            while attention(device.execute(pr_out(0))) is not None:
                pass
            return device.execute(write((DISK_MIB << 11) - 1, bytes(512))).conflict

    def settle(self) -> None:
        """Take the unit attentions that wait for the bystander."""
        while attention(self.other.execute(pr_out(0))) is not None:
            pass

    def _device(self, name: str) -> IscsiDevice:
        device = self._open(initiator_of(name), name)
        self._stack.callback(device.close)
        return device

    def _open(self, initiator: str, host: str) -> IscsiDevice:
        """A session of its own: another ISID for another name of the host."""
        settings = IscsiSettings(url=self.target.url, initiator=initiator)
        return IscsiDevice.open(settings, host=host, guest=host, lun=0)
