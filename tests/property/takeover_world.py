"""Two hosts, bystanders and a fencer around one emulated unit, with a crash or a fence at any chosen instant.

An instant is just before or just after a command reaches the unit or a row becomes durable. A crash is an exception
that nothing in the product may catch; what the store had made durable is all that survives it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from pyproxy.device.emulated import EmulatedNexus, EmulatedUnit
from pyproxy.device.emulated.reservations import ReservationState
from pyproxy.migration.capture import take_checkpoint
from pyproxy.migration.checkpoint import Checkpoint
from pyproxy.migration.restore import RestoreReport, restore
from pyproxy.migration.unit import identify
from pyproxy.reservation.attention import decode_attentions
from pyproxy.reservation.classify import Decision
from pyproxy.reservation.facts import Nexus
from pyproxy.reservation.state import NexusState, decode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrOutAction, PrType
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import ParameterList
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import TransportId
from pyproxy.store.base import Intent, Journal, JournalStep, NexusRecord, StoreError

K = 0x1122334455667788
FENCER_KEY = 0xFE7CE12FE7CE12FE
NON_AR = (1, 3, 5, 6)
TYPES = (*NON_AR, 7, 8)
LOST = {(0x6, 0x2A, 0x03), (0x6, 0x2A, 0x05)}


class Crash(BaseException):
    """The process is gone."""


class MemoryStore:
    """The parts of a Store that a takeover uses; every method is one durable step."""

    def __init__(self, instant: Callable[[str], None]) -> None:
        self._instant = instant
        self.records: dict[tuple[str, str], NexusRecord] = {}
        self.takeovers: dict[str, Journal] = {}

    def load_nexus(self, guest: str, unit: str) -> NexusRecord | None:
        return self.records.get((guest, unit))

    def save_nexus(
        self,
        guest: str,
        unit: str,
        state: bytes,
        *,
        epoch: int,
        attentions: bytes | None = None,
        resolve: Sequence[int] = (),
        resolution: str = "",
    ) -> None:
        self._instant("before save_nexus")
        known = self.records.get((guest, unit))
        if known is not None and known.epoch > epoch:
            raise StoreError("stale epoch")
        kept = attentions if attentions is not None else known.attentions if known is not None else b""
        self.records[guest, unit] = NexusRecord(guest, unit, state, kept, epoch, "now")
        self._instant("after save_nexus")

    def open_intents(self, guest: str | None = None, unit: str | None = None) -> list[Intent]:
        return []

    def journal_open(
        self, takeover_id: str, document: bytes, plan: str, nonce: int, *, guest: str = "", unit: str = ""
    ) -> None:
        self._instant("before journal_open")
        if takeover_id in self.takeovers:
            raise StoreError("begun before")
        self.takeovers[takeover_id] = Journal(takeover_id, guest, unit, document, plan, nonce, None, (), "now")
        self._instant("after journal_open")

    def journal_step(self, takeover_id: str, seq: int, step: bytes) -> None:
        self._instant("before journal_step")
        known = self.takeovers[takeover_id]
        if known.outcome is not None or any(one.seq == seq for one in known.steps):
            raise StoreError("closed, or repeated step")
        self.takeovers[takeover_id] = replace(known, steps=(*known.steps, JournalStep(seq, step, None)))
        self._instant("after journal_step")

    def journal_result(self, takeover_id: str, seq: int, result: bytes) -> None:
        self._instant("before journal_result")
        known = self.takeovers[takeover_id]
        steps = tuple(replace(one, result=result) if one.seq == seq else one for one in known.steps)
        self.takeovers[takeover_id] = replace(known, steps=steps)
        self._instant("after journal_result")

    def journal_load(self, takeover_id: str) -> Journal | None:
        return self.takeovers.get(takeover_id)

    def journal_close(self, takeover_id: str, outcome: str) -> None:
        self._instant("before journal_close")
        self.takeovers[takeover_id] = replace(self.takeovers[takeover_id], outcome=outcome)
        self._instant("after journal_close")


class Tap:
    """A nexus whose commands are instants, and which may lack READ FULL STATUS."""

    def __init__(self, nexus: EmulatedNexus, instant: Callable[[str], None], *, full_status: bool) -> None:
        self._nexus = nexus
        self._instant = instant
        self._full_status = full_status
        self.log: list[bytes] = []

    @property
    def name(self) -> str:
        return self._nexus.name

    def execute(self, command: Command) -> Result:
        cdb = command.cdb
        self._instant(f"before {cdb[:2].hex()}")
        if not self._full_status and cdb[:2] == b"\x5e\x03":
            command = replace(command, cdb=b"\x5e\x1f" + cdb[2:])
        self.log.append(cdb)
        result = self._nexus.execute(command)
        self._instant(f"after {cdb[:2].hex()}")
        return result


@dataclass(frozen=True)
class Scenario:
    """What the guest has and how it is taken over.

    ``kind``: type the guest holds, or None. ``other``: type another nexus holds. ``sharing``: bystanders registered
    with the guest's own key. ``full``: whether the target has READ FULL STATUS. ``alive``: whether the source is.
    """

    kind: int | None
    alive: bool
    full: bool
    other: int | None = None
    sharing: int = 0

    def __str__(self) -> str:
        held = f"holds{self.kind}" if self.kind else "registered"
        return "-".join(
            [held, "alive" if self.alive else "dead", "full" if self.full else "blind"]
            + [f"other{self.other}"] * bool(self.other)
            + [f"sharing{self.sharing}"] * bool(self.sharing)
        )


_PREPARED: dict[Scenario, tuple[ReservationState, Checkpoint]] = {}
"""The unit's registrations and the checkpoint at the start of a scenario: the same for each of its runs."""


@dataclass
class World:
    """One scenario on a fresh unit. ``crash_at`` and ``fence_at`` are instants, counted over all runs."""

    scenario: Scenario
    crash_at: int | None = None
    fence_at: int | None = None
    fence: Callable[[World], None] | None = None
    instants: list[str] = field(default_factory=list)
    trail: list[str] = field(default_factory=list)
    fence_accepted: bool = False
    lapse_excused: bool = False

    def __post_init__(self) -> None:
        self._fresh = count(0x9000000000000001)
        self.unit = EmulatedUnit(1 << 16, serial="takeover", power_on_attention=False)
        port = [self.unit.nexus(TransportId.parse(f"naa.500000000000000{index}")) for index in range(1, 7)]
        self.s, self.d, self.fencer, self.other, *self.siblings = port
        self.store = MemoryStore(self.instant)
        self._watch = False
        scenario = self.scenario
        if scenario not in _PREPARED:
            self._prepare()
            _PREPARED[scenario] = self.unit.reservations, self.make_checkpoint()
        self.unit.reservations, self.checkpoint = _PREPARED[scenario]
        self.unit.refresh_all()
        self.bystanders_before = self.bystanders()
        self.source = Tap(self.s, self.instant, full_status=scenario.full)
        self.destination = Tap(self.d, self.instant, full_status=scenario.full)
        self._watch = scenario.kind in NON_AR

    def _prepare(self) -> None:
        scenario = self.scenario
        ok(register(self.other, 0, 0x0BAD0BAD0BAD0BAD))
        ok(register(self.fencer, 0, FENCER_KEY))
        ok(register(self.s, 0, K))
        for sibling in self.siblings[: scenario.sharing]:
            ok(register(sibling, 0, K))
        if scenario.kind is not None:
            ok(pr_out(self.s, PrOutAction.RESERVE, K, 0, scenario.kind))
        if scenario.other is not None:
            ok(pr_out(self.other, PrOutAction.RESERVE, 0x0BAD0BAD0BAD0BAD, 0, scenario.other))

    def make_checkpoint(self) -> Checkpoint:
        kind = self.scenario.kind
        held = kind if kind is not None else self.scenario.other if self.scenario.other in (7, 8) else None
        state = NexusState(key=K, type=None if held is None else PrType(held), aptpl=False)
        if self.scenario.full:
            state = replace(state, transport_id=self.s.initiator, rtpi=1)
        return take_checkpoint(
            self.s,
            guest="web1",
            lun=0,
            state=state,
            identity=identify(self.s).identity,
            created_at="2026-01-02T03:04:05Z",
        )

    def instant(self, what: str) -> None:
        """Note an instant; the fence and then the crash planned for it happen here."""
        here = len(self.instants)
        self.instants.append(what)
        self.check_never_unheld()
        if here == self.fence_at and self.fence is not None:
            self.fence(self)
        if here == self.crash_at:
            self.trail.append(f"crash {what}")
            raise Crash

    def check_never_unheld(self) -> None:
        if self._watch and not self.lapse_excused:
            assert self.unit.reservations.reservation is not None, f"unheld at {self.instants[-1]} {self.trail}"

    def restore(self, **changed: object) -> RestoreReport:
        scenario = self.scenario
        arguments: dict[str, object] = {
            "source": self.source if scenario.alive else None,
            "source_dead": not scenario.alive,
            "destination_nexus": Nexus(self.d.initiator, 1) if scenario.full else None,
        } | changed
        report = restore(
            self.checkpoint,
            self.destination,
            store=self.store,  # type: ignore[arg-type]
            draw=self._draw,
            pause=lambda _seconds: None,
            **arguments,  # type: ignore[arg-type]
        )
        self.trail.append(report.sentence)
        return report

    def _draw(self, taken: frozenset[int]) -> int:
        key = next(self._fresh)
        assert key not in taken
        return key

    def restore_until_done(self, **changed: object) -> RestoreReport:
        """Restore as an operator does: again after each crash."""
        for _ in range(4):
            try:
                return self.restore(**changed)
            except Crash:
                continue
        raise AssertionError("crashed more often than planned")

    # What the unit really has.

    def key_of(self, nexus: EmulatedNexus) -> int | None:
        return self.unit.reservations.key_of(nexus.identity)

    def holds(self, nexus: EmulatedNexus) -> bool:
        return self.unit.reservations.holds(nexus.identity)

    def reservation_type(self) -> int | None:
        reservation = self.unit.reservations.reservation
        return None if reservation is None else int(reservation.type)

    def bystanders(self) -> dict[str, tuple[int | None, bool]]:
        return {str(one.initiator): (self.key_of(one), self.holds(one)) for one in (self.other, *self.siblings)}

    def key_counts(self) -> Counter[int]:
        return Counter(one.key for one in self.unit.reservations.registrations.values())

    def pending_on(self, nexus: EmulatedNexus) -> set[tuple[int, int, int]]:
        found = set()
        while nexus.attentions:
            found.add(nexus.take_attention().code)
        return found

    def stored(self) -> tuple[NexusState, tuple[Sense, ...], int] | None:
        record = self.store.load_nexus("web1", self.checkpoint.unit.name)
        return (
            None if record is None else (decode_state(record.state), decode_attentions(record.attentions), record.epoch)
        )

    # Assertions.

    def assert_taken_over(self, report: RestoreReport) -> None:
        kind = self.scenario.kind
        assert report.succeeded, self.trail
        assert self.key_of(self.d) == K, self.trail
        assert self.key_of(self.s) is None, self.trail
        if kind is not None:
            assert self.reservation_type() == kind
            assert self.holds(self.d)
        assert self.bystanders() == self.bystanders_before
        expected = Counter([K, 0x0BAD0BAD0BAD0BAD, FENCER_KEY] + [K] * self.scenario.sharing)
        assert self.key_counts() == expected, "a key was leaked"
        stored = self.stored()
        assert stored is not None
        state, attentions, epoch = stored
        everyone = self.scenario.other if self.scenario.other in (7, 8) else None
        assert (state.key, state.type, state.fresh, state.epoch) == (K, kind or everyone, True, 1)
        assert epoch == 1
        assert attentions == report.attentions == (), "the guest must see nothing"
        assert not self.pending_on(self.d)
        if self.scenario.alive:
            assert not self.pending_on(self.s) & LOST, "the guest would take our own PREEMPT for a fence"

    def assert_fenced(self, report: RestoreReport) -> None:
        assert self.key_of(self.d) is None, self.trail
        assert self.key_of(self.s) in (None, K) or not self.scenario.alive, self.trail
        if report.succeeded:
            # The fence came after the last read: the destination learns of it as any guest does.
            assert self.pending_on(self.d) & LOST, self.trail
            return
        assert report.decision is Decision.FENCED, self.trail
        assert report.exit_status == 1
        assert "FENCED" in report.sentence
        assert {sense.code for sense in report.attentions} & LOST, "the guest must be told"
        assert not self.holds(self.d)
        assert not self.holds(self.s) or not self.scenario.alive
        stored = self.stored()
        assert stored is not None
        assert stored[0].key == 0
        assert {sense.code for sense in stored[1]} & LOST


def crash_instants(scenario: Scenario) -> list[int]:
    """Every instant after which the unit or the store differs: killed just before is killed just after the last."""
    world = World(scenario)
    world.restore()
    return [index for index, what in enumerate(world.instants) if index == 0 or what.startswith("after ")]


def fence_instants(scenario: Scenario) -> list[int]:
    """Every instant between two commands, before the first and after the last."""
    world = World(scenario)
    world.restore()
    found = [index for index, what in enumerate(world.instants) if what.startswith("before 5") or "before 0" in what]
    return [*found, len(world.instants) - 1]


def pr_out(
    nexus: EmulatedNexus, action: int, key: int, sa_key: int = 0, kind: int = 0, *, aptpl: bool = False
) -> Result:
    """Send a PR OUT, past unit attentions."""
    command = Command(PrOut(action, 0, kind, 24).encode(), ParameterList(key, sa_key, aptpl=aptpl).encode())
    while True:
        result = nexus.execute(command)
        sense = result.decoded_sense
        if sense is None or not sense.is_unit_attention:
            return result


def register(nexus: EmulatedNexus, key: int, sa_key: int, *, aptpl: bool = False) -> Result:
    return pr_out(nexus, PrOutAction.REGISTER, key, sa_key, aptpl=aptpl)


def ok(result: Result) -> None:
    assert result.good, result


def fence_by_preempt(world: World) -> None:
    """Remove the guest's key, as a fencing agent does; with the reservation's own type."""
    _fence(world, PrOutAction.PREEMPT, K)


def fence_by_preempt_and_abort(world: World) -> None:
    """The same, with PREEMPT AND ABORT."""
    _fence(world, PrOutAction.PREEMPT_AND_ABORT, K)


def fence_by_clear(world: World) -> None:
    """Wipe everything."""
    world.lapse_excused = True
    ok(pr_out(world.fencer, PrOutAction.CLEAR, FENCER_KEY))
    world.fence_accepted = True
    world.trail.append("fence: CLEAR")


def _fence(world: World, action: PrOutAction, victim: int) -> None:
    result = pr_out(world.fencer, action, FENCER_KEY, victim, world.reservation_type() or 1)
    world.fence_accepted = result.good
    world.lapse_excused = True
    world.trail.append(f"fence: {action.name} {victim:#x} {result.status:#x} at {world.instants[-1]}")


def scenarios(*, alive: tuple[bool, ...] = (True, False), sharing: tuple[int, ...] = (0,)) -> list[Scenario]:
    """Every claim a guest can have, with and without READ FULL STATUS."""
    found = []
    for is_alive in alive:
        for full in (True, False):
            for shared in sharing:
                found += [Scenario(kind, is_alive, full, None, shared) for kind in (*TYPES, None)]
                found += [Scenario(None, is_alive, full, other, shared) for other in (1, 6, 7)]
    return found
