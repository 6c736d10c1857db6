"""VERIFY (10), (12) and (16) (SBC-4 5.35 to 5.37)."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.conformance.counterparts import IN_MEMORY_AND_FILE, for_lengths
from tests.conformance.initiator import (
    BLOCK,
    BLOCKS,
    COUNTS,
    DPO,
    GOOD,
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    MISCOMPARE,
    Initiator,
    cdb,
    far_beyond,
)

pytestmark = IN_MEMORY_AND_FILE

VERIFY = {10: 0x2F, 12: 0xAF, 16: 0x8F}
LENGTHS = (10, 12, 16)
BYTCHK = 0x02
PATTERN = random.Random(47).randbytes(256 * BLOCK)


def verify(length: int, lba: int, blocks: int, flags: int = BYTCHK) -> bytes:
    return cdb(VERIFY[length], length, lba, blocks, flags)


@pytest.fixture
def written(first: Initiator) -> Initiator:
    """The initiator, with the pattern at the start and at the end of the unit."""
    first.write(0, PATTERN)
    first.write(BLOCKS - 256, PATTERN)
    return first


def with_one_byte_changed() -> Iterator[tuple[int, bytes]]:
    """For every count of blocks the pattern with a byte somewhere in it that differs."""
    where = random.Random(48)
    for blocks in COUNTS:
        data = bytearray(PATTERN[: blocks * BLOCK])
        data[where.randrange(len(data))] ^= 0x58
        yield blocks, bytes(data)


@for_lengths("Verify", "Simple", *LENGTHS)
def test_equal_blocks_at_the_start(written: Initiator, length: int) -> None:
    for blocks in COUNTS:
        assert written.says(verify(length, 0, blocks), PATTERN[: blocks * BLOCK]) == GOOD


@for_lengths("Verify", "Simple", *LENGTHS)
def test_equal_blocks_at_the_end(written: Initiator, length: int) -> None:
    for blocks in COUNTS:
        assert written.says(verify(length, BLOCKS - blocks, blocks), PATTERN[-blocks * BLOCK :]) == GOOD


@for_lengths("Verify", "Mismatch", *LENGTHS)
def test_one_byte_differs_at_the_start(written: Initiator, length: int) -> None:
    for blocks, data in with_one_byte_changed():
        assert written.says(verify(length, 0, blocks), data) == MISCOMPARE


@for_lengths("Verify", "Mismatch", *LENGTHS)
def test_one_byte_differs_at_the_end(first: Initiator, length: int) -> None:
    for blocks, data in with_one_byte_changed():
        first.write(BLOCKS - blocks, PATTERN[: blocks * BLOCK])
        assert first.says(verify(length, BLOCKS - blocks, blocks), data) == MISCOMPARE


@for_lengths("Verify", "MismatchNoCmp", *LENGTHS)
def test_without_comparing_nothing_differs(written: Initiator, length: int) -> None:
    for blocks, data in with_one_byte_changed():
        assert written.says(verify(length, 0, blocks, 0), data) == GOOD
        assert written.says(verify(length, BLOCKS - blocks, blocks, 0), data) == GOOD


@for_lengths("Verify", "BeyondEol", *LENGTHS)
def test_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        data = PATTERN[: blocks * BLOCK]
        assert first.says(verify(length, BLOCKS + 1 - blocks, blocks), data) == LBA_OUT_OF_RANGE


@for_lengths("Verify", "BeyondEol", *LENGTHS)
def test_all_but_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS[1:]:
        assert first.says(verify(length, BLOCKS - 1, blocks), PATTERN[: blocks * BLOCK]) == LBA_OUT_OF_RANGE


@for_lengths("Verify", "BeyondEol", *LENGTHS)
def test_far_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in far_beyond(length):
        for blocks in COUNTS:
            assert first.says(verify(length, lba, blocks), PATTERN[: blocks * BLOCK]) == LBA_OUT_OF_RANGE


@for_lengths("Verify", "ZeroBlocks", *LENGTHS)
def test_no_blocks(first: Initiator, length: int) -> None:
    assert first.says(verify(length, 0, 0)) == GOOD


@for_lengths("Verify", "ZeroBlocks", *LENGTHS)
def test_no_blocks_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in (BLOCKS + 1, *far_beyond(length)):
        assert first.says(verify(length, lba, 0)) == LBA_OUT_OF_RANGE


@for_lengths("Verify", "VerifyProtect", *LENGTHS)
def test_protection_information_that_is_not_there(written: Initiator, length: int) -> None:
    for protect in range(1, 8):
        assert written.says(verify(length, 0, 1, protect << 5 | BYTCHK), PATTERN[:BLOCK]) == INVALID_FIELD_IN_CDB


@for_lengths("Verify", "Flags", *LENGTHS)
def test_compared_byte_by_byte(written: Initiator, length: int) -> None:
    assert written.says(verify(length, 0, 1, BYTCHK), PATTERN[:BLOCK]) == GOOD


@for_lengths("Verify", "Dpo", *LENGTHS)
def test_dpo_as_mode_sense_says(written: Initiator, length: int) -> None:
    assert written.supports_dpo_and_fua()
    assert written.says(verify(length, 0, 1, DPO), PATTERN[:BLOCK]) == GOOD


@for_lengths("Verify", "Dpo", *LENGTHS)
def test_dpo_is_reported_as_used(first: Initiator, length: int) -> None:
    assert first.usage(VERIFY[length])[1] & DPO
