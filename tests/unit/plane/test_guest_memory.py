"""Guest memory: translation over regions, refusals, the dirty log, and files that are cut short."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from _fastpath.guest_memory import MAX_MEMORY_REGIONS, DirtyLog, GuestMemory

PAGE = 4096


def memfd(size: int) -> int:
    descriptor = os.memfd_create("guest", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    return descriptor


@pytest.fixture
def descriptor() -> Iterator[int]:
    made = memfd(1 << 20)
    yield made
    os.close(made)


def test_bytes_cross_from_one_region_to_the_next(descriptor: int) -> None:
    # Adjacent for the guest, in the reverse order in the file.
    memory = GuestMemory([(0x1000, PAGE, 0x90000, descriptor, PAGE), (0x2000, PAGE, 0x10000, descriptor, 0)])
    memory.write(0x1FFC, b"abcdefgh")
    assert memory.read(0x1FFC, 8) == b"abcdefgh"
    assert os.pread(descriptor, 4, 2 * PAGE - 4) == b"abcd"
    assert os.pread(descriptor, 4, 0) == b"efgh"
    assert memory.regions == ((0x1000, PAGE, 0x90000), (0x2000, PAGE, 0x10000))
    assert len(memory) == 2


@pytest.mark.parametrize(
    ("address", "length"),
    [(0, 1), (0xFFF, 1), (0xFFF, 2), (0x1FFF, 2), (0x2FFF, 4), (0x3000, 1), (1 << 63, 1), ((1 << 64) - 1, 8)],
)
def test_what_is_not_all_in_regions_is_refused(descriptor: int, address: int, length: int) -> None:
    memory = GuestMemory([(0x1000, PAGE, 0, descriptor, 0), (0x2800, 0x7FF, 0x5000, descriptor, 0)])
    with pytest.raises(ValueError, match="not all in memory regions"):
        memory.read(address, length)
    with pytest.raises(ValueError, match="not all in memory regions"):
        memory.write(address, bytes(length))


def test_an_empty_memory_has_nothing() -> None:
    with pytest.raises(ValueError, match="not all in"):
        GuestMemory().read(0, 1)
    assert GuestMemory().read(0, 0) == b""


@pytest.mark.parametrize(
    ("regions", "reason"),
    [
        ([(0, 2 * PAGE, 0, 0), (PAGE, PAGE, 0x100000, 0)], "overlaps"),
        ([(0, 2 * PAGE, 0, 0), (4 * PAGE, PAGE, PAGE, 0)], "front end addresses"),
        ([(0, 0, 0, 0)], "not possible"),
        ([((1 << 64) - PAGE, 2 * PAGE, 0, 0)], "wraps"),
        ([(0, 2 * PAGE, (1 << 64) - PAGE, 0)], "wraps"),
        ([(0, PAGE, 0, (1 << 63) - PAGE)], "wraps"),
        ([(0, 1 << 21, 0, 0)], "too few"),
        ([(0, PAGE, 0, 1 << 20)], "too few"),
        ([(-1, PAGE, 0, 0)], "not possible"),
        ([(n * PAGE, PAGE, n * PAGE, 0) for n in range(MAX_MEMORY_REGIONS + 1)], "more than"),
    ],
)
def test_tables_that_make_no_sense(descriptor: int, regions: list[tuple[int, int, int, int]], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        GuestMemory([(guest, size, user, descriptor, offset) for guest, size, user, offset in regions])


def test_a_descriptor_that_cannot_be_mapped_is_an_os_error() -> None:
    reader, writer = os.pipe()
    os.close(writer)
    with pytest.raises((OSError, ValueError)):
        GuestMemory([(0, PAGE, 0, reader, 0)])
    os.close(reader)
    with pytest.raises(OSError, match="Bad file descriptor"):
        GuestMemory([(0, PAGE, 0, reader, 0)])


def test_an_offset_that_is_not_page_aligned(descriptor: int) -> None:
    os.pwrite(descriptor, b"here", PAGE + 100)
    assert GuestMemory([(0, PAGE, 0, descriptor, PAGE + 100)]).read(0, 4) == b"here"


def test_large_regions_lie_where_huge_pages_are_possible() -> None:
    descriptor = memfd(8 << 20)
    memory = GuestMemory([(0, 6 << 20, 0, descriptor, 2 << 20)])
    memory.write(0, b"x")
    os.close(descriptor)
    with Path("/proc/self/maps").open() as maps:
        starts = [int(line.split("-")[0], 16) for line in maps if "memfd:guest" in line and " 00200000 " in line]
    assert starts
    assert all(start % (2 << 20) == 0 for start in starts)


def test_regions_come_and_go_without_remapping_the_others(descriptor: int) -> None:
    one = GuestMemory([(0, PAGE, 0, descriptor, 0)])
    other = memfd(PAGE)
    two = one.with_region((PAGE, PAGE, 0x8000, other, 0))
    os.close(other)
    two.write(PAGE - 2, b"1234")
    assert one.read(PAGE - 2, 2) == b"12"
    with pytest.raises(ValueError, match="no memory region"):
        two.without_region(PAGE, PAGE, 0x9000)
    with pytest.raises(ValueError, match="overlaps"):
        two.with_region((PAGE, PAGE, 0x8000, descriptor, 0))
    left = two.without_region(0, PAGE, 0)
    del one, two
    assert left.read(PAGE, 2) == b"34"
    assert left.regions == ((PAGE, PAGE, 0x8000),)


# --- the dirty log ---


@given(address=st.integers(0, 64 * PAGE), length=st.integers(0, 5 * PAGE))
def test_the_log_has_one_bit_for_each_page_written(address: int, length: int) -> None:
    descriptor = memfd(PAGE)
    log = DirtyLog(descriptor, 0, 8)
    log.mark(address, length)
    bits = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    os.close(descriptor)
    pages = {byte // PAGE for byte in (address, address + length - 1)} if length else set()
    pages = set(range(min(pages), max(pages) + 1)) if pages else pages
    assert bits == sum(1 << page for page in pages if page < 64)
    assert log.missed == sum(page >= 64 for page in pages)


def test_a_write_is_logged_and_other_bits_stay(descriptor: int) -> None:
    bitmap = memfd(PAGE)
    os.pwrite(bitmap, b"\x80\x01", 8)
    memory = GuestMemory([(0, 64 * PAGE, 0, descriptor, 0)])
    log = DirtyLog(bitmap, 8, 16)
    memory.write(8 * PAGE - 1, b"ab", log)
    assert os.pread(bitmap, 2, 8) == b"\x80\x01"
    memory.write(9 * PAGE, b"c", log)
    assert os.pread(bitmap, 2, 8) == b"\x80\x03"
    os.close(bitmap)
    with pytest.raises(ValueError, match="0 bytes"):
        DirtyLog(descriptor, 0, 0)


# --- files that are cut short ---


def test_memory_that_its_owner_cuts_short_reads_as_zeros_and_is_broken(descriptor: int) -> None:
    memory = GuestMemory([(0, 4 * PAGE, 0, descriptor, 0)])
    whole = GuestMemory([(0, PAGE, 0, descriptor, 0)])
    memory.write(0, b"first")
    memory.write(3 * PAGE, b"last")
    assert not memory.broken
    os.ftruncate(descriptor, PAGE)
    assert memory.read(3 * PAGE, 4) == bytes(4)
    assert memory.broken
    assert memory.read(0, 5) == b"first"
    memory.write(2 * PAGE, b"swallowed")
    assert not whole.broken
    os.ftruncate(descriptor, 4 * PAGE)
    assert os.pread(descriptor, 4, 3 * PAGE) == bytes(4)


def test_memory_that_cannot_shrink_is_never_broken() -> None:
    descriptor = memfd(4 * PAGE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    memory = GuestMemory([(0, 4 * PAGE, 0, descriptor, 0)])
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, PAGE)
    memory.write(3 * PAGE, b"x")
    assert not memory.broken
    os.close(descriptor)


OUTSIDE = """
import mmap, os, signal, sys
from _fastpath.guest_memory import GuestMemory
{before}
descriptor = os.memfd_create("guest")
os.ftruncate(descriptor, 8192)
memory = GuestMemory([(0, 8192, 0, descriptor, 0)])
other = os.memfd_create("other")
os.ftruncate(other, 8192)
foreign = mmap.mmap(other, 8192)
os.ftruncate(descriptor, 0)
memory.read(4096, 1)
os.ftruncate(other, 0)
foreign[4096]
print("survived")
"""


@pytest.mark.parametrize("before", ["", "signal.signal(signal.SIGBUS, signal.SIG_IGN)"])
def test_a_bus_error_elsewhere_still_ends_the_process(before: str) -> None:
    done = subprocess.run([sys.executable, "-c", OUTSIDE.format(before=before)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGBUS, done.stderr


def test_an_earlier_handler_gets_the_bus_errors_that_are_not_ours() -> None:
    before = "import faulthandler; faulthandler.enable()"
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE.format(before=before)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGBUS
    assert done.stderr.count("Fatal Python error: Bus error") == 1


def test_a_bus_error_that_was_sent_reaches_an_earlier_handler() -> None:
    program = """
import os, signal
seen = []
signal.signal(signal.SIGBUS, lambda *arguments: seen.append(1))
from _fastpath.guest_memory import GuestMemory
descriptor = os.memfd_create("guest")
os.ftruncate(descriptor, 4096)
memory = GuestMemory([(0, 4096, 0, descriptor, 0)])
os.kill(os.getpid(), signal.SIGBUS)
print(seen)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout == "[1]\n"


def test_mappings_are_given_back(descriptor: int) -> None:
    def mapped() -> int:
        with Path("/proc/self/maps").open() as maps:
            return sum("memfd:guest" in line for line in maps)

    before = mapped()
    for _ in range(100):
        GuestMemory([(0, 16 * PAGE, 0, descriptor, 0)]).write(0, b"x")
    assert mapped() == before
    assert mmap.PAGESIZE == PAGE
