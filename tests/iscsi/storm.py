"""Threads and a port that use one session while it keeps breaking; what each of them saw."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from _fastpath.sgio import DIRECTION_IN, Batch
from pyproxy.device.base import TransportError
from pyproxy.device.iscsi import IscsiDevice
from pyproxy.scsi.command import Result
from tests.iscsi.commands import BLOCK, TEST_UNIT_READY, attention, read, write

AREA = 64
"""Blocks of each participant; all of one byte value that is its own."""


@dataclass
class Storm:
    """``counts`` of what commands came to, ``odd`` the data that are not what was written, ``failures`` of the test."""

    counts: Counter[str] = field(default_factory=Counter)
    odd: list[bytes] = field(default_factory=list)
    failures: list[BaseException] = field(default_factory=list)


def rage(device: IscsiDevice, breaks: Sequence[Callable[[], None]], rounds: int) -> Storm:
    """Three threads and a port read, while one of ``breaks`` is called again and again; all must come to an end."""
    for number in range(4):
        assert device.execute(write(number * AREA, bytes([number + 1]) * (BLOCK * AREA))).good
    storm, stop = Storm(), threading.Event()

    def note(data: bytes, number: int, count: str) -> None:
        storm.counts[count] += 1
        if data.strip(bytes([number + 1])):
            storm.odd.append(data)

    def execute(number: int) -> None:
        chance = random.Random(number)
        while not stop.is_set():
            size = chance.randrange(1, AREA)
            for outcome in _outcomes(device, number, size):
                if isinstance(outcome, TransportError):
                    storm.counts["lost" if outcome.fate_unknown else "refused"] += 1
                elif outcome.good:
                    assert len(outcome.data) in (0, BLOCK * size)
                    note(outcome.data, number, "answered")
                else:
                    assert attention(outcome) is not None

    def drive() -> None:
        port = device.port()
        batch = Batch(20)
        rooms = [bytearray(BLOCK * AREA) for _ in range(20)]
        for room in rooms:
            batch.add(read(3 * AREA, AREA).cdb, DIRECTION_IN, room)
        while not stop.is_set():
            port.run(batch)
            for index, room in enumerate(rooms):
                status, _, _, _, residual, _, error = batch.result(index)
                if error == 0 and status == 0:
                    assert residual == 0
                    note(bytes(room), 3, "answered through the port")

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            storm.failures.append(error)

    works: list[Callable[[], None]] = [lambda number=number: execute(number) for number in range(3)]  # type: ignore[misc]
    threads = [threading.Thread(target=guarded, args=(work,)) for work in (*works, drive)]
    for thread in threads:
        thread.start()
    chance = random.Random(0)
    for _ in range(rounds):
        time.sleep(chance.random() * 0.4)
        chance.choice(breaks)()
    stop.set()
    for thread in threads:
        thread.join(timeout=120)
    assert [thread for thread in threads if thread.is_alive()] == []
    assert storm.failures == []
    assert device.counts[3] == 0
    return storm


def _outcomes(device: IscsiDevice, number: int, size: int) -> Sequence[Result | TransportError]:
    try:
        return device.execute_batch([read(number * AREA, size), TEST_UNIT_READY] * 5)
    except TransportError as error:
        return error.outcomes
