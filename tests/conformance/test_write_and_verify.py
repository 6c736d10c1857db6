"""WRITE AND VERIFY (10), (12) and (16) (SBC-4 5.44 to 5.46)."""

from __future__ import annotations

import random

from tests.conformance.counterparts import IN_MEMORY_AND_FILE, for_lengths
from tests.conformance.initiator import (
    BLOCK,
    BLOCKS,
    COUNTS,
    DPO,
    GOOD,
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    Initiator,
    cdb,
    far_beyond,
)

pytestmark = IN_MEMORY_AND_FILE

WRITE_AND_VERIFY = {10: 0x2E, 12: 0xAE, 16: 0x8E}
LENGTHS = (10, 12, 16)
BYTCHK = 0x02
PATTERN = random.Random(46).randbytes(256 * BLOCK)


def write(length: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return cdb(WRITE_AND_VERIFY[length], length, lba, blocks, flags)


@for_lengths("WriteVerify", "Simple", *LENGTHS)
def test_blocks_at_the_start(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        data = PATTERN[: blocks * BLOCK]
        assert first.says(write(length, 0, blocks), data) == GOOD
        assert first.read(0, blocks) == data


@for_lengths("WriteVerify", "Simple", *LENGTHS)
def test_blocks_at_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        data = PATTERN[: blocks * BLOCK]
        assert first.says(write(length, BLOCKS - blocks, blocks), data) == GOOD
        assert first.read(BLOCKS - blocks, blocks) == data


@for_lengths("WriteVerify", "BeyondEol", *LENGTHS)
def test_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        data = PATTERN[: blocks * BLOCK]
        assert first.says(write(length, BLOCKS + 1 - blocks, blocks), data) == LBA_OUT_OF_RANGE
    assert not any(first.read(BLOCKS - 256, 256))


@for_lengths("WriteVerify", "BeyondEol", *LENGTHS)
def test_all_but_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS[1:]:
        assert first.says(write(length, BLOCKS - 1, blocks), PATTERN[: blocks * BLOCK]) == LBA_OUT_OF_RANGE


@for_lengths("WriteVerify", "BeyondEol", *LENGTHS)
def test_far_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in far_beyond(length):
        for blocks in COUNTS:
            assert first.says(write(length, lba, blocks), PATTERN[: blocks * BLOCK]) == LBA_OUT_OF_RANGE


@for_lengths("WriteVerify", "ZeroBlocks", *LENGTHS)
def test_no_blocks(first: Initiator, length: int) -> None:
    assert first.says(write(length, 0, 0)) == GOOD


@for_lengths("WriteVerify", "ZeroBlocks", *LENGTHS)
def test_no_blocks_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in (BLOCKS + 1, *far_beyond(length)):
        assert first.says(write(length, lba, 0)) == LBA_OUT_OF_RANGE


@for_lengths("WriteVerify", "WriteProtect", *LENGTHS)
def test_protection_information_that_is_not_there(first: Initiator, length: int) -> None:
    for protect in range(1, 8):
        assert first.says(write(length, 0, 1, protect << 5), PATTERN[:BLOCK]) == INVALID_FIELD_IN_CDB
    assert not any(first.read(0, 1))


@for_lengths("WriteVerify", "Flags", *LENGTHS)
def test_compared_byte_by_byte(first: Initiator, length: int) -> None:
    assert first.says(write(length, 0, 1, BYTCHK), PATTERN[:BLOCK]) == GOOD
    assert first.read(0, 1) == PATTERN[:BLOCK]


@for_lengths("WriteVerify", "Dpo", *LENGTHS)
def test_dpo_as_mode_sense_says(first: Initiator, length: int) -> None:
    assert first.supports_dpo_and_fua()
    assert first.says(write(length, 0, 1, DPO | BYTCHK), PATTERN[:BLOCK]) == GOOD


@for_lengths("WriteVerify", "Dpo", *LENGTHS)
def test_dpo_is_reported_as_used(first: Initiator, length: int) -> None:
    assert first.usage(WRITE_AND_VERIFY[length])[1] & DPO
