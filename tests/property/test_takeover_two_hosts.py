"""One checkpoint is restored on two hosts at once: at most one of them may ever let the guest start.

source ─┐
host D ─┼── logical unit     D stops before one of its commands, E runs up to one of its own, D ends, E ends
host E ─┘
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from pyproxy.migration.restore import RestoreReport, restore
from pyproxy.reservation.facts import Nexus
from tests.property.takeover_world import K, MemoryStore, Scenario, Tap, World

PATIENCE = 30.0


class OtherHost:
    """The second host in a thread of its own, stopped at its instant number ``stop`` until ``finish``."""

    def __init__(self, world: World, stop: int) -> None:
        self.nexus = world.siblings[-1]
        self.report: RestoreReport | None = None
        self._world = world
        self._stop = stop
        self._count = 0
        self._reached, self._go = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def advance(self, _: World) -> None:
        self._thread.start()
        assert self._reached.wait(PATIENCE)

    def finish(self) -> None:
        self._go.set()
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def _instant(self, _: str) -> None:
        if self._count == self._stop:
            self._reached.set()
            assert self._go.wait(PATIENCE)
        self._count += 1

    def _run(self) -> None:
        world, scenario = self._world, self._world.scenario
        try:
            self.report = restore(
                world.checkpoint,
                Tap(self.nexus, self._instant, full_status=scenario.full),
                store=MemoryStore(self._instant),  # type: ignore[arg-type]
                source=Tap(world.s, self._instant, full_status=scenario.full) if scenario.alive else None,
                source_dead=not scenario.alive,
                destination_nexus=Nexus(self.nexus.initiator, 1) if scenario.full else None,
                draw=world._draw,
                pause=lambda _: None,
            )
        finally:
            self._reached.set()


def _instants(scenario: Scenario, wanted: Callable[[str], bool]) -> list[int]:
    world = World(scenario)
    world.restore()
    return [index for index, what in enumerate(world.instants) if wanted(what)]


@pytest.mark.parametrize("sharing", [0, 1])
@pytest.mark.parametrize("full", [True, False], ids=["full", "blind"])
@pytest.mark.parametrize("alive", [True, False], ids=["alive", "dead"])
@pytest.mark.parametrize("kind", [1, 6, 7, None])
def test_two_hosts_never_both_succeed(kind: int | None, alive: bool, full: bool, sharing: int) -> None:
    scenario = Scenario(kind, alive, full, None, sharing)
    changes = _instants(scenario, lambda what: what.startswith("before 5f"))
    first = _instants(scenario, lambda what: what.startswith("before 5"))[:1]
    for stop_d in (*first, *changes):
        for stop_e in (0, *changes):
            world = World(scenario)
            world._watch = False
            other = OtherHost(world, stop_e)
            world.fence_at, world.fence = stop_d, other.advance
            report = world.restore()
            other.finish()
            assert other.report is not None
            where = (stop_d, stop_e, *world.trail, other.report.sentence)
            assert not (report.succeeded and other.report.succeeded), where
            for one, nexus in ((report, world.d), (other.report, other.nexus)):
                if one.succeeded:
                    assert world.key_of(nexus) == K, where
                    assert kind is None or world.holds(nexus), where
                else:
                    assert world.key_of(nexus) is None, where
