"""Every lane of a guest, a resync and a fencer at once: nothing hangs, is lost, told twice or tracked wrongly."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable

import pytest

from pyproxy.reservation.snapshot import SnapshotError
from pyproxy.scsi.command import Result
from pyproxy.scsi.sense import Sense
from pyproxy.store.sqlite import SqliteStore
from tests.unit.guest.test_unit import READY, Bench, F, K, read, write
from tests.unit.guest.test_unit import store as store  # the fixture
from tests.unit.reservation.script import pr_in, pr_out

SECONDS = 0.6
AT_MOST_SECONDS = 20.0
"""Where the machine is so busy that nothing had happened to the guest by then."""


class Race:
    """A guest and a fencer on one unit; ``told`` counts what the guest saw, ``events`` what the unit had to tell it."""

    def __init__(self, store: SqliteStore, seed: int) -> None:
        self.draw = random.Random(seed)
        self.bench = Bench(store)
        self.told = self.events = 0
        self.failures: list[Exception] = []
        self._lock = threading.Lock()
        self._began = time.monotonic()
        pending = self.bench.device.nexus.attentions
        establish = pending.establish

        def counted(sense: Sense) -> None:
            before = len(pending)
            establish(sense)
            self.events += len(pending) - before

        pending.establish = counted  # type: ignore[method-assign]

    def note(self, *results: Result) -> None:
        for result in results:
            sense = result.decoded_sense
            if sense is not None and sense.is_unit_attention:
                with self._lock:
                    self.told += 1

    def run(self, *lanes: Callable[[], None]) -> None:
        threads = [threading.Thread(target=self._repeat, args=(lane,), daemon=True) for lane in lanes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads), "a deadlock"

    def _repeat(self, lane: Callable[[], None]) -> None:
        try:
            while not self._enough():
                lane()
        except Exception as error:
            self.failures.append(error)

    def _enough(self) -> bool:
        passed = time.monotonic() - self._began
        return passed >= (SECONDS if self.events else AT_MOST_SECONDS)

    def reserves(self) -> None:
        key = self.bench.guest.state.key
        kind = self.draw.choice([1, 5, 7])
        commands = (
            pr_out(0, key, K),
            pr_out(6, 0, K),
            pr_out(1, key, 0, kind),
            pr_out(2, key, 0, kind),
            pr_out(4, key, F, 5),
            pr_out(4, key, key, 1),
            pr_out(3, key),
            pr_out(0, key, 0),
        )
        self.note(self.bench.guest.execute(self.draw.choice(commands)))

    def reads_reservations(self) -> None:
        self.note(self.bench.guest.execute(self.draw.choice([pr_in(0), pr_in(1, 24)])))
        time.sleep(0.002)

    def moves_data(self) -> None:
        self.note(*self.bench.guest.execute_batch([write(1), read(), READY]))

    def resyncs(self) -> None:
        with contextlib.suppress(SnapshotError):
            self.bench.guest.resync()
        time.sleep(0.002)

    def fences(self) -> None:
        for command in (pr_out(6, 0, F), pr_out(4, F, K, 5), pr_out(3, F)):
            self.bench.other.execute(command)
        time.sleep(0.003)

    def settle(self) -> None:
        """Let the guest see everything that waits for it."""
        while True:
            result = self.bench.guest.execute(READY)
            self.note(result)
            if result.good:
                return


@pytest.mark.parametrize("seed", range(3))
def test_lanes_resync_and_fences_at_once(store: SqliteStore, seed: int) -> None:
    race = Race(store, seed)
    race.run(race.reserves, race.reads_reservations, race.moves_data, race.resyncs, race.fences)
    assert not race.failures
    race.settle()
    state = race.bench.guest.resync()
    race.settle()
    reservations = race.bench.unit.reservations
    nexus = race.bench.device.nexus.identity
    held = reservations.reservation.type if reservations.reservation and reservations.holds(nexus) else None
    assert (state.fresh, state.key, state.type) == (True, reservations.key_of(nexus) or 0, held)
    assert not store.open_intents()
    assert race.told == race.events > 0
    race.bench.unit.close()
