"""What guards against regressions: instructions of the hot loops beside those of a C loop, the same on every run.

Time tells more and repeats worse: a machine that others use moves it by more than a regression does. ``make
bench-compare`` compares these ratios with a stored run (``bench.compare``).
"""

from __future__ import annotations

import ctypes
import functools
import tempfile
from pathlib import Path

import pytest

from _fastpath.cdb import ParsedBatch, parse_batch
from bench.conftest import Bench
from bench.counting import instructions
from bench.floor import build_library
from bench.report import record
from bench.test_cdb_parse import SLOT, stream
from bench.test_plane import MEDIUM, READ_10, WRITE_10, per_command

PARSE = """
import sys
from bench.test_guard import parse
parse(int(sys.argv[2]), sys.argv[3], int(sys.argv[1]))
"""
COPY = """
import sys
from bench.test_guard import copy
copy(int(sys.argv[2]), int(sys.argv[1]))
"""
COMMANDS = 20_000
REPEATED = 400
"""So many that what a whole program does otherwise is nothing beside it."""


def parse(count: int, whose: str, repeat: int) -> None:
    """Parse CDBs again and again, ours or the floor's way."""
    cdbs = stream(count)
    if whose == "ours":
        out = ParsedBatch(count)
        for _ in range(repeat):
            parse_batch(cdbs, SLOT, out)
        return
    library = build_library("cdb_parse")
    library.floor_init()
    structs = ctypes.create_string_buffer(32 * count)
    for _ in range(repeat):
        library.floor_decode(cdbs, ctypes.c_size_t(SLOT), ctypes.c_size_t(count), 512, structs)


def copy(count: int, repeat: int) -> None:
    """Copy 4 KiB blocks from a medium to a ring of buffers again and again."""
    block = 4096
    library = build_library("plane")
    medium, ring = ctypes.create_string_buffer(MEDIUM), ctypes.create_string_buffer(block * 128)
    blocks = ctypes.c_uint64(MEDIUM // block)
    for _ in range(repeat):
        library.floor_copy(medium, blocks, ctypes.c_uint32(block), ring, ctypes.c_uint32(128), ctypes.c_uint64(count))


def test_parse(bench: Bench, tmp_path: Path) -> None:
    count = 4096
    ours = instructions("*cdb_parse_many", PARSE, "1", str(count), "ours", directory=tmp_path) / count
    floor = _per_repeat(PARSE, str(count), "floor") / count
    _keep(bench, "guard: CDB parse, mixed stream, floor: C loop", ours, floor, "instructions per CDB")


@pytest.mark.parametrize(("name", "opcode"), [("READ(10)", READ_10), ("WRITE(10)", WRITE_10), ("TEST UNIT READY", 0)])
def test_ring(bench: Bench, tmp_path: Path, name: str, opcode: int) -> None:
    ours = per_command(COMMANDS, "on", opcode, tmp_path)
    floor = _per_repeat(COPY, "1000") / 1000
    _keep(bench, f"guard: virtio-scsi {name}, floor: copy of 4 KiB", ours, floor, "instructions per command")


@functools.cache
def _per_repeat(program: str, *words: str) -> float:
    """Instructions of one repetition: the difference between many and one, which begin and end alike.

    For functions whose names callgrind does not see. The first run is for what Python compiles once.
    """
    with tempfile.TemporaryDirectory() as directory:
        _, one, many = (
            instructions(None, program, str(times), *words, directory=Path(directory)) for times in (1, 1, 1 + REPEATED)
        )
    return (many - one) / REPEATED


def _keep(bench: Bench, name: str, ours: float, floor: float, unit: str) -> None:
    bench.measured.append(record(name, ours, floor, unit))
    bench.benchmark.pedantic(lambda: None, rounds=1)  # type: ignore[no-untyped-call]
