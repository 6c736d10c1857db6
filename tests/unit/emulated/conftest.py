from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.device.emulated import EmulatedUnit
from tests.unit.emulated.initiator import Initiator, initiators

MIB = 1 << 20


@pytest.fixture(params=["memory", "file"])
def unit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmulatedUnit]:
    """8 MiB, once in memory and once in a file."""
    path = tmp_path / "medium.img" if request.param == "file" else None
    unit = EmulatedUnit(8 * MIB, path=path, serial="SERIAL-1")
    yield unit
    unit.close()


@pytest.fixture
def ram() -> Iterator[EmulatedUnit]:
    unit = EmulatedUnit(8 * MIB, serial="SERIAL-1")
    yield unit
    unit.close()


@pytest.fixture
def abc(ram: EmulatedUnit) -> list[Initiator]:
    """Three nexuses of one unit in memory."""
    return initiators(ram)
