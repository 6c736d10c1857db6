"""Unit attentions that other commands received in the guest's place: told once, in the guest's format."""

from __future__ import annotations

import threading

import pytest

from pyproxy.reservation.attention import PendingAttentions, decode_attentions, encode_attentions
from pyproxy.scsi.command import Command
from pyproxy.scsi.sense import Sense

PREEMPTED = Sense(6, 0x2A, 0x05)
RELEASED = Sense(6, 0x2A, 0x04)

TEST_UNIT_READY = Command(bytes(6))
INQUIRY = Command(bytes.fromhex("120000002400"), data_in=36)
REPORT_LUNS = Command(bytes.fromhex("a00000000000000000100000"), data_in=16)


def queue(*attentions: Sense) -> PendingAttentions:
    pending = PendingAttentions("guest g LUN 0")
    pending.add(*attentions)
    return pending


def request_sense(room: int = 252, descriptor: bool = False) -> Command:
    return Command(bytes([0x03, descriptor, 0, 0, room, 0]), data_in=room)


def test_reported_once_and_in_order() -> None:
    pending = queue(PREEMPTED, RELEASED)
    first, second = pending.report(TEST_UNIT_READY), pending.report(TEST_UNIT_READY)
    assert first is not None
    assert second is not None
    assert (first.status, first.sense) == (0x02, bytes.fromhex("70 00 06 00 00 00 00 0a 00 00 00 00 2a 05 00 00 00 00"))
    assert second.sense[12:14] == b"\x2a\x04"
    assert pending.report(TEST_UNIT_READY) is None
    assert not pending


def test_queued_once() -> None:
    pending = queue(PREEMPTED, RELEASED, PREEMPTED)
    pending.add(PREEMPTED)
    assert pending.pending == (PREEMPTED, RELEASED)


def test_bounded(caplog: pytest.LogCaptureFixture) -> None:
    pending = queue(*(Sense(6, 0x29, code) for code in range(40)))
    assert len(pending) == 16
    assert "dropped" in caplog.text


@pytest.mark.parametrize("command", [INQUIRY, REPORT_LUNS])
def test_commands_that_never_carry_one(command: Command) -> None:
    pending = queue(PREEMPTED)
    assert pending.report(command) is None
    assert pending.pending == (PREEMPTED,)


def test_request_sense_returns_it_as_data_and_clears_it() -> None:
    pending = queue(PREEMPTED)
    result = pending.report(request_sense())
    assert result is not None
    assert (result.status, result.sense) == (0, b"")
    assert result.data == bytes.fromhex("70 00 06 00 00 00 00 0a 00 00 00 00 2a 05 00 00 00 00")
    assert result.residual == 252 - 18
    assert not pending


def test_request_sense_in_descriptor_format() -> None:
    result = queue(PREEMPTED).report(request_sense(descriptor=True))
    assert result is not None
    assert result.data == bytes.fromhex("72 06 2a 05 00 00 00 00")


def test_request_sense_into_buffers_of_the_guest() -> None:
    first, second = bytearray(4), bytearray(20)
    result = queue(PREEMPTED).report(Command(bytes([0x03, 0, 0, 0, 14, 0]), data_in=[first, second]))
    assert result is not None
    assert result.data == b""
    assert first == bytes.fromhex("70 00 06 00")
    assert second[:10] == bytes.fromhex("00 00 00 0a 00 00 00 00 2a 05")
    assert second[10:] == bytes(10)
    assert result.residual == 10


@pytest.mark.parametrize("room", [0, 1, 13])
def test_request_sense_with_little_room(room: int) -> None:
    result = queue(PREEMPTED).report(request_sense(room))
    assert result is not None
    assert len(result.data) == room


def test_format_follows_the_device() -> None:
    pending = queue(PREEMPTED, RELEASED, Sense(6, 0x29, 0))
    pending.note_format(bytes.fromhex("72 05 24 00 00 00 00 00"))
    result = pending.report(TEST_UNIT_READY)
    assert result is not None
    assert result.sense == bytes.fromhex("72 06 2a 05 00 00 00 00")
    pending.note_format(b"")
    assert pending.descriptor
    pending.note_format(bytes.fromhex("f0 00 05"))
    result = pending.report(TEST_UNIT_READY)
    assert result is not None
    assert result.sense[0] == 0x70


def test_nothing_is_transferred_with_it() -> None:
    result = queue(PREEMPTED).report(Command(bytes.fromhex("28000000000000000100"), data_in=512))
    assert result is not None
    assert result.residual == 512


def test_own_preempts_attention_can_be_taken_out() -> None:
    pending = queue(PREEMPTED, RELEASED)
    assert pending.discard((6, 0x2A, 0x05), (6, 0x2A, 0x03)) == (PREEMPTED,)
    assert pending.pending == (RELEASED,)


@pytest.mark.parametrize("cdb", [b"", b"\x03", b"\x03\x00\x00"])
def test_cdbs_cut_short_take_nothing(cdb: bytes) -> None:
    pending = queue(PREEMPTED)
    assert pending.report(Command(cdb)) is None
    assert pending


def test_many_threads_get_each_once() -> None:
    attentions = [Sense(6, 0x29, code) for code in range(16)]
    pending = queue(*attentions)
    seen: list[bytes] = []

    def take() -> None:
        for _ in range(8):
            result = pending.report(TEST_UNIT_READY)
            if result is not None:
                seen.append(result.sense[12:14])

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(seen) == [bytes([0x29, code]) for code in range(16)]


def test_document_round_trip() -> None:
    attentions = (PREEMPTED, Sense(3, 0x0C, 0, deferred=True, information=1 << 40))
    assert decode_attentions(encode_attentions(attentions)) == attentions
    assert encode_attentions((PREEMPTED,)) == b'["72062a0500000000"]'
    assert decode_attentions(b"") == ()


@pytest.mark.parametrize("document", [b"{}", b"[1]", b'["zz"]', b'["00"]', b"\xff", b"["])
def test_document_that_cannot_be_read(document: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        decode_attentions(document)
