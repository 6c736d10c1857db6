"""The session state machine: whole requests, every prefix, every split, wrong descriptors; no socket anywhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.frontend.pr_helper.message import Reply
from pyproxy.frontend.pr_helper.session import CloseReason, Outcome, Session, State

FEATURES = b"\x00\x00\x00\x00"
READ_KEYS = bytes.fromhex("5e000000000000200000000000000000")  # allocation length 8192
REGISTER = bytes.fromhex("5f060000000000001800000000000000")
PARAMETERS = bytes.fromhex("0000000000000000 0000000000001234 00000000 01000000")
TOO_LONG = bytes.fromhex("5e000000000000200100000000000000")  # 8193


def negotiated() -> Session:
    session = Session()
    assert session.receive(FEATURES) == Outcome()
    return session


def feed(session: Session, data: bytes, descriptors: dict[int, tuple[int, ...]], size: int) -> list[Outcome]:
    """Give the stream in pieces of ``size`` bytes, descriptors with the byte of their offset, until it closes."""
    outcomes, at = [], 0
    while at < len(data):
        if session.state is State.EXECUTING:
            session.reply(outcomes[-1].request, Reply(0))
        take = min(size, session.wanted, len(data) - at)
        passed = tuple(fd for offset in range(at, at + take) for fd in descriptors.get(offset, ()))
        outcomes.append(session.receive(data[at : at + take], passed))
        at += take
        if outcomes[-1].close is not None:
            break
    return outcomes


def test_the_greeting_is_the_feature_word():
    assert Session.greeting == b"\x00\x00\x00\x00"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 15, 16, 40])
def test_requests_are_the_same_in_pieces_of_any_size(size):
    session = Session()
    data = FEATURES + READ_KEYS + REGISTER + PARAMETERS + READ_KEYS
    outcomes = feed(session, data, {4: (10,), 20: (11,), 60: (12,)}, size)
    requests = [outcome.request for outcome in outcomes if outcome.request is not None]
    assert [(one.cdb, one.descriptor, one.parameter_list) for one in requests] == [
        (READ_KEYS, 10, b""),
        (REGISTER, 11, PARAMETERS),
        (READ_KEYS, 12, b""),
    ]
    assert all(outcome.close is None and not outcome.discard for outcome in outcomes)


@pytest.mark.parametrize("at", range(16))
def test_the_descriptor_may_come_with_any_byte_of_the_cdb(at):
    session = negotiated()
    outcomes = feed(session, READ_KEYS, {at: (10,)}, 1)
    assert outcomes[-1].request is not None
    assert outcomes[-1].request.descriptor == 10


@pytest.mark.parametrize("cut", range(16 + 24))
def test_end_of_stream_at_every_byte_closes_and_lets_the_descriptor_go(cut):
    session = negotiated()
    feed(session, (REGISTER + PARAMETERS)[:cut], {0: (10,)}, 7)
    ended = session.receive(b"")
    if cut == 0:
        assert ended == Outcome(close=CloseReason.END_OF_STREAM)
    else:
        assert ended == Outcome(close=CloseReason.TRUNCATED, discard=(10,))
    assert session.state is State.CLOSED


@pytest.mark.parametrize("cut", range(4))
def test_end_of_stream_in_the_feature_word(cut):
    session = Session()
    if cut:
        session.receive(FEATURES[:cut])
    expected = CloseReason.TRUNCATED if cut else CloseReason.END_OF_STREAM
    assert session.receive(b"") == Outcome(close=expected)


@pytest.mark.parametrize("bit", range(32))
def test_any_feature_closes(bit):
    assert Session().receive((1 << bit).to_bytes(4, "big")).close is CloseReason.UNKNOWN_FEATURES


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - {0x5E, 0x5F}))
def test_any_other_command_closes(opcode):
    outcome = negotiated().receive(bytes([opcode]) + READ_KEYS[1:], (10,))
    assert outcome == Outcome(close=CloseReason.NOT_PERSISTENT_RESERVE, discard=(10,))


def test_no_descriptor_closes_whatever_else_is_wrong():
    assert negotiated().receive(bytes(16)) == Outcome(close=CloseReason.NO_DESCRIPTOR)


@pytest.mark.parametrize("descriptors", [(10, 11), (10, 11, 12)])
def test_several_descriptors_at_once_close(descriptors):
    outcome = negotiated().receive(READ_KEYS, descriptors)
    assert outcome == Outcome(close=CloseReason.TOO_MANY_DESCRIPTORS, discard=descriptors)


def test_a_second_descriptor_closes_at_once_and_both_are_let_go():
    session = negotiated()
    session.receive(READ_KEYS[:4], (10,))
    outcome = session.receive(READ_KEYS[4:5], (11,))
    assert outcome == Outcome(close=CloseReason.TOO_MANY_DESCRIPTORS, discard=(10, 11))


@pytest.mark.parametrize("opcode", [0x5E, 0x5F])
def test_a_length_above_8192_closes(opcode):
    outcome = negotiated().receive(bytes([opcode]) + TOO_LONG[1:], (10,))
    assert outcome == Outcome(close=CloseReason.TOO_LONG, discard=(10,))


def test_descriptors_where_none_belongs_are_let_go_and_change_nothing():
    session = Session()
    assert session.receive(FEATURES, (9,)) == Outcome(discard=(9,))
    session.receive(REGISTER, (10,))
    outcome = session.receive(PARAMETERS, (11,))
    assert outcome.discard == (11,)
    assert outcome.request is not None
    assert outcome.request.descriptor == 10


def test_out_without_a_parameter_list_is_executed_at_once():
    outcome = negotiated().receive(bytes.fromhex("5f03 0000000000 0000 00 000000000000"), (10,))
    assert outcome.request is not None
    assert outcome.request.parameter_list == b""


def test_the_longest_parameter_list():
    session = negotiated()
    session.receive(bytes.fromhex("5f00 0000000000 2000 00 000000000000"), (10,))
    assert session.wanted == 8192
    outcome = session.receive(bytes(8192))
    assert outcome.request is not None
    assert len(outcome.request.parameter_list) == 8192


def test_nothing_is_read_while_a_request_is_executed():
    session = negotiated()
    request = session.receive(READ_KEYS, (10,)).request
    assert request is not None
    assert session.wanted == 0
    with pytest.raises(ValueError, match="1 bytes were read where the session wants 0"):
        session.receive(b"x")
    assert session.reply(request, Reply(0)) == bytes(104)
    assert (session.wanted, session.between_requests) == (16, True)


def test_a_reply_needs_a_request():
    session = negotiated()
    request = session.receive(READ_KEYS, (10,)).request
    assert request is not None
    session.reply(request, Reply(0))
    with pytest.raises(ValueError, match="no request to reply to"):
        session.reply(request, Reply(0))


def test_stop_lets_a_stashed_descriptor_go():
    session = negotiated()
    session.receive(READ_KEYS[:3], (10,))
    assert session.stop() == Outcome(close=CloseReason.STOPPING, discard=(10,))


def test_every_reason_has_a_sentence():
    assert all(reason.sentence for reason in CloseReason)


@given(st.binary(max_size=200), st.lists(st.tuples(st.integers(0, 199), st.integers(1, 3)), max_size=6), st.data())
def test_any_stream_ends_in_a_defined_way_and_loses_no_descriptor(stream, passed, data):
    session = Session()
    stream = FEATURES + stream if data.draw(st.booleans()) else stream
    descriptors: dict[int, tuple[int, ...]] = {}
    number = 100
    for offset, count in passed:
        descriptors[offset] = tuple(range(number, number + count))
        number += count
    outcomes = []
    at = 0
    given_away: list[int] = []
    received: list[int] = []
    while session.state is not State.CLOSED and at < len(stream):
        if session.state is State.EXECUTING:
            session.reply(outcomes[-1].request, Reply(0))
        take = data.draw(st.integers(1, min(session.wanted, len(stream) - at)))
        came = tuple(fd for offset in range(at, at + take) for fd in descriptors.get(offset, ()))
        received += came
        outcomes.append(session.receive(stream[at : at + take], came))
        at += take
        given_away += outcomes[-1].discard
        request = outcomes[-1].request
        if request is not None:
            given_away.append(request.descriptor)
            assert request.cdb[0] in (0x5E, 0x5F)
            assert len(request.cdb) == 16
            assert request.length <= 8192
            assert len(request.parameter_list) == (request.length if request.cdb[0] == 0x5F else 0)
    given_away += session.stop().discard
    assert sorted(given_away) == sorted(received)
