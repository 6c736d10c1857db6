"""RESERVE, RELEASE and CLEAR (SPC-4 5.13.9, 5.13.11.2, 5.13.11.6)."""

from __future__ import annotations

import pytest

from tests.unit.emulated.initiator import CLEAR, CONFLICT, GOOD, REGISTER, RELEASE, RESERVE, Initiator, drained

TYPES = (1, 3, 5, 6, 7, 8)
NO_TYPES = (0, 2, 4, 9, 0xA, 0xB, 0xC, 0xD, 0xE, 0xF)


@pytest.fixture
def ab(abc: list[Initiator]) -> list[Initiator]:
    """a registered with 1, b with 2, c not."""
    assert abc[0].out(REGISTER, sa_key=1) == GOOD
    assert abc[1].out(REGISTER, sa_key=2) == GOOD
    return abc


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR])
@pytest.mark.parametrize("kind", [*TYPES, *NO_TYPES])
def test_unregistered_nexus_conflicts_whatever_it_asks(ab: list[Initiator], action: int, kind: int) -> None:
    assert ab[2].out(action, kind=kind) == CONFLICT


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR])
@pytest.mark.parametrize("key", [0, 2])
def test_wrong_key_conflicts(ab: list[Initiator], action: int, key: int) -> None:
    assert ab[0].out(action, key=key, kind=1) == CONFLICT
    assert ab[0].keys() == [1, 2]


@pytest.mark.parametrize("kind", TYPES)
def test_reserve_is_granted_and_not_counted(ab: list[Initiator], kind: int) -> None:
    a, *_ = ab
    assert a.out(RESERVE, key=1, kind=kind) == GOOD
    assert a.reservation() == (0 if kind in (7, 8) else 1, kind)
    assert a.generation() == 2
    assert drained(ab) == [[], [], []]


@pytest.mark.parametrize("kind", NO_TYPES)
def test_reserve_of_a_type_that_does_not_exist(ab: list[Initiator], kind: int) -> None:
    assert ab[0].out(RESERVE, key=1, kind=kind) == "02 05/24/00"


@pytest.mark.parametrize("scope", range(1, 16))
def test_reserve_of_a_scope_that_does_not_exist(ab: list[Initiator], scope: int) -> None:
    assert ab[0].out(RESERVE, key=1, kind=1, scope=scope) == "02 05/24/00"


@pytest.mark.parametrize("kind", TYPES)
def test_reserve_again_is_good(ab: list[Initiator], kind: int) -> None:
    a, *_ = ab
    a.out(RESERVE, key=1, kind=kind)
    assert a.out(RESERVE, key=1, kind=kind) == GOOD


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("other", TYPES)
def test_reserve_cannot_change_the_type(ab: list[Initiator], kind: int, other: int) -> None:
    a, *_ = ab
    a.out(RESERVE, key=1, kind=kind)
    if other != kind:
        assert a.out(RESERVE, key=1, kind=other) == CONFLICT
        assert a.reservation() == (0 if kind in (7, 8) else 1, kind)


@pytest.mark.parametrize("kind", TYPES)
def test_reserve_beside_anothers_reservation(ab: list[Initiator], kind: int) -> None:
    a, b, _ = ab
    a.out(RESERVE, key=1, kind=kind)
    # All registrants hold types 7 and 8, so that for them it is the same reservation again.
    assert b.out(RESERVE, key=2, kind=kind) == (GOOD if kind in (7, 8) else CONFLICT)
    # A conflict is found before the type is looked at, where the caller does not hold.
    assert b.out(RESERVE, key=2, kind=0) == ("02 05/24/00" if kind in (7, 8) else CONFLICT)


def test_release_without_a_reservation_is_good(ab: list[Initiator]) -> None:
    assert ab[0].out(RELEASE, key=1, kind=0, scope=5) == GOOD


@pytest.mark.parametrize("kind", [1, 3, 5, 6])
def test_release_by_a_registrant_that_does_not_hold_changes_nothing(ab: list[Initiator], kind: int) -> None:
    a, b, _ = ab
    a.out(RESERVE, key=1, kind=kind)
    assert b.out(RELEASE, key=2, kind=kind) == GOOD
    assert a.reservation() == (1, kind)
    assert drained(ab) == [[], [], []]


@pytest.mark.parametrize("kind", TYPES)
def test_release_of_another_type_or_scope(ab: list[Initiator], kind: int) -> None:
    a, *_ = ab
    a.out(RESERVE, key=1, kind=kind)
    for other in range(16):
        if other != kind:
            assert a.out(RELEASE, key=1, kind=other) == "02 05/26/04"
    assert a.out(RELEASE, key=1, kind=kind, scope=1) == "02 05/26/04"
    assert a.reservation() is not None


@pytest.mark.parametrize(
    ("kind", "told"), [(1, []), (3, []), (5, ["06/2a/04"]), (6, ["06/2a/04"]), (7, ["06/2a/04"]), (8, ["06/2a/04"])]
)
def test_release_keeps_registrations_and_tells_the_registered(ab: list[Initiator], kind: int, told: list[str]) -> None:
    a, b, c = ab
    a.out(RESERVE, key=1, kind=kind)
    assert a.out(RELEASE, key=1, kind=kind) == GOOD
    assert drained([b, a, c]) == [told, [], []]
    assert (a.reservation(), a.keys(), a.generation()) == (None, [1, 2], 2)


@pytest.mark.parametrize("kind", [7, 8])
def test_any_registrant_releases_an_all_registrants_reservation(ab: list[Initiator], kind: int) -> None:
    a, b, _ = ab
    a.out(RESERVE, key=1, kind=kind)
    assert b.out(RELEASE, key=2, kind=kind) == GOOD
    assert a.drain() == ["06/2a/04"]
    assert a.reservation() is None


@pytest.mark.parametrize("kind", [None, *TYPES])
def test_clear_by_any_registrant(ab: list[Initiator], kind: int | None) -> None:
    a, b, c = ab
    if kind is not None:
        a.out(RESERVE, key=1, kind=kind)
    assert b.out(CLEAR, key=2, kind=0xF, scope=0xF) == GOOD
    assert a.says("000000000000") == "02 06/2a/03"
    assert drained(ab) == [[], [], []]
    assert (c.keys(), c.reservation(), c.generation()) == ([], None, 3)
