"""Counts instructions with callgrind: the same on every run of the same build, however noisy the machine is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def instructions(function: str | None, program: str, *arguments: str, directory: Path) -> int:
    """Run a Python ``program`` and return the instructions spent in the C ``function`` (a pattern) and below it.

    None: in all of it, which hashes alike each time.
    """
    assert shutil.which("valgrind"), "valgrind is missing; tests/parts/install.sh bench installs it"
    output = directory / "callgrind.out"
    options = ["--tool=callgrind", f"--callgrind-out-file={output}"]
    if function is not None:
        options.append(f"--toggle-collect={function}")
    done = subprocess.run(
        ["valgrind", *options, sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=PROJECT,
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in output.read_text().splitlines() if line.startswith(("summary:", "totals:"))][:1]
    return int(line.split()[1])
