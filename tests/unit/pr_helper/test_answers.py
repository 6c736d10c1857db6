"""What becomes of transport failures; the numbers are Linux' and QEMU's helper's, the sense SPC-4's."""

from __future__ import annotations

import errno

import pytest

from pyproxy.frontend.pr_helper.answers import reply_to_errno, reply_to_result
from pyproxy.frontend.pr_helper.message import Reply
from pyproxy.scsi.command import Result


def sense(key: int, asc: int, ascq: int) -> bytes:
    return bytes([0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("number", "reply"),
    [
        (errno.EBADE, Reply(0x18)),
        (errno.EDOM, Reply(0x28)),
        (errno.EINVAL, Reply(2, sense(0x5, 0x24, 0x00))),
        (errno.ENOMEM, Reply(2, sense(0x4, 0x44, 0x00))),
        (errno.EREMOTEIO, Reply(2, sense(0x4, 0x44, 0x00))),
        (errno.ENOTTY, Reply(2, sense(0xB, 0x00, 0x06))),
        (errno.EPERM, Reply(2, sense(0xB, 0x00, 0x06))),
        (errno.ENODEV, Reply(2, sense(0xB, 0x00, 0x06))),
        (errno.EIO, Reply(2, sense(0xB, 0x00, 0x06))),
        (None, Reply(2, sense(0xB, 0x00, 0x06))),
    ],
)
def test_error_numbers(number, reply):
    assert reply_to_errno(number) == reply


@pytest.mark.parametrize(
    ("host_status", "reply"),
    [
        (0x01, Reply(2, sense(0xB, 0x05, 0x00))),
        (0x02, Reply(0x08)),
        (0x03, Reply(2, sense(0xB, 0x2E, 0x02))),
        (0x04, Reply(2, sense(0xB, 0x08, 0x00))),
        (0x05, Reply(2, sense(0xB, 0x2F, 0x02))),
        (0x08, Reply(2, sense(0x6, 0x29, 0x00))),
        (0x0E, Reply(2, sense(0xB, 0x29, 0x07))),
        (0x10, Reply(2, sense(0x4, 0x44, 0x00))),
        (0x11, Reply(0x18)),
    ],
)
def test_host_statuses(host_status, reply):
    assert reply_to_result(Result(0, data=b"data", host_status=host_status)) == reply


@pytest.mark.parametrize("host_status", range(1, 0x100))
def test_no_host_status_is_ever_good(host_status):
    assert reply_to_result(Result(0, data=b"data", host_status=host_status)).status != 0


def test_unknown_host_statuses_abort_the_command():
    for host_status in (0x06, 0x07, 0x0F, 0x14, 0xFF):
        assert reply_to_result(Result(0, host_status=host_status)) == Reply(2, sense(0xB, 0x00, 0x06))


def test_a_driver_timeout_is_busy():
    assert reply_to_result(Result(0, driver_status=0x06)) == Reply(0x08)


@pytest.mark.parametrize("driver_status", range(1, 16))
def test_no_driver_failure_is_ever_good(driver_status):
    assert reply_to_result(Result(0, driver_status=driver_status)).status != 0


def test_the_devices_own_answer_passes_verbatim():
    told = bytes.fromhex("7206290000000000")
    assert reply_to_result(Result(2, told, driver_status=8)) == Reply(2, told)
    assert reply_to_result(Result(0x18)) == Reply(0x18)
    assert reply_to_result(Result(0, data=b"keys")) == Reply(0, b"", b"keys")


def test_sense_without_the_status_counts():
    told = sense(0x6, 0x29, 0x00)
    assert reply_to_result(Result(0, told, driver_status=8)) == Reply(2, told)


def test_a_check_condition_whose_sense_was_lost_is_an_aborted_command():
    assert reply_to_result(Result(2)) == Reply(2, sense(0xB, 0x00, 0x06))
