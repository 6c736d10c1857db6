"""Boots the virtual machine, runs one of the benchmarks in it and brings its results to the results directory.

python -m bench.vm.run [ROUNDS]
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from bench.floor import build_library
from bench.report import load, results_directory, table
from bench.vm.inside import ROUNDS
from tests.vm.boot import GUEST_SHARED, PROJECT, VmError, run

TIMEOUT = 1200.0


def measure(rounds: int = ROUNDS) -> list[Path]:
    """Run the benchmarks of the pass-through engines; the result files written. Raises VmError."""
    build_library("sgio")
    return measure_inside("bench.vm.inside", f"{GUEST_SHARED}/results", str(rounds))


def measure_inside(module: str, *arguments: str) -> list[Path]:
    """Run ``python -m module`` in the guest, which writes to /run/pyproxy/results; the files written. Raises VmError.

    What it needs compiled has to be: the guest sees the project read-only, and need not have a compiler.
    """
    with tempfile.TemporaryDirectory(prefix="pyproxy-bench-") as temporary:
        shared = Path(temporary)
        command = [
            *("env", f"--chdir={PROJECT}", f"PYTHONPATH={PROJECT}", sys.executable, "-m", module),
            *arguments,
        ]
        status = run(command, timeout=TIMEOUT, shared=shared)
        if status != 0:
            console = (shared / "console.log").read_text(encoding="utf-8", errors="replace")
            raise VmError(f"{module} in the guest ended with status {status}:\n{console[-4000:]}")
        results_directory().mkdir(parents=True, exist_ok=True)
        return [
            Path(shutil.copy(path, results_directory() / path.name))
            for path in sorted((shared / "results").glob("*.json"))
        ]


def main() -> int:
    """Measure and print the ratios."""
    try:
        written = {path.name for path in measure(int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS)}
    except VmError as error:
        print(f"bench.vm.run: {error}", file=sys.stderr)
        return 1
    print(table(load()))
    return 0 if written else 1


if __name__ == "__main__":
    sys.exit(main())
