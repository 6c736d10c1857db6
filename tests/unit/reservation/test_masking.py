"""What a guest whose reservations migrate is not offered and not allowed."""

from __future__ import annotations

import pytest

from pyproxy.reservation.masking import (
    RefusalReason,
    is_rsoc,
    mask_capabilities,
    mask_rsoc,
    refuse,
    widen_rsoc,
)
from pyproxy.scsi.command import Command

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, ABORT, IGNORE, MOVE, REPLACE = range(9)


def prout(action: int, length: int = 24) -> bytes:
    return bytes([0x5F, action, 0, 0, 0]) + length.to_bytes(4) + b"\0"


def parameters(flags: int, size: int = 24) -> bytes:
    return (bytes(20) + bytes([flags, 0, 0, 0]) + bytes(40))[:size]


@pytest.mark.parametrize("flags", [0x00, 0x01, 0x04, 0x08, 0x0D, 0xFF])
@pytest.mark.parametrize("size", [0, 16, 20, 21, 24, 48])
def test_register_and_move_is_never_forwarded(flags: int, size: int) -> None:
    refusal = refuse(prout(MOVE, size), parameters(flags, size))
    assert refusal is not None
    assert refusal.reason is RefusalReason.REGISTER_AND_MOVE
    result = refusal.result(Command(prout(MOVE)))
    assert result.status == 0x02
    # ILLEGAL REQUEST, INVALID FIELD IN CDB; the field is byte 1 bit 4.
    assert result.sense == bytes.fromhex("70 00 05 00 00 00 00 0a 00 00 00 00 24 00 00 cc 00 01")


@pytest.mark.parametrize("reserved", [0x00, 0x20, 0x40, 0x80, 0xE0])
def test_reserved_bits_beside_the_service_action_do_not_hide_it(reserved: int) -> None:
    cdb = bytes([0x5F, reserved | MOVE]) + prout(MOVE)[2:]
    refusal = refuse(cdb, parameters(0))
    assert refusal is not None
    assert refusal.reason is RefusalReason.REGISTER_AND_MOVE


@pytest.mark.parametrize("action", range(9))
@pytest.mark.parametrize("flags", range(16))
def test_bits_of_byte_20(action: int, flags: int) -> None:
    refusal = refuse(prout(action), parameters(flags))
    reason = None if refusal is None else refusal.reason
    if action == MOVE:
        assert reason is RefusalReason.REGISTER_AND_MOVE
    elif action in (REGISTER, IGNORE) and flags & 0x08:
        assert reason is RefusalReason.SPECIFY_INITIATOR_PORTS
    elif action in (REGISTER, IGNORE) and flags & 0x04:
        assert reason is RefusalReason.ALL_TARGET_PORTS
    else:
        assert reason is None


@pytest.mark.parametrize(
    ("flags", "sense"),
    [
        (0x08, "70 00 05 00 00 00 00 0a 00 00 00 00 26 00 00 8b 00 14"),
        (0x04, "70 00 05 00 00 00 00 0a 00 00 00 00 26 00 00 8a 00 14"),
    ],
)
def test_sense_points_at_the_bit(flags: int, sense: str) -> None:
    refusal = refuse(prout(REGISTER), parameters(flags))
    assert refusal is not None
    assert refusal.result(Command(prout(REGISTER))).sense == bytes.fromhex(sense)
    descriptor = refusal.result(Command(prout(REGISTER)), descriptor=True).sense
    assert descriptor[:4] == bytes.fromhex("72 05 26 00")


@pytest.mark.parametrize("size", range(21))
def test_parameter_list_without_byte_20_is_for_the_device_to_answer(size: int) -> None:
    for action in (REGISTER, IGNORE, RESERVE):
        assert refuse(prout(action, size), parameters(0, size)) is None


def test_parameter_list_that_was_not_transferred_whole_is_refused() -> None:
    # What the device would take for byte 20, nobody has looked at.
    refusal = refuse(prout(REGISTER, 24), parameters(0, 20))
    assert refusal is not None
    assert refusal.reason is RefusalReason.SHORT_TRANSFER
    assert refusal.sense.code == (0x5, 0x1A, 0x00)
    huge = refuse(prout(REGISTER, 0xFFFFFFFF), parameters(0, 24))
    assert huge is not None
    assert huge.reason is RefusalReason.SHORT_TRANSFER


@pytest.mark.parametrize("size", range(9))
def test_capabilities_of_every_length(size: int) -> None:
    whole = bytes.fromhex("00 08 1d 81 ea 01 00 00")
    assert mask_capabilities(whole[:size]) == bytes.fromhex("00 08 11 81 ea 01 00 00")[:size]


def test_capabilities_keep_every_other_bit() -> None:
    assert mask_capabilities(bytes.fromhex("0008ffffffffffff")) == bytes.fromhex("0008f3ffffffffff")


def rsoc(options: int, opcode: int = 0, action: int = 0, room: int = 4096, rctd: bool = False) -> bytes:
    return bytes([0xA3, 0x0C, rctd << 7 | options, opcode]) + action.to_bytes(2) + room.to_bytes(4) + b"\0\0"


TIMEOUTS = bytes.fromhex("000a0000 00000000 00000000")


def entry(opcode: int, action: int | None, *, timeouts: bool = False) -> bytes:
    flags = (action is not None) | timeouts << 1
    head = bytes([opcode, 0]) + (action or 0).to_bytes(2) + bytes([0, flags, 0, 10])
    return head + TIMEOUTS * timeouts


def listing(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return len(body).to_bytes(4) + body


@pytest.mark.parametrize("timeouts", [False, True])
@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_all_commands_lose_the_entry_and_the_length_is_right(position: int, timeouts: bool) -> None:
    others = [
        entry(0x00, None, timeouts=timeouts),
        entry(0x5F, 0x06, timeouts=timeouts),
        entry(0x5E, 0x07, timeouts=timeouts),
    ]
    withs = [*others[:position], entry(0x5F, 0x07, timeouts=timeouts), *others[position:]]
    assert mask_rsoc(rsoc(0), listing(*withs)) == listing(*others)


def test_every_allocation_length_gets_the_beginning_of_the_masked_list() -> None:
    entries = [entry(0x00, None), entry(0x5F, 0x07), entry(0x12, None), entry(0x28, None)]
    masked = listing(entries[0], *entries[2:])
    for room in range(len(masked) + 20):
        assert mask_rsoc(rsoc(0, room=room), listing(*entries)) == masked[:room]


@pytest.mark.parametrize("size", range(50))
def test_answers_a_device_cut_short_are_not_read_beyond_their_end(size: int) -> None:
    data = listing(entry(0x00, None), entry(0x5F, 0x07, timeouts=True), entry(0x28, None))[:size]
    masked = mask_rsoc(rsoc(0), data)
    assert len(masked) <= size
    assert b"\x5f\x00\x00\x07" not in masked


def test_list_without_the_entry_stays() -> None:
    whole = listing(entry(0x00, None), entry(0x5F, 0x00))
    assert mask_rsoc(rsoc(0), whole) == whole


@pytest.mark.parametrize("options", [0b010, 0b011])
def test_asked_for_the_service_action_alone_it_is_not_supported(options: int) -> None:
    supported = bytes.fromhex("00 03 00 0a 5f 1f ff 00 00 ff ff ff ff 00")
    assert mask_rsoc(rsoc(options, 0x5F, 7), supported) == bytes.fromhex("00 01 00 00")
    assert mask_rsoc(rsoc(options, 0x5F, 6), supported) == supported
    assert mask_rsoc(rsoc(options, 0x5E, 7), supported) == supported
    assert mask_rsoc(rsoc(options, 0x5F, 7, room=1), supported) == b"\0"
    assert mask_rsoc(rsoc(options, 0x5F, 7), b"") == b""


def test_asked_by_operation_code_only_the_device_answers() -> None:
    data = bytes.fromhex("00 03 00 06 28 00 00 00 00 00")
    assert mask_rsoc(rsoc(0b001, 0x5F, 7), data) == data


def test_the_whole_list_is_asked_for_whatever_the_guest_asks() -> None:
    assert widen_rsoc(rsoc(0, room=4)) == bytes.fromhex("a30c00000000 0000ffff 0000")
    assert widen_rsoc(rsoc(0, room=0xFFFFFFFF)) == bytes.fromhex("a30c00000000 0000ffff 0000")


def test_which_command_it_is() -> None:
    assert is_rsoc(rsoc(0))
    assert is_rsoc(bytes([0xA3, 0xEC]) + bytes(10))
    assert not is_rsoc(bytes([0xA3, 0x0A]) + bytes(10))
    assert not is_rsoc(rsoc(0)[:11])
    assert not is_rsoc(b"")
