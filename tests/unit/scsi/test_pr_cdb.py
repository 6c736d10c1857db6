"""CDBs of PERSISTENT RESERVE IN and OUT (SPC-4 6.15.1, 6.16.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyproxy.scsi.pr_cdb import PrIn, PrOut

from .checks import check_both_ways, code_of, hex_bytes, refused

CASES = [
    (PrIn(0, 8), "5E 00 00 00 00 00 00 00 08 00"),
    (PrIn(1, 24), "5E 01 00 00 00 00 00 00 18 00"),
    (PrIn(2, 8), "5E 02 00 00 00 00 00 00 08 00"),
    (PrIn(3, 0xFFFF), "5E 03 00 00 00 00 00 FF FF 00"),
    (PrIn(0x1F, 0), "5E 1F 00 00 00 00 00 00 00 00"),
    (PrOut(0, 0, 0, 24), "5F 00 00 00 00 00 00 00 18 00"),
    (PrOut(1, 0, 5, 24), "5F 01 05 00 00 00 00 00 18 00"),
    (PrOut(2, 0, 3, 24), "5F 02 03 00 00 00 00 00 18 00"),
    (PrOut(3, 0, 0, 24), "5F 03 00 00 00 00 00 00 18 00"),
    (PrOut(4, 0, 5, 24), "5F 04 05 00 00 00 00 00 18 00"),
    (PrOut(5, 0, 8, 24), "5F 05 08 00 00 00 00 00 18 00"),
    (PrOut(6, 0, 0, 24), "5F 06 00 00 00 00 00 00 18 00"),
    (PrOut(7, 0, 0, 48), "5F 07 00 00 00 00 00 00 30 00"),
    (PrOut(8, 0, 1, 24), "5F 08 01 00 00 00 00 00 18 00"),
    (PrOut(0x10, 0xF, 0xA, 0x12345678), "5F 10 FA 00 00 12 34 56 78 00"),
]


@pytest.mark.parametrize(("value", "wire"), CASES)
def test_both_ways(value: PrIn | PrOut, wire: str) -> None:
    check_both_ways(value, hex_bytes(wire))


@pytest.mark.parametrize(("value", "wire"), CASES)
def test_cut_is_refused_and_zero_padding_to_16_is_not(value: PrIn | PrOut, wire: str) -> None:
    cdb = hex_bytes(wire)
    for size in range(10):
        assert code_of(refused(type(value).decode, cdb[:size])) == (5, 0x24, 0)
    for size in range(10, 17):
        assert type(value).decode(cdb.ljust(size, b"\0")) == value
    refused(type(value).decode, cdb.ljust(17, b"\0"))
    refused(type(value).decode, cdb + b"\0\1")


def test_reserved_bits_and_control_are_ignored() -> None:
    assert PrIn.decode(hex_bytes("5E E1 FF FF FF FF FF 00 18 04")) == PrIn(1, 24)
    assert PrOut.decode(hex_bytes("5F E4 05 FF FF 00 00 00 18 04")) == PrOut(4, 0, 5, 24)


def test_service_action_is_five_bits_wide() -> None:
    assert PrOut.decode(hex_bytes("5F 14 05 00 00 00 00 00 18 00")).action == 0x14


def test_another_operation_code_is_refused() -> None:
    assert code_of(refused(PrIn.decode, hex_bytes("5F 00 00 00 00 00 00 00 18 00"))) == (5, 0x20, 0)
    assert "5Eh, expected 5Fh" in str(refused(PrOut.decode, hex_bytes("5E 00 00 00 00 00 00 00 18 00")))


@pytest.mark.parametrize(
    "value", [PrIn(0x20, 8), PrIn(0, 0x10000), PrOut(0x20), PrOut(0, 16), PrOut(0, 0, 16), PrOut(0, 0, 0, 1 << 32)]
)
def test_values_that_do_not_fit_are_refused(value: PrIn | PrOut) -> None:
    with pytest.raises(ValueError, match="expected"):
        value.encode()


@given(st.integers(0, 31), st.integers(0, 0xFFFF))
def test_in_round_trip(action: int, length: int) -> None:
    assert PrIn.decode(PrIn(action, length).encode()) == PrIn(action, length)


@given(st.integers(0, 31), st.integers(0, 15), st.integers(0, 15), st.integers(0, 0xFFFFFFFF))
def test_out_round_trip(action: int, scope: int, kind: int, length: int) -> None:
    value = PrOut(action, scope, kind, length)
    assert PrOut.decode(value.encode()) == value
