"""What every direct access block device must have, and what this one leaves out (SBC-4 5.1)."""

from __future__ import annotations

import pytest

from tests.conformance.counterparts import counterpart_of
from tests.conformance.initiator import BLOCK, BLOCKS, GOOD, INVALID_OPERATION_CODE, Initiator, cdb


@counterpart_of("Mandatory.MandatorySBC")
@pytest.mark.parametrize(
    ("command", "count"),
    [
        ("12 00 00 00ff 00", 255),
        ("25 00 00000000 0000 00 00", 8),
        ("9e10 0000000000000000 0000000f 0000", 15),
        ("28 00 00000000 00 0001 00", BLOCK),
        ("88 00 0000000000000000 00000001 00 00", BLOCK),
        ("00 00 00 00 00 00", 0),
    ],
    ids=["INQUIRY", "READ CAPACITY (10)", "READ CAPACITY (16)", "READ (10)", "READ (16)", "TEST UNIT READY"],
)
def test_mandatory_command(first: Initiator, command: str, count: int) -> None:
    assert first.says(command, data_in=count) == GOOD


@counterpart_of("TestUnitReady.Simple")
def test_unit_is_ready(first: Initiator) -> None:
    assert first.says("00 00 00 00 00 00") == GOOD


@pytest.mark.parametrize("opcode", [0x8B, 0x9C], ids=["ORWRITE (16)", "WRITE ATOMIC (16)"])
def test_what_is_left_out_is_refused_as_unknown_and_not_reported(first: Initiator, opcode: int) -> None:
    for lba in (0, BLOCKS):
        assert first.says(cdb(opcode, 16, lba, 1), bytes(BLOCK)) == INVALID_OPERATION_CODE
    assert first.fetch(f"a30c 01 {opcode:02x} 0000 0000ffff 0000")[1] & 0x07 == 0x01
