"""A proxy that is killed at any instant: what it answered GOOD is in the store, and store and device agree again."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
from pathlib import Path

from pyproxy.device.emulated import EmulatedUnit
from pyproxy.reservation.snooper import Snooper
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit

US = SasTransportId(bytes.fromhex("5001405000000001"))
LUN = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa"
ROUNDS = 12

WORKLOAD = """
import random, sys
from pathlib import Path
from tests.unit.guest.test_kill import open_guest
from tests.unit.reservation.script import pr_out

directory, seed = Path(sys.argv[1]), int(sys.argv[2])
draw = random.Random(seed)
with open_guest(directory) as (guest, store, _):
    guest.resync()
    print("ready", flush=True)
    while True:
        action = draw.choice([0, 0, 1, 1, 2, 3, 4, 5, 6, 6])
        own = guest.state.key
        key = draw.choice([0, draw.getrandbits(64), draw.getrandbits(64)])
        kind = int(guest.state.type or draw.choice([1, 3, 5, 6, 7, 8]))
        command = pr_out(action, own, own if action in (4, 5) and draw.random() < 0.5 else key, kind, action in (0, 6))
        if guest.execute(command).good:
            print(command.cdb.hex(), bytes(command.data_out).hex(), flush=True)
"""


class open_guest:  # noqa: N801 - used as a function
    """The proxy of one guest over a unit in a file, which outlives its process as a disk does."""

    def __init__(self, directory: Path) -> None:
        self.unit = EmulatedUnit(1 << 20, path=directory / "disk", serial="kill")
        self.store = SqliteStore(directory / "state.db")
        self.nexus = self.unit.nexus(US)
        snooper = Snooper("g", 0, LUN, self.store, migrate_pr=True, initiator=US, rtpi=1)
        self.guest = GuestUnit("g", 0, self.nexus, snooper)

    def __enter__(self) -> tuple[GuestUnit, SqliteStore, EmulatedUnit]:
        return self.guest, self.store, self.unit

    def __exit__(self, *_: object) -> None:
        self.store.close()
        self.unit.close()


def kill_at_random(directory: Path, seed: int, draw: random.Random) -> list[str]:
    """Let the workload run for a moment, kill it, and return the commands it had answered GOOD."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKLOAD, str(directory), str(seed)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    select.select([], [], [], draw.uniform(0.0, 0.12))
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = process.stdout.read().splitlines()
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    return acknowledged


def test_killed_at_any_instant_it_forgets_nothing(tmp_path: Path) -> None:
    draw = random.Random(20260101)
    answered = interrupted = 0
    with open_guest(tmp_path):
        pass
    for seed in range(ROUNDS):
        with SqliteStore(tmp_path / "state.db") as store:
            last = max((intent.id for intent in store.intents()), default=0)
        acknowledged = kill_at_random(tmp_path, seed, draw)
        answered += len(acknowledged)
        with open_guest(tmp_path) as (guest, store, unit):
            recorded = [
                f"{intent.cdb.hex()} {intent.parameter_list.hex()}"
                for intent in store.intents("g", LUN)
                if intent.id > last and intent.result is not None and json.loads(intent.result)["status"] == 0
            ]
            # The last GOOD may have been recorded but not seen any more; none that was seen may be missing.
            whole = [line for line in acknowledged if len(line) == 20 + 1 + 48]
            assert recorded[: len(whole)] == whole
            assert len(recorded) <= len(whole) + 1
            open_intents = store.open_intents()
            assert len(open_intents) <= 1
            interrupted += len(open_intents)
            assert not guest.state.fresh

            state = guest.resync()

            nexus = unit.nexus(US).identity
            truth = unit.reservations
            held = truth.reservation.type if truth.reservation is not None and truth.holds(nexus) else None
            assert state.fresh
            assert (state.key, state.type) == (truth.key_of(nexus) or 0, held)
            assert store.open_intents() == []
    assert answered > 0
    assert interrupted > 0
