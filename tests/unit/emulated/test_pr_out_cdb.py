"""What is wrong with a PERSISTENT RESERVE OUT before the reservation rules count (SPC-4 6.16.2, 6.16.3)."""

from __future__ import annotations

import pytest

from pyproxy.scsi.command import Command
from tests.unit.emulated.initiator import CONFLICT, GOOD, REGISTER, RESERVE, Initiator


@pytest.mark.parametrize("action", range(8, 32))
def test_service_actions_that_do_not_exist(abc: list[Initiator], action: int) -> None:
    assert abc[0].out(action, sa_key=1) == "02 05/24/00"
    assert abc[0].keys() == []


@pytest.mark.parametrize("action", range(4, 32))
def test_in_service_actions_that_do_not_exist(abc: list[Initiator], action: int) -> None:
    assert abc[0].says(f"5e {action:02x} 0000000000 00ff 00", data_in=255) == "02 05/24/00"


def test_bits_above_the_service_action_are_not_part_of_it(abc: list[Initiator]) -> None:
    assert abc[0].says("5f e0 00 0000 00000018 00", bytes(8) + bytes([0] * 7 + [1]) + bytes(8)) == GOOD
    assert abc[0].keys() == [1]


@pytest.mark.parametrize("length", [0, 1, 8, 23, 25, 32, 4096])
@pytest.mark.parametrize("action", range(7))
def test_list_length(abc: list[Initiator], length: int, action: int) -> None:
    assert abc[0].says(f"5f {action:02x} 01 0000 {length:08x} 00", bytes(length)) == "02 05/1a/00"


def test_list_length_beyond_what_is_sent(abc: list[Initiator]) -> None:
    assert abc[0].says("5f 00 00 0000 00000018 00", bytes(23)) == "02 05/1a/00"
    assert abc[0].says("5f 00 00 0000 ffffffff 00", bytes(24)) == "02 05/1a/00"


def test_more_sent_than_the_list(abc: list[Initiator]) -> None:
    result = abc[0].send("5f 00 00 0000 00000018 00", bytes(8) + bytes([0] * 7 + [1]) + bytes(8) + b"more")
    assert (result.status, result.residual) == (0, 4)
    assert abc[0].keys() == [1]


@pytest.mark.parametrize("kind", [1, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("action", [1, 2, 3, 4, 5, 7])
def test_a_conflict_is_found_before_the_list_is_looked_at(abc: list[Initiator], kind: int, action: int) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    a.out(RESERVE, key=1, kind=kind)
    assert b.says(f"5f {action:02x} 0f 0000 00000000 00") == CONFLICT
    for registering in (0, 6):
        assert b.says(f"5f {registering:02x} 0f 0000 00000000 00") == "02 05/1a/00"


def test_reserve_scattered_over_buffers(abc: list[Initiator]) -> None:
    body = bytes(8) + (0x1122334455667788).to_bytes(8) + bytes(8)
    parts = [body[:3], bytearray(body[3:9]), memoryview(body[9:])]
    assert abc[0].nexus.execute(Command(bytes.fromhex("5f000000000000001800"), data_out=parts)).good
    assert abc[0].keys() == [0x1122334455667788]


@pytest.mark.parametrize("flags", [0x01, 0x05])
@pytest.mark.parametrize("action", [0, 6])
def test_aptpl_without_stable_storage(abc: list[Initiator], flags: int, action: int) -> None:
    assert abc[0].out(action, sa_key=1, flags=flags) == "02 05/26/00"
    assert abc[0].keys() == []


def test_short_cdb(abc: list[Initiator]) -> None:
    assert abc[0].says("5f 00 00 00") == "02 05/24/00"
    assert abc[0].says("5f") == "02 05/24/00"
