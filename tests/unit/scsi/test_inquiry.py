"""Standard INQUIRY data (SPC-4 6.6.2)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.inquiry import StandardInquiry

from .checks import check_both_ways, check_parameter_data, hex_bytes, refused

SHORT = StandardInquiry(vendor="PYPROXY", product="EMULATED", revision="0001", additional_length=31)
SHORT_WIRE = (
    "00 00 06 12 1F 00 00 02 50 59 50 52 4F 58 59 20 45 4D 55 4C 41 54 45 44 20 20 20 20 20 20 20 20 30 30 30 31"
)
LONG = StandardInquiry(
    peripheral_device_type=0x05,
    qualifier=1,
    removable=True,
    version=0x05,
    normaca=True,
    hisup=False,
    response_data_format=2,
    sccs=True,
    acc=True,
    tpgs=3,
    third_party_copy=True,
    protect=True,
    encserv=True,
    multip=True,
    cmdque=False,
    vendor="LIO-ORG",
    product="block0",
    revision="4.0",
    vendor_specific=b"abc",
    version_descriptors=(0x0460, 0x04C0),
    additional_length=91,
)
LONG_WIRE = (
    "25 80 05 22 5B F9 50 00 4C 49 4F 2D 4F 52 47 20 62 6C 6F 63 6B 30 20 x10 34 2E 30 20 "
    "61 62 63 00 x17 00 00 04 60 04 C0 00 x34"
)


@pytest.mark.parametrize(("value", "wire"), [(SHORT, SHORT_WIRE), (LONG, LONG_WIRE)])
def test_whole_cut_and_over_long(value: StandardInquiry, wire: str) -> None:
    check_parameter_data(value, hex_bytes(wire))


SINGLE_BITS = [
    ("removable", 1, 0x80),
    ("normaca", 3, 0x20),
    ("hisup", 3, 0x10),
    ("sccs", 5, 0x80),
    ("acc", 5, 0x40),
    ("third_party_copy", 5, 0x08),
    ("protect", 5, 0x01),
    ("encserv", 6, 0x40),
    ("multip", 6, 0x10),
    ("cmdque", 7, 0x02),
]


@pytest.mark.parametrize(("name", "byte", "bit"), SINGLE_BITS)
def test_each_bit(name: str, byte: int, bit: int) -> None:
    flags = {other: other == name for other, _, _ in SINGLE_BITS}
    value = StandardInquiry(**flags, version=0, response_data_format=0, additional_length=31)  # type: ignore[arg-type]
    wire = bytearray(hex_bytes("00 00 00 00 1F 00 00 00 20 x28"))
    wire[byte] = bit
    check_both_ways(value, bytes(wire))


def test_largest_values() -> None:
    value = StandardInquiry(
        tpgs=1,
        vendor="8 bytes.",
        product="16 bytes in all.",
        revision="FOUR",
        vendor_specific=b"twenty bytes exactly",
        version_descriptors=(1, 2, 3, 4, 5, 6, 7, 0xFFFF),
        additional_length=255,
    )
    check_parameter_data(
        value,
        bytes([0, 0, 6, 0x12, 255, 0x10, 0, 2])
        + b"8 bytes.16 bytes in all.FOURtwenty bytes exactly\0\0"
        + hex_bytes("00 01 00 02 00 03 00 04 00 05 00 06 00 07 FF FF 00 x186"),
    )


def test_length_follows_the_content() -> None:
    assert len(StandardInquiry().encode()) == 36
    assert len(StandardInquiry(version_descriptors=(0x0460,)).encode()) == 96
    assert len(StandardInquiry(vendor_specific=b"x").encode()) == 96


def test_no_unit_behind_this_lun() -> None:
    """Peripheral qualifier 011b, device type 1Fh: what REPORT LUNS scanning meets on an absent LUN."""
    got = StandardInquiry.decode(hex_bytes("7F 00 06 12 1F 00 00 02 20 x28"))
    assert (got.qualifier, got.peripheral_device_type) == (3, 0x1F)
    assert got.encode()[0] == 0x7F


def test_cut_text_is_what_is_there() -> None:
    got = StandardInquiry.decode(hex_bytes(SHORT_WIRE)[:12])
    assert (got.vendor, got.product, got.revision, got.complete) == ("PYPR", "", "", False)
    refused(StandardInquiry.decode, hex_bytes(SHORT_WIRE)[:4])


def test_bytes_beyond_the_additional_length_do_not_count() -> None:
    got = StandardInquiry.decode(hex_bytes("00 00 06 12 03 00 00 02") + b"GARBAGE " * 11)
    assert (got.vendor, got.product, got.vendor_specific, got.complete) == ("", "", b"", True)


@pytest.mark.parametrize(
    "value",
    [
        StandardInquiry(vendor="NINECHARS"),
        StandardInquiry(product="17 characters ..."),
        StandardInquiry(vendor="\u20ac"),
        StandardInquiry(tpgs=4),
        StandardInquiry(version=256),
        StandardInquiry(response_data_format=16),
        StandardInquiry(revision="5 .. "),
        StandardInquiry(qualifier=8),
        StandardInquiry(peripheral_device_type=32),
        StandardInquiry(vendor_specific=bytes(21)),
        StandardInquiry(version_descriptors=(0,) * 9),
        StandardInquiry(additional_length=256),
    ],
)
def test_values_that_do_not_fit_are_refused(value: StandardInquiry) -> None:
    with pytest.raises(ValueError, match="expected"):
        value.encode()


def text(size: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=size).map(str.rstrip)


@given(
    st.builds(
        StandardInquiry,
        peripheral_device_type=st.integers(0, 31),
        qualifier=st.integers(0, 7),
        removable=st.booleans(),
        version=st.integers(0, 255),
        normaca=st.booleans(),
        hisup=st.booleans(),
        response_data_format=st.integers(0, 15),
        sccs=st.booleans(),
        acc=st.booleans(),
        tpgs=st.integers(0, 3),
        third_party_copy=st.booleans(),
        protect=st.booleans(),
        encserv=st.booleans(),
        multip=st.booleans(),
        cmdque=st.booleans(),
        vendor=text(8),
        product=text(16),
        revision=text(4),
        vendor_specific=st.binary(max_size=20).map(lambda raw: raw.rstrip(b"\0")),
        version_descriptors=st.lists(st.integers(1, 0xFFFF), max_size=8).map(tuple),
        additional_length=st.just(91),
    )
)
def test_round_trip(value: StandardInquiry) -> None:
    check_both_ways(value, value.encode())
