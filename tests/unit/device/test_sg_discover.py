"""Devices are found in sysfs and asked; one that fails is listed with its error."""

import errno
import re

import pytest

from pyproxy.device.base import TransportError, UnexpectedReplyError, read_identity, read_vpd_page
from pyproxy.device.discover import list_devices
from pyproxy.scsi.command import Result
from tests.unit.device.sysfs import make_tree

NAA = bytes.fromhex("01 03 00 10 60 01 40 5a bc de f0 12 34 56 78 9a bc de f0 12")
PAGE_83 = bytes([0x00, 0x83, 0x00, len(NAA)]) + NAA
CAPACITY_16 = bytes.fromhex("00 00 00 00 00 00 7f ff 00 00 02 00") + bytes(20)
CAPACITY_10 = bytes.fromhex("00 00 0f ff 00 00 10 00")
CAPABILITIES = bytes.fromhex("00 08 01 81 ea 01 00 00")
NO_SUCH_COMMAND = Result(0x02, bytes.fromhex("70 00 05 00 00 00 00 0a 00 00 00 00 20 00 00 00 00 00"))
INVALID_FIELD = Result(0x02, bytes.fromhex("70 00 05 00 00 00 00 0a 00 00 00 00 24 00 00 00 00 00"))
POWER_ON = Result(0x02, bytes.fromhex("70 00 06 00 00 00 00 0a 00 00 00 00 29 00 00 00 00 00"))
PREEMPTED = Result(0x02, bytes.fromhex("72 06 2a 05 00 00 00 00"))


class Scripted:
    """A device that answers by operation code and service action; each answer may be a list, used up in order."""

    def __init__(self, answers, name="/dev/sg3"):
        self.name = name
        self.answers = answers
        self.commands = []
        self.closed = False

    def execute(self, command):
        self.commands.append(command)
        cdb = command.cdb
        answer = self.answers[(cdb[0], cdb[1] & 0x1F)]
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, bytes):
            return Result(0, data=answer[: command.data_in], residual=max(0, command.data_in - len(answer)))
        return answer

    def execute_batch(self, commands):
        return [self.execute(command) for command in commands]

    def close(self):
        self.closed = True


def disk(**changes):
    answers = {(0x12, 1): PAGE_83, (0x9E, 0x10): CAPACITY_16, (0x25, 0): CAPACITY_10, (0x5E, 2): CAPABILITIES}
    return Scripted(answers | changes.get("answers", {}))


def list_one(tmp_path, device, **tree):
    make_tree(tmp_path, **tree)
    opened = []

    def open_device(path):
        opened.append(path)
        if isinstance(device, Exception):
            raise device
        return device

    (listed,) = list_devices(sysfs=tmp_path, dev=tmp_path / "dev", open_device=open_device)
    return listed, opened


def test_a_disk_is_asked_who_it_is_how_large_and_what_it_can_reserve(tmp_path):
    device = disk()
    listed, opened = list_one(tmp_path, device)
    assert opened == [f"{tmp_path}/dev/sg3"]
    assert listed.nodes == (f"{tmp_path}/dev/sg3", f"{tmp_path}/dev/sdc", f"{tmp_path}/dev/bsg/2:0:1:7")
    assert (listed.address, listed.type, listed.vendor, listed.product, listed.revision) == (
        *("2:0:1:7", 0, "ACME", "DISK", "1.0"),
    )
    assert (listed.identity, listed.unique) == ("naa.6001405abcdef0123456789abcdef012", True)
    assert (listed.size, listed.block_size) == (16 << 20, 512)
    assert listed.capabilities.ptpl_c
    assert listed.capabilities.types == {1, 3, 5, 6, 7, 8}
    assert listed.error is None
    assert device.closed
    assert [command.cdb.hex() for command in device.commands] == [
        "12018300fc00",
        "9e10000000000000000000000020" + "0000",
        "5e020000000000000800",
    ]
    assert {command.timeout_ms for command in device.commands} == {10_000}


def test_old_devices_know_only_the_short_capacity(tmp_path):
    listed, _ = list_one(tmp_path, disk(answers={(0x9E, 0x10): NO_SUCH_COMMAND}))
    assert (listed.size, listed.block_size, listed.error) == (16 << 20, 4096, None)


def test_a_device_without_persistent_reservations(tmp_path):
    listed, _ = list_one(tmp_path, disk(answers={(0x5E, 2): NO_SUCH_COMMAND}))
    assert (listed.capabilities, listed.error, listed.size) == (None, None, 16 << 20)


def test_a_device_that_does_not_report_what_its_reservations_can_do(tmp_path):
    listed, _ = list_one(tmp_path, disk(answers={(0x5E, 2): INVALID_FIELD}))
    assert not listed.capabilities.complete
    assert listed.error is None


def test_unit_attentions_are_passed_over(tmp_path):
    listed, _ = list_one(tmp_path, disk(answers={(0x12, 1): [POWER_ON, PREEMPTED, PAGE_83]}))
    assert (listed.identity, listed.error) == ("naa.6001405abcdef0123456789abcdef012", None)


@pytest.mark.parametrize(
    ("key", "answer", "message"),
    [
        ((0x12, 1), INVALID_FIELD, "INQUIRY for VPD page 83h ended with status 02h, sense .*05/24/00"),
        ((0x12, 1), b"\x00\x80\x00\x00", "returned 00800000, not that page"),
        ((0x12, 1), b"", "returned nothing, not that page"),
        ((0x9E, 0x10), Result(0x18), r"READ CAPACITY \(16\) ended with status 18h"),
        ((0x9E, 0x10), b"\0" * 7, "READ CAPACITY"),
        ((0x5E, 2), Result(0, host_status=0x0E), "the transport failed with host status 0Eh"),
        ((0x5E, 2), POWER_ON, "5Eh with 16 unit attentions in a row"),
        ((0x5E, 2), TransportError(errno.ENODEV, "/dev/sg3: the device is gone"), "/dev/sg3: the device is gone"),
    ],
)
def test_a_device_that_fails_is_listed_with_its_error(tmp_path, key, answer, message):
    device = disk(answers={key: answer})
    listed, _ = list_one(tmp_path, device)
    assert re.search(message, listed.error)
    assert device.closed
    assert listed.vendor == "ACME"
    # What it answered before is kept.
    assert (listed.identity is None) == (key == (0x12, 1))


def test_devices_that_are_not_opened(tmp_path):
    listed, opened = list_one(tmp_path, disk(), state="offline")
    assert "2:0:1:7: is offline, not running" in listed.error
    assert opened == []


def test_a_device_without_nodes(tmp_path):
    listed, opened = list_one(tmp_path, disk(), nodes=False)
    assert listed.error == "2:0:1:7: has no device node; load the kernel module sg"
    assert (opened, listed.nodes) == ([], ())


def test_a_node_that_cannot_be_opened(tmp_path):
    listed, _ = list_one(tmp_path, TransportError(errno.EACCES, "/dev/sg3: cannot be opened: Permission denied"))
    assert listed.error == "/dev/sg3: cannot be opened: Permission denied"


def test_devices_come_in_the_order_of_their_addresses(tmp_path):
    for address in ("10:0:0:0", "2:0:1:7", "2:0:0:11", "2:0:0:2"):
        make_tree(tmp_path / address, address, nodes=False)
        target = tmp_path / "class" / "scsi_device" / address
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(tmp_path / address / "class" / "scsi_device" / address)
    assert [each.address for each in list_devices(sysfs=tmp_path)] == ["2:0:0:2", "2:0:0:11", "2:0:1:7", "10:0:0:0"]


def test_a_kernel_without_scsi_has_no_devices(tmp_path):
    assert list_devices(sysfs=tmp_path) == []


def test_a_long_page_is_read_again_whole():
    page = bytes([0, 0x83, 0x01, 0x40]) + NAA * 16
    device = Scripted({(0x12, 1): page})
    assert read_vpd_page(device, 0x83) == page
    assert [command.data_in for command in device.commands] == [252, 324]
    cut = Scripted({(0x12, 1): page[:200]})
    with pytest.raises(UnexpectedReplyError, match="announces 324 bytes but only 200 arrived"):
        read_vpd_page(cut, 0x83)


def test_eaten_unit_attentions_are_reported():
    eaten = []
    device = Scripted({(0x12, 1): [POWER_ON, PREEMPTED, PAGE_83]})
    assert read_identity(device, eaten.append).name == "naa.6001405abcdef0123456789abcdef012"
    assert [sense.code for sense in eaten] == [(6, 0x29, 0), (6, 0x2A, 5)]


def test_an_unreadable_page_names_the_device():
    page = bytes([0, 0x83, 0, 6]) + bytes.fromhex("01 03 00 10 60 01")
    with pytest.raises(UnexpectedReplyError, match=r"^/dev/sg3: "):
        read_identity(Scripted({(0x12, 1): page}))
