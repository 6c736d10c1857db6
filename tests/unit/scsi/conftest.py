"""Decoders that nobody here wrote: sg3-utils and libiscsi. Without them the tests fail, they are not skipped."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Tool = Callable[..., str]


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def sg3_utils() -> Tool:
    """Runs a tool of sg3-utils and returns what it prints."""

    def run(tool: str, *arguments: str) -> str:
        path = shutil.which(tool)
        if path is None:
            pytest.fail(f"{tool} is not installed; type: apt-get install sg3-utils")
        return _run([path, *arguments])

    return run


@pytest.fixture(scope="session")
def libiscsi(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[tuple[str, str]]]:
    """Asks libiscsi (through oracle.c) and returns its NAME=VALUE lines."""
    program = tmp_path_factory.mktemp("libiscsi") / "oracle"
    source = Path(__file__).with_name("oracle.c")
    built = subprocess.run(
        ["cc", "-o", str(program), str(source), "-liscsi"], capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        pytest.fail(f"oracle.c does not build; type: apt-get install libiscsi-dev\n{built.stderr}")

    def ask(*arguments: object) -> list[tuple[str, str]]:
        lines = _run([str(program), *(str(argument) for argument in arguments)]).splitlines()
        pairs = (line.partition("=") for line in lines)
        return [(name, value) for name, _, value in pairs]

    return ask
