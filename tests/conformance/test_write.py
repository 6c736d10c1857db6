"""WRITE (6), (10), (12) and (16) (SBC-4 5.39 to 5.43)."""

from __future__ import annotations

import random

import pytest

from pyproxy.scsi.command import Command
from tests.conformance.counterparts import IN_MEMORY_AND_FILE, counterpart_of, for_lengths
from tests.conformance.initiator import (
    BLOCK,
    BLOCKS,
    COUNTS,
    DPO,
    FUA,
    GOOD,
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    Initiator,
    cdb,
    far_beyond,
)

pytestmark = IN_MEMORY_AND_FILE

WRITE = {6: 0x0A, 10: 0x2A, 12: 0xAA, 16: 0x8A}
PATTERN = random.Random(42).randbytes(256 * BLOCK)


def write(length: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return cdb(WRITE[length], length, lba, blocks, flags)


def writes(first: Initiator, length: int, lba: int, blocks: int) -> None:
    data = PATTERN[: blocks * BLOCK]
    assert first.says(write(length, lba, blocks), data) == GOOD
    assert first.read(lba, blocks) == data


def test_blocks_of_write_6(first: Initiator) -> None:
    for lba in (0, BLOCKS - 256):
        for blocks in COUNTS:
            writes(first, 6, lba, blocks)


@for_lengths("Write", "Simple", 10, 12, 16)
def test_blocks_at_the_start(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        writes(first, length, 0, blocks)


@for_lengths("Write", "Simple", 10, 12, 16)
def test_blocks_at_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        writes(first, length, BLOCKS - blocks, blocks)


@for_lengths("Write", "Simple", 10, 12, 16)
def test_blocks_across_4_mib(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        writes(first, length, (4 << 20) // BLOCK - 3, blocks)


@for_lengths("Write", "BeyondEol", 10, 12, 16)
def test_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        data = PATTERN[: blocks * BLOCK]
        assert first.says(write(length, BLOCKS + 1 - blocks, blocks), data) == LBA_OUT_OF_RANGE
    assert not any(first.read(BLOCKS - 256, 256))


@for_lengths("Write", "BeyondEol", 10, 12, 16)
def test_all_but_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS[1:]:
        assert first.says(write(length, BLOCKS - 1, blocks), PATTERN[: blocks * BLOCK]) == LBA_OUT_OF_RANGE
    assert not any(first.read(BLOCKS - 1, 1))


@for_lengths("Write", "BeyondEol", 10, 12, 16)
def test_far_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in far_beyond(length):
        for blocks in COUNTS:
            assert first.says(write(length, lba, blocks), PATTERN[: blocks * BLOCK]) == LBA_OUT_OF_RANGE


def test_write_6_beyond_the_end(first: Initiator) -> None:
    for lba, blocks in ((BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS - 255, 256), (0x1FFFFF, 1)):
        assert first.says(write(6, lba, blocks), PATTERN[: blocks * BLOCK]) == LBA_OUT_OF_RANGE


@for_lengths("Write", "ZeroBlocks", 10, 12, 16)
def test_no_blocks(first: Initiator, length: int) -> None:
    assert first.says(write(length, 0, 0)) == GOOD


@for_lengths("Write", "ZeroBlocks", 10, 12, 16)
def test_no_blocks_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in (BLOCKS + 1, *far_beyond(length)):
        assert first.says(write(length, lba, 0)) == LBA_OUT_OF_RANGE


@for_lengths("Write", "WriteProtect", 10, 12, 16)
def test_protection_information_that_is_not_there(first: Initiator, length: int) -> None:
    for protect in range(1, 8):
        assert first.says(write(length, 0, 1, protect << 5), PATTERN[:BLOCK]) == INVALID_FIELD_IN_CDB
    assert not any(first.read(0, 1))


@for_lengths("Write", "DpoFua", 10, 12, 16)
@pytest.mark.parametrize("flags", [DPO, FUA, DPO | FUA])
def test_dpo_and_fua_as_mode_sense_says(first: Initiator, length: int, flags: int) -> None:
    assert first.supports_dpo_and_fua()
    assert first.says(write(length, 0, 1, flags), PATTERN[:BLOCK]) == GOOD
    assert first.read(0, 1) == PATTERN[:BLOCK]


@for_lengths("Write", "DpoFua", 10, 12, 16)
def test_dpo_and_fua_are_reported_as_used(first: Initiator, length: int) -> None:
    assert first.usage(WRITE[length])[1] & (DPO | FUA) == DPO | FUA


@counterpart_of("Write10.Async")
def test_a_thousand_at_once(first: Initiator) -> None:
    data = random.Random(11).randbytes(8000 * BLOCK)
    parts = [data[n * 8 * BLOCK : (n + 1) * 8 * BLOCK] for n in range(1000)]
    results = first.unit.execute_batch([Command(write(10, 8 * n, 8), data_out=part) for n, part in enumerate(parts)])
    assert {result.status for result in results} == {int(GOOD, 16)}
    assert first.read(0, 8000) == data
