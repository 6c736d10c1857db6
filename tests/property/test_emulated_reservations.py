"""The unit's persistent reservations against a second implementation that is as plain as the standard's prose.

The model below shares nothing with the unit: it keeps lists, walks them, and knows only statuses.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyproxy.device.emulated import EmulatedUnit
from tests.unit.emulated.initiator import Initiator, initiators

NEXUSES = 4
TYPES = (1, 3, 5, 6, 7, 8)
BAD_CDB, BAD_LIST, BAD_RELEASE = "02 05/24/00", "02 05/26/00", "02 05/26/04"


@dataclass
class Model:
    """Persistent reservations by SPC-4 5.13, written down a second time."""

    keys: list[int] = field(default_factory=lambda: [0] * NEXUSES)
    kind: int = 0
    holder: int | None = None
    generation: int = 0
    told: list[list[str]] = field(default_factory=lambda: [[] for _ in range(NEXUSES)])

    def tell(self, nexus: int, what: str) -> None:
        if what not in self.told[nexus]:
            self.told[nexus].append(what)

    def holds(self, nexus: int) -> bool:
        if self.kind in (7, 8):
            return self.keys[nexus] != 0
        return self.kind != 0 and self.holder == nexus

    def remove(self, nexus: int) -> None:
        self.keys[nexus] = 0
        if self.kind in (7, 8):
            if not any(self.keys):
                self.kind = 0
        elif self.kind and self.holder == nexus:
            self.kind, self.holder = 0, None

    def register(self, me: int, key: int, new: int, *, ignore: bool) -> str:
        mine = self.keys[me]
        if not ignore and key != mine:
            return "18"
        self.generation += 1
        if new:
            self.keys[me] = new
        elif mine:
            only = self.kind in (5, 6) and self.holder == me
            self.remove(me)
            if only:
                for other in range(NEXUSES):
                    if self.keys[other]:
                        self.tell(other, "06/2a/04")
        return "00"

    def reserve(self, me: int, key: int, scope: int, kind: int) -> str:
        if self.kind and not self.holds(me):
            return "18"
        if not self.keys[me] or self.keys[me] != key:
            return "18"
        if scope or kind not in TYPES:
            return BAD_CDB
        if self.kind:
            return "00" if kind == self.kind else "18"
        self.kind, self.holder = kind, None if kind in (7, 8) else me
        return "00"

    def release(self, me: int, key: int, scope: int, kind: int) -> str:
        if not self.keys[me] or self.keys[me] != key:
            return "18"
        if not self.holds(me):
            return "00"
        if scope or kind != self.kind:
            return BAD_RELEASE
        if self.kind not in (1, 3):
            for other in range(NEXUSES):
                if other != me and self.keys[other]:
                    self.tell(other, "06/2a/04")
        self.kind, self.holder = 0, None
        return "00"

    def clear(self, me: int, key: int) -> str:
        if not self.keys[me] or self.keys[me] != key:
            return "18"
        for other in range(NEXUSES):
            if other != me and self.keys[other]:
                self.tell(other, "06/2a/03")
        self.keys, self.kind, self.holder = [0] * NEXUSES, 0, None
        self.generation += 1
        return "00"

    def preempt(self, me: int, key: int, victim: int, scope: int, kind: int) -> str:
        if not self.keys[me] or self.keys[me] != key:
            return "18"
        if scope:
            return BAD_CDB
        everyone = self.kind in (7, 8)
        if victim == 0 and self.kind and not everyone:
            return BAD_LIST
        holder_named = self.kind != 0 and (
            victim == 0 if everyone else self.keys[self.holder if self.holder is not None else 0] == victim
        )
        if holder_named:
            if kind not in TYPES:
                return BAD_CDB
            before = self.kind
            for other in range(NEXUSES):
                if other != me and self.keys[other] and victim in (0, self.keys[other]):
                    self.keys[other] = 0
                    self.tell(other, "06/2a/05")
            self.kind, self.holder = kind, None if kind in (7, 8) else me
            if kind != before:
                for other in range(NEXUSES):
                    if other != me and self.keys[other]:
                        self.tell(other, "06/2a/04")
        else:
            if victim == 0 or victim not in self.keys:
                return "18"
            for other in range(NEXUSES):
                if self.keys[other] == victim:
                    self.remove(other)
                    if other != me:
                        self.tell(other, "06/2a/05")
        self.generation += 1
        return "00"

    def move(self, me: int, key: int, new: int, to: int, *, unreg: bool) -> str:
        if self.kind and not self.holds(me):
            return "18"
        if not self.keys[me] or self.keys[me] != key:
            return "18"
        if not self.kind:
            return BAD_CDB
        if self.kind in (7, 8):
            return "18"
        if not new or to == me:
            return BAD_LIST
        self.keys[to], self.holder = new, to
        if unreg:
            self.keys[me] = 0
        self.generation += 1
        return "00"

    def may(self, me: int, *, write: bool) -> bool:
        if not self.kind or self.holds(me):
            return True
        if self.kind in (5, 6) and self.keys[me]:
            return True
        return not write and self.kind in (1, 5, 7)


nexuses = st.integers(0, NEXUSES - 1)
keys = st.sampled_from([0, 1, 2, 3, 0xFFFFFFFFFFFFFFFF])
shared_keys = st.sampled_from([1, 1, 2, 2, 3, 0])
scopes = st.sampled_from([0, 0, 0, 0, 1, 15])
types = st.sampled_from([*TYPES, *TYPES, 0, 2, 4, 9, 15])


class Reservations(RuleBasedStateMachine):
    """Random commands of four nexuses, to the unit and to the model."""

    @initialize(start=st.lists(shared_keys, min_size=NEXUSES, max_size=NEXUSES), holder=nexuses, kind=types)
    def start(self, start: list[int], holder: int, kind: int) -> None:
        """Begin in the middle of things: some are registered, perhaps one reserves."""
        self.unit = EmulatedUnit(1 << 20)
        self.every: list[Initiator] = initiators(self.unit, NEXUSES)
        self.model = Model()
        for me, key in enumerate(start):
            self.register(me, None, key, ignore=True)
        self.reserve(holder, None, 0, kind)

    def teardown(self) -> None:
        if hasattr(self, "unit"):
            self.unit.close()

    def key(self, me: int, given: int | None) -> int:
        return self.model.keys[me] if given is None else given

    def same(self, me: int, unit: str, model: str) -> None:
        assert unit == model, f"nexus {me}: the unit says {unit}, the model {model}"
        self.hear()

    def hear(self) -> None:
        """Every nexus reports exactly what the model says it was told."""
        for number, one in enumerate(self.every):
            assert sorted(one.drain()) == sorted(self.model.told[number])
        self.model.told = [[] for _ in range(NEXUSES)]

    maybe = st.sampled_from([None] * 8 + [0, 1, 2])

    @rule(me=nexuses, key=maybe, new=keys, ignore=st.booleans())
    def register(self, me: int, key: int | None, new: int, ignore: bool) -> None:
        given = self.key(me, key)
        unit = self.every[me].out(6 if ignore else 0, given, new)
        self.same(me, unit, self.model.register(me, given, new, ignore=ignore))

    @rule(me=nexuses, key=maybe, scope=scopes, kind=types)
    def reserve(self, me: int, key: int | None, scope: int, kind: int) -> None:
        given = self.key(me, key)
        unit = self.every[me].out(1, given, 0, kind, scope=scope)
        self.same(me, unit, self.model.reserve(me, given, scope, kind))

    @rule(me=nexuses, key=maybe, scope=scopes, kind=st.one_of(st.none(), types))
    def release(self, me: int, key: int | None, scope: int, kind: int | None) -> None:
        given, asked = self.key(me, key), self.model.kind if kind is None else kind
        unit = self.every[me].out(2, given, 0, asked, scope=scope)
        self.same(me, unit, self.model.release(me, given, scope, asked))

    @rule(me=nexuses, key=maybe)
    def clear(self, me: int, key: int | None) -> None:
        given = self.key(me, key)
        self.same(me, self.every[me].out(3, given), self.model.clear(me, given))

    @rule(me=nexuses, key=maybe, victim=keys, scope=scopes, kind=types, abort=st.booleans())
    def preempt(self, me: int, key: int | None, victim: int, scope: int, kind: int, abort: bool) -> None:
        given = self.key(me, key)
        unit = self.every[me].out(5 if abort else 4, given, victim, kind, scope=scope)
        self.same(me, unit, self.model.preempt(me, given, victim, scope, kind))

    @rule(me=nexuses, key=maybe, new=keys, to=nexuses, unreg=st.booleans())
    def move(self, me: int, key: int | None, new: int, to: int, unreg: bool) -> None:
        given = self.key(me, key)
        unit = self.every[me].move(given, new, self.every[to].nexus, unreg=unreg)
        self.same(me, unit, self.model.move(me, given, new, to, unreg=unreg))

    @rule(me=nexuses, new=shared_keys)
    def come_back(self, me: int, new: int) -> None:
        """Keep most nexuses registered, so that most commands meet something."""
        unit = self.every[me].out(6, 0, new)
        self.same(me, unit, self.model.register(me, 0, new, ignore=True))

    @precondition(lambda self: self.model.generation % 8 == 7)
    @rule()
    def reset(self) -> None:
        self.unit.reset()
        for told in self.model.told:
            told.append("06/29/03")
        self.hear()

    @precondition(lambda self: self.model.kind and self.model.generation > 20)
    @rule()
    def power_cycle(self) -> None:
        self.unit.power_cycle()
        self.model = Model(told=[["06/29/01"] for _ in range(NEXUSES)])
        self.hear()

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "unit"):
            return
        one, model = self.every[0], self.model
        assert one.keys() == sorted(key for key in model.keys if key)
        assert one.generation() == model.generation
        expected = None
        if model.kind:
            expected = (0 if model.holder is None else model.keys[model.holder], model.kind)
        assert one.reservation() == expected
        holders = {}
        data = one.fetch("5e03 0000000000 ffff 00")
        for at in range(8, len(data), 48):
            holders[data[at + 35]] = bool(data[at + 12] & 1)
            key = struct.unpack_from(">Q", data, at)[0]
            assert key == model.keys[data[at + 35]]
        assert holders == {number: model.holds(number) for number in range(NEXUSES) if model.keys[number]}
        for number, initiator in enumerate(self.every):
            assert initiator.write() == ("00" if model.may(number, write=True) else "18")
            assert initiator.read() == ("00" if model.may(number, write=False) else "18")


Reservations.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestReservations = Reservations.TestCase


@pytest.mark.parametrize("seed", range(10))
def test_random_walks(seed: int) -> None:
    """The same comparison with evenly spread choices, which Hypothesis does not make."""
    chance = random.Random(seed)
    for _ in range(12):
        machine = Reservations()
        machine.start(
            chance.choices([0, 1, 2, 3], [1, 4, 4, 2], k=NEXUSES), chance.randrange(NEXUSES), chance.choice(TYPES)
        )
        for _ in range(30):
            me, other = chance.randrange(NEXUSES), chance.randrange(NEXUSES)
            key = chance.choices([None, 0, 1, 2], [20, 1, 1, 1])[0]
            new = chance.choices([0, 1, 2, 3], [1, 3, 3, 2])[0]
            kind = chance.choices([*TYPES, 0, 2], [3] * 6 + [1, 1])[0]
            scope = chance.choices([0, 1], [20, 1])[0]
            match chance.choices(range(8), [4, 3, 5, 3, 1, 5, 3, 3])[0]:
                case 0:
                    machine.come_back(me, new)
                case 1:
                    machine.register(me, key, new, ignore=chance.random() < 0.3)
                case 2:
                    machine.reserve(me, key, scope, kind)
                case 3:
                    machine.release(me, key, scope, chance.choice([None, None, kind]))
                case 4:
                    machine.clear(me, key)
                case 5:
                    machine.preempt(me, key, new, scope, kind, chance.random() < 0.5)
                case 6:
                    machine.move(me, key, new, other, chance.random() < 0.5)
                case 7:
                    machine.come_back(other, new or 1)
            machine.agrees()
        machine.teardown()
