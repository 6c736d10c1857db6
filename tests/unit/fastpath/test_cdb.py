"""CDB parsing: literal CDBs of every command, batches, bounds, and an independent decoder over random bytes."""

from __future__ import annotations

import gc
import struct
import sys
import threading

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from _fastpath import cdb as module
from _fastpath import optable
from _fastpath.cdb import ParsedBatch, ParsedCdb, parse, parse_batch
from tests.unit.fastpath.cdb_cases import CASES, Case
from tests.unit.fastpath.reference_decoder import Decoded, cdb_length, decode

CLASSES = {"always": 0, "read": 1, "write": 2, "pr": 3, "spc2": 4}
LANES = {"fast": 0, "inspect": 1, "pr": 2}
DIRECTIONS = {"none": 0, "in": 1, "out": 2, "both": 3, "unknown": 4}


def ids(case: Case) -> str:
    return f"{case.name} {case.cdb[:12].hex()}"


def test_constants_are_what_other_modules_were_told() -> None:
    assert [module.CLASS_ALWAYS, module.CLASS_READ, module.CLASS_WRITE, module.CLASS_PR, module.CLASS_SPC2] == [
        0, 1, 2, 3, 4,
    ]  # fmt: skip
    assert [module.LANE_FAST, module.LANE_INSPECT, module.LANE_PR] == [0, 1, 2]


@pytest.mark.parametrize("case", CASES, ids=ids)
@pytest.mark.parametrize("block_size", [512, 4096])
def test_literal_cdb(case: Case, block_size: int) -> None:
    parsed = parse(case.cdb, block_size)
    assert parsed.valid
    assert not parsed.unknown
    assert parsed.name == case.name
    assert parsed.opcode == case.cdb[0]
    assert parsed.lba == case.lba
    assert parsed.blocks == case.blocks
    assert parsed.bytes == case.bytes_at(block_size)
    assert parsed.cls == CLASSES[case.cls]
    assert parsed.lane == LANES[case.lane]
    assert parsed.direction == DIRECTIONS[case.direction]
    assert parsed.cdb_length == len(case.cdb)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_truncated_cdb_is_not_valid(case: Case) -> None:
    for length in range(len(case.cdb)):
        parsed = parse(case.cdb[:length])
        assert not parsed.valid
        assert (parsed.lba, parsed.blocks, parsed.bytes) == (0, 0, 0)
        if length:
            assert parsed.opcode == case.cdb[0]
            # A PR command must reach the snooper even cut short.
            if case.lane == "pr":
                assert parsed.lane == 2


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_bytes_beyond_the_cdb_are_ignored(case: Case) -> None:
    assert parse(case.cdb + b"\xff" * 40) == parse(case.cdb) == parse(case.cdb + bytes(300))


def test_every_row_of_the_table_has_a_literal_case() -> None:
    unseen = []
    for row in optable.OPERATIONS:
        same = [case for case in CASES if case.cdb[0] == row.opcode and case.name == row.name]
        if row.when is not None:
            same = [case for case in same if case.cdb[row.when.byte] & row.when.mask == row.when.value]
        if not same:
            unseen.append(row)
    assert unseen == []


def test_rows_are_consistent() -> None:
    for row in optable.OPERATIONS:
        assert row.cdb_length in (6, 10, 12, 16, 32, 64) or row.name == "RECEIVE CREDENTIAL"
        if row.opcode != 0x7F:
            assert row.cdb_length == cdb_length(row.opcode)
        for field in (row.lba, row.transfer):
            assert field is None or (field.last < row.cdb_length and field.bits <= 8 * (field.last - field.first + 1))


@pytest.mark.parametrize("opcode", range(256))
def test_opcodes_of_no_standard_are_writes_in_the_fast_lane(opcode: int) -> None:
    if any(case.cdb[0] == opcode for case in CASES) or opcode in (0x9D, 0xA9):
        return
    parsed = parse(bytes([opcode]) + bytes(15))
    assert parsed.unknown
    assert parsed.valid
    assert (parsed.cls, parsed.lane, parsed.direction) == (2, 0, 4)
    assert (parsed.lba, parsed.blocks, parsed.bytes) == (0, 0, 0)
    assert parsed.cdb_length == cdb_length(opcode)
    assert parsed.name == f"operation code {opcode:02X}h"


@pytest.mark.parametrize(
    ("opcode", "action", "direction"),
    [(0x9E, 0x00, 1), (0x9F, 0x1F, 2), (0xA3, 0x1F, 1), (0xA4, 0x01, 2), (0x9D, 0x03, 3), (0x83, 0x1F, 2),
     (0x84, 0x09, 1), (0xAB, 0x00, 1), (0xA9, 0x1F, 2)],
)  # fmt: skip
def test_service_actions_of_no_standard_are_writes(opcode: int, action: int, direction: int) -> None:
    parsed = parse(bytes([opcode, action]) + bytes(14))
    assert parsed.unknown
    assert (parsed.service_action, parsed.cls, parsed.lane, parsed.direction) == (action, 2, 0, direction)


def test_service_action_ignores_the_bits_above_it() -> None:
    assert parse(bytes.fromhex("5FE400000000000018 00")).service_action == 0x04
    assert parse(bytes.fromhex("5E1400000000000018 00")).service_action == 0x14


def test_names_of_service_actions_nobody_defined() -> None:
    assert parse(bytes.fromhex("9E 00") + bytes(14)).name == "SERVICE ACTION IN(16) service action 00h"
    assert parse(bytes.fromhex("7F 000000000000 18 7777") + bytes(22)).name == (
        "variable length CDB service action 7777h"
    )


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("7F 000000000000 14 000B" + "00" * 22, "WRITE(32) claims 28 bytes"),
        ("7F 000000000000 1C 000B" + "00" * 26, "WRITE(32) claims 36 bytes"),
        ("7F 000000000000 18 000B" + "00" * 21, "31 of 32 bytes there"),
        ("7F 000000000000 00 000B" + "00" * 22, "the claimed length ends before the service action"),
        ("7F 000000000000 17 7777" + "00" * 22, "the length is no multiple of 4"),
        ("7F 000000000000 18 7777" + "00" * 20, "unknown service action, cut short"),
    ],
)
def test_variable_length_cdb_with_a_wrong_length(text: str, why: str) -> None:
    parsed = parse(bytes.fromhex(text))
    assert not parsed.valid, why
    assert (parsed.lba, parsed.blocks, parsed.bytes) == (0, 0, 0)
    assert parsed.cls == 2


def test_variable_length_service_actions_that_share_low_bits_are_told_apart() -> None:
    # 100Bh ends in the bits of 000Bh (WRITE(32)), 8805h is READ of an object device.
    for action in (0x100B, 0x8805, 0x0000, 0x1801):
        parsed = parse(bytes.fromhex("7F00000000000018") + action.to_bytes(2, "big") + b"\x11" * 22)
        assert parsed.unknown
        assert parsed.valid
        assert (parsed.service_action, parsed.lba, parsed.cls, parsed.direction) == (action, 0, 2, 4)


def test_longest_variable_length_cdb() -> None:
    parsed = parse(bytes.fromhex("7F000000000000F8 1800") + bytes(246))
    assert parsed.valid
    assert parsed.cdb_length == 256


def compare(parsed: ParsedCdb, expected: Decoded, cdb: bytes) -> None:
    assert parsed.opcode == expected.opcode
    assert parsed.valid == expected.valid
    assert (parsed.lba, parsed.blocks, parsed.bytes) == (expected.lba, expected.blocks, expected.bytes)
    assert (parsed.lane, parsed.cdb_length) == (expected.lane, expected.cdb_length)
    assert parsed.service_action == expected.service_action
    assert parsed.cls == expected.cls


OPCODES = st.sampled_from(sorted({case.cdb[0] for case in CASES}))
RANDOM_CDBS = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda opcode, rest: bytes([opcode]) + rest, OPCODES, st.binary(max_size=40)),
    st.builds(
        lambda case, rest: bytes(a ^ b for a, b in zip(case.cdb, rest, strict=False)) + case.cdb[len(rest) :],
        st.sampled_from(CASES),
        st.binary(max_size=3).map(lambda noise: bytes(2) + noise),
    ),
    st.builds(
        lambda length, action, rest: b"\x7f" + bytes(6) + bytes([length]) + action.to_bytes(2, "big") + rest,
        st.sampled_from([0x18, 0x38, 0x04, 0x17, 0x00, 0xF8]),
        st.one_of(st.integers(0, 0x20), st.sampled_from([0x1800, 0x1FF0]), st.integers(0, 0xFFFF)),
        st.binary(max_size=60),
    ),
)


@settings(max_examples=1500, deadline=None)
@given(RANDOM_CDBS)
@example(b"")
@example(b"\x7f")
@example(b"\x7f" + bytes(8))
@example(b"\x1b" + bytes(4))
def test_random_bytes_agree_with_the_independent_decoder(cdb: bytes) -> None:
    compare(parse(cdb), decode(cdb), cdb)


@pytest.mark.parametrize("opcode", range(256))
def test_every_opcode_and_second_byte_agrees_with_the_independent_decoder(opcode: int) -> None:
    tail = bytes(range(0x21, 0x21 + 14))
    for second in range(256):
        cdb = bytes([opcode, second]) + tail
        compare(parse(cdb), decode(cdb), cdb)


@settings(max_examples=300, deadline=None)
@given(st.lists(RANDOM_CDBS, max_size=20), st.integers(1, 64), st.sampled_from([512, 520, 4096]))
def test_batch_equals_one_by_one(cdbs: list[bytes], stride: int, block_size: int) -> None:
    slots = [cdb[:stride].ljust(stride, b"\0") for cdb in cdbs]
    batch = parse_batch(b"".join(slots), stride, None, block_size)
    assert list(batch) == [parse(slot, block_size) for slot in slots]
    assert len(batch) == batch.count == len(slots)
    assert batch.invalid == sum(not parse(slot).valid for slot in slots)


def test_batch_is_reused_and_exposes_its_structs() -> None:
    batch = ParsedBatch(4)
    assert len(batch) == 0
    assert memoryview(batch).nbytes == 0
    cdbs = (
        bytes.fromhex("28 00 00 00 10 00 00 00 08 00")
        + bytes(6)
        + bytes.fromhex("5F 04 05 00000000 00 18 00")
        + bytes(6)
    )
    assert parse_batch(cdbs, 16, batch) is batch
    view = memoryview(batch)
    assert (view.nbytes, view.readonly, module.ITEM_SIZE) == (64, True, 32)
    # lba, bytes, blocks, cdb_length, service_action, opcode, cls, lane, direction, valid, unknown
    assert list(struct.iter_unpack(module.ITEM_FORMAT, view)) == [
        (0x1000, 4096, 8, 10, 0, 0x28, 1, 0, 1, 1, 0),
        (0, 24, 0, 10, 4, 0x5F, 3, 2, 2, 1, 0),
    ]
    parse_batch(cdbs[16:], 16, batch)
    assert len(batch) == 1
    assert batch[-1].opcode == batch[0].opcode == 0x5F
    with pytest.raises(IndexError, match="no parsed CDB 1 in a batch of 1"):
        batch[1]
    with pytest.raises(IndexError):
        batch[-2]


def test_view_keeps_the_memory_alive() -> None:
    view = memoryview(parse_batch(bytes.fromhex("12 00 00 00 24 00"), 6))
    gc.collect()
    assert struct.unpack(module.ITEM_FORMAT, view)[1] == 0x24


def test_item_belongs_to_itself_not_to_the_batch() -> None:
    batch = parse_batch(bytes.fromhex("12 00 00 00 24 00"), 6)
    item = batch[0]
    parse_batch(bytes(6), 6, batch)
    assert item.name == "INQUIRY"
    assert item == parse(bytes.fromhex("12 00 00 00 24 00"))
    assert hash(item) == hash(parse(bytes.fromhex("12 00 00 00 24 00")))
    assert item != batch[0]
    assert "INQUIRY" in repr(item)
    assert item.as_tuple() == (0x12, 0, 0, 0, 0x24, 0, 0, 1, 6, True, False)


def test_wrong_use_is_refused_with_a_sentence() -> None:
    with pytest.raises(ValueError, match="17 bytes are no whole number of 16 byte slots"):
        parse_batch(bytes(17), 16)
    with pytest.raises(ValueError, match="2 CDBs do not fit a batch of capacity 1"):
        parse_batch(bytes(32), 16, ParsedBatch(1))
    with pytest.raises(ValueError, match="stride 0 is less than 1 byte"):
        parse_batch(b"", 0)
    with pytest.raises(ValueError, match="at least 1 CDB, not 0"):
        ParsedBatch(0)
    for block_size in (0, -1, 2**31):
        with pytest.raises(ValueError, match=r"block size -?\d+ is not in 1\.\."):
            parse(b"", block_size)
    with pytest.raises(TypeError):
        ParsedCdb()
    with pytest.raises(TypeError, match="read-write"):
        struct.pack_into("B", ParsedBatch(1), 0, 0)  # type: ignore[arg-type]


def test_failed_batch_leaves_the_old_one_alone() -> None:
    batch = parse_batch(bytes.fromhex("12 00 00 00 24 00"), 6)
    with pytest.raises(ValueError, match="do not fit"):
        parse_batch(bytes(12), 6, batch)
    assert batch[0].name == "INQUIRY"


def _sees_a_running_parse(cdbs: bytes, out: ParsedBatch) -> bool:
    """Whether this thread got to run while another one was inside parse_batch."""
    started = threading.Event()
    finished: list[bool] = []

    def work() -> None:
        started.set()
        parse_batch(cdbs, 16, out)
        finished.append(True)

    worker = threading.Thread(target=work)
    worker.start()
    started.wait()
    seen = not finished
    worker.join()
    return seen


def test_parsing_releases_the_gil() -> None:
    cdbs = bytes.fromhex("88 00 01 02 03 04 05 06 07 08 0A 0B 0C 0D 00 00") * 300_000
    out = ParsedBatch(300_000)
    interval = sys.getswitchinterval()
    # Nobody is made to give the GIL up, so who runs beside the worker runs because it let go by itself.
    sys.setswitchinterval(1000)
    try:
        assert any(_sees_a_running_parse(cdbs, out) for _ in range(50))
    finally:
        sys.setswitchinterval(interval)
    assert out[299_999].blocks == 0x0A0B0C0D


def test_largest_block_size_does_not_overflow() -> None:
    parsed = parse(bytes.fromhex("8A 00" + "FF" * 8 + "FF FF FF FF 00 00"), module.MAX_BLOCK_SIZE)
    assert parsed.bytes == 0xFFFFFFFF * (1 << 30)
