"""REPORT LUNS parameter data (SPC-4 6.33) and single-level LUNs (SAM-5 4.7.7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.report_luns import ReportLuns, int_to_lun, lun_to_int

from .checks import check_parameter_data, hex_bytes, refused

CASES = [
    (ReportLuns(()), "00 x8"),
    (ReportLuns((bytes(8),)), "00 00 00 08 00 x4 00 x8"),
    (
        ReportLuns((hex_bytes("00 01 00 x6"), hex_bytes("41 23 00 x6"), hex_bytes("C1 01 00 x6"))),
        "00 00 00 18 00 x4 00 01 00 x6 41 23 00 x6 C1 01 00 x6",
    ),
]
LUNS = [
    (0, "00 x8"),
    (255, "00 FF 00 x6"),
    (256, "41 00 00 x6"),
    (0x3FFF, "7F FF 00 x6"),
    (0x4000, "D2 00 40 00 00 x4"),
    (0xFFFFFF, "D2 FF FF FF 00 x4"),
]


@pytest.mark.parametrize(("value", "wire"), CASES)
def test_whole_cut_and_over_long(value: ReportLuns, wire: str) -> None:
    check_parameter_data(value, hex_bytes(wire))


def test_list_length_survives_truncation() -> None:
    got = ReportLuns.decode(hex_bytes("00 00 00 18 00 x4 00 01 00 x6 41"))
    assert got == ReportLuns((hex_bytes("00 01 00 x6"),), 24)
    assert got.allocation_length == 32


@pytest.mark.parametrize(("number", "wire"), LUNS)
def test_lun_both_ways(number: int, wire: str) -> None:
    assert int_to_lun(number) == hex_bytes(wire)
    assert lun_to_int(hex_bytes(wire)) == number


def test_flat_addressing_of_a_small_number() -> None:
    assert lun_to_int(hex_bytes("40 05 00 x6")) == 5
    assert lun_to_int(hex_bytes("D2 00 00 05 00 x4")) == 5


@pytest.mark.parametrize(
    "lun", ["", "00 x7", "00 x9", "01 00 x7", "3F 05 00 x6", "80 00 x7", "C1 01 00 x6", "E2 00 x7", "00 05 00 01 00 x4",
            "41 00 00 00 00 00 00 01", "D2 00 00 01 01 00 00 00", "FF x8"],
)  # fmt: skip
def test_other_luns_are_refused(lun: str) -> None:
    refused(lun_to_int, hex_bytes(lun))


@pytest.mark.parametrize("number", [-1, 1 << 24])
def test_numbers_that_do_not_fit_are_refused(number: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        int_to_lun(number)


def test_lun_fields_are_eight_bytes() -> None:
    with pytest.raises(ValueError, match="expected 8"):
        ReportLuns((b"1234567",))


@given(st.lists(st.binary(min_size=8, max_size=8), max_size=20).map(tuple))
def test_round_trip(luns: tuple[bytes, ...]) -> None:
    assert ReportLuns.decode(ReportLuns(luns).encode()) == ReportLuns(luns)


@given(st.integers(0, (1 << 24) - 1))
def test_lun_round_trip(number: int) -> None:
    assert lun_to_int(int_to_lun(number)) == number
