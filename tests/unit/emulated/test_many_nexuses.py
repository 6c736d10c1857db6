"""SPEC_I_PT and ALL_TG_PT: registering more nexuses than the one that asks (SPC-4 5.13.7, 6.16.3)."""

from __future__ import annotations

import struct

import pytest

from pyproxy.device.emulated import EmulatedUnit
from tests.unit.emulated.initiator import (
    CLEAR,
    CONFLICT,
    GOOD,
    IGNORE,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    RELEASE,
    RESERVE,
    Initiator,
    drained,
    name,
)

SPEC_I_PT = 0x08
ALL_TG_PT = 0x04


def names(*transport_ids: bytes) -> bytes:
    joined = b"".join(transport_ids)
    return struct.pack(">I", len(joined)) + joined


# --- SPEC_I_PT ---


def test_named_initiator_ports_are_registered_with_the_caller(abc: list[Initiator]) -> None:
    a, _b, c = abc
    more = names(name(1).encode(), name(2).encode())
    assert a.out(REGISTER, sa_key=5, flags=SPEC_I_PT, more=more) == GOOD
    assert (a.keys(), a.generation()) == ([5, 5, 5], 1)
    assert drained(abc) == [[], [], []]
    assert c.out(RESERVE, key=5, kind=1) == GOOD


def test_a_named_nexus_need_not_exist_yet(ram: EmulatedUnit, abc: list[Initiator]) -> None:
    a, *_ = abc
    assert a.out(REGISTER, sa_key=5, flags=SPEC_I_PT, more=names(name(9).encode())) == GOOD
    late = Initiator(ram.nexus(name(9)))
    assert late.out(RESERVE, key=5, kind=3) == GOOD


def test_a_registered_nexus_must_not_name_others(abc: list[Initiator]) -> None:
    a, *_ = abc
    a.out(REGISTER, sa_key=1)
    for sa_key in (0, 2):
        assert a.out(REGISTER, key=1, sa_key=sa_key, flags=SPEC_I_PT, more=names(name(1).encode())) == "02 05/26/00"
    assert a.out(REGISTER, key=2, sa_key=3, flags=SPEC_I_PT, more=names(name(1).encode())) == CONFLICT


def test_a_registered_nexus_must_not_be_named(abc: list[Initiator]) -> None:
    a, b, _ = abc
    b.out(REGISTER, sa_key=2)
    more = names(name(2).encode(), name(1).encode())
    assert a.out(REGISTER, sa_key=5, flags=SPEC_I_PT, more=more) == "02 05/26/00"
    assert a.keys() == [2]


def test_key_zero_from_an_unregistered_nexus_names_nobody(abc: list[Initiator]) -> None:
    a, *_ = abc
    assert a.out(REGISTER, flags=SPEC_I_PT, more=names(name(1).encode())) == GOOD
    assert a.keys() == []


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, IGNORE])
def test_only_register_may_name_others(abc: list[Initiator], action: int) -> None:
    a, *_ = abc
    a.out(REGISTER, sa_key=1)
    assert a.out(action, key=1, sa_key=1, kind=1, flags=SPEC_I_PT) == "02 05/26/00"
    assert a.keys() == [1]


@pytest.mark.parametrize(
    "more",
    [
        b"",
        b"\0\0\0",
        struct.pack(">I", 24),
        struct.pack(">I", 24) + name(1).encode()[:20],
        struct.pack(">I", 23) + name(1).encode(),
        struct.pack(">I", 48) + name(1).encode(),
        struct.pack(">I", 0xFFFFFFFF) + name(1).encode(),
    ],
)
def test_a_list_of_names_that_is_cut(abc: list[Initiator], more: bytes) -> None:
    a, *_ = abc
    assert a.out(REGISTER, sa_key=5, flags=SPEC_I_PT, more=more) == "02 05/26/00"
    assert (a.keys(), a.generation()) == ([], 0)
    assert a.out(REGISTER, key=9, sa_key=5, flags=SPEC_I_PT, more=more) == CONFLICT


def test_no_names_at_all(abc: list[Initiator]) -> None:
    assert abc[0].out(REGISTER, sa_key=5, flags=SPEC_I_PT, more=names()) == GOOD
    assert abc[0].keys() == [5]


# --- ALL_TG_PT ---


@pytest.fixture
def ports(ram: EmulatedUnit) -> list[Initiator]:
    """One initiator port through target ports 1, 2 and 3, and another through port 1."""
    return [Initiator(ram.nexus(name(0), port)) for port in (1, 2, 3)] + [Initiator(ram.nexus(name(1)))]


def test_registers_through_every_target_port(ports: list[Initiator]) -> None:
    one, two, three, other = ports
    assert two.out(REGISTER, sa_key=5, flags=ALL_TG_PT) == GOOD
    assert (one.keys(), one.generation()) == ([5, 5, 5], 1)
    assert three.out(RESERVE, key=5, kind=1) == GOOD
    assert other.write() == CONFLICT


def test_changes_and_removes_the_key_of_every_target_port(ports: list[Initiator]) -> None:
    one, two, _, other = ports
    one.out(REGISTER, sa_key=5, flags=ALL_TG_PT)
    other.out(REGISTER, sa_key=9)
    assert two.out(REGISTER, key=5, sa_key=6, flags=ALL_TG_PT) == GOOD
    assert (one.keys(), one.generation()) == ([6, 6, 6, 9], 3)
    two.out(RESERVE, key=6, kind=5)
    assert one.out(REGISTER, key=6, flags=ALL_TG_PT) == GOOD
    # The others learn of the release; the ports that were unregistered with the holder do not.
    assert drained(ports) == [[], [], [], ["06/2a/04"]]
    assert (other.keys(), other.reservation()) == ([9], None)


def test_all_ports_or_none(ports: list[Initiator]) -> None:
    one, two, _, _ = ports
    two.out(REGISTER, sa_key=7)
    assert one.out(REGISTER, sa_key=5, flags=ALL_TG_PT) == CONFLICT
    assert (one.keys(), one.generation()) == ([7], 1)
    assert one.out(IGNORE, sa_key=5, flags=ALL_TG_PT) == GOOD
    assert one.keys() == [5, 5, 5]


def test_without_it_only_the_port_that_received_the_command(ports: list[Initiator]) -> None:
    one, two, *_ = ports
    one.out(REGISTER, sa_key=5, flags=ALL_TG_PT)
    assert two.out(REGISTER, key=5) == GOOD
    assert one.keys() == [5, 5]


def test_both_together(ports: list[Initiator]) -> None:
    one, *_ = ports
    assert one.out(REGISTER, sa_key=5, flags=ALL_TG_PT | SPEC_I_PT, more=names(name(1).encode())) == GOOD
    assert (one.keys(), one.generation()) == ([5] * 6, 1)


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR, PREEMPT])
def test_ignored_elsewhere(abc: list[Initiator], action: int) -> None:
    a, b, _ = abc
    a.out(REGISTER, sa_key=1)
    b.out(REGISTER, sa_key=2)
    # APTPL as well, which a unit in memory refuses only where it counts.
    assert a.out(action, key=1, sa_key=2, kind=1, flags=ALL_TG_PT | 0x01) == GOOD
