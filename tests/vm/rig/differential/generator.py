"""Makes sequences: seeded, so that a number names the same sequence for ever."""

from __future__ import annotations

import random
import struct

from tests.vm.rig.differential.steps import (
    CLEAR,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER,
    REGISTER_AND_IGNORE,
    RELEASE,
    RESERVE,
    Step,
    persistent_reserve_in,
    persistent_reserve_out,
    unit_ready,
)

NEXUSES = 3
LENGTHS = range(5, 41)
TYPES = (1, 3, 5, 6, 7, 8)
BLOCKS = 8
"""Logical blocks 0 to 7 are what sequences read and write."""

_KEYS = (0x0102030405060708, 0xA, 0xFFFFFFFFFFFFFFFF, 0xCAFE)
_ODD_TYPES = (0, 2, 4, 9, 0xF)
_ODD_LENGTHS = (0, 8, 23, 25, 32)
_SHORT_ALLOCATIONS = (8, 12, 16, 24, 32, 50)
_ODD_OUT_ACTIONS = (8, 9, 0x1F)
_ODD_IN_ACTIONS = (4, 0x1F)


class _Guess:
    """What the reservations probably are; only there to make most commands sensible."""

    def __init__(self) -> None:
        self.keys: dict[int, int] = {}
        self.holder: int | None = None
        self.type = 0
        self.spc2: int | None = None

    def register(self, nexus: int, key: int) -> None:
        if key:
            self.keys[nexus] = key
            return
        self.keys.pop(nexus, None)
        if self.holder == nexus:
            self.holder = None

    def reserve(self, nexus: int, type_: int) -> None:
        if nexus in self.keys and self.holder is None:
            self.holder, self.type = nexus, type_

    def preempt(self, nexus: int, key: int, type_: int) -> None:
        if nexus not in self.keys:
            return
        victims = [other for other, its in self.keys.items() if its == key and other != nexus]
        if self.holder in victims:
            self.holder, self.type = nexus, type_
        for victim in victims:
            self.keys.pop(victim)


class _Sequence:
    def __init__(self, seed: int, abort: bool) -> None:
        self._abort = abort
        self._random = random.Random(seed)
        self._guess = _Guess()
        # Few keys, so that nexuses share them; few types, so that RELEASE and PREEMPT often match.
        self._keys = self._random.sample(_KEYS, self._random.choice((2, 3, 3, 4)))
        self._types = self._random.sample(TYPES, self._random.choice((1, 2, 2, 3)))

    def make(self) -> list[Step]:
        makers = {
            self._register: 20,
            self._register_and_ignore: 7,
            self._reserve: 14,
            self._release: 8,
            self._clear: 3,
            self._preempt: 13,
            self._odd_out: 2,
            self._read_state: 16,
            self._test_unit_ready: 7,
            self._read: 9,
            self._write: 12,
            self._spc2_reserve: 2,
            self._spc2_release: 2,
            self._other: 4,
        }
        length = self._random.choice(LENGTHS)
        steps: list[Step] = []
        while len(steps) < length:
            if self._guess.spc2 is not None and self._random.random() < 0.3:
                steps.append(self._spc2_release())
                continue
            (maker,) = self._random.choices(list(makers), list(makers.values()))
            steps.append(maker())
        return steps

    def _nexus(self) -> int:
        return self._random.randrange(NEXUSES)

    def _registrant(self) -> int:
        """Mostly a nexus that is registered."""
        registered = sorted(self._guess.keys)
        return self._random.choice(registered) if registered and self._chance(0.85) else self._nexus()

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _key_of(self, nexus: int, right: float) -> int:
        if self._chance(right):
            return self._guess.keys.get(nexus, 0)
        return self._random.choice([0, *self._keys])

    def _type(self) -> int:
        return self._random.choice(self._types) if self._chance(0.95) else self._random.choice(_ODD_TYPES)

    def _scope(self) -> int:
        return 0 if self._chance(0.985) else self._random.choice((1, 2))

    def _flags(self) -> int:
        return 1 if self._chance(0.2) else 0

    def _register(self) -> Step:
        nexus = self._nexus()
        key = self._key_of(nexus, 0.9)
        sa_key = 0 if self._chance(0.2) else self._random.choice(self._keys)
        if key == self._guess.keys.get(nexus, 0):
            self._guess.register(nexus, sa_key)
        return persistent_reserve_out(nexus, REGISTER, key=key, sa_key=sa_key, flags=self._flags())

    def _register_and_ignore(self) -> Step:
        nexus = self._nexus()
        sa_key = 0 if self._chance(0.2) else self._random.choice(self._keys)
        self._guess.register(nexus, sa_key)
        key = self._random.choice([0, *self._keys])
        return persistent_reserve_out(nexus, REGISTER_AND_IGNORE, key=key, sa_key=sa_key, flags=self._flags())

    def _reserve(self) -> Step:
        nexus, type_ = self._registrant(), self._type()
        key = self._key_of(nexus, 0.95)
        if type_ in TYPES:
            self._guess.reserve(nexus, type_)
        return persistent_reserve_out(nexus, RESERVE, key=key, type_=type_, scope=self._scope())

    def _release(self) -> Step:
        holder = self._guess.holder
        nexus = holder if holder is not None and self._chance(0.6) else self._registrant()
        type_ = self._guess.type if self._chance(0.85) else self._type()
        key = self._key_of(nexus, 0.93)
        if nexus == holder and type_ == self._guess.type:
            self._guess.holder = None
        return persistent_reserve_out(nexus, RELEASE, key=key, type_=type_, scope=self._scope())

    def _clear(self) -> Step:
        nexus = self._registrant()
        key = self._key_of(nexus, 0.9)
        if nexus in self._guess.keys and key == self._guess.keys[nexus]:
            self._guess.__init__()
        return persistent_reserve_out(nexus, CLEAR, key=key)

    def _preempt(self) -> Step:
        nexus = self._registrant()
        action = PREEMPT_AND_ABORT if self._chance(0.3) and self._abort else PREEMPT
        key = self._key_of(nexus, 0.95)
        others = [its for other, its in self._guess.keys.items() if other != nexus]
        sa_key = self._random.choice(others) if others and self._chance(0.8) else self._random.choice([0, *self._keys])
        type_ = self._type()
        self._guess.preempt(nexus, sa_key, type_)
        return persistent_reserve_out(nexus, action, key=key, sa_key=sa_key, type_=type_, scope=self._scope())

    def _odd_out(self) -> Step:
        nexus = self._registrant()
        key = self._key_of(nexus, 0.8)
        if self._chance(0.5):
            return persistent_reserve_out(nexus, self._random.choice(_ODD_OUT_ACTIONS), key=key, type_=self._types[0])
        action = self._random.choice((REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, REGISTER_AND_IGNORE))
        length = self._random.choice(_ODD_LENGTHS)
        return persistent_reserve_out(nexus, action, key=key, sa_key=0xA, type_=self._types[0], list_length=length)

    def _read_state(self) -> Step:
        action = self._random.choices((0, 1, 2, 3, self._random.choice(_ODD_IN_ACTIONS)), (8, 6, 2, 5, 0.5))[0]
        length = 1024 if self._chance(0.85) else self._random.choice(_SHORT_ALLOCATIONS)
        return persistent_reserve_in(self._nexus(), action, length)

    def _test_unit_ready(self) -> Step:
        return unit_ready(self._nexus())

    def _read(self) -> Step:
        blocks = self._random.choice((1, 1, 1, 2))
        lba = self._random.randrange(BLOCKS - blocks + 1)
        return Step(self._nexus(), struct.pack(">BxIxHx", 0x28, lba, blocks), data_in=512 * blocks)

    def _write(self) -> Step:
        data = bytes([self._random.randrange(256)]) * 512
        return Step(self._nexus(), struct.pack(">BxIxHx", 0x2A, self._random.randrange(BLOCKS), 1), data)

    def _spc2_reserve(self) -> Step:
        nexus = self._nexus()
        if not self._guess.keys:
            self._guess.spc2 = nexus
        return Step(nexus, bytes([0x16, 0, 0, 0, 0, 0]))

    def _spc2_release(self) -> Step:
        holder = self._guess.spc2
        nexus = holder if holder is not None and self._chance(0.8) else self._nexus()
        if nexus == holder:
            self._guess.spc2 = None
        return Step(nexus, bytes([0x17, 0, 0, 0, 0, 0]))

    def _other(self) -> Step:
        cdb, data_in = self._random.choice(
            (
                (bytes([0x03, 0, 0, 0, 252, 0]), 252),
                (bytes([0x12, 0, 0, 0, 96, 0]), 96),
                (bytes([0x1A, 0, 0x0A, 0, 64, 0]), 64),
                (bytes([0x25]) + bytes(9), 8),
                (bytes([0x35]) + bytes(9), 0),
                (bytes([0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]), 256),
            )
        )
        return Step(self._nexus(), cdb, data_in=data_in)


def sequence(number: int, *, abort: bool) -> list[Step]:
    """The sequence of this number: 5 to 40 commands of three nexuses; PREEMPT AND ABORT only with ``abort``."""
    return _Sequence(number, abort).make()
