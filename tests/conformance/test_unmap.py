"""UNMAP (SBC-4 5.34)."""

from __future__ import annotations

import struct

from tests.conformance.counterparts import IN_MEMORY_AND_FILE, counterpart_of
from tests.conformance.initiator import BLOCK, BLOCKS, GOOD, Initiator

pytestmark = IN_MEMORY_AND_FILE

MOST_DESCRIPTORS = 256


def unmap(first: Initiator, *extents: tuple[int, int]) -> str:
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in extents)
    data = struct.pack(">HH4x", len(body) + 6, len(body)) + body
    return first.says(f"42 00 00000000 00 {len(data):04x} 00", data)


@counterpart_of("Unmap.Simple")
def test_one_descriptor(first: Initiator) -> None:
    first.write(0, b"a" * (256 * BLOCK))
    for blocks in range(1, 257):
        assert unmap(first, (0, blocks)) == GOOD
        assert first.read(0, 256) == bytes(blocks * BLOCK) + b"a" * ((256 - blocks) * BLOCK)


@counterpart_of("Unmap.Simple")
def test_one_descriptor_for_each_block(first: Initiator) -> None:
    assert int.from_bytes(first.inquire(0xB0)[24:28]) == MOST_DESCRIPTORS
    first.write(0, b"a" * (256 * BLOCK))
    extents = []
    for lba in range(MOST_DESCRIPTORS):
        extents.append((lba, 1))
        assert unmap(first, *extents) == GOOD
        assert not any(first.read(0, lba + 1))


@counterpart_of("Unmap.ZeroBlocks")
def test_a_descriptor_of_no_blocks(first: Initiator) -> None:
    first.write(0, b"a" * (256 * BLOCK))
    for lba in (*range(256), BLOCKS):
        assert unmap(first, (lba, 0)) == GOOD
    assert first.read(0, 256) == b"a" * (256 * BLOCK)


@counterpart_of("Unmap.ZeroBlocks")
def test_no_descriptors(first: Initiator) -> None:
    assert unmap(first) == GOOD


@counterpart_of("Unmap.ZeroBlocks")
def test_many_descriptors_of_no_blocks(first: Initiator) -> None:
    for count in range(1, MOST_DESCRIPTORS + 1):
        assert unmap(first, *((lba, 0) for lba in range(count))) == GOOD


@counterpart_of("Unmap.ZeroBlocks")
def test_descriptors_of_no_blocks_may_overlap(first: Initiator) -> None:
    assert unmap(first, *((number // 2, 0) for number in range(MOST_DESCRIPTORS))) == GOOD


@counterpart_of("Unmap.VPD")
def test_unmap_is_announced(first: Initiator) -> None:
    assert unmap(first, (0, 0)) == GOOD
    assert first.fetch("9e10 0000000000000000 00000020 0000", 32)[14] & 0x80, "LBPME"
    assert first.inquire(0xB2)[5] & 0x80, "LBPU"
