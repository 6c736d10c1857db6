"""Any order of what can happen to a guest, two hosts and a third node: a state machine that Hypothesis drives.

The rule it checks, after every step: at most one host serves the guest; its reservation is its own, whatever happens,
until a real fence; a fence always finds the guest's key, and what was fenced never comes back. At the end everything is
mended, and the guest has its claim where it runs, or is fenced there.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pyproxy.migration.phases import UNDONE, DestinationPhase, SourcePhase
from pyproxy.scsi.command import Command
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import ParameterList
from tests.migration.test_moves import holds_at
from tests.migration.world import GUEST, K, Side, World, at_rest, registered

FENCER = 0xFE7CE
SIDES = st.sampled_from(["s", "d"])


class Moving(RuleBasedStateMachine):
    """The machine. ``last`` is where the guest ran last."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="pyproxy-model-"))
        self.world: World
        self.kind: int | None = None
        self.fenced = False
        self.last = "s"

    @initialize(kind=st.sampled_from([None, 1, 5, 7, 8]))
    def begin(self, kind: int | None) -> None:
        self.world = World(self.directory)
        self.world.__enter__()
        self.kind = kind
        self.world.claim(self.world.s, kind)
        self.world.join(self.world.fencer[0], FENCER)

    def side(self, name: str) -> Side:
        return self.world.s if name == "s" else self.world.d

    # What the operator and the hypervisor do.

    @rule(name=SIDES)
    def arm(self, name: str) -> None:
        side = self.side(name)
        if side.up and side.running:
            side.act(lambda: side.engine.migrate(GUEST, side.other.name))

    @rule()
    def stop(self) -> None:
        for side in (self.world.s, self.world.d):
            if side.running:
                side.guest_stops()

    @rule(name=SIDES)
    def start(self, name: str) -> None:
        """Where it ran last, or where it was expected: a hypervisor starts it nowhere else."""
        side = self.side(name)
        if self.world.s.running or self.world.d.running:
            return
        expected = side.up and side.phase is not None and side.phase not in UNDONE
        if name == self.last or expected:
            side.guest_starts()
            self.last = name

    @rule(name=SIDES)
    def cancel(self, name: str) -> None:
        side = self.side(name)
        if side.phase is not DestinationPhase.CLOSED:  # there it is the operator's word that may be wrong
            side.act(lambda: side.engine.cancel(GUEST))

    @rule(name=SIDES)
    def expect(self, name: str) -> None:
        """The destination's hypervisor begins to receive the guest."""
        side = self.side(name)
        if side.up and side.other.up and side.other.running:
            side.act(lambda: side.engine.invite(GUEST, None))

    @rule(name=SIDES)
    def withdraw(self, name: str) -> None:
        """It receives it no more."""
        side = self.side(name)
        if not side.running:
            side.act(lambda: side.engine.withdraw(GUEST))

    # What the daemons do, and what happens to them.

    @rule(name=SIDES, times=st.integers(1, 4))
    def step(self, name: str, times: int) -> None:
        side = self.side(name)
        for _ in range(times):
            for work in side.engine.works() if side.up else ():
                if side.up and not work.over:
                    side.act(work.step)

    @rule(times=st.integers(1, 8))
    def go_on(self, times: int) -> None:
        """Both daemons run, and run again where they do not."""
        for _ in range(times):
            for name in ("s", "d"):
                self.restart(name)
                self.step(name, 1)

    @rule(name=SIDES, times=st.integers(1, 8))
    def move(self, name: str, times: int) -> None:
        """What a hypervisor begins, so that not all depends on luck."""
        self.arm(name)
        self.stop()
        self.go_on(times)

    @rule(name=SIDES, sure=st.integers(0, 2))
    def crash(self, name: str, sure: int) -> None:
        side = self.side(name)
        if side.up and not sure:
            side.crash()

    @rule(after=st.integers(0, 40))
    def crash_soon(self, after: int) -> None:
        """At an instant within what comes next."""
        self.world.crash_in(after)

    @rule(name=SIDES)
    def restart(self, name: str) -> None:
        side = self.side(name)
        if not side.up:
            side.start()

    @rule(cut=st.sampled_from([False, False, False, True]))
    def link(self, cut: bool) -> None:
        self.world.cut = cut

    @rule(after=st.integers(0, 5))
    def lose(self, after: int) -> None:
        left = [after]

        def loses(_request: object) -> bool:
            left[0] -= 1
            return left[0] == -1

        self.world.lose = loses

    @precondition(lambda self: not self.fenced)
    @rule(sure=st.integers(0, 19))
    def fence(self, sure: int) -> None:
        if sure:  # seldom: what comes after it is short
            return
        preempt = Command(PrOut(4, 0, self.kind or 1, 24).encode(), ParameterList(FENCER, K).encode())
        answer = self.world.fencer[0].execute(preempt)
        assert answer.good, "a fence finds the guest's key at any time"
        self.fenced = True

    # What must be true.

    @invariant()
    def one_serves(self) -> None:
        if hasattr(self, "world"):
            serving = [side.name for side in (self.world.s, self.world.d) if side.open and side.running]
            assert len(serving) <= 1

    @invariant()
    def the_claim_is_held_until_a_fence(self) -> None:
        if not hasattr(self, "world"):
            return
        unit = self.world.units[0]
        ports = {str(self.world.s.ports[0]), str(self.world.d.ports[0])}
        keys = {key for port, key in registered(unit).items() if port in ports}
        if self.fenced:
            assert K not in keys, "what was fenced does not come back"
            return
        assert K in keys
        if self.kind is not None:
            reservation = unit.reservations.reservation
            assert reservation is not None
            assert reservation.type == self.kind
            assert reservation.holder is None or str(reservation.holder.initiator) in ports

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self._end()
        finally:
            if hasattr(self, "world"):
                self.world.__exit__()
            shutil.rmtree(self.directory)

    def _end(self) -> None:
        world = self.world
        world.cut, world.crash_at, world.lose = False, None, lambda _: False
        world.run()
        if not (world.s.running or world.d.running):
            ready = next((side for side in (world.s, world.d) if world.verified(side)), None)
            last = self.side(self.last)
            (ready.other if ready is not None and last is ready else last).guest_starts()
            world.run()
        for side in (world.s, world.d):
            if side.phase is SourcePhase.ARMED:
                side.engine.cancel(GUEST)
        world.run()
        assert at_rest(world)
        here = world.s if world.s.running else world.d
        if not here.open:
            # Started where its claims are not: it goes back to where they are.
            here.guest_stops()
            here = here.other
            here.guest_starts()
            world.run()
            assert at_rest(world)
        assert here.open
        here.host.unit(GUEST, 0).resync()
        if self.fenced:
            assert not here.host.unit(GUEST, 0).state.registered
            assert set(registered(world.units[0]).values()) == {FENCER}
            return
        world.leave(world.fencer[0], FENCER)
        while not world.guest(here, 0, bytes(6)).good:
            pass
        holds_at(world, here, self.kind)
