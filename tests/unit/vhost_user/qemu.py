"""QEMU with a vhost-user-scsi controller and no guest but its firmware, and a QMP connection to it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PATIENCE = 120.0


class Qemu:
    """A running process; ``log`` is what it printed, ``bios`` what the firmware printed."""

    def __init__(self, directory: Path, process: subprocess.Popen, qmp: socket.socket) -> None:
        self.directory = directory
        self.process = process
        self._qmp = qmp
        self._lines = qmp.makefile("r", encoding="utf-8")
        self.events: list[dict[str, Any]] = []

    @property
    def log(self) -> str:
        return (self.directory / "qemu.log").read_text(encoding="utf-8")

    @property
    def bios(self) -> str:
        return (self.directory / "bios.log").read_text(encoding="latin-1")

    def ask(self, command: str, **arguments: object) -> Any:
        """Run a QMP command; raises RuntimeError where it fails."""
        self._qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        while True:
            line = self._lines.readline()
            assert line, f"QEMU ended: {self.log}"
            answer = json.loads(line)
            if "event" in answer:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            else:
                return answer["return"]

    def greet(self) -> None:
        self._lines.readline()
        self.ask("qmp_capabilities")

    def close(self) -> None:
        self._lines.close()
        self._qmp.close()


def until(condition, what: str, qemu: Qemu | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if qemu is not None:
            assert qemu.process.poll() is None, f"QEMU ended while {what} was waited for: {qemu.log}"
        assert time.monotonic() < deadline, f"{what} never happened"
        time.sleep(0.02)


def arguments(
    directory: Path,
    path: Path,
    *,
    listens: bool = False,
    queues: int = 1,
    device: str = "",
    extra: tuple[str, ...] = (),
) -> list[str]:
    """``listens``: QEMU makes the socket; ``device`` are more properties of the controller."""
    program = shutil.which("qemu-system-x86_64")
    assert program is not None, "QEMU is not installed; type: apt-get install qemu-system-x86"
    return [
        program,
        *("-machine", "q35,memory-backend=ram", "-m", "64", "-nodefaults", "-display", "none", "-no-user-config"),
        *("-accel", "tcg", "-object", "memory-backend-memfd,id=ram,size=64M,share=on"),
        *("-chardev", f"socket,id=scsi,path={path}{',server=on,wait=on' if listens else ''}"),
        *("-device", f"vhost-user-scsi-pci,chardev=scsi,id=hba,num_queues={queues},bootindex=0{device}"),
        *("-chardev", f"file,id=bios,path={directory / 'bios.log'}"),
        *("-device", "isa-debugcon,iobase=0x402,chardev=bios"),
        *("-qmp", f"unix:{directory / 'qmp.sock'},server=on,wait=off"),
        *extra,
    ]


@contextmanager
def qemu(directory: Path, path: Path, **options: Any) -> Iterator[Qemu]:
    """Start it; the test goes on once QMP answers, which is after the controller was realized."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(arguments(directory, path, **options), stdout=log, stderr=log)
    made = None
    try:
        qmp = socket.socket(socket.AF_UNIX)
        qmp.settimeout(PATIENCE)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                qmp.connect(os.fspath(directory / "qmp.sock"))
                break
            except OSError:
                assert process.poll() is None, (directory / "qemu.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.02)
        made = Qemu(directory, process, qmp)
        made.greet()
        yield made
    finally:
        if made is not None:
            made.close()
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
