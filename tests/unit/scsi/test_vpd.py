"""Vital product data pages (SPC-4 7.8, SBC-4 6.6)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.vpd import (
    BlockDeviceCharacteristics,
    BlockLimits,
    Designator,
    DeviceIdentification,
    LogicalBlockProvisioning,
    SupportedPages,
    UnitSerialNumber,
)

from .checks import check_both_ways, check_parameter_data, hex_bytes, refused

NAA = Designator(0, 3, 1, bytes.fromhex("6001405aabbccddeeff0011223344556"))
T10 = Designator(0, 1, 2, b"LIO-ORG block0:abc")
PORT = Designator(1, 4, 1, b"\0\0\0\1", protocol=6)
NAME = Designator(2, 8, 3, b"iqn.a\0\0\0")

CASES: list[tuple[Any, str]] = [
    (SupportedPages((0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2)), "00 00 00 06 00 80 83 B0 B1 B2"),
    (SupportedPages((), peripheral=0x7F), "7F 00 00 00"),
    (UnitSerialNumber("0123abcd"), "00 80 00 08 30 31 32 33 61 62 63 64"),
    (UnitSerialNumber("  x ", peripheral=5), "05 80 00 04 20 20 78 20"),
    (
        DeviceIdentification((T10, NAA, PORT, NAME)),
        (
            "00 83 00 3E 02 01 00 12 4C 49 4F 2D 4F 52 47 20 62 6C 6F 63 6B 30 3A 61 62 63 "
            "01 03 00 10 60 01 40 5A AB BC CD DE EF F0 01 12 23 34 45 56 "
            "61 94 00 04 00 00 00 01 03 28 00 08 69 71 6E 2E 61 00 00 00"
        ),
    ),
    (DeviceIdentification((Designator(3, 15, 15, b""),)), "00 83 00 04 0F 3F 00 00"),
    (
        BlockLimits(
            wsnz=True,
            max_compare_and_write_length=2,
            optimal_transfer_length_granularity=0x0102,
            max_transfer_length=0x03040506,
            optimal_transfer_length=0x0708090A,
            max_prefetch_length=0x0B0C0D0E,
            max_unmap_lba_count=0x0F101112,
            max_unmap_descriptor_count=0x13141516,
            optimal_unmap_granularity=0x1718191A,
            unmap_granularity_alignment=0x1B1C1D1E,
            max_write_same_length=0x1F20212223242526,
            max_atomic_transfer_length=0x2728292A,
            atomic_alignment=0x2B2C2D2E,
            atomic_transfer_length_granularity=0x2F303132,
            max_atomic_transfer_length_with_boundary=0x33343536,
            max_atomic_boundary_size=0x3738393A,
        ),
        (
            "00 B0 00 3C 01 02 01 02 03 04 05 06 07 08 09 0A 0B 0C 0D 0E 0F 10 11 12 13 14 15 16 17 18 19 1A "
            "9B 1C 1D 1E 1F 20 21 22 23 24 25 26 27 28 29 2A 2B 2C 2D 2E 2F 30 31 32 33 34 35 36 37 38 39 3A"
        ),
    ),
    (BlockLimits(unmap_granularity_alignment=0), "00 B0 00 3C 00 x28 80 00 x31"),
    (BlockDeviceCharacteristics(medium_rotation_rate=1), "00 B1 00 3C 00 01 00 x58"),
    (
        BlockDeviceCharacteristics(7200, 5, 1, 2, 3, 2, True, True),
        "00 B1 00 3C 1C 20 05 63 23 00 x55",
    ),
    (BlockDeviceCharacteristics(zoned=1), "00 B1 00 3C 00 00 00 00 10 00 x55"),
    (BlockDeviceCharacteristics(fuab=True), "00 B1 00 3C 00 00 00 00 02 00 x55"),
    (BlockDeviceCharacteristics(vbuls=True), "00 B1 00 3C 00 00 00 00 01 00 x55"),
    (LogicalBlockProvisioning(lbpu=True), "00 B2 00 04 00 80 00 00"),
    (LogicalBlockProvisioning(lbpws=True), "00 B2 00 04 00 40 00 00"),
    (LogicalBlockProvisioning(lbpws10=True), "00 B2 00 04 00 20 00 00"),
    (LogicalBlockProvisioning(anc_sup=True), "00 B2 00 04 00 02 00 00"),
    (LogicalBlockProvisioning(provisioning_group=b""), "00 B2 00 04 00 01 00 00"),
    (LogicalBlockProvisioning(), "00 B2 00 04 00 00 00 00"),
    (LogicalBlockProvisioning(9, True, True, True, 1, True, 3, 2, 4), "00 B2 00 04 09 E6 1A 04"),
    (
        LogicalBlockProvisioning(lbpu=True, lbprz=4, provisioning_type=1, provisioning_group=NAA.encode()),
        "00 B2 00 18 00 91 01 00 01 03 00 10 60 01 40 5A AB BC CD DE EF F0 01 12 23 34 45 56",
    ),
]


@pytest.mark.parametrize(("value", "wire"), CASES)
def test_whole_cut_and_over_long(value: Any, wire: str) -> None:
    check_parameter_data(value, hex_bytes(wire))


@pytest.mark.parametrize(("value", "wire"), CASES)
def test_another_page_is_refused(value: Any, wire: str) -> None:
    raw = bytearray(hex_bytes(wire))
    raw[1] = 0xC0
    assert "page code at offset 1 is C0h" in str(refused(type(value).decode, raw))


def test_cut_designator_is_left_out() -> None:
    whole = DeviceIdentification((T10, NAA)).encode()
    for size in range(4, len(whole)):
        got = DeviceIdentification.decode(whole[:size])
        assert got.designators == ((T10,) if size >= 4 + 22 else ())
        assert not got.complete


@pytest.mark.parametrize("body", ["01 03 00 11 60 x16", "01 03 00", "01 03 00 FF"])
def test_designator_that_overruns_the_page_is_left_out(body: str) -> None:
    raw = hex_bytes(body)
    got = DeviceIdentification.decode(bytes([0, 0x83]) + len(raw).to_bytes(2) + raw)
    assert got.designators == ()
    assert not got.complete


def test_short_block_limits_of_older_devices() -> None:
    """SBC-2 ended the page after OPTIMAL TRANSFER LENGTH."""
    got = BlockLimits.decode(hex_bytes("00 B0 00 0C 00 00 00 08 00 00 FF FF 00 00 00 80"))
    assert got == BlockLimits(
        optimal_transfer_length_granularity=8, max_transfer_length=0xFFFF, optimal_transfer_length=0x80
    )
    assert got.complete


def test_protocol_identifier_needs_piv() -> None:
    got = DeviceIdentification.decode(hex_bytes("00 83 00 08 61 14 00 04 00 00 00 01"))
    assert got.designators[0].protocol is None
    assert not got.designators[0].piv
    assert PORT.piv


@pytest.mark.parametrize(
    "value",
    [
        SupportedPages((256,)),
        SupportedPages((), peripheral=256),
        UnitSerialNumber("\u20ac"),
        DeviceIdentification((Designator(0, 3, 1, bytes(256)),)),
        DeviceIdentification((Designator(4, 3, 1, b""),)),
        DeviceIdentification((Designator(0, 3, 1, b"", protocol=16),)),
        BlockLimits(unmap_granularity_alignment=1 << 31),
        DeviceIdentification((Designator(0, 16, 1, b""),)),
        DeviceIdentification((Designator(0, 3, 16, b""),)),
        BlockDeviceCharacteristics(zoned=4),
        BlockDeviceCharacteristics(wabereq=4),
        BlockDeviceCharacteristics(wacereq=4),
        BlockDeviceCharacteristics(nominal_form_factor=16),
        LogicalBlockProvisioning(lbprz=8),
        LogicalBlockProvisioning(minimum_percentage=32),
        LogicalBlockProvisioning(provisioning_type=8),
    ],
)
def test_values_that_do_not_fit_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"expected|ASCII"):
        value.encode()


def number(width: int) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << width) - 1)


designators = st.builds(
    Designator, number(2), number(4), number(4), st.binary(max_size=255), protocol=st.none() | number(4)
)
pages = st.one_of(
    st.builds(SupportedPages, st.lists(number(8), max_size=40).map(tuple), number(8)),
    st.builds(UnitSerialNumber, st.text(st.characters(max_codepoint=0xFF), max_size=60), number(8)),
    st.builds(DeviceIdentification, st.lists(designators, max_size=6).map(tuple), number(8)),
    st.builds(
        BlockLimits,
        st.booleans(),
        number(8),
        number(16),
        *[number(32)] * 6,
        st.none() | number(31),
        number(64),
        *[number(32)] * 5,
        number(8),
    ),
    st.builds(
        BlockDeviceCharacteristics,
        number(16),
        number(8),
        number(2),
        number(2),
        number(4),
        number(2),
        st.booleans(),
        st.booleans(),
        number(8),
    ),
    st.builds(
        LogicalBlockProvisioning,
        number(8),
        st.booleans(),
        st.booleans(),
        st.booleans(),
        number(3),
        st.booleans(),
        number(5),
        number(3),
        number(8),
        st.none() | st.binary(max_size=40),
        number(8),
    ),
)


@given(pages)
def test_round_trip(value: Any) -> None:
    check_both_ways(value, value.encode())
