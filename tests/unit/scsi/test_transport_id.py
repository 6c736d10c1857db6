"""TransportIDs (SPC-4 7.6.4)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.transport_id import (
    FcTransportId,
    IscsiTransportId,
    OpaqueTransportId,
    SasTransportId,
    TransportId,
    decode_reported_transport_id,
    decode_transport_id,
)

from .checks import code_of, hex_bytes, refused

NAME = "iqn.1993-08.org.debian:01:a"
CASES = [
    (FcTransportId(bytes.fromhex("2100001122334455")), "00 x8 21 00 00 11 22 33 44 55 00 x8", "fc:2100001122334455"),
    (
        SasTransportId(bytes.fromhex("5001405000000001")),
        "06 00 x3 50 01 40 50 00 00 00 01 00 x12",
        "sas:5001405000000001",
    ),
    # "iqn.2026-01.org.x:a": 19 characters and the NUL are exactly the least additional length.
    (
        IscsiTransportId("iqn.2026-01.org.x:a"),
        "05 00 00 14 69 71 6E 2E 32 30 32 36 2D 30 31 2E 6F 72 67 2E 78 3A 61 00",
        "iqn.2026-01.org.x:a",
    ),
    (
        IscsiTransportId("iqn.a"),
        "05 00 00 14 69 71 6E 2E 61 00 x15",
        "iqn.a",
    ),
    (
        IscsiTransportId("iqn.2026-01.org.x:a", bytes.fromhex("00023d000001")),
        (
            "45 00 00 28 69 71 6E 2E 32 30 32 36 2D 30 31 2E 6F 72 67 2E 78 3A 61 "
            "2C 69 2C 30 78 30 30 30 32 33 64 30 30 30 30 30 31 00 00 00 00"
        ),
        "iqn.2026-01.org.x:a,i,0x00023d000001",
    ),
    # parallel SCSI, IEEE 1394, SRP, SOP: not known here, kept byte for byte
    (OpaqueTransportId(bytes([1]) + bytes(range(23))), "01 000102030405060708090A0B0C0D0E0F10111213141516", None),
    (OpaqueTransportId(bytes([0x0A]) + bytes(23)), "0A 00 x23", None),
    (OpaqueTransportId(bytes([0x46]) + bytes(23)), "46 00 x23", None),
    (OpaqueTransportId(bytes([0x85]) + bytes(23)), "85 00 x23", None),
]


@pytest.mark.parametrize(("value", "wire", "text"), CASES)
def test_both_ways(value: TransportId, wire: str, text: str | None) -> None:
    raw = hex_bytes(wire)
    assert value.encode().hex(" ") == raw.hex(" ")
    assert len(raw) % 4 == 0
    assert decode_transport_id(raw) == (value, len(raw))
    assert decode_transport_id(b"\xee" * 5 + raw + b"\xee" * 7, 5) == (value, len(raw))
    assert decode_reported_transport_id(raw) == value
    assert str(value) == (text or f"opaque:{raw.hex()}")
    assert TransportId.parse(str(value)) == value


@pytest.mark.parametrize(("value", "wire", "text"), CASES)
def test_cut_byte_by_byte_is_refused(value: TransportId, wire: str, text: str | None) -> None:
    raw = hex_bytes(wire)
    for size in range(len(raw)):
        assert code_of(refused(decode_transport_id, raw[:size])) == (5, 0x26, 0)


def iscsi(head: int, body: bytes, announced: int | None = None) -> bytes:
    size = len(body) if announced is None else announced
    return bytes([head, 0]) + size.to_bytes(2) + body


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (iscsi(0x05, b"iqn.a".ljust(16, b"\0")) + bytes(4), "additional length 16"),
        (iscsi(0x05, b"iqn.a".ljust(22, b"\0")), "additional length 22"),
        (iscsi(0x05, b"iqn.2026-01.org.x:ab"), "not terminated"),
        (iscsi(0x05, b"iqn.a\0x".ljust(20, b"\0")), "padding"),
        (iscsi(0x05, b"iqn.\xff\xfe".ljust(20, b"\0")), "not UTF-8"),
        (iscsi(0x05, bytes(20)), "0 bytes long"),
        (iscsi(0x05, b"iqn.a\nb".ljust(20, b"\0")), "printed"),
        (iscsi(0x05, b"iqn.a b".ljust(20, b"\0")), "space"),
        (iscsi(0x05, b"iqn.a,i,0x00023d000001".ljust(24, b"\0")), "comma"),
        (iscsi(0x05, b"a" * 224 + bytes(4)), "224 bytes long"),
        (iscsi(0x45, b"iqn.2026-01.org.x:a\0"), "12 hex digits"),
        (iscsi(0x45, b"iqn.a,i,0x00023d00001".ljust(24, b"\0")), "12 hex digits"),
        (iscsi(0x45, b"iqn.a,i,0x00023d00000g".ljust(24, b"\0")), "12 hex digits"),
        (iscsi(0x45, b",i,0x00023d000001".ljust(20, b"\0")), "0 bytes long"),
        (iscsi(0x05, b"iqn.a".ljust(20, b"\0"), announced=24), "24 bytes"),
        (iscsi(0x05, b"iqn.a".ljust(20, b"\0"), announced=0xFFFC), "65532 bytes"),
        (b"\x06" + bytes(22), "23 bytes"),
    ],
)
def test_malformed_is_refused_in_a_list_and_opaque_in_a_report(raw: bytes, says: str) -> None:
    error = refused(decode_transport_id, raw)
    assert says in str(error)
    assert code_of(error) == (5, 0x26, 0)
    reported = decode_reported_transport_id(raw)
    assert reported is not None
    if isinstance(reported, OpaqueTransportId):
        assert reported.encode() == raw


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"", None),
        (iscsi(0x05, b"iqn.a\0\0\0"), IscsiTransportId("iqn.a")),
        (iscsi(0x05, b"iqn.abcd"), IscsiTransportId("iqn.abcd")),
        (iscsi(0x45, b"iqn.a,i,0x23d000001\0"), IscsiTransportId("iqn.a", bytes.fromhex("00023d000001"))),
        (iscsi(0x05, b"iqn.a".ljust(20, b"\0")) + bytes(4), IscsiTransportId("iqn.a")),
        (iscsi(0x05, b"iqn.a", announced=9), OpaqueTransportId(iscsi(0x05, b"iqn.a", announced=9))),
        (b"\x06\x00", OpaqueTransportId(b"\x06\x00")),
        (b"\x0b" + bytes(40), OpaqueTransportId(b"\x0b" + bytes(40))),
    ],
)
def test_what_devices_report(raw: bytes, value: TransportId | None) -> None:
    assert decode_reported_transport_id(raw) == value


@pytest.mark.parametrize(("size", "additional"), [(1, 20), (19, 20), (20, 24), (223, 224)])
def test_shortest_and_longest_names(size: int, additional: int) -> None:
    value = IscsiTransportId("n" * size)
    raw = iscsi(0x05, (b"n" * size).ljust(additional, b"\0"))
    assert value.encode() == raw
    assert decode_transport_id(raw) == (value, 4 + additional)


def test_names_compare_without_case_and_isids_as_numbers() -> None:
    upper = iscsi(0x45, b"IQN.2026-01.ORG.X:A,i,0x00023D000001".ljust(40, b"\0"))
    lower = iscsi(0x45, b"iqn.2026-01.org.x:a,i,0x00023d000001".ljust(40, b"\0"))
    first, second = decode_transport_id(upper)[0], decode_transport_id(lower)[0]
    assert first == second
    assert hash(first) == hash(second)
    assert first.encode()[:4] == lower[:4]


def test_different_ports_differ() -> None:
    device = IscsiTransportId(NAME)
    port = IscsiTransportId(NAME, bytes(6))
    assert (
        len({device, port, IscsiTransportId(NAME, b"\0\0\0\0\0\1"), FcTransportId(bytes(8)), SasTransportId(bytes(8))})
        == 5
    )
    assert device != "iqn.1993-08.org.debian:01:a"


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        ("naa.5001405ABCDEF012", "06 00 x3 50 01 40 5A BC DE F0 12 00 x12"),
        ("SAS:5001405abcdef012", "06 00 x3 50 01 40 5A BC DE F0 12 00 x12"),
        ("fc:21:00:00:e0:8b:05:05:04", "00 x8 21 00 00 E0 8B 05 05 04 00 x8"),
        ("eui.02004567A425678D", "05 00 00 18 65 75 69 2E 30 32 30 30 34 35 36 37 41 34 32 35 36 37 38 44 00 x4"),
        ("iscsi:naa.52004567BA64678D", "05 00 00 18 6E 61 61 2E 35 32 30 30 34 35 36 37 42 41 36 34 36 37 38 44 00 x4"),
    ],
)
def test_other_spellings(text: str, wire: str) -> None:
    value = TransportId.parse(text)
    assert value.encode() == hex_bytes(wire)
    assert TransportId.parse(str(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        *("", "host-a", "naa.5001", "naa.50014050000000011", "sas:", "fc:zz00000000000000", "fc:2100:"),
        *("opaque:", "opaque:0", "iscsi:", "iqn.a,i,0x1", "iqn.a,b", "iqn. a", "iqn." + "a" * 220),
        *("iqn.a,i,0x00023d000001\n", "iqn.\ud800", "\ud800"),
    ],
)
def test_other_texts_are_refused_with_what_is_allowed(text: str) -> None:
    with pytest.raises(ValueError, match=r"naa\.<16|expected|comma|UTF-8"):
        TransportId.parse(text)


@pytest.mark.parametrize(
    "make", [lambda: FcTransportId(b"1234567"), lambda: SasTransportId(b""), lambda: IscsiTransportId("iqn.a", b"1")]
)
def test_wrong_sizes_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        make()  # type: ignore[operator]


name_texts = st.text(st.characters(codec="utf-8", exclude_characters=","), min_size=1, max_size=40).filter(
    lambda text: all(c.isprintable() and not c.isspace() for c in text)
)
transport_ids = st.one_of(
    st.binary(min_size=8, max_size=8).map(FcTransportId),
    st.binary(min_size=8, max_size=8).map(SasTransportId),
    st.builds(
        IscsiTransportId, name_texts.map(lambda text: f"iqn.{text}"), st.none() | st.binary(min_size=6, max_size=6)
    ),
    st.builds(IscsiTransportId, name_texts, st.none() | st.binary(min_size=6, max_size=6)),
    st.binary(min_size=23, max_size=23).map(lambda raw: OpaqueTransportId(b"\x04" + raw)),
)


@given(transport_ids, st.binary(max_size=9))
def test_round_trip(value: TransportId, before: bytes) -> None:
    raw = value.encode()
    assert decode_transport_id(before + raw, len(before)) == (value, len(raw))
    assert decode_reported_transport_id(raw) == value
    assert TransportId.parse(str(value)) == value
