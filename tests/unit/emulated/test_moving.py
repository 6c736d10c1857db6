"""REGISTER AND MOVE (SPC-4 5.13.8, 6.16.4)."""

from __future__ import annotations

import struct

import pytest

from pyproxy.device.emulated import EmulatedUnit
from pyproxy.scsi.transport_id import TransportId
from tests.unit.emulated.initiator import CONFLICT, GOOD, REGISTER, RESERVE, Initiator, drained, name

ONE_HOLDER = (1, 3, 5, 6)


@pytest.fixture
def holder(abc: list[Initiator]) -> list[Initiator]:
    """a registered with 1, b with 2, c not; a holds type 5."""
    assert abc[0].out(REGISTER, sa_key=1) == GOOD
    assert abc[1].out(REGISTER, sa_key=2) == GOOD
    assert abc[0].out(RESERVE, key=1, kind=5) == GOOD
    return abc


@pytest.mark.parametrize("kind", ONE_HOLDER)
@pytest.mark.parametrize("unreg", [False, True])
def test_move_to_an_unregistered_nexus(abc: list[Initiator], kind: int, unreg: bool) -> None:
    a, _b, c = abc
    a.out(REGISTER, sa_key=1)
    a.out(RESERVE, key=1, kind=kind)
    assert a.move(1, 0xBEEF, c.nexus, unreg=unreg) == GOOD
    assert (c.reservation(), c.keys()) == ((0xBEEF, kind), [0xBEEF] if unreg else [1, 0xBEEF])
    assert c.generation() == 2
    assert drained(abc) == [[], [], []]
    assert c.write() == GOOD


def test_move_replaces_the_destinations_key(holder: list[Initiator]) -> None:
    a, b, _ = holder
    assert a.move(1, 7, b.nexus) == GOOD
    assert (a.keys(), a.reservation()) == ([1, 7], (7, 5))


def test_move_of_an_unregistered_nexus_or_with_the_wrong_key(holder: list[Initiator]) -> None:
    a, b, c = holder
    assert c.move(0, 7, b.nexus) == CONFLICT
    assert a.move(2, 7, b.nexus) == CONFLICT


def test_move_by_a_registrant_that_does_not_hold(holder: list[Initiator]) -> None:
    _, b, c = holder
    assert b.move(2, 7, c.nexus) == CONFLICT


def test_move_without_a_reservation(abc: list[Initiator]) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    assert a.move(1, 7, b.nexus) == "02 05/24/00"


@pytest.mark.parametrize("kind", [7, 8])
def test_move_of_an_all_registrants_reservation(abc: list[Initiator], kind: int) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    a.out(RESERVE, key=1, kind=kind)
    assert a.move(1, 7, b.nexus) == CONFLICT


def test_move_with_key_zero(holder: list[Initiator]) -> None:
    a, b, _ = holder
    assert a.move(1, 0, b.nexus) == "02 05/26/00"


def test_move_to_the_own_initiator_port(holder: list[Initiator]) -> None:
    a, *_ = holder
    through_port_2 = a.nexus.unit.nexus(a.nexus.initiator, 2)
    assert a.move(1, 7, a.nexus) == "02 05/26/00"
    assert a.move(1, 7, through_port_2) == "02 05/26/00"


def test_move_to_an_unknown_target_port(holder: list[Initiator], ram: EmulatedUnit) -> None:
    a, b, _ = holder
    name = b.nexus.initiator.encode()
    body = struct.pack(">QQxBHI", 1, 7, 0, 9, len(name)) + name
    cdb = f"5f 07 00 0000 {len(body):08x} 00"
    assert a.says(cdb, body) == "02 05/26/00"
    ram.nexus(TransportId.parse("naa.5001405000000099"), 9)
    assert a.says(cdb, body) == GOOD


@pytest.mark.parametrize(
    ("declared", "sent", "answer"),
    [(24, 20, "02 05/26/00"), (20, 24, "02 05/26/00"), (22, 24, "02 05/26/00"), (0, 0, "02 05/26/00")],
)
def test_move_with_a_cut_transport_id(holder: list[Initiator], declared: int, sent: int, answer: str) -> None:
    a, b, c = holder
    body = struct.pack(">QQxBHI", 1, 7, 0, 1, declared) + b.nexus.initiator.encode()[:sent]
    cdb = f"5f 07 00 0000 {len(body):08x} 00"
    assert a.says(cdb, body) == answer
    # Who asks is judged first.
    assert c.says(cdb, body) == CONFLICT


def test_move_with_a_list_shorter_than_its_fixed_part(holder: list[Initiator]) -> None:
    a, *_ = holder
    assert a.says("5f 07 00 0000 00000017 00", bytes(23)) == "02 05/1a/00"


def test_move_takes_aptpl_from_byte_17_and_nothing_from_byte_20(unit: EmulatedUnit) -> None:
    a, b = (Initiator(unit.nexus(name(number))) for number in range(2))
    a.out(REGISTER, sa_key=1)
    a.out(RESERVE, key=1, kind=1)
    if unit.path is None:
        assert a.move(1, 7, b.nexus, aptpl=True) == "02 05/26/00"
    else:
        assert a.move(1, 7, b.nexus, aptpl=True) == GOOD
        assert a.fetch("5e02 0000000000 0008 00")[3] & 0x01
