"""QEMU's own helper as the reference."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def qemu_pr_helper(directory: Path) -> Iterator[Path]:
    """Run qemu-pr-helper; yields the path of its socket."""
    program = shutil.which("qemu-pr-helper", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/lib/qemu")
    assert program is not None, "qemu-pr-helper is not installed; type: apt-get install qemu-system-common"
    path = directory / "qemu.sock"
    with (directory / "qemu-pr-helper.log").open("wb") as log:
        process = subprocess.Popen([program, "-k", os.fspath(path), "-q"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while not _answers(path):
                assert process.poll() is None, (directory / "qemu-pr-helper.log").read_text(encoding="utf-8")
                assert time.monotonic() < deadline, "qemu-pr-helper does not answer"
                time.sleep(0.01)
            yield path
            assert process.poll() is None, "qemu-pr-helper ended under the test"
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True
