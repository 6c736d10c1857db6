"""PRE-FETCH (10) and (16) (SBC-4 5.10, 5.11)."""

from __future__ import annotations

import pytest

from tests.conformance.counterparts import for_lengths
from tests.conformance.initiator import BLOCKS, COUNTS, GOOD, LBA_OUT_OF_RANGE, Initiator, cdb, far_beyond

PRE_FETCH = {10: 0x34, 16: 0x90}
IMMED = 0x02


def fetch(length: int, lba: int, blocks: int, flags: int = 0, group: int = 0) -> bytes:
    return cdb(PRE_FETCH[length], length, lba, blocks, flags, group)


@for_lengths("Prefetch", "Simple", 10, 16)
def test_blocks_at_the_start_and_at_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        assert first.says(fetch(length, 0, blocks)) == GOOD
        assert first.says(fetch(length, BLOCKS - blocks, blocks)) == GOOD


@for_lengths("Prefetch", "BeyondEol", 10, 16)
def test_beyond_the_end(first: Initiator, length: int) -> None:
    for blocks in COUNTS:
        for lba in (BLOCKS + 1 - blocks, *far_beyond(length)):
            assert first.says(fetch(length, lba, blocks)) == LBA_OUT_OF_RANGE
    for blocks in COUNTS[1:]:
        assert first.says(fetch(length, BLOCKS - 1, blocks)) == LBA_OUT_OF_RANGE


@for_lengths("Prefetch", "ZeroBlocks", 10, 16)
def test_length_0_is_to_the_end(first: Initiator, length: int) -> None:
    assert first.says(fetch(length, 0, 0)) == GOOD


@for_lengths("Prefetch", "ZeroBlocks", 10, 16)
def test_length_0_beyond_the_end(first: Initiator, length: int) -> None:
    for lba in (BLOCKS + 1, *far_beyond(length)):
        assert first.says(fetch(length, lba, 0)) == LBA_OUT_OF_RANGE


@for_lengths("Prefetch", "Flags", 10, 16)
@pytest.mark.parametrize(("flags", "group"), [(IMMED, 0), (0, 3), (IMMED, 3)])
def test_immed_and_group_number(first: Initiator, length: int, flags: int, group: int) -> None:
    assert first.says(fetch(length, 0, 1, flags, group)) == GOOD
