"""The value that says what a nexus has, and its document in the store."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.reservation.state import (
    NexusState,
    StateDocumentError,
    Suspicion,
    decode_state,
    encode_state,
)
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.transport_id import IscsiTransportId, SasTransportId

states = st.builds(
    NexusState,
    key=st.integers(0, 2**64 - 1),
    type=st.none() | st.sampled_from(PrType),
    aptpl=st.none() | st.booleans(),
    all_tg_pt=st.booleans(),
    generation=st.none() | st.integers(0, 2**32 - 1),
    epoch=st.integers(0, 1000),
    suspect=st.lists(st.sampled_from(Suspicion), unique=True).map(lambda reasons: tuple(str(r) for r in reasons)),
    spc2_reserved=st.booleans(),
    transport_id=st.none()
    | st.binary(min_size=8, max_size=8).map(SasTransportId)
    | st.binary(min_size=6, max_size=6).map(lambda isid: IscsiTransportId("iqn.2026-01.org.example:a", isid)),
    rtpi=st.none() | st.integers(0, 65535),
)


@given(states)
def test_document_round_trip(state: NexusState) -> None:
    assert decode_state(encode_state(state)) == state


def test_document_shows_keys_as_hex_digits() -> None:
    document = json.loads(encode_state(NexusState(key=0x1122334455667788, type=PrType(5))))
    assert document["key"] == "1122334455667788"
    assert document["type"] == 5
    assert document["format"] == 1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": 2}, "format 2"),
        ({"key": 5}, "16 hex digits"),
        ({"key": "1" * 17}, "16 hex digits"),
        ({"type": 2}, "2 is not a valid"),
        ({"epoch": "1"}, "epoch"),
        ({"epoch": True}, "epoch"),
        ({"aptpl": 1}, "aptpl"),
        ({"suspect": "x"}, "suspect"),
        ({"transport_id": "nobody"}, "names no initiator"),
        ({"transport_id": 5}, "cannot be read"),
    ],
)
def test_document_that_cannot_be_read(change: dict[str, object], says: str) -> None:
    raw = json.loads(encode_state(NexusState(key=1))) | change
    with pytest.raises(StateDocumentError, match=says):
        decode_state(json.dumps(raw).encode())


@pytest.mark.parametrize("document", [b"", b"[]", b"{", b"\xff\xfe", b'{"format":1}'])
def test_not_a_document(document: bytes) -> None:
    with pytest.raises(StateDocumentError):
        decode_state(document)


def test_reasons_are_kept_once_and_in_order() -> None:
    state = NexusState().suspected(Suspicion.RESTART).suspected(Suspicion.RESET, Suspicion.RESTART)
    assert state.suspect == ("restart", "unit-attention-29")
    assert not state.fresh
    assert state.cleared().fresh


def test_in_words() -> None:
    assert str(NexusState()) == "not registered"
    assert str(NexusState(key=0xA, type=PrType(1))) == "registered with key 0x000000000000000a, holds WRITE EXCLUSIVE"
    suspect = NexusState(key=0xA, spc2_reserved=True).suspected(Suspicion.RESTART)
    assert str(suspect) == (
        "registered with key 0x000000000000000a, holds no reservation, holds an SPC-2 RESERVE, suspect: restart"
    )
