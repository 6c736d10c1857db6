"""A virtual machine that does one shell command after another for a test on the host."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.vm.boot import GUEST_SHARED, VirtualMachine

READY_SECONDS = 300.0
COMMAND_SECONDS = 120.0

_LOOP = f"""
cd {GUEST_SHARED}
number=0
while [ ! -e end ]; do
    if [ -e command-$number ]; then
        sh ./command-$number >output-$number 2>&1
        echo $? >status-$number.new
        mv status-$number.new status-$number
        number=$((number + 1))
    else
        sleep 0.05
    fi
done
"""


class GuestShell:
    """Commands run as root in the guest, in order."""

    def __init__(self, machine: VirtualMachine, shared: Path) -> None:
        self.machine = machine
        self._shared = shared
        self._count = 0

    def run(self, command: str, *, check: bool = True, seconds: float = COMMAND_SECONDS) -> str:
        """Run a command and return what it printed; AssertionError where it fails or hangs."""
        return self.wait(self.begin(command), check=check, seconds=seconds)

    def begin(self, command: str) -> int:
        """Have a command run and do not wait; returns its number for ``wait``."""
        number = self._count
        self._count += 1
        made = self._shared / f"command-{number}.new"
        made.write_text(command + "\n", encoding="utf-8")
        made.rename(self._shared / f"command-{number}")
        return number

    def wait(self, number: int, *, check: bool = True, seconds: float = COMMAND_SECONDS) -> str:
        """Wait for a command that was begun, and return what it printed."""
        status = self._shared / f"status-{number}"
        deadline = time.monotonic() + seconds
        while not status.exists():
            assert self.machine.running, f"the guest went down; its console ends with:\n{self.machine.console_tail()}"
            assert time.monotonic() < deadline, f"command {number} hangs in the guest:\n{self.machine.console_tail()}"
            time.sleep(0.02)
        output = (self._shared / f"output-{number}").read_text(encoding="utf-8", errors="replace")
        if check:
            assert int(status.read_text(encoding="ascii")) == 0, output
        return output

    def eventually(self, command: str, seconds: float = COMMAND_SECONDS) -> str:
        """Run a command again and again until it succeeds; AssertionError where it never does."""
        end = f"$(($(date +%s) + {int(seconds)}))"
        loop = f'end={end}; until {command}; do [ "$(date +%s)" -lt $end ] || exit 1; sleep 0.05; done'
        return self.run(loop, seconds=2 * seconds)

    def stop(self) -> None:
        """Let the guest power off."""
        (self._shared / "end").touch()


@contextmanager
def guest_shell(shared: Path, *, cpus: int = 2, qemu_options: Sequence[str] = ()) -> Iterator[GuestShell]:
    """Boot Debian's kernel with these QEMU options besides."""
    shared.mkdir(parents=True, exist_ok=True)
    (shared / "loop.sh").write_text(_LOOP, encoding="ascii")
    machine = VirtualMachine(
        ["sh", f"{GUEST_SHARED}/loop.sh"],
        shared=shared,
        console=shared / "console.log",
        cpus=cpus,
        memory_mib=1024,
        qemu_options=qemu_options,
    )
    with machine:
        deadline = time.monotonic() + READY_SECONDS
        while not machine.ready:
            assert machine.running, f"the guest did not come up:\n{machine.console_tail()}"
            assert time.monotonic() < deadline, f"the guest did not come up:\n{machine.console_tail()}"
            time.sleep(0.1)
        shell = GuestShell(machine, shared)
        yield shell
        shell.stop()
        machine.wait(60)
