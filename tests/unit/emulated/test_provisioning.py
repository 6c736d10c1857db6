"""UNMAP, WRITE SAME and GET LBA STATUS (SBC-4 4.7, 5)."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from pyproxy.device.emulated import EmulatedUnit
from tests.unit.emulated.initiator import GOOD, Initiator, initiators

MIB = 1 << 20
BLOCKS = 16384
MAPPED, DEALLOCATED = 0, 1


@pytest.fixture
def a(unit: EmulatedUnit) -> Initiator:
    return initiators(unit, 1)[0]


def fill(a: Initiator, lba: int, blocks: int, byte: bytes = b"a") -> None:
    assert a.says(f"2a 00 {lba:08x} 00 {blocks:04x} 00", byte * (512 * blocks)) == GOOD


def read(a: Initiator, lba: int, blocks: int) -> bytes:
    return a.fetch(f"28 00 {lba:08x} 00 {blocks:04x} 00", 512 * blocks)


def unmap(a: Initiator, *extents: tuple[int, int], flags: int = 0) -> str:
    body = b"".join(struct.pack(">QI4x", lba, blocks) for lba, blocks in extents)
    data = struct.pack(">HH4x", len(body) + 6, len(body)) + body
    return a.says(f"42 {flags:02x} 00000000 00 {len(data):04x} 00", data)


def status(a: Initiator, lba: int, count: int = 4096) -> list[tuple[int, int, int]]:
    data = a.fetch(f"9e 12 {lba:016x} {count:08x} 0000")
    assert struct.unpack_from(">I", data)[0] == len(data) - 4
    return [struct.unpack_from(">QIB", data, at) for at in range(8, len(data), 16)]


def test_unmapped_blocks_read_as_zeros(a: Initiator) -> None:
    fill(a, 0, 64)
    assert unmap(a, (3, 20), (40, 1)) == GOOD
    expected = b"a" * (3 * 512) + bytes(20 * 512) + b"a" * (17 * 512) + bytes(512) + b"a" * (23 * 512)
    assert read(a, 0, 64) == expected
    assert status(a, 0)[:5] == [(0, 3, 0), (3, 20, 1), (23, 17, 0), (40, 1, 1), (41, 23, 0)]


def test_unmap_of_nothing(a: Initiator) -> None:
    fill(a, 0, 2)
    assert a.says("42 00 00000000 00 0000 00") == GOOD
    assert unmap(a) == GOOD
    assert unmap(a, (0, 0), (BLOCKS, 0)) == GOOD
    assert read(a, 0, 2) == b"a" * 1024


@pytest.mark.parametrize("length", [1, 7])
def test_unmap_list_too_short(a: Initiator, length: int) -> None:
    assert a.says(f"42 00 00000000 00 {length:04x} 00", bytes(length)) == "02 05/1a/00"


def test_unmap_uses_only_whole_descriptors(a: Initiator) -> None:
    fill(a, 0, 4)
    descriptors = struct.pack(">QI4x", 0, 1) + struct.pack(">QI4x", 2, 1)
    for cut, announced in [(15, 32), (0, 31), (0, 16)]:
        raw = struct.pack(">HH4x", announced + 6, announced) + descriptors[: 32 - cut]
        assert a.says(f"42 00 00000000 00 {len(raw):04x} 00", raw) == GOOD
        assert read(a, 0, 4) == bytes(512) + b"a" * 1536


def test_unmap_checks_every_descriptor_first(a: Initiator) -> None:
    fill(a, 0, 4)
    assert unmap(a, (0, 4), (BLOCKS - 1, 2)) == "02 05/21/00"
    assert unmap(a, (0, 4), (0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF)) == "02 05/21/00"
    assert unmap(a, *[(0, 1)] * 257) == "02 05/26/00"
    assert unmap(a, (0, 1), flags=0x01) == "02 05/24/00"
    assert read(a, 0, 4) == b"a" * 2048
    assert unmap(a, *[(0, 1)] * 256) == GOOD


def write_same(a: Initiator, lba: int, blocks: int, data: bytes, flags: int = 0, length: int = 10) -> str:
    if length == 10:
        return a.says(f"41 {flags:02x} {lba:08x} 00 {blocks:04x} 00", data)
    return a.says(f"93 {flags:02x} {lba:016x} {blocks:08x} 00 00", data)


both = pytest.mark.parametrize("length", [10, 16])


@both
def test_write_same(a: Initiator, length: int) -> None:
    block = bytes(range(256)) * 2
    assert write_same(a, 5, 700, block, length=length) == GOOD
    assert read(a, 4, 702) == bytes(512) + block * 700 + bytes(512)
    assert status(a, 5)[0] == (5, 700, MAPPED)


@both
def test_write_same_to_the_end(a: Initiator, length: int) -> None:
    assert write_same(a, BLOCKS - 3, 0, b"e" * 512, length=length) == GOOD
    assert read(a, BLOCKS - 4, 4) == bytes(512) + b"e" * 1536
    assert write_same(a, BLOCKS, 0, b"e" * 512, length=length) == GOOD
    assert write_same(a, BLOCKS + 1, 0, b"e" * 512, length=length) == "02 05/21/00"


@both
def test_write_same_with_unmap(a: Initiator, length: int) -> None:
    fill(a, 0, 64)
    assert write_same(a, 8, 16, bytes(512), 0x08, length) == GOOD
    assert read(a, 0, 64) == b"a" * 4096 + bytes(8192) + b"a" * (40 * 512)
    assert status(a, 8)[0] == (8, 16, DEALLOCATED)
    # Unmapped blocks would not read as this one: it is written.
    assert write_same(a, 8, 4, b"n" * 512, 0x08, length) == GOOD
    assert status(a, 8)[0] == (8, 4, MAPPED)
    assert read(a, 8, 4) == b"n" * 2048
    # Zeros without UNMAP leave the blocks mapped.
    assert write_same(a, 12, 4, bytes(512), 0x00, length) == GOOD
    assert status(a, 12)[0][2] == MAPPED


@both
@pytest.mark.parametrize("flags", [0x10, 0x18])
def test_anchor_is_not_supported(a: Initiator, length: int, flags: int) -> None:
    assert write_same(a, 0, 1, bytes(512), flags, length) == "02 05/24/00"


@both
@pytest.mark.parametrize("size", [0, 256, 1024])
def test_write_same_takes_one_block(a: Initiator, length: int, size: int) -> None:
    assert write_same(a, 0, 1, bytes(size), 0, length) == "02 05/0e/03"
    assert write_same(a, 0, 1, bytes(size), 0x08, length) == "02 05/0e/03"


def test_write_same_without_data(a: Initiator) -> None:
    fill(a, 0, 8)
    assert write_same(a, 0, 2, b"", 0x01, 16) == GOOD
    assert write_same(a, 2, 2, b"", 0x09, 16) == GOOD
    assert read(a, 0, 8) == bytes(2048) + b"a" * 2048
    assert status(a, 0)[:3] == [(0, 2, MAPPED), (2, 2, DEALLOCATED), (4, 4, MAPPED)]


def test_maximum_write_same_length() -> None:
    unit = EmulatedUnit(1 << 30)
    a, *_ = initiators(unit, 1)
    assert write_same(a, 0, 0, bytes(512), 0x08) == "02 05/24/00"
    assert write_same(a, 0, 0x80001, bytes(512), 0x08, 16) == "02 05/24/00"
    assert write_same(a, 0, 0x80000, bytes(512), 0x08, 16) == GOOD
    unit.close()


def test_lba_status_of_a_fresh_medium(a: Initiator) -> None:
    assert status(a, 0) == [(0, BLOCKS, DEALLOCATED)]
    assert status(a, BLOCKS - 1) == [(BLOCKS - 1, 1, DEALLOCATED)]
    for lba in (BLOCKS, BLOCKS + 1, 1 << 63, (1 << 64) - 1):
        assert a.says(f"9e 12 {lba:016x} 00000018 0000", data_in=24) == "02 05/21/00"


def test_lba_status_fills_the_room_there_is(a: Initiator) -> None:
    for lba in range(0, 40, 2):
        fill(a, lba, 1)
    assert len(status(a, 0, 24)) == 1
    assert len(status(a, 0, 8 + 16 * 5)) == 5
    assert status(a, 7, 24) == [(7, 1, DEALLOCATED)]
    data = a.send("9e 12 0000000000000000 00000004 0000", data_in=64)
    assert (data.data, data.residual) == (struct.pack(">I", 20), 60)


def test_a_file_remembers_holes(tmp_path: Path) -> None:
    path = tmp_path / "disk.img"
    unit = EmulatedUnit(8 * MIB, path=path)
    a, *_ = initiators(unit, 1)
    fill(a, 0, 2048)
    before = path.stat().st_blocks
    assert unmap(a, (512, 1024)) == GOOD
    assert path.stat().st_blocks <= before - 1024
    unit.close()
    a, *_ = initiators(EmulatedUnit(8 * MIB, path=path), 1)
    assert status(a, 0) == [(0, 512, MAPPED), (512, 1024, 1), (1536, 512, MAPPED), (2048, 14336, 1)]


def test_blocks_of_4096_bytes(tmp_path: Path) -> None:
    unit = EmulatedUnit(MIB, path=tmp_path / "disk.img", block_size=4096)
    a, *_ = initiators(unit, 1)
    assert a.says("41 00 00000001 00 0003 00", b"q" * 4096) == GOOD
    assert unmap(a, (2, 1)) == GOOD
    assert a.fetch("28 00 00000000 00 0005 00") == bytes(4096) + b"q" * 4096 + bytes(4096) + b"q" * 4096 + bytes(4096)
    assert status(a, 0) == [(0, 1, 1), (1, 1, 0), (2, 1, 1), (3, 1, 0), (4, 252, 1)]
    unit.close()
