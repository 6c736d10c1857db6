"""Boots Debian's kernel under QEMU on the host's own file system, read-only, and runs one command in it.

    python tests/vm/boot.py -- uname -a

The guest is virtme-ng's: the host's root file system over 9p with throw-away overlays, so that the project, its
virtual environment and Debian's tools are there as they are on the host. Whatever the guest is to leave behind it
writes to the shared directory, which it sees as ``/run/pyproxy``. There is no KVM: the same run works inside
virtual machines and on build services.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
KERNELS = PROJECT / ".cache" / "kernel"
GUEST_SHARED = "/run/pyproxy"
"""Where the guest sees the shared directory."""

OVERLAYS = ("/etc", "/lib", "/home", "/opt", "/srv", "/usr", "/var", "/tmp")
"""What the guest may write to; all of it is gone when it stops."""

KERNEL_OPTIONS = (
    # TCG's emulated clock looks unstable to the watchdog, which would fall back to a far slower clock source.
    "tsc=reliable",
    "mitigations=off",
    # A kernel bug must end the run with its trace on the console instead of hanging it.
    "oops=panic",
    # Virtual processors that the host does not schedule for a while are no lock-ups.
    "nowatchdog",
    "rcupdate.rcu_cpu_stall_suppress=1",
    # Only a dying kernel writes to the (slow) console; it raises the level itself when it does.
    "loglevel=1",
)


class VmError(Exception):
    """The virtual machine could not be started; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: ``root`` holds ``boot/`` and ``lib/modules/``."""

    root: Path
    image: Path


def find_kernel(kernels: Path = KERNELS) -> Kernel:
    """The newest kernel that tests/parts/install.sh unpacked; raises VmError when there is none."""
    complete = sorted(kernels.glob("*/complete"), key=lambda stamp: stamp.stat().st_mtime, reverse=True)
    for stamp in complete:
        for image in stamp.parent.glob("boot/vmlinuz-*"):
            return Kernel(stamp.parent, image)
    raise VmError(f"no kernel below {kernels}; run tests/parts/install.sh test")


def compile_program(source: Path, program: Path) -> None:
    """Compile the C file ``source`` to the static ``program``; raises VmError."""
    compiler = os.environ.get("CC", "cc")
    if shutil.which(compiler) is None:
        raise VmError(f"{compiler} is not installed; run tests/parts/install.sh test")
    words = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-Os", "-s", "-static", "-o", program, source]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise VmError(f"{source.name} does not compile; run tests/parts/install.sh test\n{done.stderr}")


def tsc_khz() -> int:
    """The frequency of this machine's time stamp counter, by which emulated processors count too.

    A guest that has to find it out while the machine is loaded errs by a factor of five and more. Its clock then runs
    that much too fast, and every timeout in it ends that much too early.
    """
    with tempfile.TemporaryDirectory(prefix="pyproxy-tsc-") as directory:
        program = Path(directory, "tsc")
        compile_program(Path(__file__).with_name("tsc.c"), program)
        return int(subprocess.run([program], stdout=subprocess.PIPE, check=True).stdout)


def _virtme_run() -> str:
    beside = Path(sys.executable).with_name("virtme-run")
    found = str(beside) if beside.exists() else shutil.which("virtme-run")
    if found is None:
        raise VmError(f"virtme-ng is not installed for {sys.executable}; run {sys.executable} -m pip install virtme-ng")
    return found


def _cached_trees() -> list[tuple[str, Path]]:
    """Host directories that the guest mounts a second time with caching, by mount tag.

    virtme-ng's root is uncached 9p; an interpreter that imports the test tools from there takes three times as
    long to start.
    """
    trees = {"project": PROJECT, "stdlib": Path(sysconfig.get_path("stdlib")).resolve()}
    environment = Path(sys.prefix).resolve()
    if sys.prefix != sys.base_prefix and not environment.is_relative_to(PROJECT):
        trees["venv"] = environment
    return list(trees.items())


class VirtualMachine:
    """One boot that runs ``command`` (words) as root in ``/`` of the guest and then powers off.

    ``shared`` is the directory both sides write to, ``console`` the file that receives everything the guest's
    kernel and command print. Use as a context manager: leaving it ends QEMU whatever it is doing.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        shared: Path,
        console: Path,
        cpus: int = 2,
        memory_mib: int = 2048,
        qemu_options: Sequence[str] = (),
    ) -> None:
        self.command = list(command)
        self.shared = shared
        self.console = console
        self.cpus = cpus
        self.memory_mib = memory_mib
        self.qemu_options = list(qemu_options)
        self.started_at = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self._copier: threading.Thread | None = None

    def __enter__(self) -> VirtualMachine:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def start(self) -> None:
        """Boot; returns at once. Raises VmError when a part is missing."""
        if os.geteuid() != 0:
            raise VmError(
                "the virtual machine serves the whole root file system and needs root; "
                f"type: sudo {shlex.join([sys.executable, *sys.argv])}"
            )
        if shutil.which("qemu-system-x86_64") is None:
            raise VmError("qemu-system-x86_64 is not installed; run tests/parts/install.sh test")
        kernel = find_kernel()
        self.shared.mkdir(parents=True, exist_ok=True)
        trees = _cached_trees()
        shutil.copyfile(Path(__file__).with_name("guest_init.sh"), self.shared / "init.sh")
        mounts = "".join(f"{tag} {path}\n" for tag, path in trees)
        (self.shared / "mounts").write_text(mounts, encoding="utf-8")
        (self.shared / "command").write_text(shlex.join(self.command) + "\n", encoding="utf-8")
        for stale in ("ready", "status"):
            (self.shared / stale).unlink(missing_ok=True)
        words = [
            _virtme_run(),
            *("--kimg", str(kernel.image), "--mods", "auto"),
            *("--disable-kvm", "--force-9p", "--show-boot-console"),
            *("--cpus", str(self.cpus), "--memory", f"{self.memory_mib}M"),
            f"--rwdir={GUEST_SHARED}={self.shared.resolve()}",
        ]
        # Read by tests/effort.py, which cannot be imported where this is run as a program.
        effort = ("pyproxy.thorough",) if os.environ.get("PYPROXY_THOROUGH") == "1" else ()
        for option in (*KERNEL_OPTIONS, *effort, f"tsc_early_khz={tsc_khz()}"):
            words += ["--kopt", option]
        for directory in OVERLAYS:
            if Path(directory).is_dir():
                words += ["--overlay-rwdir", directory]
        words += ["--script-sh", f"sh {GUEST_SHARED}/init.sh"]
        qemu = list(self.qemu_options)
        for tag, path in trees:
            qemu += [
                *("-fsdev", f"local,id={tag},path={path},security_model=none,readonly=on,multidevs=remap"),
                *("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"),
            ]
        words += ["--qemu-opts", *qemu]
        self.console.parent.mkdir(parents=True, exist_ok=True)
        environment = dict(os.environ)
        # depmod and busybox live in sbin, which a plain user's or a service's PATH lacks.
        environment["PATH"] = os.pathsep.join([environment.get("PATH", ""), "/usr/sbin", "/sbin", "/usr/bin", "/bin"])
        self.started_at = time.monotonic()
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        # QEMU opens the console by name and would truncate a file; a pipe keeps what each of its ports writes.
        self._copier = threading.Thread(target=self._copy_console, name="vm-console", daemon=True)
        self._copier.start()

    def _copy_console(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self.console.open("wb", buffering=0) as log:
            while data := os.read(self._process.stdout.fileno(), 65536):
                log.write(data)

    @property
    def running(self) -> bool:
        """Whether QEMU still runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def ready(self) -> bool:
        """Whether the guest has finished its set-up and started the command."""
        return (self.shared / "ready").exists()

    @property
    def status(self) -> int | None:
        """The command's exit status, or None when it has not ended or the guest went down under it."""
        try:
            return int((self.shared / "status").read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return None

    def wait(self, timeout: float) -> int | None:
        """Wait up to ``timeout`` seconds for the guest to power off; the command's status, None when it never ended."""
        assert self._process is not None
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return self.status

    def stop(self) -> None:
        """End QEMU with everything it started; safe to repeat."""
        process = self._process
        if process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                break
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                continue
        process.wait()
        if self._copier is not None:
            self._copier.join(5)
        if process.stdout is not None:
            process.stdout.close()

    def console_tail(self, lines: int = 60) -> str:
        """The last lines the guest printed."""
        try:
            text = self.console.read_bytes().decode("utf-8", errors="replace")
        except FileNotFoundError:
            return "(the console is empty)"
        return "\n".join(text.replace("\r", "").splitlines()[-lines:])


def run(command: Sequence[str], *, timeout: float, shared: Path, console: Path | None = None) -> int:
    """Boot, run ``command``, power off; the command's exit status.

    Raises VmError, with the end of the console, when the guest did not come that far in ``timeout`` seconds.
    """
    with VirtualMachine(command, shared=shared, console=console or shared / "console.log") as vm:
        status = vm.wait(timeout)
        if status is None:
            vm.stop()
            reason = "did not end" if vm.ready else "did not come up"
            raise VmError(f"the guest {reason} in {timeout:.0f} s; its console ends with:\n{vm.console_tail()}")
        return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command in the virtual machine and print its console."""
    parser = argparse.ArgumentParser(description="Run one command on Debian's kernel in a virtual machine.")
    parser.add_argument("--timeout", type=float, default=600, metavar="SECONDS", help="default 600")
    parser.add_argument("--shared", type=Path, help=f"directory the guest sees as {GUEST_SHARED} (default: a new one)")
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="pyproxy-vm-") as temporary:
        shared = options.shared or Path(temporary)
        console = shared / "console.log"
        try:
            status = run(options.command, timeout=options.timeout, shared=shared, console=console)
        except VmError as error:
            print(f"boot.py: {error}", file=sys.stderr)
            return 1
        sys.stdout.write(console.read_text(encoding="utf-8", errors="replace"))
        return status


if __name__ == "__main__":
    sys.exit(main())
