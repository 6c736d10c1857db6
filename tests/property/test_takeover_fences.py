"""A guest that another node fences at any instant of a takeover is never resurrected, and it learns of the fence."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyproxy.reservation.classify import Decision
from tests.property.takeover_world import (
    FENCER_KEY,
    K,
    Scenario,
    World,
    crash_instants,
    fence_by_clear,
    fence_by_preempt,
    fence_by_preempt_and_abort,
    fence_instants,
    pr_out,
    scenarios,
)

Fence = Callable[[World], None]
FENCES = (fence_by_preempt, fence_by_preempt_and_abort, fence_by_clear)
HELD = [scenario for scenario in scenarios() if scenario.kind is not None]


def _check(world: World) -> None:
    try:
        report = world.restore_until_done()
    finally:
        world.fence_at = world.crash_at = None
    if report.decision is Decision.UNDECIDED:
        assert world.key_of(world.d) != K, world.trail
        return
    if world.fence_accepted:
        world.assert_fenced(report)
    else:
        # Between the PREEMPT and the last REGISTER of the procedure without the source nobody has the key: the fencer
        # is told so by RESERVATION CONFLICT.
        assert not world.scenario.alive
        assert report.succeeded, world.trail


@pytest.mark.parametrize(
    ("scenario", "fence"),
    [(scenario, fence_by_preempt) for scenario in scenarios()]
    + [(scenario, fence) for scenario in scenarios() if scenario.kind in (5, 8) for fence in FENCES[1:]],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_fenced_at_every_instant(scenario: Scenario, fence: Fence) -> None:
    for instant in fence_instants(scenario):
        world = World(scenario, fence_at=instant, fence=fence)
        _check(world)
        again = world.restore()
        assert world.key_of(world.d) is None or not world.fence_accepted, world.trail
        assert not again.succeeded or again.decision is Decision.ALREADY_DONE


@pytest.mark.parametrize("scenario", scenarios(sharing=(1,), alive=(True,)), ids=str)
def test_fenced_with_bystanders_that_share_the_key(scenario: Scenario) -> None:
    for instant in fence_instants(scenario):
        world = World(scenario, fence_at=instant, fence=fence_by_preempt)
        _check(world)
        assert K not in world.key_counts()


@pytest.mark.parametrize("scenario", HELD, ids=str)
def test_killed_then_fenced_before_the_repetition(scenario: Scenario) -> None:
    for instant in crash_instants(scenario):
        world = World(scenario, crash_at=instant, fence_at=instant, fence=fence_by_preempt)
        _check(world)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_killed_and_fenced_at_any_two_instants(data: st.DataObject) -> None:
    scenario = data.draw(st.sampled_from(scenarios()))
    world = World(
        scenario,
        crash_at=data.draw(st.integers(0, 60)),
        fence_at=data.draw(st.integers(0, 80)),
        fence=data.draw(st.sampled_from(FENCES)),
    )
    try:
        report = world.restore_until_done()
    finally:
        fenced = world.fence_accepted
        world.fence_at = world.crash_at = None
    if report.decision is Decision.UNDECIDED:
        assert world.key_of(world.d) != K
    elif fenced:
        world.assert_fenced(report)
    else:
        assert report.succeeded, world.trail


@pytest.mark.parametrize("sharing", [0, 1])
@pytest.mark.parametrize("kind", [1, 3, 5, 6])
def test_a_fencer_that_reads_the_holder_and_preempts_the_nonce_wins(kind: int, sharing: int) -> None:
    def fence(world: World) -> None:
        reservation = world.unit.reservations.reservation
        assert reservation is not None
        assert reservation.holder is not None
        key = world.unit.reservations.key_of(reservation.holder)
        assert key is not None
        assert pr_out(world.fencer, 4, FENCER_KEY, key, kind).good
        world.fence_accepted = world.lapse_excused = True

    scenario = Scenario(kind, alive=True, full=True, sharing=sharing)
    for instant in fence_instants(scenario):
        world = World(scenario, fence_at=instant, fence=fence)
        report = world.restore()
        assert world.holds(world.fencer), world.trail
        assert not world.holds(world.d)
        if not report.succeeded:
            assert report.decision is Decision.FENCED, world.trail
            assert world.key_of(world.d) is None
            assert world.key_of(world.s) is None
