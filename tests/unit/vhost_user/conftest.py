from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.vhost_user.scene import Scene, scene


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as made:
        made.listen()
        yield made
