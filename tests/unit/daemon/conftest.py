"""A real daemon in a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pyproxy.frontend.api import Client, connect

TIMEOUT = 120


@dataclass
class Daemon:
    """A running ``pyproxy serve``; ``run`` runs another pyproxy command with the same configuration."""

    process: subprocess.Popen[str]
    socket: Path
    config: Path

    @property
    def client(self) -> Client:
        return connect(self.socket)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal, wait, and return exit status and what it wrote."""
        self.process.send_signal(number)
        _, told = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, told

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run_pyproxy("--config", str(self.config), *arguments)


def run_pyproxy(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyproxy", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        env={**os.environ, **environment},
    )


def write_config(directory: Path, guests: str) -> Path:
    """Write a configuration whose directories are below ``directory``."""
    run = directory / "run"
    file = directory / "pyproxy.toml"
    file.write_text(
        f'[daemon]\nhost_name = "host-a"\nruntime_dir = "{run}"\nstate_dir = "{directory}/state"\n{guests}', "utf-8"
    )
    return file


Start = Callable[..., Daemon]


def start_in(directory: Path, guests: str, stack: contextlib.ExitStack, program: tuple[str, ...] = ()) -> Daemon:
    """Start a daemon that ends with ``stack``; ``program`` is what to run instead of ``pyproxy serve``."""
    config = write_config(directory, guests)
    serve = program or ("-m", "pyproxy", "--config", str(config), "serve")
    process = subprocess.Popen([sys.executable, *serve], stderr=subprocess.PIPE, text=True)
    stack.callback(_end, process)
    assert process.stderr is not None
    told = []
    for line in process.stderr:
        told.append(line)
        if "serving" in line:
            return Daemon(process, directory / "run" / "control.sock", config)
    raise AssertionError(f"the daemon did not start: {''.join(told)}")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start daemons; each is ended with the test."""
    with contextlib.ExitStack() as stack:
        yield lambda guests, *program: start_in(tmp_path, guests, stack, program)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One daemon for the tests of a module that leave it as it was: guest web, LUN 3, 1 MiB in memory."""
    with contextlib.ExitStack() as stack:
        guests = '[[guest]]\nname = "web"\n[[guest.unit]]\nlun = 3\nemulated = { size = "1MiB" }\n'
        yield start_in(tmp_path_factory.mktemp("running"), guests, stack)


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    if process.stderr is not None:
        process.stderr.close()
