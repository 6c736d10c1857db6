"""Messages from pieces of any size, and what becomes of their descriptors."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.frontend.vhost_user.framing import Assembler
from pyproxy.frontend.vhost_user.message import Message, MessageError, Request, VringState, encode_u64

MESSAGES = [
    Message(Request.GET_FEATURES),
    Message(Request.SET_FEATURES, encode_u64(1 << 30), (), needs_reply=True),
    Message(Request.SET_VRING_KICK, encode_u64(2), (11,)),
    Message(Request.SET_OWNER),
    Message(Request.GET_VRING_BASE, VringState(2, 0).encode()),
]


def feed(assembler: Assembler, messages, cut) -> list[Message]:
    found = []
    for message in messages:
        data, descriptors = message.encode(), message.descriptors
        while data:
            size = max(1, min(cut(), assembler.wanted, len(data)))
            whole = assembler.receive(data[:size], descriptors)
            data, descriptors = data[size:], ()
            if whole is not None:
                found.append(whole)
    return found


@pytest.mark.parametrize("size", [1, 2, 5, 12, 1000])
def test_pieces_of_one_size(size):
    assembler = Assembler()
    assert feed(assembler, MESSAGES, lambda: size) == MESSAGES
    assert not assembler.begun


@settings(deadline=None)
@given(st.data())
def test_any_pieces(data):
    assembler = Assembler()
    assert feed(assembler, MESSAGES, lambda: data.draw(st.integers(1, 20))) == MESSAGES


def test_it_never_wants_bytes_of_the_next_message():
    assembler = Assembler()
    assert assembler.wanted == 12
    assembler.receive(MESSAGES[1].encode()[:12])
    assert assembler.wanted == 8
    assert assembler.begun
    with pytest.raises(ValueError, match="9 bytes were read where 8 are wanted"):
        assembler.receive(bytes(9))


def test_descriptors_can_be_taken_back():
    assembler = Assembler()
    assert assembler.receive(MESSAGES[2].encode()[:5], (7, 8)) is None
    assert assembler.drop() == (7, 8)
    assert assembler.drop() == ()


def test_more_than_eight_descriptors():
    assembler = Assembler()
    with pytest.raises(MessageError, match="more than 8 descriptors"):
        assembler.receive(MESSAGES[0].encode(), tuple(range(100, 109)))
    assert assembler.drop() == tuple(range(100, 109))


def test_directions():
    answer = Message(Request.GET_FEATURES, encode_u64(0)).encode_reply()
    with pytest.raises(MessageError, match="an answer that nobody asked for"):
        Assembler().receive(answer[:12])
    replies = Assembler(replies=True)
    assert replies.receive(answer[:12]) is None
    assert replies.receive(answer[12:]) == Message(Request.GET_FEATURES, encode_u64(0))
    with pytest.raises(MessageError, match="a request, expected an answer"):
        Assembler(replies=True).receive(MESSAGES[0].encode())
