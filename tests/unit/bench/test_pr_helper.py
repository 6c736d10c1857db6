"""The C client of the helper protocol, and what the benchmark makes of what it measured. Nothing here judges a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.floor import build_library
from bench.floor.pr_client import PrClient
from bench.report import load
from bench.vm import pr_helper
from bench.vm.pr_helper import IN_PYTHON, PARAMETERS, PYPROXY, QEMU, READ_KEYS, REGISTER, Taken
from pyproxy.scsi.command import Command
from tests.unit.pr_helper.scene import Scene, scene


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Scene]:
    with scene(tmp_path) as made:
        made.guest_unit.device.execute(Command(bytes(6)))
        yield made


@pytest.fixture
def device(guest: Scene) -> Iterator[int]:
    descriptor = os.open(guest.device_file(), os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def test_every_request_is_sent_and_timed(guest: Scene, device: int) -> None:
    with PrClient(build_library("pr_client"), guest.path, device) as client:
        seconds, latencies = client.run(3, REGISTER, PARAMETERS)
        assert len(latencies) == 3
        assert 0 < sum(latencies) <= seconds * 1e6
        client.run(7, READ_KEYS)
    assert guest.server is not None
    assert guest.server.counts().requests == {"out": 3, "in": 7}
    assert guest.guest_unit.state.key == int.from_bytes(PARAMETERS[8:16], "big")


def test_a_request_that_fails_is_an_error(guest: Scene, device: int) -> None:
    reserved_action = bytes([0x5E, 0x1F]) + READ_KEYS[2:]
    with PrClient(build_library("pr_client"), guest.path, device) as client:
        with pytest.raises(OSError, match="a request failed: Protocol error"):
            client.run(1, reserved_action)
        with pytest.raises(OSError, match="a request failed: Input/output error"):
            client.run(1, bytes(16))


def test_sides_take_turns(guest: Scene, device: int) -> None:
    library = build_library("pr_client")
    with PrClient(library, guest.path, device) as one, PrClient(library, guest.path, device) as two:
        taken = pr_helper.take_turns({"a": one, "b": two}, rounds=3, count=2, cdb=READ_KEYS)
    assert {name: (len(each.rates), len(each.latencies)) for name, each in taken.items()} == {"a": (3, 6), "b": (3, 6)}
    assert all(rate > 0 for each in taken.values() for rate in each.rates)


def test_what_is_recorded(tmp_path: Path) -> None:
    taken = {
        QEMU: Taken([100.0, 110.0, 90.0], [10.0, 11.0, 9.0]),
        PYPROXY: Taken([200.0, 210.0, 190.0], [5.0, 5.5, 4.5]),
        IN_PYTHON: Taken([50.0, 55.0, 45.0], [20.0, 22.0, 18.0]),
    }
    pr_helper.write("READ KEYS", PYPROXY, taken, tmp_path, 3, 1, pr_helper.GOAL)
    (recorded,) = load(tmp_path)
    assert (recorded.value, recorded.floor, recorded.ratio, recorded.goal, recorded.met) == (200, 100, 0.5, 1.25, True)
    assert recorded.details["us p50"] == 5.0
    assert recorded.details["times qemu-pr-helper, paired"]["median"] == 2.0
