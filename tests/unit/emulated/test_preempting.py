"""PREEMPT and PREEMPT AND ABORT (SPC-4 5.13.11.4, 5.13.11.5)."""

from __future__ import annotations

import pytest

from pyproxy.device.emulated import EmulatedUnit
from tests.unit.emulated.initiator import (
    CONFLICT,
    GOOD,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    RESERVE,
    Initiator,
    drained,
    initiators,
)

ONE_HOLDER = (1, 3, 5, 6)
ALL_REGISTRANTS = (7, 8)
TYPES = (*ONE_HOLDER, *ALL_REGISTRANTS)

pytestmark = pytest.mark.parametrize("action", [PREEMPT, PREEMPT_AND_ABORT])


def setup(abc: list[Initiator], keys: tuple[int, ...], kind: int | None = None) -> list[Initiator]:
    """Register each with its key (0: not); the first reserves."""
    for one, key in zip(abc, keys, strict=True):
        if key:
            assert one.out(REGISTER, sa_key=key) == GOOD
    if kind is not None:
        assert abc[0].out(RESERVE, key=keys[0], kind=kind) == GOOD
    return abc


def test_unregistered_or_wrong_key_conflicts(abc: list[Initiator], action: int) -> None:
    a, b, c = setup(abc, (1, 2, 0), 5)
    assert c.out(action, sa_key=1, kind=5) == CONFLICT
    assert b.out(action, key=0, sa_key=1, kind=5) == CONFLICT
    assert b.out(action, key=1, sa_key=1, kind=5) == CONFLICT
    assert a.reservation() == (1, 5)


@pytest.mark.parametrize("scope", [1, 2, 15])
def test_scope_is_looked_at(abc: list[Initiator], action: int, scope: int) -> None:
    _, b, _ = setup(abc, (1, 2, 0), 5)
    assert b.out(action, key=2, sa_key=1, kind=5, scope=scope) == "02 05/24/00"


# --- nothing reserved ---


@pytest.mark.parametrize("kind", [0, 1, 2, 15])
def test_nothing_reserved_removes_registrations_whatever_the_type(abc: list[Initiator], action: int, kind: int) -> None:
    a, b, c = setup(abc, (1, 2, 2))
    assert a.out(action, key=1, sa_key=2, kind=kind) == GOOD
    assert b.says("000000000000") == "02 06/2a/05"
    assert c.says("000000000000") == "02 06/2a/05"
    assert (a.keys(), a.generation(), a.reservation()) == ([1], 4, None)
    assert drained(abc) == [[], [], []]


def test_nothing_reserved_and_own_key_removes_the_caller_too(abc: list[Initiator], action: int) -> None:
    a, b, c = setup(abc, (1, 1, 3))
    assert a.out(action, key=1, sa_key=1) == GOOD
    assert drained([a, b, c]) == [[], ["06/2a/05"], []]
    assert c.keys() == [3]


@pytest.mark.parametrize("sa_key", [0, 9])
def test_nothing_reserved_and_a_key_of_nobody_conflicts(abc: list[Initiator], action: int, sa_key: int) -> None:
    a, *_ = setup(abc, (1, 2, 0))
    assert a.out(action, key=1, sa_key=sa_key) == CONFLICT
    assert (a.keys(), a.generation()) == ([1, 2], 2)


# --- one holder ---


@pytest.mark.parametrize("kind", ONE_HOLDER)
def test_key_zero_against_one_holder(abc: list[Initiator], action: int, kind: int) -> None:
    _, b, _ = setup(abc, (1, 2, 0), kind)
    assert b.out(action, key=2, sa_key=0, kind=kind) == "02 05/26/00"


@pytest.mark.parametrize("kind", ONE_HOLDER)
def test_key_of_nobody_against_one_holder(abc: list[Initiator], action: int, kind: int) -> None:
    _, b, _ = setup(abc, (1, 2, 0), kind)
    assert b.out(action, key=2, sa_key=9, kind=kind) == CONFLICT


@pytest.mark.parametrize("kind", ONE_HOLDER)
@pytest.mark.parametrize("new", TYPES)
def test_the_holder_is_preempted(abc: list[Initiator], action: int, kind: int, new: int) -> None:
    a, b, c = setup(abc, (1, 2, 3), kind)
    assert b.out(action, key=2, sa_key=1, kind=new) == GOOD
    assert drained([a, b, c]) == [["06/2a/05"], [], [] if new == kind else ["06/2a/04"]]
    assert (b.reservation(), b.keys(), b.generation()) == ((0 if new in ALL_REGISTRANTS else 2, new), [2, 3], 4)


@pytest.mark.parametrize("kind", ONE_HOLDER)
@pytest.mark.parametrize("new", [0, 2, 4, 9, 15])
def test_preempting_the_holder_needs_a_type(abc: list[Initiator], action: int, kind: int, new: int) -> None:
    a, b, _ = setup(abc, (1, 2, 0), kind)
    assert b.out(action, key=2, sa_key=1, kind=new) == "02 05/24/00"
    assert a.reservation() == (1, kind)


@pytest.mark.parametrize("kind", ONE_HOLDER)
def test_a_key_shared_with_the_holder_keeps_only_the_caller(abc: list[Initiator], action: int, kind: int) -> None:
    a, b, c = setup(abc, (1, 1, 1), kind)
    assert b.out(action, key=1, sa_key=1, kind=kind) == GOOD
    assert drained([a, b, c]) == [["06/2a/05"], [], ["06/2a/05"]]
    assert (b.keys(), b.reservation()) == ([1], (1, kind))
    assert b.write() == GOOD
    assert a.write() == CONFLICT


@pytest.mark.parametrize("kind", ONE_HOLDER)
@pytest.mark.parametrize("new", TYPES)
def test_the_holder_changes_the_type_by_preempting_itself(
    abc: list[Initiator], action: int, kind: int, new: int
) -> None:
    a, b, c = setup(abc, (1, 1, 3), kind)
    assert a.out(action, key=1, sa_key=1, kind=new) == GOOD
    assert drained([a, b, c]) == [[], ["06/2a/05"], [] if new == kind else ["06/2a/04"]]
    assert (a.keys(), a.reservation()) == ([1, 3], (0 if new in ALL_REGISTRANTS else 1, new))


@pytest.mark.parametrize("kind", ONE_HOLDER)
@pytest.mark.parametrize("new", [0, 5, 15])
def test_other_registrations_go_and_the_reservation_stays(
    abc: list[Initiator], action: int, kind: int, new: int
) -> None:
    a, b, c = setup(abc, (1, 2, 3), kind)
    assert c.out(action, key=3, sa_key=2, kind=new) == GOOD
    assert drained([a, b, c]) == [[], ["06/2a/05"], []]
    assert (a.keys(), a.reservation(), a.generation()) == ([1, 3], (1, kind), 4)


@pytest.mark.parametrize("kind", ONE_HOLDER)
def test_own_key_beside_anothers_reservation_removes_the_caller(abc: list[Initiator], action: int, kind: int) -> None:
    a, b, c = setup(abc, (1, 2, 2), kind)
    assert b.out(action, key=2, sa_key=2, kind=kind) == GOOD
    assert drained([a, b, c]) == [[], [], ["06/2a/05"]]
    assert (a.keys(), a.reservation()) == ([1], (1, kind))


# --- all registrants ---


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
@pytest.mark.parametrize("new", TYPES)
def test_key_zero_takes_an_all_registrants_reservation(abc: list[Initiator], action: int, kind: int, new: int) -> None:
    a, b, c = setup(abc, (1, 2, 3), kind)
    assert b.out(action, key=2, sa_key=0, kind=new) == GOOD
    assert drained([a, b, c]) == [["06/2a/05"], [], ["06/2a/05"]]
    assert (b.keys(), b.reservation()) == ([2], (0 if new in ALL_REGISTRANTS else 2, new))


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
def test_key_zero_needs_a_type(abc: list[Initiator], action: int, kind: int) -> None:
    _, b, _ = setup(abc, (1, 2, 3), kind)
    assert b.out(action, key=2, sa_key=0, kind=0) == "02 05/24/00"


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
@pytest.mark.parametrize("new", [0, 1, 15])
def test_registrants_go_and_an_all_registrants_reservation_stays(
    abc: list[Initiator], action: int, kind: int, new: int
) -> None:
    a, b, c = setup(abc, (1, 2, 3), kind)
    assert b.out(action, key=2, sa_key=1, kind=new) == GOOD
    assert drained([a, b, c]) == [["06/2a/05"], [], []]
    assert (b.keys(), b.reservation()) == ([2, 3], (0, kind))


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
def test_own_key_removes_a_caller_that_holds_with_all(abc: list[Initiator], action: int, kind: int) -> None:
    a, b, c = setup(abc, (1, 1, 3), kind)
    assert a.out(action, key=1, sa_key=1, kind=kind) == GOOD
    assert drained([a, b, c]) == [[], ["06/2a/05"], []]
    assert (c.keys(), c.reservation()) == ([3], (0, kind))
    assert c.out(action, key=3, sa_key=3, kind=kind) == GOOD
    assert (c.keys(), c.reservation()) == ([], None)


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
def test_key_of_nobody_against_all_registrants(abc: list[Initiator], action: int, kind: int) -> None:
    _, b, _ = setup(abc, (1, 2, 0), kind)
    assert b.out(action, key=2, sa_key=9, kind=kind) == CONFLICT


# --- the switch ---


@pytest.mark.parametrize(("kind", "holder"), [(None, 0), (7, 0), (8, 0), (1, 2), (6, 2)])
def test_keep_preempting_caller(action: int, kind: int | None, holder: int) -> None:
    unit = EmulatedUnit(1 << 20, keep_preempting_caller=True)
    a, b, c = setup(initiators(unit), (1, 1, 3))
    if kind is not None:
        (a, b, c)[holder].out(RESERVE, key=(1, 1, 3)[holder], kind=kind)
    assert a.out(action, key=1, sa_key=1, kind=0) == GOOD
    assert drained([a, b, c]) == [[], ["06/2a/05"], []]
    assert a.keys() == [1, 3]
    unit.close()
