"""RESERVE and RELEASE beside persistent reservations, CRH=1 (SPC-4 5.13.3, SPC-2 5.5)."""

from __future__ import annotations

import pytest

from pyproxy.device.emulated import EmulatedUnit
from tests.unit.emulated.initiator import CONFLICT, GOOD, REGISTER, Initiator, initiators
from tests.unit.emulated.initiator import RESERVE as PERSISTENT_RESERVE

RESERVE = {6: "16 00 00 0000 00", 10: "56 00 00 00 00000000 00 00".replace(" ", "")[:20]}
RELEASE = {6: "17 00 00 0000 00", 10: "57 00 00 00 00000000 00 00".replace(" ", "")[:20]}

both_lengths = pytest.mark.parametrize("length", [6, 10])


@both_lengths
def test_reserve_and_release(abc: list[Initiator], length: int) -> None:
    a, b, _ = abc
    assert a.says(RESERVE[length]) == GOOD
    assert a.says(RESERVE[length]) == GOOD
    assert b.says(RESERVE[length]) == CONFLICT
    assert b.says(RELEASE[length]) == GOOD
    assert b.says(RESERVE[length]) == CONFLICT
    assert a.says(RELEASE[length]) == GOOD
    assert b.says(RESERVE[length]) == GOOD


@pytest.mark.parametrize(
    ("cdb", "answer"),
    [
        ("12 00 00 0024 00", GOOD),
        ("a0 00 00 000000 00000010 00 00", GOOD),
        ("03 00 0000 12 00", GOOD),
        ("00 00 00 00 00 00", CONFLICT),
        ("1a 00 3f 00 ff 00", CONFLICT),
        ("25 00 00000000 000000 00", CONFLICT),
        ("28 00 00000000 00 0001 00", CONFLICT),
        ("9e 10 0000000000000000 00000020 0000", CONFLICT),
        ("1b 00 00 00 01 00", CONFLICT),
        ("5e 00 0000000000 0008 00", CONFLICT),
        ("5f 00 00 0000 00000018 00", CONFLICT),
        ("5f 1f 00 0000 00000018 00", CONFLICT),
        ("ff 00 00 00 00 00", CONFLICT),
    ],
)
def test_other_nexuses_while_reserved(abc: list[Initiator], cdb: str, answer: str) -> None:
    a, b, _ = abc
    a.says(RESERVE[6])
    assert b.says(cdb, data_in=4096) == answer


def test_persistent_reserve_conflicts_even_for_the_holder(abc: list[Initiator]) -> None:
    a, *_ = abc
    a.says(RESERVE[6])
    assert a.says("5e 00 0000000000 0008 00", data_in=8) == CONFLICT
    assert a.out(REGISTER, sa_key=1) == CONFLICT
    assert a.says("5f 1f 00 0000 00000000 00") == CONFLICT
    assert a.write() == GOOD
    a.says(RELEASE[6])
    assert a.out(REGISTER, sa_key=1) == GOOD


@both_lengths
def test_registrations_alone_conflict_with_everyone(abc: list[Initiator], length: int) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    for one in (a, b):
        assert one.says(RESERVE[length]) == CONFLICT
        assert one.says(RELEASE[length]) == CONFLICT


@both_lengths
@pytest.mark.parametrize("kind", [1, 3, 5, 6, 7, 8])
def test_beside_a_persistent_reservation(abc: list[Initiator], length: int, kind: int) -> None:
    a, b, c = abc
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    a.out(PERSISTENT_RESERVE, key=1, kind=kind)
    for cdb in (RESERVE[length], RELEASE[length]):
        assert a.says(cdb) == GOOD
        assert b.says(cdb) == (CONFLICT if kind in (1, 3) else GOOD)
        assert c.says(cdb) == CONFLICT
    # GOOD without effect: nobody is kept out.
    assert a.write() == GOOD


@pytest.mark.parametrize("cdb", ["16 10 00 0000 00", "16 01 00 0000 00", "56 02 000000000000 00 00"])
def test_third_parties_and_extents_are_not_supported(abc: list[Initiator], cdb: str) -> None:
    assert abc[0].says(cdb) == "02 05/24/00"


def test_ends_with_the_nexus_a_reset_or_power(ram: EmulatedUnit) -> None:
    a, b = initiators(ram, 2)
    for event in (a.nexus.lose, b.nexus.logical_unit_reset, ram.reset, ram.power_cycle):
        assert a.says(RESERVE[6]) == GOOD
        event()
        a.drain()
        b.drain()
        assert b.says(RESERVE[6]) == GOOD
        assert b.says(RELEASE[6]) == GOOD


def test_loss_of_another_nexus_ends_nothing(abc: list[Initiator]) -> None:
    a, b, _ = abc
    a.says(RESERVE[6])
    b.nexus.lose()
    b.nexus.abort_task_set()
    assert b.says("12 00 00 0024 00", data_in=36) == GOOD
    assert b.drain() == ["06/29/07"]
    assert b.write() == CONFLICT
