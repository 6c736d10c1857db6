"""Our driver, our session, both data planes, an emulated unit: commands end to end."""

from __future__ import annotations

import os

import pytest

from pyproxy.driver.front_end import FrontEnd, RefusedError
from pyproxy.driver.memory import GuestRam
from pyproxy.driver.scsi import ScsiDriver
from pyproxy.driver.virtqueue import Buffer
from pyproxy.frontend.virtio_scsi.lun import WELL_KNOWN, Address
from tests.unit.vhost_user.scene import scene

INQUIRY = bytes.fromhex("12 00 00 00 60 00")
TEST_UNIT_READY = bytes(6)
OK, ABORTED, BAD_TARGET, FAILURE = 0, 2, 3, 9
GOOD, CHECK_CONDITION, CONFLICT = 0x00, 0x02, 0x18
MIB = 1 << 20


def read_10(lba: int, blocks: int) -> bytes:
    return b"\x28\0" + lba.to_bytes(4) + b"\0" + blocks.to_bytes(2) + b"\0"


def write_10(lba: int, blocks: int) -> bytes:
    return b"\x2a\0" + lba.to_bytes(4) + b"\0" + blocks.to_bytes(2) + b"\0"


def prout(action: int, kind: int = 0) -> bytes:
    return bytes([0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0])


def keys(key: int, new: int = 0) -> bytes:
    return key.to_bytes(8) + new.to_bytes(8) + bytes(8)


def test_inquiry(guest):
    driver = ScsiDriver(FrontEnd.connect(guest.path))
    driver.start()
    answer = driver.execute(INQUIRY, data_in=96)
    assert (answer.response, answer.status, answer.sense) == (OK, GOOD, b"")
    assert answer.data[8:16] == b"PYPROXY "
    assert answer.written == 108 + len(answer.data)
    assert answer.residual == 96 - len(answer.data)
    driver.close()


@pytest.mark.parametrize("indirect", [False, True])
@pytest.mark.parametrize("piece", [512, 4096, MIB])
def test_data_comes_back(guest, indirect, piece):
    driver = ScsiDriver(FrontEnd.connect(guest.path), indirect=indirect, piece=piece)
    driver.start()
    driver.execute(TEST_UNIT_READY)
    written = os.urandom(64 * 512)
    answer = driver.execute(write_10(100, 64), written)
    assert (answer.response, answer.status, answer.residual, answer.written) == (OK, GOOD, 0, 108)
    answer = driver.execute(read_10(100, 64), data_in=64 * 512)
    assert (answer.response, answer.status, answer.residual) == (OK, GOOD, 0)
    assert answer.data == written
    driver.close()


def test_a_buffer_that_is_too_long_or_too_short(driver):
    driver.execute(write_10(0, 2), b"\x5a" * 1024)
    answer = driver.execute(read_10(0, 2), data_in=2048)
    assert (answer.status, answer.residual, answer.written) == (GOOD, 1024, 108 + 1024)
    assert answer.data[:1024] == b"\x5a" * 1024
    answer = driver.execute(INQUIRY, data_in=5)
    assert (answer.status, answer.residual, len(answer.data)) == (GOOD, 0, 5)


def test_registering_goes_through_the_snooper(guest, driver):
    answer = driver.execute(prout(6), keys(0, 0xC0FFEE))
    assert (answer.response, answer.status) == (OK, GOOD)
    assert guest.unit().state.key == 0xC0FFEE
    answer = driver.execute(prout(1, 1), keys(0xC0FFEE))
    assert answer.status == GOOD
    answer = driver.execute(bytes.fromhex("5e 01 00 00 00 00 00 00 18 00"), data_in=24)
    assert answer.data[8:16] == (0xC0FFEE).to_bytes(8)
    assert answer.data[21] == 0x01
    answer = driver.execute(prout(2, 1), keys(0xBAD))
    assert answer.status == CONFLICT
    # REGISTER AND MOVE is refused, as the policy of the unit has it.
    answer = driver.execute(prout(7), keys(0xC0FFEE, 1))
    assert (answer.status, answer.sense[2], answer.sense[12:14].hex()) == (CHECK_CONDITION, 5, "2400")


def test_what_the_policy_refuses(driver):
    answer = driver.execute(bytes.fromhex("04 00 00 00 00 00"))
    assert (answer.response, answer.status, answer.sense[12:14].hex()) == (OK, CHECK_CONDITION, "2000")


def test_several_targets_and_luns(scenes):
    guest = scenes((0, 0), (0, 3), (0, 300), (2, 1))
    guest.listen()
    driver = ScsiDriver(FrontEnd.connect(guest.path))
    driver.start()
    report = bytes.fromhex("a0 00 00 00 00 00 00 00 01 00 00 00")
    answer = driver.execute(report, data_in=256)
    assert answer.data.hex() == "000000180000000000000000000000000003000000000000412c000000000000"
    assert answer.residual == 256 - 32
    answer = driver.execute(report, data_in=256, address=Address(2, 1))
    assert answer.data.hex() == "00000008000000000001000000000000"
    for address in (Address(0, 0), Address(0, 3), Address(0, 300), Address(2, 1)):
        assert driver.execute(TEST_UNIT_READY, address=address).sense[12:14].hex() == "2901"
        assert driver.execute(TEST_UNIT_READY, address=address).status == GOOD
    # Below 256 the peripheral form means the same.
    assert driver.execute(TEST_UNIT_READY, address=bytes.fromhex("0100000300000000")).status == GOOD
    driver.execute(write_10(0, 1), b"\x33" * 512, address=Address(0, 3))
    assert driver.execute(read_10(0, 1), data_in=512, address=Address(0, 0)).data == bytes(512)
    driver.close()


def test_a_lun_without_a_unit(scenes):
    guest = scenes((1, 5))
    guest.listen()
    driver = ScsiDriver(FrontEnd.connect(guest.path))
    driver.start()
    zero = Address(1, 0)
    answer = driver.execute(INQUIRY, data_in=96, address=zero)
    assert (answer.response, answer.status, answer.data[0]) == (OK, GOOD, 0x7F)
    answer = driver.execute(TEST_UNIT_READY, address=zero)
    assert (answer.response, answer.status, answer.sense[2], answer.sense[12:14].hex()) == (OK, 2, 5, "2500")
    answer = driver.execute(bytes.fromhex("a0 00 00 00 00 00 00 00 01 00 00 00"), data_in=256, address=zero)
    assert answer.data.hex() == "00000008000000000005000000000000"
    answer = driver.execute(bytes.fromhex("03 00 00 00 12 00"), data_in=18, address=zero)
    assert (answer.status, answer.data[2], answer.data[12:14].hex()) == (GOOD, 5, "2500")
    driver.close()


@pytest.mark.parametrize(
    "field",
    [
        "0105400000000000",  # a target that is not there
        "0000000000000000",
        "0200400000000000",
        "0100800000000000",  # other addressing methods
        "01000100 00000000",  # peripheral addressing with a bus
        "0100400000010000",  # a second level
    ],
)
def test_addresses_that_lead_nowhere(driver, field):
    answer = driver.execute(INQUIRY, data_in=96, address=bytes.fromhex(field))
    assert (answer.response, answer.status, answer.residual, answer.data) == (BAD_TARGET, 0, 96, b"") or (
        answer.response,
        answer.status,
    ) == (BAD_TARGET, 0)


def test_task_management(scenes):
    guest = scenes((0, 0), (0, 1))
    guest.listen()
    driver = ScsiDriver(FrontEnd.connect(guest.path))
    driver.start()
    for lun in (0, 1):
        driver.execute(TEST_UNIT_READY, address=Address(0, lun))
    # ABORT TASK, ABORT TASK SET, CLEAR TASK SET, QUERY TASK, QUERY TASK SET: nothing is there any more.
    for function in (0, 1, 3, 6, 7):
        assert driver.manage(function, tag=1) == 0
        assert driver.execute(TEST_UNIT_READY).status == GOOD
    assert driver.manage(2) == 11
    assert driver.manage(8) == 11
    assert driver.manage(5, address=Address(0, 7)) == 12
    assert driver.manage(5, address=Address(3, 0)) == 3
    assert driver.manage(5, address=bytes(8)) == 3
    assert driver.manage(5) == 0
    answer = driver.execute(TEST_UNIT_READY)
    assert (answer.sense[2], answer.sense[12:14].hex()) == (6, "2903")
    assert driver.execute(TEST_UNIT_READY).status == GOOD
    assert driver.execute(TEST_UNIT_READY, address=Address(0, 1)).status == GOOD
    assert driver.manage(4) == 0
    for lun in (0, 1):
        assert driver.execute(TEST_UNIT_READY, address=Address(0, lun)).sense[12:14].hex() == "2907"
    driver.close()


def test_notifications(driver):
    assert driver.notifications(0x7E, subscribe=False).hex() == "0000000000"
    assert driver.notifications(0x7E, subscribe=True).hex() == "0000000000"
    assert driver.notifications(0x7E, subscribe=True, address=Address(9, 0)).hex() == "0000000003"
    assert driver.notifications(0x7E, subscribe=True, address=Address(0, 9)).hex() == "000000000c"


def test_memory_in_pieces(guest):
    """Data that crosses from one region to the next one in the guest's addresses."""
    ram = GuestRam([(0, MIB), (MIB, MIB), (1 << 32, MIB)])
    driver = ScsiDriver(FrontEnd.connect(guest.path), ram=ram)
    driver.start()
    driver.execute(TEST_UNIT_READY)
    written = os.urandom(8192)
    ram.write(MIB - 4096, written[:4096])
    ram.write(MIB, written[4096:])
    area = ram.allocate(4096)
    queue = driver.queues[2]
    header = bytes.fromhex("0100400000000000") + bytes(8) + bytes(3) + write_10(0, 16).ljust(32, b"\0")
    ram.write(area, header)
    queue.add([Buffer(area, 51), Buffer(MIB - 4096, 8192), Buffer(area + 1024, 108, True)])
    while not queue.take_used():
        queue.wait(0.05)
    assert ram.read(area + 1024 + 8, 4) == bytes(4)
    assert driver.execute(read_10(0, 16), data_in=8192).data == written
    driver.close()


def test_memory_comes_and_goes(driver):
    end, ram = driver.front_end, driver.ram
    region = ram.add_region(1 << 32, MIB)
    end.add_region(region, ram.descriptors[-1])
    ram.write(1 << 32, b"\x77" * 512)
    area = ram.allocate(4096)
    ram.write(area, bytes.fromhex("0100400000000000") + bytes(11) + write_10(9, 1).ljust(32, b"\0"))
    driver.queues[2].add([Buffer(area, 51), Buffer(1 << 32, 512), Buffer(area + 1024, 108, True)])
    while not driver.queues[2].take_used():
        driver.queues[2].wait(0.05)
    assert driver.execute(read_10(9, 1), data_in=512).data == b"\x77" * 512
    end.remove_region(region)
    with pytest.raises(RefusedError):
        end.remove_region(region)
    assert driver.execute(read_10(9, 1), data_in=512).data == b"\x77" * 512


def test_stop_and_start_again(driver):
    for _ in range(3):
        bases = driver.stop()
        assert bases[2] == driver.queues[2].used_index
        ticket = driver.submit(read_10(0, 1), data_in=512)
        assert driver.queues[2].used_index == bases[2]
        driver.begin(bases)
        assert driver.wait(ticket).status == GOOD
        assert driver.execute(INQUIRY, data_in=36).status == GOOD


def test_reset(driver):
    driver.stop()
    driver.front_end.reset_device()
    for queue in driver.queues:
        queue.reset()
    driver.inflight, (_, old) = None, driver.inflight
    os.close(old)
    driver.begin([0] * 3)
    assert driver.execute(INQUIRY, data_in=36).status == GOOD


def test_a_disabled_ring_takes_nothing(driver):
    driver.front_end.enable_ring(2, False)
    before = driver.queues[2].used_index
    ticket = driver.submit(TEST_UNIT_READY)
    driver.front_end.enable_ring(2, False)
    assert driver.queues[2].used_index == before
    driver.front_end.enable_ring(2, True)
    assert driver.wait(ticket).status == GOOD


def test_dirty_pages(driver):
    log = os.memfd_create("log")
    os.ftruncate(log, 4096)
    driver.execute(write_10(0, 1), b"\x11" * 512)
    driver.log_dirty(log, 4096)

    def dirty() -> set[int]:
        found = os.pread(log, 4096, 0)
        os.pwrite(log, bytes(4096), 0)
        return {8 * byte + bit for byte in range(4096) for bit in range(8) if found[byte] >> bit & 1}

    dirty()
    ticket = driver.submit(read_10(0, 1), data_in=512)
    written = {ticket.response >> 12, ticket.data >> 12, driver.queues[2].used >> 12}
    assert driver.wait(ticket).data == b"\x11" * 512
    assert written <= dirty()
    driver.stop_logging()
    driver.execute(read_10(0, 1), data_in=512)
    assert not dirty()
    os.close(log)


def test_another_connection_goes_on(guest, driver):
    """The front end lost its back end's process, or the back end was restarted under the same path."""
    driver.execute(prout(6), keys(0, 0x77))
    assert guest.server.stop(30)
    guest.listen()
    driver.reconnect(FrontEnd.connect(guest.path))
    assert driver.execute(INQUIRY, data_in=36).status == GOOD
    assert guest.unit().state.key == 0x77


def test_the_inflight_region_of_one_front_end_is_not_the_next_ones(guest):
    """The next one has none; its rings begin where it says, not where the old region would have them."""
    for without in (0, 1 << 12):
        driver = ScsiDriver(FrontEnd.connect(guest.path))
        driver.start(without_protocol=without)
        for _ in range(5):
            driver.execute(TEST_UNIT_READY)
        assert (driver.inflight is None) is bool(without)
        driver.close()


def test_a_broken_ring_is_told_and_the_others_go_on(scenes):
    guest = scenes(rings=4)
    guest.listen(rings=4)
    driver = ScsiDriver(FrontEnd.connect(guest.path), request_queues=2)
    driver.start()
    driver.execute(TEST_UNIT_READY)
    bad = driver.queues[3]
    bad.offer(0xFFF0)
    bad.notify()
    while not guest.broken:
        driver.execute(TEST_UNIT_READY)
    assert guest.broken[0][0] == 3
    assert driver.execute(INQUIRY, data_in=36).status == GOOD
    driver.stop()
    driver.close()


def test_the_well_known_unit(tmp_path):
    with scene(tmp_path) as guest:
        guest.listen()
        driver = ScsiDriver(FrontEnd.connect(guest.path))
        driver.start()
        answer = driver.execute(bytes.fromhex("a0 00 02 00 00 00 00 00 01 00 00 00"), data_in=256, address=WELL_KNOWN)
        assert (answer.response, answer.status) == (OK, GOOD)
        assert answer.data.hex() == "0000001000000000c1010000000000000000000000000000"
        driver.close()
