"""Parameter data of READ CAPACITY (10) and (16) (SBC-4 5.20, 5.21)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.capacity import ReadCapacity10, ReadCapacity16

from .checks import check_both_ways, check_parameter_data, hex_bytes, refused

CASES: list[tuple[Any, str]] = [
    (ReadCapacity10(0xFFFF, 512), "00 00 FF FF 00 00 02 00"),
    (ReadCapacity10(0xFFFFFFFF, 4096), "FF FF FF FF 00 00 10 00"),
    (ReadCapacity16(0xFFFF, 512), "00 00 00 00 00 00 FF FF 00 00 02 00 00 x20"),
    (
        ReadCapacity16(0x0102030405060708, 4096, True, 2, 3, 4, True, True, 0x1234, 1),
        "01 02 03 04 05 06 07 08 00 00 10 00 15 34 D2 34 00 x16",
    ),
    (ReadCapacity16(0, 512, lbpme=True), "00 x8 00 00 02 00 00 00 80 00 00 x16"),
    (ReadCapacity16(0, 512, lbprz=True), "00 x8 00 00 02 00 00 00 40 00 00 x16"),
    (ReadCapacity16(0, 512, lowest_aligned_lba=1), "00 x8 00 00 02 00 00 00 00 01 00 x16"),
    (ReadCapacity16(0, 512, lbprz=True, lowest_aligned_lba=0x3FFF), "00 x8 00 00 02 00 00 00 7F FF 00 x16"),
]


@pytest.mark.parametrize(("value", "wire"), CASES)
def test_whole_cut_and_over_long(value: Any, wire: str) -> None:
    check_parameter_data(value, hex_bytes(wire))


def test_large_unit_points_to_the_longer_command() -> None:
    value = ReadCapacity10(1 << 33, 512)
    assert value.encode() == hex_bytes("FF FF FF FF 00 00 02 00")
    assert ReadCapacity10.decode(value.encode()).overflow
    assert not ReadCapacity10(0xFFFFFFFE, 512).overflow


def test_size_in_blocks_and_bytes() -> None:
    value = ReadCapacity16(2047, 512)
    assert (value.blocks, value.size) == (2048, 1048576)


def test_answer_without_the_later_fields() -> None:
    got = ReadCapacity16.decode(hex_bytes("00 x7 FF 00 00 02 00 01"))
    assert got == ReadCapacity16(255, 512, prot_en=True, complete=False)
    refused(ReadCapacity16.decode, bytes(11))


@pytest.mark.parametrize(
    "value",
    [
        ReadCapacity10(-1, 512),
        ReadCapacity10(0, 1 << 32),
        ReadCapacity16(1 << 64, 512),
        ReadCapacity16(0, 0, p_type=8),
        ReadCapacity16(0, 0, p_i_exponent=16),
        ReadCapacity16(0, 0, logical_blocks_per_physical_exponent=16),
        ReadCapacity16(0, 0, lowest_aligned_lba=1 << 14),
        ReadCapacity16(0, 0, rc_basis=4),
    ],
)
def test_values_that_do_not_fit_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        value.encode()


@given(
    st.builds(
        ReadCapacity16,
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 32) - 1),
        st.booleans(),
        st.integers(0, 7),
        st.integers(0, 15),
        st.integers(0, 15),
        st.booleans(),
        st.booleans(),
        st.integers(0, 0x3FFF),
        st.integers(0, 3),
    )
)
def test_round_trip(value: ReadCapacity16) -> None:
    check_both_ways(value, value.encode())


@given(st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 32) - 1))
def test_round_trip_10(last_lba: int, block_size: int) -> None:
    value = ReadCapacity10(last_lba, block_size)
    check_both_ways(value, value.encode())
