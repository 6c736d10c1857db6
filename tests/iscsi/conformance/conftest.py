"""The unit under test is tgt's disk, the initiators are two sessions with names of their own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.device.base import read_identity
from pyproxy.device.iscsi import IscsiDevice
from pyproxy.device.iscsi_settings import IscsiSettings
from pyproxy.reservation.snooper import Snooper
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit
from tests.conformance.initiator import Initiator
from tests.rig.tgt import TgtTarget, tgt_is_installed

DEVIATIONS: dict[str, str] = json.loads(Path(__file__).with_name("tgt.json").read_text(encoding="utf-8"))
"""``module::test[parameters]`` or ``module::test`` for all parameters -> what tgt does instead."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = [item for item in items if isinstance(item, pytest.Function) and Path(__file__).parent in item.path.parents]
    # The parameter says where the emulated unit keeps its data; tgt has one kind of disk.
    again = {item for item in here if hasattr(item, "callspec") and item.callspec.params.get("disk") == "file"}
    items[:] = [item for item in items if item not in again]
    for item in here:
        name = f"{item.path.stem.removeprefix('test_')}::{item.name}"
        reason = DEVIATIONS.get(name) or DEVIATIONS.get(name.partition("[")[0])
        if reason is not None:
            item.add_marker(pytest.mark.xfail(reason=f"tgt: {reason}", strict=True))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TgtTarget]:
    if not tgt_is_installed():
        pytest.skip("there is no tgtd here: install Debian's package tgt")
    with TgtTarget(tmp_path_factory.mktemp("tgt")) as target:
        yield target


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path_factory.mktemp("conformance") / "state.db") as opened:
        yield opened


@pytest.fixture
def disk(request: pytest.FixtureRequest, running: TgtTarget) -> TgtTarget:
    """A disk without data and registrations. It is in a file; the parameter is about our emulated unit."""
    running.fresh_disk()
    return running


@pytest.fixture
def migrate_pr() -> bool:
    return True


@pytest.fixture
def initiators(disk: TgtTarget, store: SqliteStore, migrate_pr: bool) -> Iterator[list[Initiator]]:
    lock = threading.RLock()
    devices: list[IscsiDevice] = []
    found = []
    try:
        for number in (1, 2):
            guest = f"guest-{number}"
            settings = IscsiSettings(url=disk.url, initiator=f"iqn.2026-01.org.example:{guest}")
            device = IscsiDevice.open(settings, host="host", guest=guest, lun=0)
            devices.append(device)
            snooper = Snooper(
                guest,
                0,
                read_identity(device).name,
                store,
                migrate_pr=migrate_pr,
                initiator=device.initiator,
                rtpi=device.rtpi,
                unit_lock=lock,
            )
            found.append(Initiator(GuestUnit(guest, 0, device, snooper, rawio=True)))
        yield found
    finally:
        for device in devices:
            device.close()


@pytest.fixture
def first(initiators: list[Initiator]) -> Initiator:
    return initiators[0]


@pytest.fixture
def second(initiators: list[Initiator]) -> Initiator:
    return initiators[1]
