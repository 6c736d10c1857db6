"""The helper killed at any instant over LIO: no GOOD a client saw is lost, and what is tracked is what LIO has."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest

from pyproxy.reservation.state import NexusState, decode_state
from pyproxy.store.sqlite import SqliteStore
from tests.unit.pr_helper.exchange import Client, parameters, prin, prout
from tests.vm.rig.lio import LioNexus, LioUnit
from tests.vm.rig.pr_helper_process import GUEST, HelperProcess, Served
from tests.vm.rig.witness import TYPE_WORDS, all_show

KILLS = 30
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, IGNORE = 0, 1, 2, 3, 4, 6
TYPES = (1, 3, 5, 6, 7, 8)
OTHERS_KEY = 0x0BAD
Sent = tuple[bytes, bytes]


class Workload:
    """PERSISTENT RESERVE OUTs of a guest, one after the other, until the helper does not answer any more."""

    def __init__(self, path: Path, unit: LioUnit, device: int, draw: random.Random) -> None:
        self.good: list[Sent] = []
        self.unanswered: Sent | None = None
        self.requests = 0
        self.seconds = 0.0
        self._answers = threading.Semaphore(0)
        self._unit = unit
        self._device = device
        self._draw = draw
        self._client = Client(path)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def let_run(self, answers: int, part: float) -> None:
        """Wait for that many answers, and then for that part of what a request takes."""
        for _ in range(answers):
            assert self._answers.acquire(timeout=120)
        time.sleep(part * self.seconds)

    def wait(self) -> None:
        self._thread.join(60)
        assert not self._thread.is_alive()
        self._client.close()

    def _run(self) -> None:
        nexus = self._unit.nexuses[0]
        key, held = registration_of(self._unit, nexus)
        while True:
            sent = self._next(key, held)
            started = time.monotonic()
            answer = self._client.ask(sent[0], self._device, sent[1])
            if answer.closed:
                self.unanswered = sent
                return
            self.seconds = time.monotonic() - started
            self.requests += 1
            if answer.status == 0:
                self.good.append(sent)
            # A guest would read; what LIO tells the tests is as good and quicker.
            key, held = registration_of(self._unit, nexus)
            self._answers.release()

    def _next(self, key: int, held: int | None) -> Sent:
        draw = self._draw
        action = draw.choice((REGISTER, REGISTER, IGNORE, RESERVE, RESERVE, RELEASE, CLEAR, PREEMPT))
        if not key:
            action = draw.choice((REGISTER, IGNORE))
        new = OTHERS_KEY if action == PREEMPT else draw.choice((0, *(draw.getrandbits(64) | 1 for _ in range(4))))
        if action in (REGISTER, IGNORE):
            return prout(action, 24), parameters(key, new, draw.randrange(2))
        return prout(action, 24, held or draw.choice(TYPES)), parameters(key, new)


def registration_of(unit: LioUnit, nexus: LioNexus) -> tuple[int, int | None]:
    """By LIO's configfs: the nexus' key (0: none), and the reservation's type where it holds it."""
    key, words = unit.registered.get(nexus.initiator, 0), unit.reservation_type
    type_ = next((number for number, (name, _) in TYPE_WORDS.items() if name == words), None)
    assert (type_ is None) == (words is None)
    return key, type_ if key and (type_ in (7, 8) or unit.holder == nexus.initiator) else None


def another_initiator(unit: LioUnit, draw: random.Random) -> None:
    """While the helper is down, another nexus fences the guest, clears everything or registers."""
    nexus, other = unit.nexuses
    deed = draw.choice(("preempt", "clear", "register", "leave"))
    key = unit.registered.get(nexus.initiator)
    out = other.direct.persistent_reserve_out
    other.direct.drained(lambda: out(IGNORE, sa_key=OTHERS_KEY))
    if deed == "preempt" and key:
        other.direct.drained(lambda: out(PREEMPT, key=OTHERS_KEY, sa_key=key, type_=3))
    elif deed == "clear":
        other.direct.drained(lambda: out(CLEAR, key=OTHERS_KEY))
    elif deed == "leave":
        other.direct.drained(lambda: out(IGNORE))


def tracked(served: Served) -> NexusState:
    """What is in the store, which has no open intents."""
    with SqliteStore(served.database) as store:
        assert store.open_intents() == []
        (record,) = store.nexuses()
        assert record.guest == GUEST
        return decode_state(record.state)


def recorded_good(store: SqliteStore, after: int) -> list[Sent]:
    return [
        (intent.cdb.ljust(16, b"\0"), intent.parameter_list)
        for intent in store.intents(GUEST)
        if intent.id > after and intent.result is not None and json.loads(intent.result)["status"] == 0
    ]


def level(served: Served, unit: LioUnit, client: Client, device: int) -> None:
    """The store, the guest through the socket, LIO's configfs and sg_persist say the same."""
    nexus, other = unit.nexuses
    state = tracked(served)
    assert state.fresh, f"suspect: {state.suspect}"
    assert (state.key, state.type) == registration_of(unit, nexus)
    registered = {nexus: state.key} if state.key else {}
    if other.initiator in unit.registered:
        registered[other] = OTHERS_KEY
    _, others_type = registration_of(unit, other)
    holder = next((each for each in unit.nexuses if each.initiator == unit.holder), None)
    all_show(unit, registered, holder, state.type or others_type)

    answer = client.ask(prin(0, 4096), device)
    while answer.status == 2 and answer.sense[2] & 0xF == 6:
        answer = client.ask(prin(0, 4096), device)
    assert sorted(answer.data[at : at + 8] for at in range(8, len(answer.data), 8)) == sorted(
        key.to_bytes(8, "big") for key in registered.values()
    )


@pytest.mark.vm_timeout(1800)
def test_killed_at_any_instant_it_forgets_nothing(lio, tmp_path):
    unit = lio(2)
    served = Served.of(tmp_path, unit.nexuses[0])
    draw = random.Random(20260401)
    seen = requests = interrupted = fenced = last = 0
    device = os.open(unit.nexuses[0].sd, os.O_RDWR | os.O_NONBLOCK)
    try:
        for kill in range(KILLS + 1):
            with HelperProcess(served) as process:
                with Client(served.socket) as client:
                    level(served, unit, client, device)
                if kill == KILLS:
                    break
                workload = Workload(served.socket, unit, device, draw)
                workload.let_run(draw.randrange(1, 6), draw.random())
                process.kill()
                workload.wait()
            seen += len(workload.good)
            requests += workload.requests

            with SqliteStore(served.database) as store:
                recorded = recorded_good(store, last)
                open_intents = len(store.open_intents())
                last = max((intent.id for intent in store.intents(GUEST)), default=last)
            assert recorded[: len(workload.good)] == workload.good
            # What was recorded and not seen is the one command whose answer the kill has cut off.
            assert recorded[len(workload.good) :] in ([], [workload.unanswered])
            assert open_intents <= 1
            interrupted += open_intents
            if kill % 3 == 1:
                another_initiator(unit, draw)
                fenced += 1
            if kill % 5 == 4:
                starting = HelperProcess(served)
                time.sleep(draw.uniform(0.0, 0.3))
                starting.kill()
    finally:
        os.close(device)
    print(f"{requests} requests, {seen} GOOD, {interrupted} open intents of {KILLS} kills, {fenced} interventions")
    assert seen > KILLS
    assert interrupted > 0
