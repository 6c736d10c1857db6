"""Units that come and go under a running guest, on the fast path's data plane."""

from __future__ import annotations

import threading

import pytest

from _fastpath.block_port import BlockPort
from pyproxy.device.base import read_identity
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.driver.front_end import FrontEnd
from pyproxy.driver.scsi import ScsiDriver
from pyproxy.frontend.virtio_scsi.lun import Address
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.command import Command, Result
from pyproxy.unit import GuestUnit
from tests.unit.vhost_user.scene import MIB, US, scene

TEST_UNIT_READY = bytes(6)
REPORT_LUNS = bytes.fromhex("a0 00 00 00 00 00 00 00 01 00 00 00")
HOTPLUG, CHANGE = 1 << 1, 1 << 2


@pytest.fixture
def guest(tmp_path):
    with scene(tmp_path, ((0, 0),), make=None) as made:
        made.listen()
        yield made


@pytest.fixture
def driver(guest):
    made = ScsiDriver(FrontEnd.connect(guest.path))
    made.start(extra=CHANGE)
    made.execute(TEST_UNIT_READY)
    yield made
    made.close()


@pytest.fixture
def another(guest):
    """A second unit that is not attached yet, with its port."""
    unit = EmulatedUnit(8 * MIB, serial="another", power_on_attention=False)
    nexus = unit.nexus(US)
    snooper = Snooper("g", 1, read_identity(nexus).name, guest.store, migrate_pr=True, initiator=US, rtpi=1)
    yield GuestUnit("g", 1, nexus, snooper), BlockPort(unit.medium, nexus.gate)
    unit.close()


def test_a_unit_comes_and_goes(guest, driver, another):
    unit, port = another
    place = Address(0, 1)
    assert driver.execute(TEST_UNIT_READY, address=place).sense[12:14].hex() == "2500"
    guest.controller.attach(place, unit, port)
    (event,) = driver.events(1)
    assert event.encode().hex() == "01000000" + "0100000100000000" + "01000000"
    # Only the unit that was there before has something to tell.
    assert driver.execute(TEST_UNIT_READY).sense[12:14].hex() == "3f0e"
    assert driver.execute(TEST_UNIT_READY, address=place).status == 0
    assert driver.execute(REPORT_LUNS, data_in=256).data.hex()[16:] == "0000000000000000" + "0001000000000000"
    with pytest.raises(ValueError, match="already"):
        guest.controller.attach(place, unit, port)
    assert guest.controller.detach(place) is unit
    (event,) = driver.events(1)
    assert event.encode().hex() == "01000000" + "0100000100000000" + "02000000"
    assert driver.execute(TEST_UNIT_READY, address=place).sense[12:14].hex() == "2500"
    assert driver.execute(TEST_UNIT_READY).sense[12:14].hex() == "3f0e"
    with pytest.raises(KeyError):
        guest.controller.detach(place)


def test_the_last_unit_of_a_target(guest, driver):
    unit = guest.controller.detach(Address(0, 0))
    assert driver.execute(TEST_UNIT_READY).response == 3
    guest.controller.attach(Address(4, 0), unit)
    assert driver.execute(TEST_UNIT_READY, address=Address(4, 0)).status == 0
    assert [event.reason for event in driver.events(2)] == [2, 1]


def test_a_changed_capacity_is_hinted_at(guest, driver):
    assert guest.controller.parameter_changed(Address(0, 0), 0x2A, 0x09)
    (event,) = driver.events(1)
    assert event.encode().hex() == "03000000" + "0100000000000000" + "2a090000"


def test_nothing_is_told_to_a_guest_that_did_not_ask(guest, another):
    unit, port = another
    driver = ScsiDriver(FrontEnd.connect(guest.path))
    driver.start(without=HOTPLUG)
    driver.execute(TEST_UNIT_READY)
    guest.controller.attach(Address(0, 1), unit, port)
    assert not guest.controller.parameter_changed(Address(0, 0), 0x2A, 0x09)
    assert driver.queues[1].used_index == 0
    # The unit attention is not optional.
    assert driver.execute(TEST_UNIT_READY).sense[12:14].hex() == "3f0e"
    driver.close()


def test_events_that_found_no_buffer(guest, another):
    driver = ScsiDriver(FrontEnd.connect(guest.path), event_buffers=1)
    driver.start(extra=CHANGE)
    for _ in range(3):
        guest.controller.parameter_changed(Address(0, 0), 0x2A, 0x09)
    (first,) = driver.events(1)
    assert not first.missed
    told = False
    while not told:
        told = guest.controller.parameter_changed(Address(0, 0), 0x2A, 0x01)
    (second,) = driver.events(1)
    assert (second.missed, second.reason) == (True, 0x012A)
    driver.close()


def test_detaching_waits_for_what_runs_on_the_unit(guest, driver, monkeypatch):
    entered, release = threading.Event(), threading.Event()
    unit = guest.unit()
    device = unit.device

    class Slow:
        name = "slow"

        def execute(self, command: Command) -> Result:
            entered.set()
            assert release.wait(60)
            return device.execute(command)

    monkeypatch.setattr(unit, "device", Slow())
    ticket = driver.submit(bytes.fromhex("12 00 00 00 60 00"), data_in=96)
    assert entered.wait(60)
    detached = threading.Event()
    thread = threading.Thread(target=lambda: (guest.controller.detach(Address(0, 0)), detached.set()))
    thread.start()
    assert not detached.wait(0.2)
    release.set()
    thread.join(60)
    assert detached.is_set()
    assert driver.wait(ticket).status == 0
