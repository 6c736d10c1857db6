"""Which commands there are, and the commands about the unit as a whole (SPC-4 6.35, 6.36, 6.42; SBC-4 5.25)."""

from __future__ import annotations

import struct

import pytest

from tests.unit.emulated.initiator import CONFLICT, GOOD, REGISTER, RESERVE, Initiator

WITHOUT_ACTION = (
    "00 03 08 0a 12 15 16 17 1a 1b 1d 25 28 2a 2e 2f 34 35 41 42 55 56 57 5a 88 89 8a 8e 8f 90 91 93 a0 a8 aa ae af"
)
WITH_ACTION = {
    0x5E: (0, 1, 2, 3),
    0x5F: (0, 1, 2, 3, 4, 5, 6, 7),
    0x9E: (0x10, 0x12),
    0xA3: (0x0C, 0x0D),
}
PLAIN = [int(one, 16) for one in WITHOUT_ACTION.split()]
EVERY = [(opcode, None) for opcode in PLAIN] + [(code, sa) for code, actions in WITH_ACTION.items() for sa in actions]


def cdb_size(opcode: int) -> int:
    return {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}[opcode >> 5]


def rsoc(options: int, opcode: int = 0, action: int = 0, count: int = 4096) -> str:
    return f"a3 0c {options:02x} {opcode:02x} {action:04x} {count:08x} 00 00"


@pytest.mark.parametrize("rctd", [0x00, 0x80])
def test_all_commands(abc: list[Initiator], rctd: int) -> None:
    data = abc[0].fetch(rsoc(rctd))
    assert struct.unpack_from(">I", data)[0] == len(data) - 4
    size = 20 if rctd else 8
    found = []
    for at in range(4, len(data), size):
        opcode, action, flags, length = struct.unpack_from(">BxHxBH", data, at)
        assert flags & 0x02 == (0x02 if rctd else 0)
        assert length == cdb_size(opcode)
        if rctd:
            assert data[at + 8 : at + 20].hex() == "000a" + "00" * 10
        found.append((opcode, action if flags & 0x01 else None))
        assert flags & 0x01 or action == 0
    assert sorted(found, key=str) == sorted(EVERY, key=str)


def test_all_commands_cut(abc: list[Initiator]) -> None:
    whole = abc[0].fetch(rsoc(0))
    assert abc[0].fetch(rsoc(0, count=10)) == whole[:10]


@pytest.mark.parametrize(("opcode", "action"), EVERY)
def test_one_command(abc: list[Initiator], opcode: int, action: int | None) -> None:
    a, *_ = abc
    size = cdb_size(opcode)
    right, wrong = (0b001, 0b010) if action is None else (0b010, 0b001)
    data = a.fetch(rsoc(right, opcode, action or 0))
    assert (data[1], len(data)) == (0x03, 4 + size)
    assert data[2:5] == size.to_bytes(2) + bytes([opcode])
    if action is not None:
        assert data[5] & 0x1F == action
    assert a.fetch(rsoc(0b011, opcode, action or 0)) == data
    assert a.says(rsoc(wrong, opcode, action or 0), data_in=64) == "02 05/24/00"
    timed = a.fetch(rsoc(0x80 | right, opcode, action or 0))
    assert timed == b"\0\x83" + data[2:] + bytes.fromhex("000a" + "00" * 10)


@pytest.mark.parametrize("options", [0b001, 0b010, 0b011])
def test_a_command_that_does_not_exist(abc: list[Initiator], options: int) -> None:
    assert abc[0].fetch(rsoc(options, 0xC1, 0)).hex() == "00010000"
    assert abc[0].fetch(rsoc(0b010, 0x5F, 8)).hex() == "00010000"
    assert abc[0].fetch(rsoc(0b011, 0x00, 1)).hex() == "00010000"


@pytest.mark.parametrize("options", range(4, 8))
def test_reserved_options(abc: list[Initiator], options: int) -> None:
    assert abc[0].says(rsoc(options), data_in=64) == "02 05/24/00"


@pytest.mark.parametrize(("opcode", "bits"), [(0x28, 0x18), (0x2A, 0x18), (0x2F, 0x10), (0x2E, 0x10), (0x89, 0x18)])
def test_dpo_and_fua_are_shown_as_used(abc: list[Initiator], opcode: int, bits: int) -> None:
    assert abc[0].fetch(rsoc(1, opcode))[5] & 0x18 == bits


@pytest.mark.parametrize("opcode", sorted(set(range(256)) - set(PLAIN) - set(WITH_ACTION)))
def test_operation_codes_that_do_not_exist(abc: list[Initiator], opcode: int) -> None:
    assert abc[0].says(f"{opcode:02x}" + "00" * 15) == "02 05/20/00"


@pytest.mark.parametrize(("opcode", "action"), [(0x9E, 0x11), (0xA3, 0x0A), (0xA3, 0x1F)])
def test_service_actions_that_do_not_exist(abc: list[Initiator], opcode: int, action: int) -> None:
    assert abc[0].says(f"{opcode:02x}{action:02x}" + "00" * 14) == "02 05/24/00"


@pytest.mark.parametrize("opcode", PLAIN)
def test_cut_cdbs_and_naca(abc: list[Initiator], opcode: int) -> None:
    size = cdb_size(opcode)
    assert abc[0].says(f"{opcode:02x}" + "00" * (size - 2)) == "02 05/24/00"
    # Auto contingent allegiance does not exist here.
    assert abc[0].says(f"{opcode:02x}" + "00" * (size - 2) + "04") == "02 05/24/00"


def test_no_cdb_and_padded_cdbs(abc: list[Initiator]) -> None:
    assert abc[0].says("") == "02 05/20/00"
    assert abc[0].says("00" * 32) == GOOD
    assert abc[0].says("28" + "00" * 7 + "01" + "00" * 23, data_in=512) == GOOD


def test_start_and_stop(abc: list[Initiator]) -> None:
    a, b, _ = abc
    assert a.says("1b 01 00 00 00 00") == GOOD
    for cdb in (
        "00 00 00 00 00 00",
        "28 00 00000000 00 0001 00",
        "25 00 00000000 0000 00 00",
        "35 00 00000000 00 0000 00",
        "9e 10 0000000000000000 00000020 0000",
    ):
        assert b.says(cdb, data_in=512) == "02 02/04/02"
    for cdb in ("12 00 00 0024 00", "1a 00 3f 00 ff 00", "5e 00 0000000000 0008 00", rsoc(0)):
        assert b.says(cdb, data_in=4096) == GOOD
    assert b.out(REGISTER, sa_key=1) == GOOD
    assert b.fetch("03 00 0000 12 00")[2:14:10].hex() == "0204"
    assert b.out(RESERVE, key=1, kind=3) == GOOD
    # A conflict comes before not ready; starting is always allowed, stopping is not.
    assert a.read() == CONFLICT
    assert a.says("1b 00 00 00 00 00") == CONFLICT
    assert a.says("1b 00 00 00 01 00") == GOOD
    assert b.read() == GOOD


@pytest.mark.parametrize("byte_4", [0x10, 0x20, 0x30, 0xF1, 0x02, 0x03])
def test_power_conditions_and_ejecting_do_not_exist(abc: list[Initiator], byte_4: int) -> None:
    assert abc[0].says(f"1b 00 00 00 {byte_4:02x} 00") == "02 05/24/00"
    assert abc[0].read() == GOOD


@pytest.mark.parametrize(
    ("cdb", "answer"),
    [
        ("1d 04 00 0000 00", GOOD),
        ("1d 00 00 0000 00", GOOD),
        ("1d 20 00 0000 00", "02 05/24/00"),
        ("1d 10 00 0004 00", "02 05/24/00"),
    ],
)
def test_send_diagnostic(abc: list[Initiator], cdb: str, answer: str) -> None:
    assert abc[0].says(cdb, bytes(4)) == answer


def test_report_supported_task_management_functions(abc: list[Initiator]) -> None:
    # ABORT TASK SET, LOGICAL UNIT RESET; I_T NEXUS RESET
    assert abc[0].fetch("a3 0d 00 000000 00000100 00 00").hex() == "48010000"
    assert abc[0].fetch("a3 0d 80 000000 00000100 00 00").hex() == "4801000c" + "00" * 12
    assert abc[0].says("a3 0d 00 000000 00000003 00 00", data_in=4) == "02 05/24/00"


def test_prevent_allow_medium_removal_does_not_exist(abc: list[Initiator]) -> None:
    assert abc[0].says("1e 00 00 00 00 00") == "02 05/20/00"
