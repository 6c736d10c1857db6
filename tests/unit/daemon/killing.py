"""A daemon killed at any instant and started again, with a guest at work on its control or its helper socket."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from pyproxy.device.base import TransportError
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.frontend.api import ApiError, DaemonUnreachableError
from pyproxy.store.sqlite import SqliteStore
from tests.unit.daemon.conftest import Daemon, start_in, write_config
from tests.unit.pr_helper.exchange import Client

Way = Literal["control", "helper"]
"""By which socket the guest's commands come."""

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, IGNORE = 0, 1, 2, 3, 4, 6
Sent = tuple[bytes, bytes]


class Answered(Protocol):
    """What a command ended with."""

    status: int


class Unit(Protocol):
    """Where a guest's commands go; raises DaemonUnreachableError where a command was not sent, ApiError where no answer
    came."""

    def execute(self, cdb: bytes, data_out: bytes) -> Answered: ...


class HelperUnit:
    """The unit by the helper socket, as QEMU uses it."""

    def __init__(self, path: Path, disk: int) -> None:
        self._disk = disk
        try:
            self._client: Client | None = Client(path)
        except ConnectionError:
            self._client = None

    def execute(self, cdb: bytes, data_out: bytes) -> Answered:
        if self._client is None:
            raise DaemonUnreachableError("no daemon answers")
        answer = self._client.ask(cdb.ljust(16, b"\0"), self._disk, data_out)
        if answer.status is None:
            self._client.close()
            raise ApiError("the connection was closed", "closed", 0)
        return _Status(answer.status)


@dataclass
class _Status:
    status: int


class Workload:
    """One guest's PERSISTENT RESERVE OUTs, every registration with APTPL, until the daemon does not answer any more."""

    def __init__(self, unit: Unit, key: int, held: int | None, draw: random.Random) -> None:
        self.good: list[Sent] = []
        self.unanswered: Sent | None = None
        self._unit = unit
        self._key = key
        self._held = held
        self._draw = draw
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait(self) -> None:
        self._thread.join(120)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            sent = self._next()
            try:
                result = self._unit.execute(sent[0], data_out=sent[1])
            except DaemonUnreachableError:
                return
            except (TransportError, ApiError):
                self.unanswered = sent
                return
            if result.status == 0:
                self.good.append(sent)
                self._follow(*sent)

    def _next(self) -> Sent:
        action = self._draw.choice((REGISTER, REGISTER, IGNORE, RESERVE, RESERVE, RELEASE, CLEAR, PREEMPT))
        kind = self._held or self._draw.choice((1, 3, 5, 6, 7, 8))
        new = self._draw.choice((0, *(self._draw.getrandbits(64) | 1 for _ in range(3))))
        aptpl = action in (REGISTER, IGNORE)
        cdb = bytes([0x5F, action, 0 if aptpl else kind, 0, 0, 0, 0, 0, 24, 0])
        return cdb, self._key.to_bytes(8) + new.to_bytes(8) + bytes([0, 0, 0, 0, aptpl, 0, 0, 0])

    def _follow(self, cdb: bytes, data: bytes) -> None:
        new = int.from_bytes(data[8:16])
        if cdb[1] in (REGISTER, IGNORE):
            self._key = new
            self._held = self._held if new else None
        elif cdb[1] == RESERVE:
            self._held = cdb[2]
        elif cdb[1] in (RELEASE, CLEAR):
            self._held = None
            self._key = 0 if cdb[1] == CLEAR else self._key


def tracked(daemon: Daemon) -> dict[str, Any]:
    """What the daemon says of the unit."""
    unit: dict[str, Any] = json.loads(daemon.client.request("GET", "/status"))["guests"][0]["units"][0]
    assert unit["error"] is None
    return unit


def truth(image: Path) -> tuple[int, int | None]:
    """Key and reservation type of the one initiator, from the unit itself: what a power loss has left."""
    with contextlib.closing(EmulatedUnit(1 << 20, path=image)) as unit:
        table = unit.reservations
        keys = list(table.registrations.values())
        assert len(keys) <= 1
        held = None if table.reservation is None else int(table.reservation.type)
        return (keys[0].key if keys else 0), held


def recorded_good(store: SqliteStore, after: int) -> list[Sent]:
    return [
        (intent.cdb, intent.parameter_list)
        for intent in store.intents("web")
        if intent.id > after and intent.result is not None and json.loads(intent.result)["status"] == 0
    ]


def kill_while_starting(program: tuple[str, ...], draw: random.Random) -> None:
    process = subprocess.Popen([sys.executable, *program], stderr=subprocess.DEVNULL)
    time.sleep(draw.uniform(0.1, 0.8))
    process.kill()
    process.wait()


@dataclass
class Outcome:
    """What a run of kills came to: GOODs the guest saw, and kills that left a command of unknown outcome."""

    seen: int = 0
    interrupted: int = 0


def kill_again_and_again(directory: Path, way: Way, kills: int, seed: int) -> Outcome:
    """Kill and start a daemon ``kills`` times; AssertionError where it has forgotten something or knows what is not."""
    draw = random.Random(seed)
    outcome = Outcome()
    image, database = directory / "unit.img", directory / "state" / "reservations.sqlite3"
    config = directory / "pyproxy.toml"
    guests = 'poll_seconds = 1\n[[guest]]\nname = "web"\n'
    if way == "control":
        guests += f'[[guest.unit]]\nlun = 0\nemulated = {{ size = "1MiB", path = "{image}" }}\n'
        program: tuple[str, ...] = ("-m", "pyproxy", "--config", str(config), "serve")
    else:
        guests += f'pr_helper = {{}}\n[[guest.unit]]\nlun = 0\ndevice = "{image}"\n'
        program = ("-m", "tests.unit.daemon.files_as_nodes", str(config))
    write_config(directory, guests)
    last = 0
    key, held = 0, None
    for kill in range(kills + 1):
        with contextlib.ExitStack() as stack:
            daemon = start_in(directory, guests, stack, program)
            now = tracked(daemon)
            assert (int(now["key"], 16), now["reservation_type"]) == (key, held)
            assert (now["fresh"], now["open_intents"]) == (True, 0)
            if kill == kills:
                break
            workload = Workload(stack.enter_context(_unit(daemon, way, image)), key, held, draw)
            time.sleep(draw.uniform(0.0, 0.3))
            daemon.process.send_signal(signal.SIGKILL)
            workload.wait()
        outcome.seen += len(workload.good)

        with SqliteStore(database) as store:
            recorded = recorded_good(store, last)
            open_intents = len(store.open_intents())
            last = max((intent.id for intent in store.intents("web")), default=last)
        assert recorded[: len(workload.good)] == workload.good
        # What was recorded and not seen is the one command whose answer the kill has cut off.
        assert recorded[len(workload.good) :] in ([], [workload.unanswered])
        assert open_intents <= 1
        outcome.interrupted += open_intents

        key, held = truth(image)
        if kill % 4 == 3:
            kill_while_starting(program, draw)
    return outcome


@contextlib.contextmanager
def _unit(daemon: Daemon, way: Way, image: Path) -> Iterator[Unit]:
    if way == "control":
        yield daemon.client.guest("web").unit(0)
        return
    disk = os.open(image, os.O_RDWR)
    try:
        yield HelperUnit(daemon.socket.parent / "web-pr.sock", disk)
    finally:
        os.close(disk)
