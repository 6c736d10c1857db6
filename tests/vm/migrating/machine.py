"""QEMU processes that hand one guest to each other, and a shell in that guest."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import time
from pathlib import Path
from typing import IO, Any, Self

from tests.vm.boot import tsc_khz
from tests.vm.migrating.image import INITRAMFS, VMLINUX

BOOT_SECONDS = 600.0
COMMAND_SECONDS = 120.0

KERNEL_OPTIONS = (
    "console=ttyS0 quiet loglevel=1 panic=-1 oops=panic nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "
    "tsc=reliable no_timer_check mitigations=off nokaslr cryptomgr.notests"
)
MACHINE_OPTIONS = (
    *("-machine", "q35,smm=off,usb=off,vmport=off,memory-backend=ram", "-cpu", "qemu64", "-accel", "tcg"),
    *("-object", "memory-backend-memfd,id=ram,size=512M,share=on", "-m", "512", "-smp", "2"),
    *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-bios", "qboot.rom"),
)


class QmpError(Exception):
    """QEMU refused a command of its monitor."""


class Qemu:
    """One QEMU process; its disks are those of the vhost-user socket ``disks``.

    With ``incoming`` it waits for a guest there. ``qmp`` is a second monitor, for whoever drives the migration.
    """

    def __init__(
        self, directory: Path, name: str, disks: Path, *, queues: int = 2, incoming: str | None = None
    ) -> None:
        self.name = name
        self.qmp = directory / f"{name}.qmp"
        self._log: IO[bytes] = (directory / f"{name}.log").open("w+b")
        console, their_console = socket.socketpair()
        monitor, their_monitor = socket.socketpair()
        self.console = console
        # QEMU maps the kernel's file while it runs.
        kernel = ["-kernel", str(VMLINUX), "-initrd", str(INITRAMFS)]
        words = [
            *("qemu-system-x86_64", *MACHINE_OPTIONS, *kernel),
            *("-append", f"{KERNEL_OPTIONS} tsc_early_khz={tsc_khz()}"),
            *("-chardev", f"socket,id=console,fd={their_console.fileno()}", "-serial", "chardev:console"),
            *("-chardev", f"socket,id=monitor,fd={their_monitor.fileno()}", "-mon", "chardev=monitor,mode=control"),
            *("-chardev", f"socket,id=qmp,path={self.qmp},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
            *("-chardev", f"socket,id=disks,path={disks}"),
            *("-device", f"vhost-user-scsi-pci,id=hba,chardev=disks,num_queues={queues}"),
        ]
        if incoming is not None:
            words += ["-incoming", incoming]
        with their_console, their_monitor:
            self._process = subprocess.Popen(
                words,
                pass_fds=(their_console.fileno(), their_monitor.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        self._socket = monitor
        self._socket.settimeout(COMMAND_SECONDS)
        self._monitor = monitor.makefile("rwb")
        self.events: list[dict[str, Any]] = []
        self._monitor.readline()  # the greeting
        self.ask("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """End the process without a farewell; safe to repeat."""
        self._process.kill()
        self._process.wait()
        self.console.close()
        self._socket.close()
        self._log.close()

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def told(self) -> str:
        """What QEMU wrote to its standard error."""
        return Path(str(self._log.name)).read_text(encoding="utf-8", errors="replace")

    def ask(self, command: str, **arguments: object) -> Any:
        """What the monitor returns; raises QmpError, AssertionError where QEMU has ended."""
        self._monitor.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._monitor.flush()
        while line := self._monitor.readline():
            message = json.loads(line)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(f"{command}: {message['error']['desc']}")
            else:
                return message["return"]
        raise AssertionError(f"QEMU {self.name} has ended:\n{self.told()}")

    def status(self) -> str:
        """The run state: running, paused, inmigrate, postmigrate..."""
        return str(self.ask("query-status")["status"])

    def migration(self) -> str:
        """The status of the migration away from here; "none" before the first."""
        return str(self.ask("query-migrate").get("status", "none"))

    def until_migration(self, *wanted: str, seconds: float = COMMAND_SECONDS) -> str:
        """Wait for one of these statuses of the migration away from here."""
        deadline = time.monotonic() + seconds
        while (status := self.migration()) not in wanted:
            assert time.monotonic() < deadline, f"QEMU {self.name}: the migration stays {status}"
            time.sleep(0.02)
        return status

    def until(self, *wanted: str, seconds: float = COMMAND_SECONDS) -> str:
        """Wait for one of these run states."""
        deadline = time.monotonic() + seconds
        while (status := self.status()) not in wanted:
            assert time.monotonic() < deadline, f"QEMU {self.name} stays {status}"
            time.sleep(0.02)
        return status


class GuestConsole:
    """The shell in the guest, wherever it runs: point ``at`` to the QEMU that has it."""

    def __init__(self, at: Qemu) -> None:
        self.at = at
        self._received = b""
        self._count = 0

    def wait_until_up(self) -> None:
        """Wait for the guest's first word."""
        self._until("ready", BOOT_SECONDS)

    def run(self, command: str, *, check: bool = True, seconds: float = COMMAND_SECONDS) -> str:
        """Run a command and return what it printed; AssertionError where it fails or hangs."""
        self._count += 1
        self.at.console.sendall(f"{self._count} {command}\n".encode())
        printed: list[str] = []
        status = self._until(f"{self._count}=", seconds, printed)
        output = "\n".join(printed)
        if check:
            assert status == "0", f"{command}: status {status}\n{output}"
        return output

    def _until(self, wanted: str, seconds: float, printed: list[str] | None = None) -> str:
        deadline = time.monotonic() + seconds
        prefix = f"{self._count}|"
        while True:
            line = self._line(deadline)
            if line.startswith(wanted):
                return line.removeprefix(wanted)
            if printed is not None and line.startswith(prefix):
                printed.append(line.removeprefix(prefix))

    def _line(self, deadline: float) -> str:
        while b"\n" not in self._received:
            left = deadline - time.monotonic()
            ready, _, _ = select.select([self.at.console], [], [], max(left, 0))
            assert ready, f"the guest on {self.at.name} does not answer; so far: {self._received[-500:]!r}"
            came = self.at.console.recv(65536)
            assert came, f"QEMU {self.at.name} has ended:\n{self.at.told()}"
            self._received += came
        line, _, self._received = self._received.partition(b"\n")
        return line.decode("utf-8", errors="replace").rstrip("\r")
