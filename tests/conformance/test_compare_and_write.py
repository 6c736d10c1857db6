"""COMPARE AND WRITE (SBC-4 5.3)."""

from __future__ import annotations

import pytest

from tests.conformance.counterparts import IN_MEMORY_AND_FILE, counterpart_of
from tests.conformance.initiator import (
    BLOCK,
    BLOCKS,
    DPO,
    FUA,
    GOOD,
    MISCOMPARE,
    Initiator,
)

pytestmark = IN_MEMORY_AND_FILE


def compare_and_write(lba: int, blocks: int, flags: int = 0) -> str:
    return f"89 {flags:02x} {lba:016x} 000000 {blocks:02x} 00 00"


@counterpart_of("CompareAndWrite.Simple")
def test_maximum_length_is_as_the_block_limits_page_says(first: Initiator) -> None:
    assert first.inquire(0xB0)[5] == 255


@counterpart_of("CompareAndWrite.Simple")
@pytest.mark.parametrize("at_the_end", [False, True])
def test_equal_blocks_are_written(first: Initiator, at_the_end: bool) -> None:
    for blocks in range(1, 256):
        lba = BLOCKS - blocks if at_the_end else 0
        size = blocks * BLOCK
        first.write(lba, b"A" * size)
        assert first.says(compare_and_write(lba, blocks), b"A" * size + b"B" * size) == GOOD
        assert first.read(lba, blocks) == b"B" * size


@counterpart_of("CompareAndWrite.Miscompare")
@pytest.mark.parametrize("at_the_end", [False, True])
def test_one_byte_differs_and_nothing_is_written(first: Initiator, at_the_end: bool) -> None:
    for blocks in range(1, 256):
        lba = BLOCKS - blocks if at_the_end else 0
        size = blocks * BLOCK
        first.write(lba, b"A" * size)
        wrong = b"A" * (size - 27) + b"C" + b"A" * 26
        assert first.says(compare_and_write(lba, blocks), wrong + b"B" * size) == MISCOMPARE
        assert first.read(lba, blocks) == b"A" * size


@counterpart_of("CompareAndWrite.MiscompareSense")
def test_information_is_the_offset_of_the_difference(first: Initiator) -> None:
    first.write(0, b"B" * BLOCK)
    for offset in range(BLOCK):
        wrong = bytearray(b"B" * BLOCK)
        wrong[offset] = ord("Z")
        result = first.send(compare_and_write(0, 1), bytes(wrong) + b"C" * BLOCK)
        sense = result.decoded_sense
        assert sense is not None
        assert (*sense.code, sense.information) == (0x0E, 0x1D, 0x00, offset)


@counterpart_of("CompareAndWrite.Unwritten")
def test_unwritten_blocks_are_compared_as_zeros(first: Initiator) -> None:
    for lba in range(1, 257):
        assert first.says(compare_and_write(lba, 1), b"%" * BLOCK + b"B" * BLOCK) == MISCOMPARE
    assert not any(first.read(0, 257))
    assert first.says(compare_and_write(7, 1), bytes(BLOCK) + b"B" * BLOCK) == GOOD


@counterpart_of("CompareAndWrite.DpoFua")
@pytest.mark.parametrize("flags", [DPO, FUA, DPO | FUA])
def test_dpo_and_fua_as_mode_sense_says(first: Initiator, flags: int) -> None:
    assert first.supports_dpo_and_fua()
    assert first.says(compare_and_write(0, 1, flags), bytes(2 * BLOCK)) == GOOD


@counterpart_of("CompareAndWrite.DpoFua")
def test_dpo_and_fua_are_reported_as_used(first: Initiator) -> None:
    assert first.usage(0x89)[1] & (DPO | FUA) == DPO | FUA


@counterpart_of("CompareAndWrite.InvalidDataOutSize")
@pytest.mark.parametrize("blocks", [1, 3])
def test_four_blocks_sent_for_another_number(first: Initiator, blocks: int) -> None:
    assert first.says(compare_and_write(0, blocks), b"\xa6" * (4 * BLOCK)).startswith("02 05/")
    assert not any(first.read(0, 4))
