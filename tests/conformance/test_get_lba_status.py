"""GET LBA STATUS (16) (SBC-4 5.6)."""

from __future__ import annotations

import struct

from tests.conformance.counterparts import IN_MEMORY_AND_FILE, counterpart_of
from tests.conformance.initiator import BLOCK, BLOCKS, GOOD, LBA_OUT_OF_RANGE, Initiator
from tests.conformance.test_unmap import unmap

pytestmark = IN_MEMORY_AND_FILE

MAPPED, DEALLOCATED = 0, 1


def get_lba_status(lba: int) -> str:
    return f"9e12 {lba:016x} 00000018 0000"


def status(first: Initiator, lba: int) -> tuple[int, int, int]:
    """First address, blocks and provisioning status of the one descriptor that 24 bytes have room for."""
    data = first.fetch(get_lba_status(lba), 24)
    assert struct.unpack_from(">I", data)[0] >= 20
    return struct.unpack_from(">QIB", data, 8)


@counterpart_of("GetLBAStatus.Simple")
def test_blocks_at_the_start_and_at_the_end(first: Initiator) -> None:
    for number in range(1, 257):
        assert status(first, number)[0] == number
        assert status(first, BLOCKS - number)[:2] == (BLOCKS - number, number)


@counterpart_of("GetLBAStatus.BeyondEol")
def test_beyond_the_end(first: Initiator) -> None:
    for lba in (BLOCKS, BLOCKS + 1, 1 << 63, (1 << 64) - 1):
        assert first.says(get_lba_status(lba), data_in=24) == LBA_OUT_OF_RANGE


@counterpart_of("GetLBAStatus.UnmapSingle")
def test_one_unmapped_block(first: Initiator) -> None:
    first.write(0, b"A" * (257 * BLOCK))
    for lba in range(256):
        assert unmap(first, (lba, 1)) == GOOD
        assert status(first, lba) == (lba, 1, DEALLOCATED)
        assert status(first, lba + 1) == (lba + 1, 256 - lba, MAPPED)


@counterpart_of("GetLBAStatus.UnmapSingle")
def test_a_range_of_unmapped_blocks(first: Initiator) -> None:
    for blocks in range(1, 256):
        first.write(0, b"A" * (257 * BLOCK))
        assert unmap(first, (0, blocks)) == GOOD
        assert status(first, 0) == (0, blocks, DEALLOCATED)
        assert status(first, blocks + 1) == (blocks + 1, 256 - blocks, MAPPED)
