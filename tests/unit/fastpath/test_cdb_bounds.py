"""No byte beyond a CDB is read: CDBs end where an unreadable page begins, so that reading on would kill the process."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterator

import pytest

from _fastpath.cdb import parse, parse_batch

PAGE = mmap.PAGESIZE
LENGTHS = (*range(41), 64, 260)


@pytest.fixture
def edge() -> Iterator[memoryview]:
    """A page of memory that ends at one nobody may read."""
    memory = mmap.mmap(-1, 2 * PAGE)
    whole = memoryview(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    library = ctypes.CDLL(None, use_errno=True)
    protect = library.mprotect
    protect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    assert protect(address + PAGE, PAGE, 0) == 0, os.strerror(ctypes.get_errno())
    yield whole[:PAGE]
    assert protect(address + PAGE, PAGE, mmap.PROT_READ | mmap.PROT_WRITE) == 0


@pytest.mark.parametrize("fill", [0x00, 0x18, 0xFF])
def test_single_cdb(edge: memoryview, fill: int) -> None:
    for length in LENGTHS:
        cdb = edge[PAGE - length :]
        cdb[:] = bytes([fill]) * length
        for opcode in range(256 if length else 1):
            if length:
                cdb[0] = opcode
            parsed = parse(cdb)
            assert parsed == parse(bytes(cdb))
            assert parsed.cdb_length <= length or not parsed.valid


def test_last_slot_of_a_batch(edge: memoryview) -> None:
    for stride in range(1, 41):
        count = 3
        slots = edge[PAGE - count * stride :]
        for opcode in range(256):
            slots[:] = (bytes([opcode]) + b"\x18" * (stride - 1)) * count
            assert len({*parse_batch(slots, stride)}) == 1


@pytest.mark.parametrize("action", [0x0009, 0x000A, 0x000D, 0x1800, 0x1FF0, 0x7777])
def test_variable_length_cdb(edge: memoryview, action: int) -> None:
    for length in LENGTHS:
        for claimed in (0x00, 0x02, 0x04, 0x18, 0x38, 0xF8, 0xFF):
            cdb = edge[PAGE - length :]
            text = b"\x7f" + bytes(6) + bytes([claimed]) + action.to_bytes(2, "big") + b"\xff" * 260
            cdb[:] = text[:length]
            parsed = parse(cdb)
            assert not parsed.valid or 8 + claimed <= length
