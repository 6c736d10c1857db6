"""A disk through the whole stack: our front end, the daemon, the kernel's device; and the daemon killed under load."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from functools import partial

import pytest

from pyproxy.frontend.virtio_scsi.response import Response
from tests.unit.daemon.disk_load import DiskLoad
from tests.vm.rig.disk_host import serving
from tests.vm.rig.nodes import wait_for
from tests.vm.rig.sg_direct import SgNode, past_attentions

KILLS = 3
READ = bytes.fromhex("28 00 00 00 10 00 00 08 00 00")
ASKED = {
    "INQUIRY": ("12 00 00 00 ff 00", 255),
    "READ CAPACITY (10)": ("25 00 00 00 00 00 00 00 00 00", 8),
    "READ CAPACITY (16)": ("9e 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00", 32),
    "MODE SENSE (6), all pages": ("1a 00 3f 00 ff 00", 255),
    "MODE SENSE (10), all pages": ("5a 00 3f 00 00 00 00 02 00 00", 512),
    "REQUEST SENSE": ("03 00 00 00 12 00", 18),
    "an address beyond the end": ("28 00 ff ff ff f0 00 00 08 00", 4096),
    "an operation code that there is not": ("e0 00 00 00 00 00", 0),
    "a VPD page that there is not": ("12 01 77 00 ff 00", 255),
    "READ KEYS": ("5e 00 00 00 00 00 00 01 00 00", 256),
    "READ RESERVATION": ("5e 01 00 00 00 00 00 01 00 00", 256),
    "a cut READ CAPACITY (16)": ("9e 10 00 00 00 00 00 00 00 00 00 00 00 0c 00 00", 12),
}


@pytest.fixture(params=["lio", "scsi_debug"])
def nodes(request):
    if request.param == "lio":
        return request.getfixturevalue("lio").fresh(1).nexuses[0].nodes
    (found,) = request.getfixturevalue("scsi_debug")(dev_size_mb=16, delay=0)
    return found


def test_the_bytes_are_the_devices(nodes, tmp_path):
    """The answers to what asks about the unit, every VPD page, data, and errors with their sense."""
    direct = SgNode(nodes.sg)
    with contextlib.ExitStack() as stack, serving(tmp_path, nodes) as (_, driver):
        stack.callback(direct.close)
        pages = driver.execute_past_attentions(bytes.fromhex("12 01 00 00 ff 00"), data_in=255).data[4:]
        asked = dict(ASKED) | {f"VPD page {page:02X}h": (f"12 01 {page:02x} 02 00 00", 512) for page in pages}
        assert len(pages) >= 4
        for name, (cdb, size) in asked.items():
            through = driver.execute_past_attentions(bytes.fromhex(cdb), data_in=size)
            there = past_attentions(partial(direct.execute, bytes.fromhex(cdb), data_in=size))
            assert through.response == Response.OK, name
            assert (through.status, through.sense) == (there.status, there.sense), name
            if there.good:
                assert through.data == there.data, name
        data = os.urandom(1 << 20)
        assert driver.execute_past_attentions(bytes.fromhex("2a 00 00 00 10 00 00 08 00 00"), data).status == 0
        assert past_attentions(partial(direct.execute, READ, data_in=1 << 20)).data == data
        assert driver.execute_past_attentions(READ, data_in=1 << 20).data == data


def test_a_daemon_killed_under_load_answers_everything_once(lio, tmp_path):
    """Commands that the kernel still has when the daemon dies are over before anything is sent again."""
    unit = lio.fresh(1)
    draw = random.Random(20261127)
    with serving(tmp_path, unit.nexuses[0]) as (host, driver):
        load = DiskLoad(driver, draw)
        before = unit.generation
        load.run(0.5)
        interrupted = 0
        for _ in range(KILLS):
            killer = threading.Timer(draw.uniform(0.2, 1.0), host.daemon.send_signal, (signal.SIGKILL,))
            killer.start()
            load.run(1.5)
            killer.join()
            host.daemon.wait()
            interrupted += driver.pending
            host.start()
            driver.reconnect(host.connect())
            load.settle()
            wait_for(lambda: host.unit()["open_intents"] == 0, "the intents to be resolved", 120)
        load.run(1.0)
        load.settle()
        load.check_all()
        assert interrupted > 0
        assert load.answers["claim good"] <= unit.generation - before <= load.tried
        assert list(unit.registered.values()) == [load.key]
        assert host.unit()["key"] == f"{load.key:#018x}"
    print(dict(load.answers))
