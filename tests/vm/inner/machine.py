"""QEMU around the inner guest: its disk is a node of this machine (scsi-block) with a persistent reservation helper."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from tests.vm.inner.image import INITRAMFS, VMLINUX
from tests.vm.rig.sg_direct import Reply

BOOT_TIMEOUT = 3600.0
"""Seconds from QEMU's start to the guest's first word: emulation inside emulation, about 100 on an idle machine."""

ANSWER_TIMEOUT = 600.0
"""Seconds for one command."""

KERNEL_OPTIONS = (
    "console=ttyS0 quiet loglevel=1 panic=-1 oops=panic nowatchdog rcupdate.rcu_cpu_stall_suppress=1 "
    "tsc=reliable no_timer_check mitigations=off nokaslr cryptomgr.notests"
)
MACHINE_OPTIONS = (
    *("-machine", "q35,smm=off,usb=off,vmport=off", "-cpu", "qemu64", "-accel", "tcg", "-m", "256"),
    # No devices but ours, and the small firmware: SeaBIOS takes longer than the kernel here.
    *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-bios", "qboot.rom"),
)


class InnerGuest:
    """The running guest: ``execute`` runs a SCSI command in it, on its ``/dev/sg0``; leaving it ends QEMU.

    ``directory`` receives the kernel and the sockets. ``disk`` is the block node behind scsi-block, ``helper`` the
    socket of its persistent reservation helper.
    """

    def __init__(self, directory: Path, disk: Path, helper: Path) -> None:
        # QEMU maps the kernel; from 9p that takes longer than copying it into memory.
        kernel, initramfs = (shutil.copy(file, directory) for file in (VMLINUX, INITRAMFS))
        # Emulated processors count with the host's time stamp counter at every depth (see boot.py).
        (frequency,) = re.findall(r"tsc_early_khz=\d+", Path("/proc/cmdline").read_text(encoding="ascii"))
        ours, theirs = socket.socketpair()
        self._monitor_socket, monitor = socket.socketpair()
        self._console = ours
        self._received = b""
        self.said: list[str] = []
        """What the kernel printed on the console."""
        self._log: IO[bytes] = (directory / "qemu.log").open("w+b")
        node = f"file.driver=host_device,file.filename={disk},file.pr-manager=pr0"
        with theirs, monitor:
            self._process = subprocess.Popen(
                [
                    *("qemu-system-x86_64", *MACHINE_OPTIONS),
                    *(
                        "-kernel",
                        kernel,
                        "-initrd",
                        initramfs,
                        "-append",
                        f"{KERNEL_OPTIONS} {frequency}",
                    ),
                    *("-chardev", f"socket,id=console,fd={theirs.fileno()}", "-serial", "chardev:console"),
                    *("-chardev", f"socket,id=monitor,fd={monitor.fileno()}", "-mon", "chardev=monitor,mode=control"),
                    *("-object", f"pr-manager-helper,id=pr0,path={helper}"),
                    *("-device", "virtio-scsi-pci"),
                    *("-drive", f"if=none,id=disk,format=raw,{node}"),
                    *("-device", "scsi-block,drive=disk"),
                ],
                pass_fds=(theirs.fileno(), monitor.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
            )
        self._monitor_socket.settimeout(ANSWER_TIMEOUT)
        self._monitor = self._monitor_socket.makefile("rwb")
        self.events: list[dict[str, Any]] = []
        """Events of QEMU's monitor so far; ``ask_monitor`` collects them."""

    def __enter__(self) -> InnerGuest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._monitor.close()
        self._monitor_socket.close()
        self._console.close()
        self._log.close()

    def wait_until_up(self) -> None:
        """Wait for the guest to have found its disk."""
        assert self._answer(BOOT_TIMEOUT) == "ready"
        self._monitor.readline()  # the greeting
        self.ask_monitor("qmp_capabilities")

    def execute(self, cdb: bytes, *, data_out: bytes = b"", data_in: int = 0) -> Reply:
        """Run one command; what the guest's kernel gave its program."""
        if data_out:
            words = f"{cdb.hex()} out {data_out.hex()}"
        else:
            words = f"{cdb.hex()} in {data_in}" if data_in else f"{cdb.hex()} none"
        self._console.settimeout(ANSWER_TIMEOUT)
        self._console.sendall(words.encode("ascii") + b"\n")
        status, host_status, _, sense, data = self._answer(ANSWER_TIMEOUT).split(" ")
        return Reply(int(status, 16), _bytes(sense), _bytes(data), int(host_status, 16))

    def drained(self, cdb: bytes, *, data_in: int = 0) -> Reply:
        """``execute`` until the answer is no unit attention; for what power on leaves behind."""
        for _ in range(10):
            reply = self.execute(cdb, data_in=data_in)
            if reply.key_asc_ascq is None or reply.key_asc_ascq[0] != 6:
                return reply
        raise AssertionError("unit attentions without end")

    def ask_monitor(self, command: str) -> Any:
        """What QEMU's monitor returns for ``command`` (QMP)."""
        self._monitor.write(json.dumps({"execute": command}).encode() + b"\n")
        self._monitor.flush()
        while line := self._monitor.readline():
            message = json.loads(line)
            if "event" in message:
                self.events.append(message)
            else:
                return message["return"]
        raise AssertionError(self._ended())

    def power_off(self) -> int:
        """Let the guest power off; QEMU's exit status."""
        self._console.sendall(b"off\n")
        return self._process.wait(ANSWER_TIMEOUT)

    def _answer(self, timeout: float) -> str:
        deadline = time.monotonic() + timeout
        while True:
            line = self._line(deadline)
            if line.startswith("= "):
                return line[2:]
            self.said.append(line)
            assert not line.startswith("! "), f"the inner guest gave up: {line}"

    def _line(self, deadline: float) -> str:
        while b"\n" not in self._received:
            self._console.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                piece = self._console.recv(65536)
            except TimeoutError:
                raise AssertionError(f"the inner guest is silent; {self._ended()}") from None
            assert piece, self._ended()
            self._received += piece
        line, self._received = self._received.split(b"\n", 1)
        return line.decode("ascii", errors="replace").strip("\r")

    def _ended(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._log.seek(0)
        said = "\n".join([*self.said[-40:], self._log.read().decode(errors="replace")])
        return f"QEMU's exit status is {self._process.returncode}; last said:\n{said}"


def _bytes(text: str) -> bytes:
    return b"" if text == "-" else bytes.fromhex(text)


@contextlib.contextmanager
def inner_guest(directory: Path, disk: Path, helper: Path) -> Iterator[InnerGuest]:
    """Boot the inner guest and wait for it."""
    with InnerGuest(directory, disk, helper) as guest:
        guest.wait_until_up()
        yield guest
