"""WRITE SAME (10) and (16) (SBC-4 5.49, 5.50)."""

from __future__ import annotations

import pytest

from tests.conformance.counterparts import IN_MEMORY_AND_FILE, for_lengths
from tests.conformance.initiator import (
    BLOCK,
    BLOCKS,
    COUNTS,
    GOOD,
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    Initiator,
    cdb,
    far_beyond,
)

pytestmark = IN_MEMORY_AND_FILE

WRITE_SAME = {10: 0x41, 16: 0x93}
ANCHOR, UNMAP = 0x10, 0x08
ONES, ZEROS = b"\xff" * BLOCK, bytes(BLOCK)


def write_same(length: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return cdb(WRITE_SAME[length], length, lba, blocks, flags)


def maximum_length(first: Initiator) -> int:
    """MAXIMUM WRITE SAME LENGTH of the Block Limits page."""
    return int.from_bytes(first.inquire(0xB0)[36:44])


@for_lengths("WriteSame", "Simple", 10, 16)
def test_zeros_at_the_start(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        assert first.says(write_same(length, 0, blocks), ZEROS) == GOOD


@for_lengths("WriteSame", "Simple", 10, 16)
def test_zeros_at_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        assert first.says(write_same(length, BLOCKS - blocks, blocks), ZEROS) == GOOD


@for_lengths("WriteSame", "Check", 10, 16)
def test_every_block_has_what_was_sent(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        block = bytes([blocks % 256]) * BLOCK
        for lba in (0, BLOCKS - blocks):
            assert first.says(write_same(length, lba, blocks), block) == GOOD
            assert first.read(lba, blocks) == block * blocks


@for_lengths("WriteSame", "BeyondEol", 10, 16)
def test_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        assert first.says(write_same(length, BLOCKS + 1 - blocks, blocks), ONES) == LBA_OUT_OF_RANGE
    assert not any(first.read(BLOCKS - 256, 256))


@for_lengths("WriteSame", "BeyondEol", 10, 16)
def test_all_but_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS[1:]:
        assert first.says(write_same(length, BLOCKS - 1, blocks), ONES) == LBA_OUT_OF_RANGE


@for_lengths("WriteSame", "BeyondEol", 10, 16)
def test_far_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in far_beyond(length):
        for blocks in COUNTS:
            assert first.says(write_same(length, lba, blocks), ONES) == LBA_OUT_OF_RANGE


@for_lengths("WriteSame", "ZeroBlocks", 10, 16)
def test_length_0_is_to_the_end(first: Initiator, length: int) -> None:
    assert not first.inquire(0xB0)[4] & 0x01, "WSNZ: a length of 0 is not supported"
    assert maximum_length(first) >= BLOCKS
    assert first.says(write_same(length, 3, 0), ONES) == GOOD
    assert first.read(0, BLOCKS) == ZEROS * 3 + ONES * (BLOCKS - 3)


@for_lengths("WriteSame", "ZeroBlocks", 10, 16)
def test_length_0_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in (BLOCKS + 1, *far_beyond(length)):
        assert first.says(write_same(length, lba, 0), ONES) == LBA_OUT_OF_RANGE


@for_lengths("WriteSame", "WriteProtect", 10, 16)
def test_protection_information_that_is_not_there(first: Initiator, length: int) -> None:
    for protect in range(1, 8):
        assert first.says(write_same(length, 0, 1, protect << 5), ZEROS) == INVALID_FIELD_IN_CDB


@for_lengths("WriteSame", "Unmap", 10, 16)
@pytest.mark.parametrize("at_the_end", [False, True])
def test_unmapped_blocks_read_as_zeros(first: Initiator, length: int, at_the_end: bool) -> None:
    for blocks in COUNTS:
        lba = BLOCKS - blocks if at_the_end else 0
        first.write(lba, ONES * blocks)
        assert first.says(write_same(length, lba, blocks, UNMAP), ZEROS) == GOOD
        assert first.read(lba, blocks) == ZEROS * blocks


@for_lengths("WriteSame", "Unmap", 10, 16)
def test_anchoring_is_not_supported(first: Initiator, length: int) -> None:
    assert not first.inquire(0xB2)[5] & 0x02, "ANC_SUP"
    for flags in (ANCHOR, ANCHOR | UNMAP):
        assert first.says(write_same(length, 0, 1, flags), ZEROS) == INVALID_FIELD_IN_CDB


@for_lengths("WriteSame", "UnmapUnaligned", 10, 16)
def test_part_of_a_physical_block_can_be_unmapped(first: Initiator, length: int) -> None:
    """The tool tries it within a physical block; the unit's own page of memory is the nearest thing here."""
    first.write(0, ONES * 8)
    for lba in range(1, 8):
        assert first.says(write_same(length, lba, 8 - lba, UNMAP), ZEROS) == GOOD
    assert first.read(0, 8) == ONES + ZEROS * 7


@for_lengths("WriteSame", "UnmapUntilEnd", 10, 16)
def test_length_0_unmaps_to_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        first.write(BLOCKS - blocks, ONES * blocks)
        assert first.says(write_same(length, BLOCKS - blocks, 0, UNMAP), ZEROS) == GOOD
        assert first.read(BLOCKS - blocks, blocks) == ZEROS * blocks


@for_lengths("WriteSame", "UnmapVPD", 10, 16)
def test_unmap_is_announced(first: Initiator, length: int) -> None:
    assert first.says(write_same(length, 0, 1, UNMAP), ZEROS) == GOOD
    assert first.fetch("9e10 0000000000000000 00000020 0000", 32)[14] & 0x80, "LBPME"
    assert first.inquire(0xB2)[5] & {10: 0x20, 16: 0x40}[length], "LBPWS10, LBPWS"


@for_lengths("WriteSame", "InvalidDataOutSize", 10, 16)
@pytest.mark.parametrize("sent", [BLOCK // 2, 2 * BLOCK])
def test_not_one_block_sent(first: Initiator, length: int, sent: int) -> None:
    first.write(0, ONES)
    assert first.says(write_same(length, 0, 1, UNMAP), b"\xa6" * sent).startswith("02 05/")
    assert first.read(0, 1) == ONES
