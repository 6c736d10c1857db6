"""READ CAPACITY (10) and (16) (SBC-4 5.18, 5.19)."""

from __future__ import annotations

from tests.conformance.counterparts import counterpart_of
from tests.conformance.initiator import BLOCK, BLOCKS, Initiator


def read_capacity_16(first: Initiator, count: int) -> bytes:
    return first.fetch(f"9e10 0000000000000000 {count:08x} 0000", count)


@counterpart_of("ReadCapacity10.Simple")
def test_read_capacity_10(first: Initiator) -> None:
    assert first.fetch("25 00 00000000 0000 00 00", 8) == (BLOCKS - 1).to_bytes(4) + BLOCK.to_bytes(4)


@counterpart_of("ReadCapacity16.Simple")
def test_first_16_bytes(first: Initiator) -> None:
    assert read_capacity_16(first, 16)[:12] == (BLOCKS - 1).to_bytes(8) + BLOCK.to_bytes(4)


@counterpart_of("ReadCapacity16.Alloclen")
def test_short_allocation_lengths(first: Initiator) -> None:
    whole = read_capacity_16(first, 32)
    assert len(whole) == 32
    for count in range(16):
        assert read_capacity_16(first, count) == whole[:count]


@counterpart_of("ReadCapacity16.PI")
def test_no_protection_information_where_inquiry_says_none(first: Initiator) -> None:
    assert not first.inquire()[5] & 0x01, "PROTECT"
    data = read_capacity_16(first, 32)
    assert not data[12] & 0x0F, "P_TYPE, PROT_EN"
    assert not data[13] & 0xF0, "P_I_EXPONENT"


@counterpart_of("ReadCapacity16.Support")
def test_supported_where_sbc_3_is_claimed(first: Initiator) -> None:
    assert bytes.fromhex("04c0") in first.inquire()[58:74]
    assert len(read_capacity_16(first, 15)) == 15
