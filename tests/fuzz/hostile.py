"""Runs the hostile driver and the hostile front end against the data plane compiled with AddressSanitizer.

Usage: python -m tests.fuzz.hostile CASES [SEED]

Of the cases nine in ten are descriptor chains and ring indices, the others messages and memory tables.

The generated C of every extension is compiled again, with gcc's AddressSanitizer, into .cache/tests; an access outside
an allocation or outside guest memory ends the run with its report and a status other than 0.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.unit.plane import compiled

ROOT = Path(__file__).parents[2]
FLAGS = ("-O1", "-g1", "-fsanitize=address", "-fno-omit-frame-pointer")
MODULES = (
    "block_port",
    "blocks",
    "cdb",
    "controller",
    "dispatch",
    "gate",
    "guest_memory",
    "inflight",
    "lanes",
    "medium",
    "port",
    "service",
    "sgio",
    "verdict",
    "virtio_scsi",
    "virtqueue",
    "worker",
)
INSIDE = """
import sys, threading, time
import hostile
from _fastpath import controller, guest_memory, worker
from _fastpath.block_port import BlockPort
from _fastpath.gate import NexusGate
from _fastpath.medium import Medium
from _fastpath.verdict import Verdicts
from tests.fuzz import front_end
assert all("asan" in module.__file__ for module in (controller, guest_memory, worker)), worker.__file__
cases, seed = int(sys.argv[1]), int(sys.argv[2])
messages = cases // 10
cases -= messages
verdicts = Verdicts()
for opcode in range(256):
    if opcode not in (0x5E, 0x5F):
        verdicts.straight(opcode)
guest = hostile.Hostile(BlockPort(Medium(1 << 20, 512), NexusGate()), verdicts, seed)
began = time.monotonic()
half = cases // 2
guest.cases(half)
scribbler = threading.Thread(target=guest.scribble)
scribbler.start()
try:
    guest.cases(cases - half)
finally:
    guest.enough()
    scribbler.join()
print(f"{cases} cases in {time.monotonic() - began:.0f} s: {guest.used} chains used, {guest.answered} by Python, "
      f"{guest.broken} times a ring was broken")
print(front_end.run(messages, seed))
"""


def sanitized() -> Path:
    """A directory with the extensions and the hostile driver compiled with AddressSanitizer; made once per content."""
    sources = [ROOT / "_fastpath" / f"{name}.c" for name in MODULES]
    declarations = [path for kind in ("*.h", "*.pxd") for path in sorted((ROOT / "_fastpath").glob(kind))]
    inputs = [*sources, *declarations, compiled.HERE / "hostile.pyx", Path(__file__)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in inputs)).hexdigest()[:16]
    target = ROOT / ".cache" / "tests" / f"asan-{digest}"
    if (target / "complete").exists():
        return target
    shutil.rmtree(target, ignore_errors=True)
    package = target / "_fastpath"
    package.mkdir(parents=True)
    for source in (ROOT / "_fastpath").glob("*.py"):
        shutil.copy(source, package)
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    include = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / '_fastpath'}"]

    def one(source: Path) -> None:
        output = package / f"{source.stem}{suffix}"
        command = ["gcc", "-shared", "-fPIC", "-std=gnu11", "-pthread", "-fno-strict-aliasing", "-w", *FLAGS, *include]
        subprocess.run([*command, "-o", str(output), str(source)], check=True, cwd=ROOT)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(one, sources))
    compiled.build("hostile", target / f"hostile{suffix}", *FLAGS)
    (target / "complete").touch()
    return target


def run(cases: int, seed: int) -> subprocess.CompletedProcess[str]:
    """Run so many cases in a process of their own."""
    directory = sanitized()
    library = subprocess.run(["gcc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    environment = {
        **os.environ,
        "LD_PRELOAD": library.strip(),
        "PYTHONPATH": f"{directory}:{ROOT}",
        # Python keeps its memory to the end; a page that is missing is to be reported, not survived.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1",
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-c", INSIDE, str(cases), str(seed)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=directory)


def main(arguments: list[str]) -> int:
    """Run what the command line asks for; returns the exit status."""
    if not 1 <= len(arguments) <= 2:
        sys.stderr.write(__doc__ or "")
        return 2
    done = run(int(arguments[0]), int(arguments[1]) if len(arguments) == 2 else 1)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
