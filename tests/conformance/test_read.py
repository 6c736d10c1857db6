"""READ (6), (10), (12) and (16) (SBC-4 5.13 to 5.17)."""

from __future__ import annotations

import random

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

READ = {6: 0x08, 10: 0x28, 12: 0xA8, 16: 0x88}
PATTERN = random.Random(28).randbytes(256 * BLOCK)
LENGTHS = (6, 10, 12, 16)


def read(length: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return cdb(READ[length], length, lba, blocks, flags)


@for_lengths("Read", "Simple", *LENGTHS)
def test_blocks_at_the_start(first: Initiator, length: int) -> None:
    first.write(0, PATTERN)
    for blocks in COUNTS:
        assert first.fetch(read(length, 0, blocks), blocks * BLOCK) == PATTERN[: blocks * BLOCK]


@for_lengths("Read", "Simple", *LENGTHS)
def test_blocks_at_the_end(first: Initiator, length: int) -> None:
    first.write(BLOCKS - 256, PATTERN)
    for blocks in COUNTS:
        assert first.fetch(read(length, BLOCKS - blocks, blocks), blocks * BLOCK) == PATTERN[-blocks * BLOCK :]


@counterpart_of("Read6.Simple")
def test_length_0_of_read_6_is_256_blocks(first: Initiator) -> None:
    first.write(0, PATTERN)
    assert first.fetch("08 000000 00 00", 1 << 20) == PATTERN


@for_lengths("Read", "BeyondEol", *LENGTHS)
def test_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        asked = first.says(read(length, BLOCKS + 1 - blocks, blocks), data_in=blocks * BLOCK)
        assert asked == LBA_OUT_OF_RANGE


@for_lengths("Read", "BeyondEol", *LENGTHS)
def test_all_but_one_block_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS[1:]:
        assert first.says(read(length, BLOCKS - 1, blocks), data_in=blocks * BLOCK) == LBA_OUT_OF_RANGE


@for_lengths("Read", "BeyondEol", *LENGTHS)
def test_far_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in (0x1FFFFF,) if length == 6 else far_beyond(length):
        for blocks in COUNTS:
            assert first.says(read(length, lba, blocks), data_in=blocks * BLOCK) == LBA_OUT_OF_RANGE


@for_lengths("Read", "ZeroBlocks", 10, 12, 16)
def test_no_blocks(first: Initiator, length: int) -> None:
    assert first.fetch(read(length, 0, 0)) == b""


@for_lengths("Read", "ZeroBlocks", 10, 12, 16)
def test_no_blocks_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in (BLOCKS + 1, *far_beyond(length)):
        assert first.says(read(length, lba, 0)) == LBA_OUT_OF_RANGE


@for_lengths("Read", "ReadProtect", 10, 12, 16)
def test_protection_information_that_is_not_there(first: Initiator, length: int) -> None:
    assert not first.inquire()[5] & 0x01
    for protect in range(1, 8):
        assert first.says(read(length, 0, 1, protect << 5), data_in=BLOCK) == INVALID_FIELD_IN_CDB


@for_lengths("Read", "DpoFua", 10, 12, 16)
def test_dpo_and_fua_as_mode_sense_says(first: Initiator, length: int) -> None:
    assert first.supports_dpo_and_fua()
    first.write(0, PATTERN)
    for flags in (DPO, FUA, DPO | FUA):
        assert first.fetch(read(length, 0, 1, flags), BLOCK) == PATTERN[:BLOCK]


@for_lengths("Read", "DpoFua", 10, 12, 16)
def test_dpo_and_fua_are_reported_as_used(first: Initiator, length: int) -> None:
    assert first.usage(READ[length])[1] & (DPO | FUA) == DPO | FUA


@counterpart_of("Read10.Async")
def test_a_thousand_at_once(first: Initiator) -> None:
    data = random.Random(10).randbytes(8000 * BLOCK)
    first.write(0, data)
    results = first.unit.execute_batch([Command(read(10, 8 * n, 8), data_in=8 * BLOCK) for n in range(1000)])
    assert {result.status for result in results} == {int(GOOD, 16)}
    assert b"".join(result.data for result in results) == data
