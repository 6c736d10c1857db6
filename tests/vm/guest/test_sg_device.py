"""SgDevice on real nodes: opened by any name it has, identified, listed; its errors say what happened."""

import errno
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from _fastpath.sgio import Batch
from pyproxy.device.base import TransportError, read_identity
from pyproxy.device.discover import list_devices
from pyproxy.device.node import NodeError
from pyproxy.device.sg import SgDevice
from pyproxy.scsi.command import Command
from tests.vm.guest.sg_support import ENGINES, TEST_UNIT_READY, drain, engine_on, read_cdb, run_one, slow, write_cdb
from tests.vm.rig.nodes import SCSI_DEVICES


@pytest.fixture
def nexus(lio):
    return lio(2).nexuses[0]


def test_every_node_leads_to_the_same_unit(nexus, lio):
    serial = (nexus.backstore / "wwn" / "vpd_unit_serial").read_text(encoding="ascii").partition(": ")[2].strip()
    links = [link for each in lio(2).nexuses for link in each.nodes.by_id]
    assert links
    names = set()
    for path, engine in [
        (nexus.sg, "async"),
        (str(nexus.sd), "sync"),
        (nexus.bsg, "bsg"),
        (links[0], "sync"),
    ]:
        with SgDevice.open(path) as device:
            assert device.name == str(path)
            assert device.engine_name == engine
            names.add(read_identity(device).name)
    assert len(names) == 1
    # LIO builds the NAA designator from 6h, its company identifier 001405h and the serial number.
    assert names.pop() == "naa.6001405" + serial[:25]


@pytest.mark.parametrize("engine", ["auto", "sync", "async"])
def test_an_open_descriptor_stays_the_callers(nexus, engine):
    fd = os.open(nexus.sg, os.O_RDWR | os.O_NONBLOCK)
    with SgDevice.open(fd, engine=engine) as device:
        assert device.name == str(nexus.sg)
        assert device.execute(Command(bytes(6))).good
    os.fstat(fd)
    os.close(fd)


def test_a_descriptor_of_another_process_works_with_every_engine(nexus):
    """sg refuses write and read on a file that another process opened; the engine opens its own."""
    ours, theirs = socket.socketpair()
    script = """
        import os, socket, sys
        channel = socket.socket(fileno=int(sys.argv[1]))
        socket.send_fds(channel, [b"x"], [os.open(sys.argv[2], os.O_RDWR | os.O_NONBLOCK)])
    """
    with ours, theirs:
        subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script), str(theirs.fileno()), str(nexus.sg)],
            pass_fds=[theirs.fileno()],
            check=True,
        )
        _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
    for engine in ("sync", "async"):
        with SgDevice.open(fd, engine=engine) as device:
            assert device.execute(Command(bytes(6))).good
    os.close(fd)


def test_results_carry_data_and_sense(nexus):
    with SgDevice.open(nexus.sg) as device:
        block = os.urandom(512)
        assert device.execute(Command(write_cdb(3, 1), data_out=block)).good
        assert device.execute(Command(write_cdb(4, 1), data_out=[block[:100], block[100:]])).good
        parts = [bytearray(500), bytearray(12)]
        results = device.execute_batch(
            [
                Command(read_cdb(3, 1), data_in=512),
                Command(read_cdb(4, 1), data_in=parts),
                Command(read_cdb(0x00FFFFFF, 1), data_in=512),
                Command(bytes([0x12, 0, 0, 0x02, 0, 0]), data_in=512),
            ]
        )
    assert results[0].data == block
    assert (results[1].data, bytes(parts[0] + parts[1])) == (b"", block)
    assert results[2].decoded_sense.code == (0x05, 0x21, 0x00)
    assert results[3].residual == 512 - len(results[3].data)
    assert len(results[3].data) == results[3].data[4] + 5


OVERRUN = """
import sys
from pyproxy.device.sg import SgDevice
from pyproxy.scsi.command import Command

with SgDevice.open(sys.argv[1]) as device:
    for length in (8, 16, 24, 32, 40, 48, 56):
        for _ in range(20):
            assert device.execute(Command(bytes([0x5E, 3, 0, 0, 0, 0, 0, 0, length, 0]), data_in=length)).good
"""


def test_a_target_that_writes_past_the_allocation_length_spoils_nothing(nexus):
    """LIO checks the room for a READ FULL STATUS descriptor without its header; Python's allocator looks for damage."""
    nexus.direct.drained(lambda: nexus.direct.persistent_reserve_out(6, sa_key=0x1234))
    done = subprocess.run(
        [sys.executable, "-c", OVERRUN, str(nexus.sd)],
        env={**os.environ, "PYTHONMALLOC": "debug"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_errors_name_the_node_the_cause_and_the_remedy(nexus):
    with SgDevice.open(nexus.sg) as device:
        with pytest.raises(TransportError, match=rf"{nexus.sg}: command 28h .*max_hw_sectors_kb") as caught:
            device.execute(Command(read_cdb(0, 4096), data_in=4096 * 512))
        assert (caught.value.errno, caught.value.fate_unknown) == (errno.EINVAL, False)
        with pytest.raises(TransportError, match="1 of 3 commands") as caught:
            device.execute_batch([Command(bytes(6)), Command(read_cdb(0, 4096), data_in=4096 * 512), Command(bytes(6))])
        first, second, third = caught.value.outcomes
        assert first.good
        assert isinstance(second, TransportError)
        assert third.good
    with pytest.raises(TransportError, match="the engine is closed") as caught:
        device.execute(Command(bytes(6)))
    assert caught.value.errno == errno.EBADF


def test_the_command_filter_is_explained(nexus):
    script = f"""
        import os
        from pyproxy.device.sg import SgDevice
        from pyproxy.scsi.command import Command
        with SgDevice.open({str(nexus.sd)!r}) as device:
            os.setuid(65534)
            try:
                device.execute(Command(bytes([0x5E, 0, 0, 0, 0, 0, 0, 0, 8, 0]), data_in=8))
            except OSError as error:
                print(error.errno, error.fate_unknown, error.strerror)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("1 False ")
    assert "CAP_SYS_RAWIO" in done.stdout


def test_nodes_that_cannot_be_used(nexus, scsi_debug):
    (disk,) = scsi_debug(dev_size_mb=64, delay=0, num_parts=1)
    with pytest.raises(NodeError, match=f"{disk.sd}1: is a partition.*use {disk.sd}$"):
        SgDevice.open(f"{disk.sd}1")
    with pytest.raises(NodeError, match="the bsg engine does not work on a /dev/sgN node; use async or sync"):
        SgDevice.open(nexus.sg, engine="bsg")
    fd = os.open(nexus.sg, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(NodeError, match="open for reading and writing"):
        SgDevice.open(fd, engine="async")
    with SgDevice.open(fd) as device:
        assert device.engine_name == "sync"
        assert device.execute(Command(bytes(6))).good
    os.close(fd)
    exclusive = os.open(disk.sg, os.O_RDWR | os.O_EXCL)
    with pytest.raises(NodeError, match="exclusively"):
        SgDevice.open(disk.sg)
    os.close(exclusive)


def test_a_device_that_vanishes(scsi_debug):
    (disk,) = scsi_debug(dev_size_mb=8, delay=0)
    drain(disk)
    caught = []

    def read():
        try:
            device.execute(Command(read_cdb(0, 1), data_in=512, timeout_ms=20_000))
        except TransportError as error:
            caught.append(error)

    with SgDevice.open(disk.sg) as device:
        with slow(1.5):
            reader = threading.Thread(target=read)
            reader.start()
            time.sleep(0.5)
            (SCSI_DEVICES / disk.address / "delete").write_text("1")
            reader.join(60)
        # A command that was under way may have been executed; one that comes later was not.
        assert [(error.errno, error.fate_unknown) for error in caught] in ([], [(errno.ENODEV, True)])
        with pytest.raises(TransportError, match="the device is gone; attach it again") as later:
            device.execute(Command(bytes(6)))
        assert (later.value.errno, later.value.fate_unknown) == (errno.ENODEV, False)
    with pytest.raises(NodeError, match=f"{disk.sg}: .*no such node"):
        SgDevice.open(disk.sg)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_device_deleted_under_its_commands(scsi_debug, kind):
    (nodes,) = scsi_debug(dev_size_mb=8, delay=0)
    drain(nodes)
    batch = Batch(24)
    for _ in range(24):
        batch.add(TEST_UNIT_READY, timeout_ms=20_000)
    with engine_on(kind, nodes) as engine:
        with slow(2):
            running = threading.Thread(target=engine.run, args=(batch,))
            running.start()
            time.sleep(0.7)
            (SCSI_DEVICES / nodes.address / "delete").write_text("1")
            running.join(120)
            assert not running.is_alive()
        results = [batch.result(number) for number in range(24)]
        # What was in flight ended in one way or another, what came later was not executed, and says so.
        assert {result[6] for result in results} <= {0, errno.ENODEV, errno.ENXIO}
        assert not any(batch.fate_unknown(number) for number in range(24) if results[number][6])
        assert run_one(engine, TEST_UNIT_READY)[6] in (errno.ENODEV, errno.ENXIO)


def test_all_devices_are_listed(lio, scsi_debug):
    unit = lio(2)
    (disk,) = scsi_debug(dev_size_mb=64, delay=0, lbpu=1)
    listed = {each.address: each for each in list_devices()}
    for nexus in unit.nexuses:
        found = listed[nexus.nodes.address]
        assert found.nodes == (str(nexus.sg), str(nexus.sd), str(nexus.bsg))
        assert (found.vendor, found.product) == ("LIO-ORG", "RAMDISK-MCP")
        assert (found.error, found.unique, found.size, found.block_size) == (None, True, 16 << 20, 512)
        assert found.identity.startswith("naa.6001405")
        assert found.capabilities.ptpl_c
        assert {1, 3, 5, 6, 7, 8} == set(found.capabilities.types)
    debug = listed[disk.address]
    assert (debug.error, debug.size, debug.capabilities) == (None, 64 << 20, None)
    state = SCSI_DEVICES / disk.address / "state"
    state.write_text("offline\n")
    (failed,) = [each for each in list_devices() if each.address == disk.address]
    state.write_text("running\n")
    assert "is offline" in failed.error
    assert Path(failed.nodes[0]) == disk.sg
