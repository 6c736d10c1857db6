"""Batch CDB parsing against a C loop that fills the same structs and checks nothing."""

from __future__ import annotations

import ctypes
import random
import struct
from collections.abc import Callable

import pytest

from _fastpath.cdb import ParsedBatch, parse, parse_batch
from bench.conftest import Bench
from bench.floor import build_library

SLOT = 16
STREAM = 1 << 20
HOT_SET = 4096
BATCH = 32  # what a queue typically holds
GOAL = 1.3


def data_cdb(random: random.Random) -> bytes:
    """A READ or WRITE of 6, 10, 12 or 16 bytes, each as likely."""
    write = random.randrange(2) << 1
    size = random.randrange(4)
    blocks = random.choice((1, 8, 16, 64, 256))
    if size == 0:
        return bytes([0x08 | write, *random.getrandbits(21).to_bytes(3, "big"), blocks & 0xFF, 0])
    if size == 1:
        return struct.pack(">BBIBHB", 0x28 | write, 0, random.getrandbits(32), 0, blocks, 0)
    if size == 2:
        return struct.pack(">BBIIBB", 0xA8 | write, 0, random.getrandbits(32), blocks, 0, 0)
    return struct.pack(">BBQIBB", 0x88 | write, 0, random.getrandbits(40), blocks, 0, 0)


OTHERS = tuple(
    bytes.fromhex(text)
    for text in (
        "00 00 00 00 00 00",
        "35 00 00 00 00 00 00 00 00 00",
        "42 00 00 00 00 00 00 00 18 00",
        "93 08 00 00 00 00 00 00 10 00 00 00 08 00 00 00",
        "9E 10 00 00 00 00 00 00 00 00 00 00 00 20 00 00",
        "5E 00 00 00 00 00 00 20 00 00",
        "A3 0A 00 00 00 00 00 00 02 00 00 00",
    )
)


def stream(count: int, others: float = 0.0) -> bytes:
    """``count`` CDBs in slots of 16 bytes; the share ``others`` of them are not reads or writes."""
    source = random.Random(20_260_131)
    data = [data_cdb(source).ljust(SLOT, b"\0") for _ in range(min(count, 1 << 16))]
    rest = [cdb.ljust(SLOT, b"\0") for cdb in OTHERS]
    return b"".join(source.choice(rest) if source.random() < others else source.choice(data) for _ in range(count))


Loops = dict[str, Callable[[], object]]


def loops(cdbs: bytes, repeat: int, *, all_data: bool) -> tuple[Callable[[], object], Loops]:
    """The parser and the C loops over the same CDBs, each ``repeat`` times per call."""
    library = build_library("cdb_parse")
    library.floor_init()
    library.floor_fields.restype = ctypes.c_uint64
    count = len(cdbs) // SLOT
    out = ParsedBatch(count)
    structs = ctypes.create_string_buffer(32 * count)
    slot, number = ctypes.c_size_t(SLOT), ctypes.c_size_t(count)

    def ours() -> None:
        for _ in range(repeat):
            parse_batch(cdbs, SLOT, out)

    def decode() -> None:
        for _ in range(repeat):
            library.floor_decode(cdbs, slot, number, 512, structs)

    def switch() -> None:
        for _ in range(repeat):
            library.floor_switch(cdbs, slot, number, 512, structs)

    def fields() -> None:
        for _ in range(repeat):
            library.floor_fields(cdbs, slot, number)

    if all_data:
        for loop in (decode, switch):
            ours()
            loop()
            assert bytes(out) == bytes(structs), "the floor must do the same work"
    return ours, {"floor": decode, "C switch": switch, "C fields only": fields}


@pytest.mark.parametrize(
    ("name", "count", "repeat", "others", "goal"),
    [
        ("1M mixed stream", STREAM, 1, 0.0, GOAL),
        ("4K hot set", HOT_SET, 64, 0.0, GOAL),
        ("1M stream, 5% neither read nor write", STREAM, 1, 0.05, None),
    ],
)
def test_batch_parse(bench: Bench, name: str, count: int, repeat: int, others: float, goal: float | None) -> None:
    if bench.quick:
        count, repeat = min(count, 1 << 16), min(repeat, 4)
    ours, others_and_floor = loops(stream(count, others), repeat, all_data=not others)
    floor = others_and_floor.pop("floor")
    bench.compare(
        f"CDB parse, {name}",
        ours,
        floor,
        operations=count * repeat,
        unit="ns per CDB",
        rounds=31,
        goal=goal,
        others=others_and_floor,
    )


def test_small_batches(bench: Bench) -> None:
    """The cost of entering and leaving parse_batch, spread over a queue's worth of commands."""
    cdbs = stream(BATCH)
    library = build_library("cdb_parse")
    library.floor_init()
    structs = ctypes.create_string_buffer(32 * BATCH)
    out = ParsedBatch(BATCH)
    calls = 200 if bench.quick else 2000

    def ours() -> None:
        for _ in range(calls):
            parse_batch(cdbs, SLOT, out)

    def floor() -> None:
        # The C loop runs over all calls at once: entering C from Python is no part of the floor.
        library.floor_repeat(cdbs, ctypes.c_size_t(SLOT), ctypes.c_size_t(BATCH), 512, structs, ctypes.c_size_t(calls))

    bench.compare(
        f"CDB parse, batches of {BATCH} from Python",
        ours,
        floor,
        operations=calls * BATCH,
        unit="ns per CDB",
        rounds=31,
    )


def test_one_by_one(bench: Bench) -> None:
    """parse() makes one Python object per CDB; the floor unpacks the fields of one layout with struct, knowing it."""
    cdbs = [bytes(stream(64)[i : i + SLOT]) for i in range(0, 64 * SLOT, SLOT)]
    calls = 10 if bench.quick else 100
    unpack = struct.Struct(">BBIBHB6x").unpack

    def ours() -> None:
        for _ in range(calls):
            for cdb in cdbs:
                parse(cdb)

    def floor() -> None:
        for _ in range(calls):
            for cdb in cdbs:
                unpack(cdb)

    bench.compare(
        "CDB parse, one object each",
        ours,
        floor,
        operations=calls * len(cdbs),
        unit="ns per CDB",
        rounds=31,
    )
