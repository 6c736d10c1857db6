"""Disks that are detached, attached again under other names, and grow, below a guest of the daemon."""

from __future__ import annotations

import os
import subprocess
import threading
import time

from pyproxy.driver.scsi import Answer, ScsiDriver
from pyproxy.frontend.virtio_scsi.event import Event, EventKind, ResetReason
from pyproxy.frontend.virtio_scsi.lun import Address, encode_event_lun
from pyproxy.frontend.virtio_scsi.response import Response
from pyproxy.scsi.capacity import ReadCapacity16
from tests.unit.pr_helper.exchange import Client, parameters, prin, prout
from tests.vm.rig import scsi_debug as scsi_debug_module
from tests.vm.rig.disk_host import serving
from tests.vm.rig.nodes import wait_for
from tests.vm.rig.sg_direct import past_attentions
from tests.vm.rig.takeover import CONFLICT

K = 0x1122334455667788
READ = bytes.fromhex("28 00 00 00 00 00 00 00 08 00")
WRITE = bytes.fromhex("2a 00 00 00 00 00 00 00 08 00")
READ_CAPACITY = bytes.fromhex("9e 10 00000000 00000000 00000020 0000")
PLACE = encode_event_lun(Address(0, 0))
REMOVED = Event(EventKind.TRANSPORT_RESET, PLACE, ResetReason.REMOVED)
RESCAN = Event(EventKind.TRANSPORT_RESET, PLACE, ResetReason.RESCAN)
CAPACITY_CHANGED = Event(EventKind.PARAM_CHANGE, PLACE, 0x2A | 0x09 << 8)


def claims(driver: ScsiDriver) -> None:
    """Write Exclusive - Registrants Only, so that other nexuses can still read."""
    assert driver.execute_past_attentions(prout(6, 24), parameters(0, K)).status == 0
    assert driver.execute_past_attentions(prout(1, 24, 5), parameters(K)).status == 0


def test_a_disk_comes_back_under_another_name(lio, scsi_debug, tmp_path):
    """What has its old name by then is left alone; registration and reservation are still the guest's."""
    unit = lio.fresh(2)
    nexus, other = unit.nexuses
    before = nexus.sg
    with serving(tmp_path, nexus) as (host, driver):
        claims(driver)
        data = os.urandom(4096)
        assert driver.execute_past_attentions(WRITE, data).status == 0
        nexus.detach()
        assert driver.events(1) == [REMOVED]
        assert driver.execute(READ, data_in=4096).response == Response.BAD_TARGET
        wait_for(lambda: host.unit()["away_since"] is not None, "the unit to be away")
        assert "was detached" in host.unit()["error"]
        wait_for(lambda: not before.exists(), f"{before} to be free")
        (foreign,) = scsi_debug(dev_size_mb=8)
        assert foreign.sg == before
        time.sleep(1)
        assert host.unit()["away_since"] is not None
        assert driver.execute(READ, data_in=4096).response == Response.BAD_TARGET
        nexus.attach()
        assert nexus.sg != before
        assert driver.events(1) == [RESCAN]
        assert driver.execute_past_attentions(READ, data_in=4096).data == data
        status = host.unit()
        assert (status["device"], status["away_since"], status["error"]) == (str(nexus.sg), None, None)
        assert (status["key"], status["reservation_type"]) == (f"0x{K:016x}", 5)
        assert driver.execute_past_attentions(WRITE, data).status == 0
        assert past_attentions(lambda: other.direct.execute(WRITE, data_out=data)).status == CONFLICT
        # By the node that it has now, and by no other.
        for node, served in ((nexus.sd, True), (foreign.sd, False)):
            descriptor = os.open(node, os.O_RDWR | os.O_NONBLOCK)
            with Client(host.helper) as client:
                answer = client.ask(prin(0, 64), descriptor)
            os.close(descriptor)
            assert (answer.status == 0) is served
        status, keys, _ = host.here("pr", "keys", str(nexus.sg))
        assert status == 0
        assert f"{K:016x}" in keys


def test_a_disk_is_detached_under_load_many_times(lio, tmp_path):
    """Every command is answered, none is lost, and each time the guest is told both."""
    unit = lio.fresh(1)
    (nexus,) = unit.nexuses
    with serving(tmp_path, nexus) as (host, driver):
        claims(driver)
        answers: list[Answer] = []
        stopping = threading.Event()

        def load() -> None:
            while not stopping.is_set():
                tickets = [driver.submit(READ, data_in=4096) for _ in range(16)]
                answers.extend(driver.wait(ticket) for ticket in tickets)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for _ in range(5):
                good = sum(answer.status == 0 and answer.response == 0 for answer in answers)
                wait_for(
                    lambda good=good: sum(a.status == 0 and a.response == 0 for a in answers) > good + 64, "answers"
                )
                nexus.detach()
                wait_for(lambda: host.unit()["away_since"] is not None, "the unit to be away")
                nexus.attach()
                wait_for(lambda: host.unit()["error"] is None, "the unit to be back")
        finally:
            stopping.set()
            thread.join(120)
        assert not thread.is_alive()
        assert driver.events(10) == [REMOVED, RESCAN] * 5
        assert host.unit()["key"] == f"0x{K:016x}"
        assert {answer.response for answer in answers} <= {
            Response.OK,
            Response.BAD_TARGET,
            Response.TRANSPORT_FAILURE,
            Response.FAILURE,
            Response.NEXUS_FAILURE,
            Response.RESET,
            Response.BUSY,
        }


def test_a_disk_that_was_missing_when_the_daemon_started(lio, tmp_path):
    unit = lio.fresh(1)
    (nexus,) = unit.nexuses
    nexus.detach()
    with serving(tmp_path, nexus) as (host, driver):
        assert driver.execute(READ, data_in=4096).response == Response.BAD_TARGET
        nexus.attach()
        assert driver.events(1) == [RESCAN]
        assert driver.execute_past_attentions(READ, data_in=4096).status == 0
        assert host.unit()["error"] is None


def test_a_disk_that_grows(scsi_debug, tmp_path):
    """The guest gets the event and one unit attention, whether its own command or another's is first to meet it."""
    (nodes,) = scsi_debug(dev_size_mb=64)
    with serving(tmp_path, nodes) as (_, driver):
        capacity = driver.execute_past_attentions(READ_CAPACITY, data_in=32).data
        assert ReadCapacity16.decode(capacity).size == 64 << 20
        time.sleep(1)
        for seen_first, gigabytes in ((True, 2), (False, 3)):
            scsi_debug_module.set_parameter("virtual_gb", gigabytes)
            if not seen_first:
                subprocess.run(["sg_readcap", "--16", nodes.sg], check=False)
                assert driver.events(1) == [CAPACITY_CHANGED]
            answer = driver.execute(bytes(6))
            assert (answer.status, answer.sense[2] & 0xF, answer.sense[12:14]) == (2, 6, b"\x2a\x09")
            if seen_first:
                assert driver.events(1) == [CAPACITY_CHANGED]
            assert driver.execute(bytes(6)).status == 0
            capacity = driver.execute(READ_CAPACITY, data_in=32).data
            assert ReadCapacity16.decode(capacity).size == gigabytes << 30
