"""A target of tgt (Debian: tgt) on the loopback: a daemon of its own for each test that asks for one.

    with TgtTarget(directory) as target:      # LUN 1 is a disk in a file; LUN 0 is tgt's controller
        target.portal, target.name

Needs no privileges beyond what tgtd itself wants (root, or a limit of locked memory that lets mlockall succeed).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Final, Self

from tests.rig.ports import free_port

LUN: Final = 1
_SLOW: Final = 60.0
"""Seconds a loaded machine may take over anything that ought to be immediate."""


def tgt_is_installed() -> bool:
    """Whether this machine has tgt."""
    return _find("tgtd") is not None and _find("tgtadm") is not None


class TgtTarget:
    """One tgtd with one target. ``size_mib`` is the size of the disk.

    The registrations of tgt live in its memory: ``restart`` forgets them, the data stay.
    """

    def __init__(self, directory: Path, *, name: str = "iqn.2026-01.org.example:disk", size_mib: int = 16) -> None:
        self.name = name
        self.directory = directory
        self.port = free_port()
        self.backing = directory / "disk.img"
        self._size = size_mib << 20
        self._scsi_id: str | None = None
        self._user: tuple[str, str] | None = None
        self._outgoing: tuple[str, str] | None = None
        self._daemon: subprocess.Popen[bytes] | None = None

    @property
    def portal(self) -> str:
        """``HOST:PORT`` of the only portal."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """What libiscsi's tools take to reach the disk."""
        return f"iscsi://{self.portal}/{self.name}/{LUN}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start the daemon and build the target in it."""
        assert self._daemon is None
        log = (self.directory / "tgtd.log").open("ab")
        with log:
            self._daemon = subprocess.Popen(
                [_needed("tgtd"), "-f", "-C", "0", "--iscsi", f"portal={self.portal}"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self._await_answer()
        self._build()

    def fresh_disk(self) -> None:
        """Replace the disk by an empty one of the same size that nobody has registered with; log out before."""
        self.admin("--op", "delete", "--mode", "logicalunit", "--tid", "1", "--lun", str(LUN))
        self.backing.unlink()
        self._make_disk()

    def require_chap(self, user: str, secret: str, *, outgoing: tuple[str, str] | None = None) -> None:
        """Let nobody in but ``user`` by CHAP; with ``outgoing`` the target can prove who it is, too."""
        self._user, self._outgoing = (user, secret), outgoing
        self._accounts()

    def pause(self) -> None:
        """Stop the daemon where it is: connections stay, nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused daemon go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End the daemon without a farewell; safe to repeat."""
        if self._daemon is None:
            return
        self._daemon.kill()
        self._daemon.wait()
        self._daemon = None
        for leftover in self.directory.glob("tgt.sock*"):
            leftover.unlink(missing_ok=True)

    def restart(self, *, scsi_id: str | None = None) -> None:
        """Kill the daemon and start it again on the same port; with ``scsi_id`` the disk is another logical unit."""
        self.kill()
        self._scsi_id = scsi_id or self._scsi_id
        self.start()

    def admin(self, *words: str) -> str:
        """Run tgtadm on this daemon."""
        done = subprocess.run(
            [_needed("tgtadm"), "-C", "0", "--lld", "iscsi", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_SLOW,
        )
        if done.returncode:
            raise OSError(f"tgtadm {' '.join(words)} failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def sessions(self) -> list[str]:
        """The initiator names of the sessions there are now."""
        shown = self.admin("--op", "show", "--mode", "target")
        return [line.split()[1] for line in shown.splitlines() if line.strip().startswith("Initiator: ")]

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._daemon is not None, "the target is not running"
        return self._daemon

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "TGT_IPC_SOCKET": str(self.directory / "tgt.sock")}

    def _await_answer(self) -> None:
        until = time.monotonic() + _SLOW
        while True:
            if self._process.poll() is not None:
                raise OSError(f"tgtd ended at once: {(self.directory / 'tgtd.log').read_text(errors='replace')}")
            try:
                self.admin("--op", "show", "--mode", "target")
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def _build(self) -> None:
        self.admin("--op", "new", "--mode", "target", "--tid", "1", "-T", self.name)
        self._make_disk()
        self.admin("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")
        self._accounts()

    def _make_disk(self) -> None:
        with self.backing.open("ab") as stream:
            stream.truncate(self._size)
        self.admin(
            *("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", str(LUN)),
            *("-b", str(self.backing)),
        )
        if self._scsi_id is not None:
            chosen = ("--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", str(LUN))
            self.admin(*chosen, "--params", f"scsi_id={self._scsi_id}")

    def _accounts(self) -> None:
        for account, words in ((self._user, ()), (self._outgoing, ("--outgoing",))):
            if account is not None:
                user, secret = account
                self.admin("--op", "new", "--mode", "account", "--user", user, "--password", secret)
                self.admin("--op", "bind", "--mode", "account", "--tid", "1", "--user", user, *words)


def _find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _needed(program: str) -> str:
    found = _find(program)
    if found is None:
        raise FileNotFoundError(f"there is no {program} here; install Debian's package tgt")
    return found
