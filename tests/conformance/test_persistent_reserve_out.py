"""PERSISTENT RESERVE OUT (SPC-4 5.13, 6.16), of guests whose reservations migrate and of those whose do not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.counterparts import Test, counterpart_of
from tests.conformance.initiator import BLOCK, CONFLICT, GOOD, Initiator, cdb

REGISTER, CLEAR, PREEMPT = 0x00, 0x03, 0x04
KEY_1, KEY_2 = 0x1111222233334444, 0x5555666677778888
EXCLUSIVE_ACCESS = 3
NAMES = {1: "WE", 3: "EA", 5: "WERO", 6: "EARO", 7: "WEAR", 8: "EAAR"}
TYPES = tuple(NAMES)

READS = {
    "registered": {1: GOOD, 3: CONFLICT, 5: GOOD, 6: GOOD, 7: GOOD, 8: GOOD},
    "unregistered": {1: GOOD, 3: CONFLICT, 5: GOOD, 6: CONFLICT, 7: GOOD, 8: CONFLICT},
}
WRITES = {
    "registered": {1: CONFLICT, 3: CONFLICT, 5: GOOD, 6: GOOD, 7: GOOD, 8: GOOD},
    "unregistered": {1: CONFLICT, 3: CONFLICT, 5: CONFLICT, 6: CONFLICT, 7: CONFLICT, 8: CONFLICT},
}
"""What READ (10) and WRITE (10) of a nexus that does not hold lead to, by type (SPC-4 5.13.10, SBC-4 table 13)."""


@pytest.fixture(params=[True, False], ids=["migrated", "verbatim"])
def migrate_pr(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def for_types(test_of_the_tool: str, *types: int) -> Callable[[Test], Test]:
    """Run a test with each type as ``kind``, as the counterpart of the tool's test of that type."""

    def enter(test: Test) -> Test:
        counterpart_of(*(f"ProutReserve.{test_of_the_tool}{NAMES[kind]}" for kind in types))(test)
        parametrized: Test = pytest.mark.parametrize("kind", types, ids=[NAMES[kind] for kind in types])(test)
        return parametrized

    return enter


def reads(initiator: Initiator) -> str:
    return initiator.says(cdb(0x28, 10, 0, 1), data_in=BLOCK)


def writes(initiator: Initiator) -> str:
    return initiator.says(cdb(0x2A, 10, 0, 1), bytes(BLOCK))


def seen(kind: int, key: int) -> tuple[int, int]:
    """What READ RESERVATION shows: the key is 0 where every registrant holds."""
    return 0 if kind in (7, 8) else key, kind


@pytest.fixture
def both_registered(first: Initiator, second: Initiator) -> tuple[Initiator, Initiator]:
    first.register(KEY_1)
    second.register(KEY_2)
    return first, second


# --- REGISTER ---


@counterpart_of("ProutRegister.Simple")
def test_registered_key_is_listed(first: Initiator) -> None:
    first.register(KEY_1)
    assert first.keys()[1] == [KEY_1]


@counterpart_of("ProutRegister.Simple")
def test_registering_again_as_if_unregistered(first: Initiator) -> None:
    first.register(KEY_1)
    assert first.persistent_reserve_out(REGISTER, sa_key=KEY_1 + 1) == CONFLICT
    assert first.keys()[1] == [KEY_1]


@counterpart_of("ProutRegister.Simple")
def test_unregistered_key_is_gone(first: Initiator) -> None:
    first.register(KEY_1)
    first.unregister(KEY_1)
    assert first.keys()[1] == []


# --- RESERVE and RELEASE ---


@counterpart_of("ProutReserve.Simple")
@pytest.mark.parametrize("kind", TYPES)
def test_reservation_is_read_back(first: Initiator, kind: int) -> None:
    first.register(KEY_1)
    first.reserve(KEY_1, kind)
    assert first.reservation() == seen(kind, KEY_1)


@counterpart_of("ProutReserve.Simple")
@pytest.mark.parametrize("kind", TYPES)
def test_released_reservation_is_gone(first: Initiator, kind: int) -> None:
    first.register(KEY_1)
    first.reserve(KEY_1, kind)
    first.release(KEY_1, kind)
    assert first.reservation() is None


@for_types("Access", *TYPES)
def test_holder_reads_and_writes(both_registered: tuple[Initiator, Initiator], kind: int) -> None:
    holder, _ = both_registered
    holder.reserve(KEY_1, kind)
    assert holder.reservation() == seen(kind, KEY_1)
    assert (reads(holder), writes(holder)) == (GOOD, GOOD)


@for_types("Access", *TYPES)
def test_another_registrant(both_registered: tuple[Initiator, Initiator], kind: int) -> None:
    holder, other = both_registered
    holder.reserve(KEY_1, kind)
    assert (reads(other), writes(other)) == (READS["registered"][kind], WRITES["registered"][kind])


@for_types("Access", *TYPES)
def test_a_nexus_that_has_unregistered(both_registered: tuple[Initiator, Initiator], kind: int) -> None:
    holder, other = both_registered
    holder.reserve(KEY_1, kind)
    other.unregister(KEY_2)
    assert (reads(other), writes(other)) == (READS["unregistered"][kind], WRITES["unregistered"][kind])


@for_types("Access", *TYPES)
def test_after_release_everyone_may_write(both_registered: tuple[Initiator, Initiator], kind: int) -> None:
    holder, other = both_registered
    holder.reserve(KEY_1, kind)
    other.unregister(KEY_2)
    holder.release(KEY_1, kind)
    holder.unregister(KEY_1)
    assert (reads(other), writes(other)) == (GOOD, GOOD)


@for_types("Ownership", 1, 3, 5, 6)
def test_unregistering_the_holder_ends_its_reservation(both_registered: tuple[Initiator, Initiator], kind: int) -> None:
    holder, other = both_registered
    holder.reserve(KEY_1, kind)
    holder.unregister(KEY_1)
    assert holder.reservation() is None
    assert other.drain() == (["06/2a/04"] if kind in (5, 6) else [])
    other.unregister(KEY_2)


@for_types("Ownership", 7, 8)
def test_reservation_of_all_registrants_stays_with_the_last(
    both_registered: tuple[Initiator, Initiator], kind: int
) -> None:
    holder, other = both_registered
    holder.reserve(KEY_1, kind)
    holder.unregister(KEY_1)
    assert holder.reservation() == (0, kind)
    other.release(KEY_2, kind)
    assert holder.reservation() is None
    other.unregister(KEY_2)


# --- CLEAR and PREEMPT ---


@counterpart_of("ProutClear.Simple")
def test_clear_removes_reservation_and_registrations(first: Initiator) -> None:
    first.register(KEY_1)
    first.reserve(KEY_1, EXCLUSIVE_ACCESS)
    assert first.persistent_reserve_out(CLEAR, key=KEY_1) == GOOD
    assert first.reservation() is None
    assert first.keys()[1] == []


@counterpart_of("ProutClear.Simple")
def test_clear_counts_once_and_reserve_does_not(first: Initiator) -> None:
    first.register(KEY_1)
    generation, _ = first.keys()
    first.reserve(KEY_1, EXCLUSIVE_ACCESS)
    assert first.persistent_reserve_out(CLEAR, key=KEY_1) == GOOD
    assert first.keys()[0] == generation + 1


@counterpart_of("ProutPreempt.RemoveRegistration")
def test_preempt_without_a_reservation_removes_the_registration(
    both_registered: tuple[Initiator, Initiator],
) -> None:
    loser, winner = both_registered
    generation, keys = loser.keys()
    assert sorted(keys) == [KEY_1, KEY_2]
    assert winner.persistent_reserve_out(PREEMPT, key=KEY_2, sa_key=KEY_1, kind=EXCLUSIVE_ACCESS) == GOOD
    assert loser.drain() == ["06/2a/05"]
    assert winner.drain() == []
    assert loser.keys() == (generation + 1, [KEY_2])
    winner.unregister(KEY_2)
