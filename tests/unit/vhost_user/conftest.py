from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.scsi import ScsiDriver
from tests.unit.vhost_user.reference_plane import ReferenceController
from tests.unit.vhost_user.scene import Scene, scene

PLANES = {"fast": None, "python": ReferenceController}


@pytest.fixture(params=list(PLANES))
def make(request: pytest.FixtureRequest) -> Callable:
    """Each test on the fast path's data plane and on one in plain Python."""
    return PLANES[request.param]


@pytest.fixture
def scenes(tmp_path: Path, make: Callable) -> Iterator[Callable[..., Scene]]:
    """Makes scenes that are taken down after the test."""
    with ExitStack() as stack:
        count = 0

        def open_scene(*addresses: tuple[int, int], rings: int = 3) -> Scene:
            nonlocal count
            count += 1
            directory = tmp_path / str(count)
            directory.mkdir()
            return stack.enter_context(scene(directory, addresses or ((0, 0),), make=make, rings=rings))

        yield open_scene


@pytest.fixture
def guest(scenes: Callable[..., Scene]) -> Scene:
    """One unit, and a socket that is listened on."""
    made = scenes()
    made.listen()
    return made


@pytest.fixture
def driver(guest: Scene) -> Iterator[ScsiDriver]:
    """A driver whose rings run and whose unit has reported its power on."""
    made = ScsiDriver(FrontEnd.connect(guest.path))
    made.start()
    assert made.execute(bytes(6)).sense[2] & 0xF == 6
    yield made
    made.close()
