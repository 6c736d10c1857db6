"""A real target for every test, and devices on it.

IscsiDevice ──(IscsiProxy)── tgtd ── LUN 1: a disk of 16 MiB in a file
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pyproxy.device.iscsi import IscsiDevice
from pyproxy.device.iscsi_settings import IscsiSettings
from tests.iscsi.commands import TEST_UNIT_READY
from tests.rig.iscsi_proxy import IscsiProxy
from tests.rig.tgt import LUN, TgtTarget, tgt_is_installed

Open = Callable[..., IscsiDevice]

SLOW = 60.0
"""Seconds a loaded machine may take over anything that ought to be immediate."""


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait until ``condition`` holds."""
    until = time.monotonic() + SLOW
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen within {SLOW} s"
        time.sleep(0.01)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[TgtTarget]:
    if not tgt_is_installed():
        pytest.skip("there is no tgtd here: install Debian's package tgt")
    with TgtTarget(tmp_path) as running:
        yield running


@pytest.fixture
def proxy(target: TgtTarget) -> Iterator[IscsiProxy]:
    with IscsiProxy(target.portal) as running:
        yield running


@pytest.fixture
def open_device(target: TgtTarget) -> Iterator[Open]:
    """Opens a device of host ``host``, guest ``db``: ``open_device("a", portal=..., depth=...)``."""
    opened: list[IscsiDevice] = []

    def open_one(
        host: str = "a",
        *,
        portal: str | None = None,
        lun: int = LUN,
        drain: bool = True,
        on_nexus_lost: Callable[[str], None] | None = None,
        **settings: Any,
    ) -> IscsiDevice:
        chosen = {
            "url": f"iscsi://{portal or target.portal}/{target.name}/{lun}",
            "initiator": f"iqn.2026-01.org.example:host-{host}",
            **settings,
        }
        device = IscsiDevice.open(
            IscsiSettings(**chosen), host=f"host-{host}", guest="db", lun=0, on_nexus_lost=on_nexus_lost
        )
        opened.append(device)
        if drain:
            while not device.execute(TEST_UNIT_READY).good:
                pass
        return device

    yield open_one
    for device in opened:
        device.close()
