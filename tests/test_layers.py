"""Imports point one way: the contracts in pyproject.toml, and what they cannot see in the compiled modules."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_import_contracts_hold() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("source", sorted((ROOT / "_fastpath").glob("*.p[xy]*")), ids=lambda path: path.name)
def test_compiled_modules_import_nothing_of_pyproxy(source: Path) -> None:
    found = re.findall(r"^\s*(?:from|c?import)\s+pyproxy\b.*$", source.read_text(encoding="utf-8"), re.MULTILINE)
    assert found == []


def test_every_extension_has_a_stub() -> None:
    missing = [path.name for path in (ROOT / "_fastpath").glob("*.pyx") if not path.with_suffix(".pyi").exists()]
    assert missing == []
