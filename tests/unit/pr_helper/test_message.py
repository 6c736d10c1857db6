"""Requests and replies as bytes."""

from __future__ import annotations

import pytest

from pyproxy.frontend.pr_helper import message
from pyproxy.frontend.pr_helper.message import Reply, Request

READ_KEYS = bytes.fromhex("5e000000000000001000 000000000000")
REGISTER = bytes.fromhex("5f060000000000001800 000000000000")


def test_the_feature_word_is_four_zero_bytes():
    assert message.FEATURES == b"\x00\x00\x00\x00"


def test_a_good_reply_to_in_carries_status_size_and_data():
    encoded = Reply(0, data=b"\x00\x00\x00\x05\x00\x00\x00\x00").encode(Request(READ_KEYS, 3))
    assert encoded == b"\x00\x00\x00\x00" + b"\x00\x00\x00\x08" + bytes(96) + b"\x00\x00\x00\x05\x00\x00\x00\x00"


def test_a_check_condition_carries_sense_and_no_data():
    sense = bytes.fromhex("700006000000000a00000000 2a05 00000000")
    encoded = Reply(2, sense, b"never sent").encode(Request(READ_KEYS, 3))
    assert encoded == b"\x00\x00\x00\x02" + bytes(4) + sense + bytes(96 - 18)


@pytest.mark.parametrize("status", [0x18, 0x08, 0x28, 0x40])
def test_other_statuses_carry_nothing(status):
    assert Reply(status, data=b"x").encode(Request(READ_KEYS, 3)) == bytes([0, 0, 0, status]) + bytes(100)


def test_the_size_is_never_above_the_allocation_length():
    encoded = Reply(0, data=bytes(17)).encode(Request(READ_KEYS, 3))
    assert (encoded[4:8], len(encoded)) == (b"\x00\x00\x00\x10", 104 + 16)


def test_the_size_is_never_above_the_protocols_limit():
    cdb = READ_KEYS[:7] + b"\xff\xff" + READ_KEYS[9:]
    encoded = Reply(0, data=bytes(9000)).encode(Request(cdb, 3))
    assert (encoded[4:8], len(encoded)) == (b"\x00\x00\x20\x00", 104 + 8192)


def test_the_size_is_zero_with_out_whatever_the_device_returned():
    assert Reply(0, data=b"data").encode(Request(REGISTER, 3, bytes(24))) == bytes(104)


def test_long_sense_is_cut_at_96_bytes():
    sense = b"\x72\x06\x2a\x05\x00\x00\x00\xf4" + b"\x5a" * 244
    encoded = Reply(2, sense).encode(Request(READ_KEYS, 3))
    assert (encoded[8:], len(encoded)) == (sense[:96], 104)


def test_lengths_are_read_from_bytes_7_and_8_only():
    request = Request(bytes.fromhex("5f00000000ffff0018 00 000000000000"), 3)
    assert request.length == 0x18
    assert request.is_out
    assert request.command == bytes.fromhex("5f00000000ffff0018 00")
