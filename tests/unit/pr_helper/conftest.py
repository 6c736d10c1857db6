"""A helper server on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.pr_helper.scene import Scene, scene


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as made:
        yield made
