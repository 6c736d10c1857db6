"""Commands in the presence of a persistent reservation (SPC-4 5.13.3 tables 65 and 66, SBC-4 4.17 table 13).

``says`` of each command is GOOD when nothing is reserved, so that a conflict can only be the reservation's.
"""

from __future__ import annotations

import pytest

from pyproxy.device.emulated import EmulatedUnit
from tests.unit.emulated.initiator import CONFLICT, GOOD, REGISTER, RESERVE, Initiator, initiators

BLOCK = b"\0" * 512

# Name, CDB, data sent, whether each of WE, EA, REG, UW, UE lets it pass (A) or not (C): the columns of the tables for a
# nexus other than the holder of Write Exclusive and Exclusive Access, registered under registrants only, and
# unregistered under the write exclusive and the exclusive access registrants types.
TABLE = [
    ("INQUIRY", "12 00 00 0024 00", b"", "AAAAA"),
    ("REPORT LUNS", "a0 00 00 000000 00000010 00 00", b"", "AAAAA"),
    ("REQUEST SENSE", "03 00 0000 12 00", b"", "AAAAA"),
    ("PERSISTENT RESERVE IN", "5e 00 0000000000 0008 00", b"", "AAAAA"),
    ("READ CAPACITY (10)", "25 00 00000000 000000 00", b"", "AAAAA"),
    ("READ CAPACITY (16)", "9e 10 0000000000000000 00000020 0000", b"", "AAAAA"),
    ("START STOP UNIT, start", "1b 00 00 00 01 00", b"", "AAAAA"),
    ("TEST UNIT READY", "00 00 00 00 00 00", b"", "AAAAA"),
    ("READ (6)", "08 000000 01 00", b"", "ACAAC"),
    ("READ (10)", "28 00 00000000 00 0001 00", b"", "ACAAC"),
    ("READ (12)", "a8 00 00000000 00000001 00 00", b"", "ACAAC"),
    ("READ (16)", "88 00 0000000000000000 00000001 00 00", b"", "ACAAC"),
    ("VERIFY (10)", "2f 00 00000000 00 0001 00", b"", "ACAAC"),
    ("VERIFY (12)", "af 00 00000000 00000001 00 00", b"", "ACAAC"),
    ("VERIFY (16)", "8f 00 0000000000000000 00000001 00 00", b"", "ACAAC"),
    ("PRE-FETCH (10)", "34 00 00000000 00 0001 00", b"", "ACAAC"),
    ("PRE-FETCH (16)", "90 00 0000000000000000 00000001 00 00", b"", "ACAAC"),
    ("GET LBA STATUS", "9e 12 0000000000000000 00000018 0000", b"", "ACAAC"),
    ("MODE SENSE (6)", "1a 00 3f 00 ff 00", b"", "ACAAC"),
    ("MODE SENSE (10)", "5a 00 3f 00 000000 00ff 00", b"", "ACAAC"),
    ("REPORT SUPPORTED OPERATION CODES", "a3 0c 00 00 0000 00000100 00 00", b"", "ACAAC"),
    ("REPORT SUPPORTED TMFS", "a3 0d 00 000000 00000010 00 00", b"", "ACAAC"),
    ("WRITE (6)", "0a 000000 01 00", BLOCK, "CCACC"),
    ("WRITE (10)", "2a 00 00000000 00 0001 00", BLOCK, "CCACC"),
    ("WRITE (12)", "aa 00 00000000 00000001 00 00", BLOCK, "CCACC"),
    ("WRITE (16)", "8a 00 0000000000000000 00000001 00 00", BLOCK, "CCACC"),
    ("WRITE AND VERIFY (10)", "2e 00 00000000 00 0001 00", BLOCK, "CCACC"),
    ("WRITE AND VERIFY (12)", "ae 00 00000000 00000001 00 00", BLOCK, "CCACC"),
    ("WRITE AND VERIFY (16)", "8e 00 0000000000000000 00000001 00 00", BLOCK, "CCACC"),
    ("WRITE SAME (10)", "41 00 00000000 00 0001 00", BLOCK, "CCACC"),
    ("WRITE SAME (16)", "93 00 0000000000000000 00000001 00 00", BLOCK, "CCACC"),
    ("COMPARE AND WRITE", "89 00 0000000000000000 000000 01 00 00", 2 * BLOCK, "CCACC"),
    ("UNMAP", "42 00 00000000 00 0000 00", b"", "CCACC"),
    ("SYNCHRONIZE CACHE (10)", "35 00 00000000 00 0000 00", b"", "CCACC"),
    ("SYNCHRONIZE CACHE (16)", "91 00 0000000000000000 00000000 00 00", b"", "CCACC"),
    ("MODE SELECT (6)", "15 10 0000 00 00", b"", "CCACC"),
    ("MODE SELECT (10)", "55 10 0000000000 0000 00", b"", "CCACC"),
    ("SEND DIAGNOSTIC", "1d 04 00 0000 00", b"", "CCACC"),
    ("START STOP UNIT, start and load", "1b 00 00 00 11 00", b"", "CCxCC"),
]

COMMANDS = pytest.mark.parametrize(("cdb", "data", "row"), [pytest.param(*row[1:], id=row[0]) for row in TABLE])


@pytest.fixture(scope="module")
def shared() -> list[Initiator]:
    return initiators(EmulatedUnit(1 << 20), 4)


@pytest.fixture(params=[1, 3, 5, 6, 7, 8])
def reserved(request: pytest.FixtureRequest, shared: list[Initiator]) -> tuple[int, list[Initiator]]:
    """a holds, b is registered, c is not."""
    a, b, c, _ = shared
    b.out(6, sa_key=2)
    b.out(3, key=2)
    for one in shared:
        one.drain()
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    assert a.out(RESERVE, key=1, kind=request.param) == GOOD
    return request.param, [a, b, c]


def outcome(initiator: Initiator, cdb: str, data: bytes) -> str:
    answer = initiator.says(cdb, data, 0 if data else 4096)
    if answer == GOOD:
        return "A"
    if answer == "02 05/24/00":
        return "x"  # let in, and then found not to be supported
    assert answer == CONFLICT
    return "C"


@COMMANDS
def test_other_registrants(reserved: tuple[int, list[Initiator]], cdb: str, data: bytes, row: str) -> None:
    kind, (_, b, _) = reserved
    assert outcome(b, cdb, data) == row[{1: 0, 3: 1}.get(kind, 2)]


@COMMANDS
def test_unregistered(reserved: tuple[int, list[Initiator]], cdb: str, data: bytes, row: str) -> None:
    kind, (_, _, c) = reserved
    assert outcome(c, cdb, data) == row[{1: 0, 3: 1, 5: 3, 7: 3, 6: 4, 8: 4}[kind]]


@COMMANDS
def test_the_holder(reserved: tuple[int, list[Initiator]], cdb: str, data: bytes, row: str) -> None:
    _, (a, _, _) = reserved
    assert outcome(a, cdb, data) == ("x" if "x" in row else "A")


@COMMANDS
def test_nothing_reserved(shared: list[Initiator], cdb: str, data: bytes, row: str) -> None:
    shared[0].out(6, sa_key=1)
    shared[0].out(3, key=1)
    for one in shared:
        one.drain()
    shared[1].out(REGISTER, sa_key=1)
    for one in shared:
        assert outcome(one, cdb, data) == ("x" if "x" in row else "A")
    shared[1].out(REGISTER, key=1)


@pytest.mark.parametrize("action", [1, 2, 3, 4, 5])
def test_pr_out_of_the_unregistered(reserved: tuple[int, list[Initiator]], action: int) -> None:
    kind, (_, _, c) = reserved
    assert c.out(action, sa_key=1, kind=kind) == CONFLICT


def test_pr_out_of_a_registrant(reserved: tuple[int, list[Initiator]]) -> None:
    kind, (a, b, c) = reserved
    holds = kind in (7, 8)
    assert b.out(1, key=2, kind=kind) == (GOOD if holds else CONFLICT)
    assert b.move(2, 7, c.nexus) == CONFLICT
    assert b.out(4, key=2, sa_key=1, kind=kind) == GOOD
    assert a.drain() == ["06/2a/05"]
