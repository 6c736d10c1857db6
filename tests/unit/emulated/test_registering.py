"""REGISTER and REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7, 5.13.11.3)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyproxy.device.emulated import EmulatedUnit
from tests.unit.emulated.initiator import (
    CONFLICT,
    GOOD,
    IGNORE,
    REGISTER,
    RESERVE,
    Initiator,
    drained,
    name,
)

ONE_HOLDER = (1, 3, 5, 6)
ALL_REGISTRANTS = (7, 8)


def test_unregistered_nexus_must_give_key_zero(abc: list[Initiator]) -> None:
    a, *_ = abc
    assert a.out(REGISTER, key=5, sa_key=1) == CONFLICT
    assert a.keys() == []
    assert a.generation() == 0


@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_registering_tells_nobody_and_counts(abc: list[Initiator], action: int) -> None:
    a, b, _c = abc
    assert b.out(IGNORE, sa_key=9) == GOOD
    assert a.out(action, sa_key=0xFFFFFFFFFFFFFFFF) == GOOD
    assert a.keys() == [9, 0xFFFFFFFFFFFFFFFF]
    assert a.generation() == 2
    assert drained(abc) == [[], [], []]


@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_unregistering_an_unregistered_nexus_is_good_and_counts(abc: list[Initiator], action: int) -> None:
    a, *_ = abc
    assert a.out(action, sa_key=0) == GOOD
    assert a.keys() == []
    assert a.generation() == 1


def test_ignore_does_not_look_at_the_reservation_key(abc: list[Initiator]) -> None:
    a, *_ = abc
    assert a.out(IGNORE, key=77, sa_key=1) == GOOD
    assert a.out(IGNORE, key=78, sa_key=2) == GOOD
    assert a.keys() == [2]


@pytest.mark.parametrize("wrong", [0, 2])
def test_wrong_key_conflicts(abc: list[Initiator], wrong: int) -> None:
    a, *_ = abc
    a.out(REGISTER, sa_key=1)
    assert a.out(REGISTER, key=wrong, sa_key=3) == CONFLICT
    assert (a.keys(), a.generation()) == ([1], 1)


def test_the_same_key_again_is_good_and_counts(abc: list[Initiator]) -> None:
    a, *_ = abc
    a.out(REGISTER, sa_key=1)
    assert a.out(REGISTER, key=1, sa_key=1) == GOOD
    assert (a.keys(), a.generation()) == ([1], 2)


@pytest.mark.parametrize("kind", ONE_HOLDER)
@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_changing_the_holders_key_keeps_the_reservation(abc: list[Initiator], kind: int, action: int) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    a.out(RESERVE, key=1, kind=kind)
    assert a.out(action, key=1, sa_key=7) == GOOD
    assert a.reservation() == (7, kind)
    assert drained(abc) == [[], [], []]


@pytest.mark.parametrize("kind", [*ONE_HOLDER, *ALL_REGISTRANTS])
@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_any_nexus_may_register_beside_any_reservation(abc: list[Initiator], kind: int, action: int) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    a.out(RESERVE, key=1, kind=kind)
    assert b.out(action, sa_key=2) == GOOD
    assert b.keys() == [1, 2]


@pytest.mark.parametrize("kind", [1, 3])
def test_unregistering_the_holder_of_an_exclusive_reservation_tells_nobody(abc: list[Initiator], kind: int) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    a.out(RESERVE, key=1, kind=kind)
    assert a.out(REGISTER, key=1) == GOOD
    assert (a.reservation(), a.keys(), a.generation()) == (None, [2], 3)
    assert drained(abc) == [[], [], []]


@pytest.mark.parametrize("kind", [5, 6])
@pytest.mark.parametrize("action", [REGISTER, IGNORE])
def test_unregistering_the_holder_of_a_registrants_only_reservation_tells_the_registered(
    abc: list[Initiator], kind: int, action: int
) -> None:
    a, b, c = abc
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    a.out(RESERVE, key=1, kind=kind)
    assert a.out(action, key=1) == GOOD
    assert b.says("000000000000") == "02 06/2a/04"
    assert (b.reservation(), drained([a, b, c])) == (None, [[], [], []])


@pytest.mark.parametrize("kind", ONE_HOLDER)
def test_unregistering_another_keeps_the_reservation(abc: list[Initiator], kind: int) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    a.out(RESERVE, key=1, kind=kind)
    assert b.out(REGISTER, key=2) == GOOD
    assert (a.reservation(), a.keys()) == ((1, kind), [1])
    assert drained(abc) == [[], [], []]


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
def test_an_all_registrants_reservation_ends_with_its_last_registrant(abc: list[Initiator], kind: int) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    a.out(RESERVE, key=1, kind=kind)
    b.out(REGISTER, sa_key=2)
    assert a.out(REGISTER, key=1) == GOOD
    assert b.reservation() == (0, kind)
    assert b.out(REGISTER, key=2) == GOOD
    assert b.reservation() is None
    assert drained(abc) == [[], [], []]


def test_keys_need_not_be_unique(abc: list[Initiator]) -> None:
    for one in abc:
        assert one.out(REGISTER, sa_key=4) == GOOD
    assert abc[0].keys() == [4, 4, 4]


def test_prgeneration_wraps(ram: EmulatedUnit) -> None:
    a = Initiator(ram.nexus(name(0)))
    ram.reservations = replace(ram.reservations, generation=0xFFFFFFFF)
    assert a.out(REGISTER, sa_key=1) == GOOD
    assert a.fetch("5e00 0000000000 ffff 00")[:4] == bytes(4)


def test_no_room_for_another_registration() -> None:
    unit = EmulatedUnit(1 << 20, max_registrations=2)
    a, b, c = (Initiator(unit.nexus(name(number))) for number in range(3))
    assert a.out(REGISTER, sa_key=1) == GOOD
    assert b.out(REGISTER, sa_key=2) == GOOD
    assert c.out(REGISTER, sa_key=3) == "02 05/55/04"
    assert c.out(IGNORE, sa_key=3) == "02 05/55/04"
    assert a.out(REGISTER, key=1, sa_key=9) == GOOD
    assert a.keys() == [2, 9]
    unit.close()
