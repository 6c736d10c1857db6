"""Three guests on three nexuses of one emulated unit send whatever they like: what is tracked and fresh is true.

    guest g1 ── nexus (A1, port 1) ──┐
    guest g2 ── nexus (A2, port 1) ──┼── emulated unit
    guest g3 ── nexus (A3, port 1) ──┘

One thing happens in silence by the standard: a RESERVE of an all-registrants type by another nexus makes every
registrant a holder without a unit attention. Nothing but a resync can notice it.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyproxy.device.emulated import EmulatedUnit
from pyproxy.reservation.registry import UnitRegistry
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, decode_state
from pyproxy.scsi.command import Command
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit
from tests.unit.reservation.script import pr_in, pr_out

LUN = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa"
PORTS = [SasTransportId(bytes.fromhex(f"500140500000000{number}")) for number in (1, 2, 3)]
TEST_UNIT_READY = Command(bytes(6))

OWN = "own"
keys = st.sampled_from([0, 0xA, 0xB, 0xC])
kinds = st.sampled_from([1, 3, 5, 6, 7, 8])

# What a cluster node sends: mostly with its own key and a type that exists.
sensible = st.tuples(
    st.sampled_from([0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 6]),  # service action
    st.just(OWN),  # RESERVATION KEY
    st.sampled_from([0xA, 0xB, 0xC, 0xA, 0xB, 0xC, 0]),  # SERVICE ACTION RESERVATION KEY
    st.one_of(kinds, st.just(OWN)),  # TYPE
    st.just(0),
)
# And what anybody may send.
anything = st.tuples(
    st.integers(0, 9),
    st.one_of(st.just(OWN), keys),
    st.one_of(st.just(OWN), keys),
    st.one_of(kinds, st.sampled_from([0, 2])),
    st.sampled_from([0, 0, 0x04, 0x08]),  # byte 20
)
events = st.sampled_from(
    ["write", "read", "ready", "resync", "reserve6", "release6", "restart", "reset", "power", "keys"]
)
commands = st.one_of(sensible, sensible, sensible, sensible, sensible, sensible, anything, events)
steps = st.lists(st.tuples(st.integers(0, 2), commands), min_size=25, max_size=40)


class World:
    def __init__(self, store: SqliteStore, *, migrate_pr: bool, told: bool) -> None:
        self.store = store
        self.registry = UnitRegistry()
        self.unit = EmulatedUnit(1 << 20, serial="snooped")
        self.devices = [self.unit.nexus(port) for port in PORTS]
        self.migrate_pr = migrate_pr
        self.told = told
        # Registrants that became holders of an all-registrants reservation by somebody else's RESERVE.
        self.silent: set[int] = set()
        self.guests = [self.start(number) for number in range(3)]

    def start(self, number: int) -> GuestUnit:
        name = f"g{number + 1}"
        snooper = Snooper(
            name,
            0,
            LUN,
            self.store,
            migrate_pr=self.migrate_pr,
            initiator=PORTS[number] if self.told else None,
            rtpi=1 if self.told else None,
            unit_lock=self.registry.lock(LUN),
        )
        return GuestUnit(name, 0, self.devices[number], snooper)

    def truth(self, number: int) -> tuple[int, PrType | None]:
        state, nexus = self.unit.reservations, self.devices[number].identity
        held = state.reservation.type if state.reservation is not None and state.holds(nexus) else None
        return state.key_of(nexus) or 0, held

    def do(self, number: int, step: Any) -> None:
        before = self.unit.reservations.reservation
        self.step(number, step)
        after = self.unit.reservations.reservation
        registered = {other for other in range(3) if self.truth(other)[0]}
        if after is not None and after != before and after.type.all_registrants:
            self.silent |= registered - {number}
        self.silent &= registered

    def step(self, number: int, step: Any) -> None:
        guest = self.guests[number]
        if isinstance(step, tuple):
            action, key, sa_key, kind, flags = step
            own = guest.state.key
            kind = int(guest.state.type or 1) if kind == OWN else kind
            key, sa_key = (own if field == OWN else field for field in (key, sa_key))
            guest.execute(pr_out(action, key, sa_key, kind, flags))
        elif step == "write":
            guest.execute(Command(bytes.fromhex("2a000000000000000100"), data_out=bytes(512)))
        elif step == "read":
            guest.execute(Command(bytes.fromhex("28000000000000000100"), data_in=512))
        elif step == "ready":
            guest.execute(TEST_UNIT_READY)
        elif step == "keys":
            guest.execute(pr_in(0))
        elif step == "reserve6":
            guest.execute(Command(bytes.fromhex("160000000000")))
        elif step == "release6":
            guest.execute(Command(bytes.fromhex("170000000000")))
        elif step == "reset":
            self.unit.reset()
        elif step == "power":
            self.unit.power_cycle()
        elif step == "restart":
            self.guests[number] = self.start(number)
            self.resync(number)
        else:
            self.resync(number)

    def resync(self, number: int) -> None:
        self.unit.spc2_holder = None  # under another's SPC-2 RESERVE nothing can be read
        self.unit.refresh_all()
        self.guests[number].resync()
        self.silent.discard(number)

    def drain(self, number: int) -> None:
        """Let the guest see what waits for it."""
        while self.guests[number].execute(TEST_UNIT_READY).status == 0x02:
            pass

    def check(self, number: int) -> None:
        state = self.guests[number].state
        key, held = self.truth(number)
        if not state.fresh:
            return
        assert state.key == key, f"{state} but the device has {key:#x}"
        if number in self.silent and state.type is None:
            return
        assert state.type == held, f"{state} but the device has {held}"


@contextmanager
def world(*, migrate_pr: bool, told: bool) -> Iterator[World]:
    with tempfile.TemporaryDirectory() as directory, SqliteStore(Path(directory) / "state.db") as store:
        assert store._connection is not None
        store._connection.execute("PRAGMA synchronous = OFF")
        made = World(store, migrate_pr=migrate_pr, told=told)
        try:
            yield made
        finally:
            made.unit.close()


def stored(store: SqliteStore, name: str) -> NexusState:
    record = store.load_nexus(name, LUN)
    assert record is not None
    return decode_state(record.state)


def follow(sequence: Iterable[tuple[int, Any]], *, migrate_pr: bool, told: bool) -> None:
    """Run a sequence and compare what is tracked with the device after every step, and after a last resync."""
    with world(migrate_pr=migrate_pr, told=told) as here:
        for number in range(3):
            here.guests[number].resync()
        for number, step in sequence:
            here.do(number, step)
            here.drain(number)
            here.check(number)
        for number in range(3):
            here.drain(number)
            here.check(number)
        for number in range(3):
            here.resync(number)
            state = here.guests[number].state
            if state.fresh:
                assert (state.key, state.type) == here.truth(number)
                assert stored(here.store, f"g{number + 1}").key == state.key
            else:
                # Without its own TransportID a nexus that shares its key cannot know who of them holds.
                assert not told
        assert here.store.open_intents() == []


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps, st.booleans(), st.booleans())
def test_fresh_state_is_the_devices_truth(sequence: list[tuple[int, Any]], migrate_pr: bool, told: bool) -> None:
    follow(sequence, migrate_pr=migrate_pr, told=told)


@pytest.mark.parametrize("seed", range(12))
def test_fresh_state_is_the_devices_truth_in_long_runs(seed: int) -> None:
    """Guests that know what they do get deep into the state space."""
    draw = random.Random(seed)

    def sensible_steps() -> Iterator[tuple[int, Any]]:
        for _ in range(120):
            action = draw.choice([0, 0, 1, 1, 1, 2, 2, 3, 4, 4, 5, 6])
            kind = draw.choice([1, 3, 5, 6, 7, 8, OWN, OWN])
            yield draw.randrange(3), (action, OWN, draw.choice([0xA, 0xB, 0xC, 0xD, 0]), kind, 0)

    follow(sensible_steps(), migrate_pr=bool(seed % 2), told=bool(seed % 3))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_no_guest_misses_that_it_lost_its_registration(sequence: list[tuple[int, Any]]) -> None:
    """Whenever another nexus takes a registration, its guest is told once by 2A/03, 2A/05 or 29/xx."""
    with world(migrate_pr=True, told=True) as here:
        for number in range(3):
            here.guests[number].resync()
            here.drain(number)
        for number, step in sequence:
            before = [here.truth(other)[0] for other in range(3)]
            here.do(number, step)
            for other in range(3):
                if other == number or not before[other] or here.truth(other)[0]:
                    continue
                here.resync(other)  # our own reads eat the unit attention first
                told = []
                while (result := here.guests[other].execute(TEST_UNIT_READY)).status == 0x02:
                    told.append((result.sense[12], result.sense[13]))
                assert [code for code in told if code in ((0x2A, 0x03), (0x2A, 0x05)) or code[0] == 0x29]
