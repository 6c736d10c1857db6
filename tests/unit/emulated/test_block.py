"""Commands that move logical blocks (SBC-4 5)."""

from __future__ import annotations

import itertools
import os
import random
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.command import Command
from tests.unit.emulated.initiator import GOOD, Initiator, initiators, name

MIB = 1 << 20
BLOCKS = 16384  # of the 8 MiB unit
LENGTHS = (6, 10, 12, 16)


@pytest.fixture
def a(unit: EmulatedUnit) -> Initiator:
    return initiators(unit, 1)[0]


def cdb(opcodes: dict[int, int], length: int, lba: int, blocks: int, flags: int = 0) -> str:
    opcode = opcodes[length]
    if length == 6:
        return f"{opcode:02x} {lba:06x} {blocks & 0xFF:02x} 00"
    if length == 10:
        return f"{opcode:02x} {flags:02x} {lba:08x} 00 {blocks:04x} 00"
    if length == 12:
        return f"{opcode:02x} {flags:02x} {lba:08x} {blocks:08x} 00 00"
    return f"{opcode:02x} {flags:02x} {lba:016x} {blocks:08x} 00 00"


READ = {6: 0x08, 10: 0x28, 12: 0xA8, 16: 0x88}
WRITE = {6: 0x0A, 10: 0x2A, 12: 0xAA, 16: 0x8A}
WRITE_AND_VERIFY = {10: 0x2E, 12: 0xAE, 16: 0x8E}
VERIFY = {10: 0x2F, 12: 0xAF, 16: 0x8F}
PRE_FETCH = {10: 0x34, 16: 0x90}
SYNCHRONIZE = {10: 0x35, 16: 0x91}
WRITE_SAME = {10: 0x41, 16: 0x93}


@pytest.mark.parametrize("wrote", LENGTHS)
@pytest.mark.parametrize("reads", LENGTHS)
@pytest.mark.parametrize(("lba", "blocks"), [(0, 1), (5, 7), (2040, 16), (BLOCKS - 256, 256)])
def test_what_is_written_is_read(a: Initiator, wrote: int, reads: int, lba: int, blocks: int) -> None:
    data = random.Random(lba).randbytes(512 * blocks)
    assert a.says(cdb(WRITE, wrote, lba, blocks), data) == GOOD
    result = a.send(cdb(READ, reads, lba, blocks), data_in=512 * blocks)
    assert (result.status, result.data, result.residual) == (0, data, 0)


def test_unwritten_blocks_read_as_zeros(a: Initiator) -> None:
    assert a.fetch(cdb(READ, 10, BLOCKS - 8, 8)) == bytes(4096)


def test_zero_blocks_are_none_or_256(a: Initiator) -> None:
    for opcodes in (READ, WRITE, WRITE_AND_VERIFY, VERIFY):
        for length in opcodes:
            if length > 6:
                assert a.says(cdb(opcodes, length, 0, 0)) == GOOD
                assert a.says(cdb(opcodes, length, BLOCKS, 0)) == GOOD
                assert a.says(cdb(opcodes, length, BLOCKS + 1, 0)) == "02 05/21/00"
    assert len(a.fetch(cdb(READ, 6, 0, 0), 1 << 20)) == 256 * 512


@pytest.mark.parametrize("opcodes", [READ, WRITE, WRITE_AND_VERIFY, VERIFY, PRE_FETCH, SYNCHRONIZE, WRITE_SAME])
def test_beyond_the_end(a: Initiator, opcodes: dict[int, int]) -> None:
    data = bytes(256 * 512) if opcodes not in (READ, PRE_FETCH, SYNCHRONIZE) else b""
    for length in opcodes:
        for lba, blocks in [(BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS - 255, 256)]:
            assert a.says(cdb(opcodes, length, lba, blocks), data) == "02 05/21/00"
        if length > 6:
            assert a.says(cdb(opcodes, length, 0x80000000, 1), data) == "02 05/21/00"
            assert a.says(cdb(opcodes, length, 0xFFFFFFFF, 0), data) == "02 05/21/00"
    if 16 in opcodes:
        assert a.says(cdb(opcodes, 16, 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFF), data) == "02 05/21/00"
    assert not any(a.fetch(cdb(READ, 10, BLOCKS - 256, 256)))


@pytest.mark.parametrize("opcodes", [READ, WRITE, WRITE_AND_VERIFY, VERIFY, WRITE_SAME])
@pytest.mark.parametrize("protect", range(1, 8))
def test_protection_information_is_refused(a: Initiator, opcodes: dict[int, int], protect: int) -> None:
    for length in opcodes:
        if length > 6:
            assert a.says(cdb(opcodes, length, 0, 1, protect << 5), bytes(512)) == "02 05/24/00"


@pytest.mark.parametrize("flags", [0x08, 0x10, 0x18])
def test_fua_and_dpo_are_accepted(a: Initiator, flags: int) -> None:
    for length in (10, 12, 16):
        assert a.says(cdb(WRITE, length, 0, 1, flags), b"F" * 512) == GOOD
        assert a.fetch(cdb(READ, length, 0, 1, flags)) == b"F" * 512


@pytest.mark.parametrize("sent", [0, 1, 511])
def test_less_data_than_blocks_writes_nothing(a: Initiator, sent: int) -> None:
    for opcodes in (WRITE, WRITE_AND_VERIFY, WRITE_SAME):
        assert a.says(cdb(opcodes, 10, 0, 1), b"x" * sent) == "02 05/0e/03"
    assert not any(a.fetch(cdb(READ, 10, 0, 1)))


def test_more_data_than_blocks_leaves_a_residual(a: Initiator) -> None:
    result = a.send(cdb(WRITE, 10, 0, 1), b"x" * 700)
    assert (result.status, result.residual) == (0, 188)
    assert a.fetch(cdb(READ, 10, 0, 2)) == b"x" * 512 + bytes(512)


@pytest.mark.parametrize("room", [0, 1, 200, 512, 700])
def test_an_initiator_that_accepts_another_amount(a: Initiator, room: int) -> None:
    a.says(cdb(WRITE, 10, 0, 1), b"x" * 512)
    result = a.send(cdb(READ, 10, 0, 1), data_in=room)
    assert (result.status, result.data, result.residual) == (0, b"x" * min(room, 512), max(0, room - 512))


def test_scatter_and_gather_in_place(a: Initiator) -> None:
    data = random.Random(1).randbytes(3 * MIB)
    cuts = [0, 1, 511, 512, 4097, 70000, 2 * MIB + 3, 3 * MIB]
    out = [memoryview(data)[start:end] for start, end in itertools.pairwise(cuts)]
    write, read = bytes.fromhex(cdb(WRITE, 10, 3, 6144)), bytes.fromhex(cdb(READ, 10, 3, 6144))
    assert a.nexus.execute(Command(write, data_out=out)).good
    into = [bytearray(len(part)) for part in reversed(out)]
    result = a.nexus.execute(Command(read, data_in=into))
    assert (result.good, result.data, result.residual) == (True, b"", 0)
    assert b"".join(into) == data
    hundreds = [bytearray(16384) for _ in range(200)]
    result = a.nexus.execute(Command(read, data_in=hundreds))
    assert (result.good, result.residual) == (True, 200 * 16384 - 3 * MIB)
    assert b"".join(hundreds)[: 3 * MIB] == data


def test_maximum_transfer_length() -> None:
    unit = EmulatedUnit(1 << 40)
    a, *_ = initiators(unit, 1)
    assert a.says(cdb(READ, 16, 0, 0x20001), data_in=512) == "02 05/24/00"
    assert a.says(cdb(READ, 16, (1 << 31) - 1, 1), data_in=512) == GOOD
    assert a.says(cdb(WRITE, 16, (1 << 31) - 1, 1), b"e" * 512) == GOOD
    unit.close()


@pytest.mark.parametrize("length", [10, 12, 16])
def test_verify(a: Initiator, length: int) -> None:
    data = random.Random(2).randbytes(300 * 512)
    a.says(cdb(WRITE, 10, 9, 300), data)
    assert a.says(cdb(VERIFY, length, 9, 300)) == GOOD
    assert a.says(cdb(VERIFY, length, 9, 300, 0x02), data) == GOOD
    for offset in (0, 511, 512, 65535, 65536, 300 * 512 - 1):
        wrong = bytearray(data)
        wrong[offset] ^= 1
        result = a.send(cdb(VERIFY, length, 9, 300, 0x02), bytes(wrong))
        assert result.sense[:8].hex() == f"f0000e{offset:08x}0a"
        assert result.sense[12:14].hex() == "1d00"
        # BYTCHK 0 does not look at the data.
        assert a.says(cdb(VERIFY, length, 9, 300), bytes(wrong)) == GOOD
    assert a.says(cdb(VERIFY, length, 9, 300, 0x02), data[:-1]) == "02 05/0e/03"
    assert a.says(cdb(VERIFY, length, 9, 300, 0x04), data) == "02 05/24/00"


@pytest.mark.parametrize("length", [10, 12, 16])
def test_verify_against_one_block(a: Initiator, length: int) -> None:
    a.says(cdb(WRITE_SAME, 10, 9, 300), b"s" * 512)
    assert a.says(cdb(VERIFY, length, 9, 300, 0x06), b"s" * 512) == GOOD
    assert a.says(cdb(VERIFY, length, 9, 300, 0x06), b"s" * 511) == "02 05/0e/03"
    assert a.says(cdb(VERIFY, length, 9, 301, 0x06), b"s" * 512) == "02 0e/1d/00"
    a.says(cdb(WRITE, 10, 200, 1), b"s" * 500 + b"t" * 12)
    result = a.send(cdb(VERIFY, length, 9, 300, 0x06), b"s" * 512)
    assert int.from_bytes(result.sense[3:7]) == 191 * 512 + 500


@pytest.mark.parametrize("length", [10, 12, 16])
@pytest.mark.parametrize("flags", [0x00, 0x02, 0x10, 0x12])
def test_write_and_verify(a: Initiator, length: int, flags: int) -> None:
    data = random.Random(3).randbytes(70 * 512)
    assert a.says(cdb(WRITE_AND_VERIFY, length, 1, 70, flags), data) == GOOD
    assert a.fetch(cdb(READ, 10, 1, 70)) == data
    for check in (0x04, 0x06):
        assert a.says(cdb(WRITE_AND_VERIFY, length, 1, 70, check), data) == "02 05/24/00"


def compare_and_write(lba: int, blocks: int, flags: int = 0) -> str:
    return f"89 {flags:02x} {lba:016x} 000000 {blocks:02x} 00 00"


def test_compare_and_write(a: Initiator) -> None:
    a.says(cdb(WRITE, 10, 0, 3), b"A" * 1536)
    assert a.says(compare_and_write(0, 3), b"A" * 1536 + b"B" * 1536) == GOOD
    assert a.fetch(cdb(READ, 10, 0, 3)) == b"B" * 1536
    for offset in (0, 512, 1535):
        wrong = bytearray(b"B" * 1536 + b"C" * 1536)
        wrong[offset] = 0
        result = a.send(compare_and_write(0, 3), bytes(wrong))
        assert result.sense.hex() == f"f0000e{offset:08x}0a00000000" + "1d00" + "00000000"
    assert a.fetch(cdb(READ, 10, 0, 3)) == b"B" * 1536
    assert a.says(compare_and_write(0, 3, 0x18), b"B" * 1536 + b"D" * 1536) == GOOD


def test_compare_and_write_of_nothing_or_too_much(a: Initiator) -> None:
    assert a.says(compare_and_write(0, 0)) == GOOD
    assert a.says(compare_and_write(BLOCKS, 1), bytes(1024)) == "02 05/21/00"
    assert a.says(compare_and_write(0, 1), bytes(1023)) == "02 05/0e/03"
    assert a.says(compare_and_write(0, 1), bytes(2048)) == "02 05/0e/03"
    assert a.says(compare_and_write(0, 1, 0x20), bytes(1024)) == "02 05/24/00"
    assert a.says(compare_and_write(BLOCKS - 255, 255), bytes(2 * 255 * 512)) == GOOD


def test_compare_and_write_is_uninterrupted(unit: EmulatedUnit) -> None:
    """Four initiators take turns at a counter with nothing but COMPARE AND WRITE."""
    rounds = 50

    def count(initiator: Initiator) -> None:
        done = 0
        while done < rounds:
            now = int.from_bytes(initiator.fetch(cdb(READ, 10, 7, 2))[600:608])
            blocks = [value.to_bytes(8).rjust(608, b"\0").ljust(1024, b"\0") for value in (now, now + 1)]
            answer = initiator.says(compare_and_write(7, 2), b"".join(blocks))
            assert answer in (GOOD, "02 0e/1d/00")
            done += answer == GOOD

    every = initiators(unit, 4)
    threads = [threading.Thread(target=count, args=(one,)) for one in every]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert int.from_bytes(every[0].fetch(cdb(READ, 10, 7, 2))[600:608]) == 4 * rounds


def test_readers_never_see_half_a_write(unit: EmulatedUnit) -> None:
    a, b = initiators(unit, 2)
    stop = threading.Event()

    def write() -> None:
        value = 0
        while not stop.is_set():
            value = (value + 1) % 256
            assert a.says(cdb(WRITE, 10, 100, 1024), bytes([value]) * (512 * 1024)) == GOOD

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(50):
            assert len(set(b.fetch(cdb(READ, 10, 100, 1024), 1024 * 512))) == 1
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("length", [10, 16])
def test_synchronize_cache(a: Initiator, length: int) -> None:
    assert a.says(cdb(SYNCHRONIZE, length, 0, 0)) == GOOD
    assert a.says(cdb(SYNCHRONIZE, length, 5, 5, 0x02)) == GOOD


@pytest.mark.parametrize("length", [10, 16])
def test_pre_fetch(a: Initiator, length: int) -> None:
    assert a.says(cdb(PRE_FETCH, length, 0, 256, 0x02)) == GOOD
    assert a.says(cdb(PRE_FETCH, length, BLOCKS, 0)) == GOOD


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[tuple[EmulatedUnit, Initiator]]:
    """A file that may not grow beyond 1 MiB, as on a full file system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    unit = EmulatedUnit(8 * MIB, path=tmp_path / "disk.img")
    one = Initiator(unit.nexus(name(0)))
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, before[1]))
    yield unit, one
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    unit.close()


def test_no_space_left(narrow: tuple[EmulatedUnit, Initiator]) -> None:
    _, a = narrow
    assert a.says(cdb(WRITE, 10, 0, 1), bytes(512)) == GOOD
    assert a.says(cdb(WRITE, 10, 4000, 1), bytes(512)) == "02 07/27/07"
    assert a.says(cdb(WRITE_SAME, 10, 4000, 1), b"x" * 512) == "02 07/27/07"
    assert a.says(compare_and_write(4000, 1), bytes(512) + b"x" * 512) == "02 07/27/07"


def test_a_file_cut_short_under_us(tmp_path: Path) -> None:
    unit = EmulatedUnit(8 * MIB, path=tmp_path / "disk.img")
    a, *_ = initiators(unit, 1)
    os.truncate(tmp_path / "disk.img", MIB)
    assert a.says(cdb(READ, 10, 4000, 1), data_in=512) == "02 03/11/00"
    assert a.says(cdb(VERIFY, 10, 4000, 1)) == "02 03/11/00"
    assert a.says(cdb(READ, 10, 0, 1), data_in=512) == GOOD
    unit.close()


def test_a_file_larger_than_memory(tmp_path: Path) -> None:
    unit = EmulatedUnit(1 << 42, path=tmp_path / "disk.img", block_size=4096)
    a, *_ = initiators(unit, 1)
    last = (1 << 30) - 1
    assert a.says(cdb(WRITE, 16, last, 1), b"z" * 4096) == GOOD
    assert a.fetch(cdb(READ, 16, last, 1)) == b"z" * 4096
    assert (tmp_path / "disk.img").stat().st_blocks < 1000
    unit.close()


def test_contents_survive(tmp_path: Path) -> None:
    unit = EmulatedUnit(MIB, path=tmp_path / "disk.img", block_size=4096)
    initiators(unit, 1)[0].says(cdb(WRITE, 10, 255, 1, 0x08), b"k" * 4096)
    unit.power_cycle()
    unit.close()
    unit = EmulatedUnit(MIB, path=tmp_path / "disk.img", block_size=4096)
    assert initiators(unit, 1)[0].fetch(cdb(READ, 10, 255, 1)) == b"k" * 4096
    unit.close()
