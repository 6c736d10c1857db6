"""The unit under test and the initiators that use it, each through a guest's unit of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.device.base import read_identity
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.transport_id import TransportId
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit
from tests.conformance.initiator import BLOCK, BLOCKS, Initiator


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path_factory.mktemp("conformance") / "state.db") as opened:
        yield opened


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmulatedUnit]:
    """The unit, in memory unless the module wants it in a file as well (``IN_MEMORY_AND_FILE``)."""
    in_file = getattr(request, "param", "memory") == "file"
    unit = EmulatedUnit(BLOCKS * BLOCK, path=tmp_path / "medium.img" if in_file else None)
    yield unit
    unit.close()


@pytest.fixture
def migrate_pr() -> bool:
    """Whether the guests' reservations are tracked."""
    return True


@pytest.fixture
def initiators(disk: EmulatedUnit, store: SqliteStore, migrate_pr: bool) -> list[Initiator]:
    """Two initiators of one unit."""
    lock = threading.RLock()
    found = []
    for number in (1, 2):
        port = TransportId.parse(f"naa.500140500000000{number}")
        nexus = disk.nexus(port)
        name = read_identity(nexus).name
        snooper = Snooper(
            f"guest-{number}", 0, name, store, migrate_pr=migrate_pr, initiator=port, rtpi=1, unit_lock=lock
        )
        found.append(Initiator(GuestUnit(f"guest-{number}", 0, nexus, snooper, rawio=True)))
    return found


@pytest.fixture
def first(initiators: list[Initiator]) -> Initiator:
    return initiators[0]


@pytest.fixture
def second(initiators: list[Initiator]) -> Initiator:
    return initiators[1]
