"""Batches through a device's lanes: a guest must not be able to tell them from the generic path, nor must the snooper.

                    ┌── GuestUnit ── SgDevice ─────────────── LaneRunner ──┐
the same batches ───┤                                                      ├── engine that replays the same results
                    └── GuestUnit ── SgDevice without its lanes ───────────┘
"""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from _fastpath import lanes
from pyproxy.device.base import Device, LaneDevice, LaneOutcome, TransportError
from pyproxy.device.node import NodeKind, ScsiNode
from pyproxy.device.sg import SgDevice
from pyproxy.reservation.events import InspectEvent
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, encode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from pyproxy.unit import GuestUnit
from tests.unit.fastpath.replay import Outcome, descriptor, fixed, outcome, replay_engine
from tests.unit.reservation.script import pr_in, pr_out

US = SasTransportId(bytes.fromhex("5001405000000001"))
LUN = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa"
K = 0x1111
DONE, NOT_EXECUTED, UNKNOWN = 0, 1, 2

READY = Command(bytes(6))
READ = Command(bytes.fromhex("28 00 00 00 10 00 00 00 01 00"), data_in=512)
WRITE = Command(bytes.fromhex("2A 00 00 00 10 00 00 00 01 00"), data_out=bytes(512))
RESERVE_6, RELEASE_6 = Command(bytes.fromhex("160000000000")), Command(bytes.fromhex("170000000000"))
RESERVE_10, RELEASE_10 = Command(bytes.fromhex("56" + 9 * "00")), Command(bytes.fromhex("57" + 9 * "00"))
SUPPORTED_OPCODES = Command(bytes.fromhex("A3 0C 00 00 00 00 00 00 02 00 00 00"), data_in=512)
BOTH_DIRECTIONS = Command(bytes.fromhex("2A 00 00 00 10 00 00 00 01 00"), data_out=b"x", data_in=1)

GOOD, CONFLICT, BUSY, TIMED_OUT = outcome(), outcome(0x18), outcome(0x08), outcome(host_status=0x03)
LOST = outcome(error=errno.ETIMEDOUT, fate=UNKNOWN)
NOT_SENT = outcome(error=errno.ENOMEM, fate=NOT_EXECUTED)
PREEMPTED = fixed(0x6, 0x2A, 0x05)

commands = st.sampled_from(
    [
        *(READY, READ, READ, WRITE, WRITE, RESERVE_6, RELEASE_6, RESERVE_10, RELEASE_10, SUPPORTED_OPCODES),
        Command(bytes.fromhex("12 00 00 00 24 00"), data_in=36),  # INQUIRY
        Command(bytes.fromhex("03 00 00 00 12 00"), data_in=18),  # REQUEST SENSE
        Command(bytes.fromhex("A3 0A 00 00 00 00 00 00 02 00 00 00"), data_in=512),  # REPORT TARGET PORT GROUPS
        Command(bytes.fromhex("04 00 00 00 00 00")),  # FORMAT UNIT: refused
        Command(bytes.fromhex("C0 00 00 00 00 00")),  # vendor specific: refused unless rawio
        Command(bytes.fromhex("28 00 00")),  # cut off
        Command(b""),
        Command(bytes.fromhex("5F 00 00 00 00 00")),  # PERSISTENT RESERVE OUT, cut off
        *(pr_in(0), pr_in(1), pr_out(0, 0, K), pr_out(1, K, 0, 1), pr_out(2, K, 0, 1)),
        BOTH_DIRECTIONS,
    ]
)
senses = st.builds(
    lambda form, code: form(*code),
    st.sampled_from([fixed, descriptor]),
    st.sampled_from(
        [
            (6, 0x2A, 3),
            (6, 0x2A, 4),
            (6, 0x2A, 5),
            (6, 0x29, 0),
            (6, 0x3F, 0x0E),
            (6, 0x2A, 9),
            (7, 0x44, 1),
            (5, 0x24, 0),
        ]
    ),
)
outcomes = st.one_of(
    st.just(GOOD),
    st.sampled_from(
        [
            *(CONFLICT, BUSY, TIMED_OUT, LOST, NOT_SENT),
            outcome(0x18, host_status=0x11),  # how older kernels report a conflict
            outcome(0x18, host_status=0x03),
            outcome(host_status=0x01),  # DID_NO_CONNECT: what commands of a removed device end with
            outcome(0x02, "72 06 2A 05 00 00 00 00", host_status=0x01),
            outcome(0x02),
            outcome(0x02, "70 00 06"),
            outcome(0x02, "70 00 06 00 00 00 00 05 00 00 00 00 2A 05"),
            outcome(0x02, "72 06"),
            outcome(0x02, "71 00 06 00 00 00 00 0A 00 00 00 00 29 00 00 00 00 00"),
            outcome(0x00, "72 06 2A 05 00 00 00 00"),
        ]
    ),
    senses,
)
states = st.sampled_from([NexusState(), NexusState(key=K), NexusState(key=K, type=PrType(1))])
pending = st.lists(st.sampled_from([Sense(6, 0x29, 3), Sense(6, 0x2A, 1)]), max_size=2)


class WithoutLanes:
    """A device as the generic path sees it."""

    def __init__(self, device: Device) -> None:
        self.name = device.name
        self.execute = device.execute
        self.execute_batch = device.execute_batch
        self.close = device.close


class Side:
    """One of the two paths, with everything it showed the guest, the device and the snooper."""

    _numbers = itertools.count()

    def __init__(
        self,
        store: SqliteStore,
        results: Sequence[Outcome] = (),
        *,
        through_lanes: bool,
        rc: int = 0,
        state: NexusState | None = None,
        waiting: Sequence[Sense] = (),
        migrate_pr: bool = True,
        rawio: bool = False,
        present: bool = True,
    ) -> None:
        self.engine = replay_engine()(results, rc)
        link = Path("/")
        node = ScsiNode(NodeKind.GENERIC, 0, link, link if present else Path("/gone"), Path("/0:0:0:0"))
        device = SgDevice("replay", node, self.engine, "sync")
        name = f"guest-{next(self._numbers)}"
        store.save_nexus(name, LUN, encode_state(state or NexusState()), epoch=0)
        snooper = Snooper(name, 0, LUN, store, migrate_pr=migrate_pr, initiator=US, rtpi=1)
        self.observed: list[InspectEvent] = []
        self._observe = snooper.observe
        snooper.observe = self._note  # type: ignore[method-assign]
        snooper.attentions.add(*waiting)
        self.guest = GuestUnit(name, 0, device if through_lanes else WithoutLanes(device), snooper, rawio=rawio)

    def _note(self, event: InspectEvent) -> None:
        self.observed.append(event)
        self._observe(event)

    def run(self, batch: Sequence[Command]) -> object:
        """What the guest gets, in a form that compares."""
        try:
            return self.guest.execute_batch(batch)
        except TransportError as error:
            return plain(error)
        except RuntimeError as error:
            return str(error)

    @property
    def traces(self) -> dict[str, Any]:
        """What the batches left behind."""
        attentions = self.guest.snooper.attentions
        return {
            "submitted": self.engine.opcodes,
            "observed": self.observed,
            "state": self.guest.state,
            "pending": attentions.pending,
            "descriptor": attentions.descriptor,
        }


def plain(result: Result | TransportError) -> object:
    if isinstance(result, Result):
        return result
    return result.errno, result.strerror, result.fate_unknown, [plain(one) for one in result.outcomes]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    with SqliteStore(tmp_path_factory.mktemp("lanes") / "state.db") as opened:
        yield opened


def both(store: SqliteStore, results: Sequence[Outcome] = (), **options: Any) -> tuple[Side, Side]:
    return (
        Side(store, results, through_lanes=True, **options),
        Side(store, results, through_lanes=False, **options),
    )


def test_only_a_device_with_lanes_offers_them(store: SqliteStore) -> None:
    ours, theirs = both(store)
    assert isinstance(ours.guest.device, LaneDevice)
    assert not isinstance(theirs.guest.device, LaneDevice)


@settings(max_examples=300, deadline=None)
@given(
    batches=st.lists(st.lists(commands, max_size=12), min_size=1, max_size=3),
    results=st.lists(outcomes, max_size=40),
    state=states,
    waiting=pending,
    migrate_pr=st.booleans(),
    rawio=st.booleans(),
    present=st.booleans(),
)
@example([[READ, RESERVE_6, READ]], [GOOD, LOST], NexusState(), [], True, False, True)
@example([[READ, RELEASE_6, READ]], [GOOD, LOST], NexusState(), [], True, False, True)
@example([[READ, RELEASE_6, READ]], [GOOD, TIMED_OUT], NexusState(spc2_reserved=True), [], True, False, True)
@example([[RESERVE_6, READ, RELEASE_10]], [GOOD, PREEMPTED, GOOD], NexusState(key=K), [], False, False, True)
@example([[WRITE, READ, pr_in(0)]], [CONFLICT, LOST, GOOD], NexusState(key=K, type=PrType(1)), [], True, False, True)
@example([[WRITE, BOTH_DIRECTIONS, READ]], [PREEMPTED, CONFLICT], NexusState(key=K), [], True, False, True)
@example([[RESERVE_10, READ]], [outcome(host_status=0x01)] * 2, NexusState(), [], True, False, False)
def test_same_results_events_and_state_on_both_paths(
    store: SqliteStore,
    batches: list[list[Command]],
    results: list[Outcome],
    state: NexusState,
    waiting: list[Sense],
    migrate_pr: bool,
    rawio: bool,
    present: bool,
) -> None:
    ours, theirs = both(
        store, results, state=state, waiting=waiting, migrate_pr=migrate_pr, rawio=rawio, present=present
    )
    for batch in batches:
        assert ours.run(batch) == theirs.run(batch)
        assert ours.traces == theirs.traces


@pytest.mark.parametrize("rc", [-errno.EBADF, -errno.ESRCH])
def test_engine_that_takes_nothing_fails_alike(store: SqliteStore, rc: int) -> None:
    ours, theirs = both(store, rc=rc)
    batch = [READ, RESERVE_6, WRITE]
    failure = ours.run(batch)
    assert failure == theirs.run(batch)
    assert ours.traces == theirs.traces
    assert "replay" in str(failure)
    assert not ours.guest.state.spc2_reserved


def test_reservation_commands_are_left_by_the_device(store: SqliteStore) -> None:
    side = Side(store, through_lanes=True)
    assert isinstance(side.guest.device, LaneDevice)
    results, events = side.guest.device.execute_lanes([READ, pr_in(0), RESERVE_6, pr_out(0, 0, K)])
    assert [result if result is None else result.status for result in results] == [0, None, 0, None]  # type: ignore[union-attr]
    assert events == [(2, lanes.EVENT_SPC2_RESERVED, 0, 0)]
    assert side.engine.opcodes == bytes.fromhex("28 16")
    assert side.guest.device.execute_lanes([]) == ([], [])


def test_no_event_is_lost_however_many_commands_end_with_one(store: SqliteStore) -> None:
    side = Side(store, [PREEMPTED] * 64, through_lanes=True)
    assert isinstance(side.guest.device, LaneDevice)
    for size in (64, 1500):
        reserves = [RESERVE_6] * size
        _, events = side.guest.device.execute_lanes(reserves)
        assert [event[0] for event in events] == list(range(size))


class ForgetfulDevice(WithoutLanes):
    """Its lanes have room for a single event."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self._whole = device.execute_batch

    def execute_lanes(self, commands: Sequence[Command]) -> LaneOutcome:
        return LaneOutcome([*self._whole(commands)], [(-1, lanes.EVENT_OVERFLOW, 0, 0)])


def test_overflow_makes_the_state_suspect_and_hides_nothing(store: SqliteStore) -> None:
    side = Side(store, [GOOD, fixed(0x6, 0x29, 0x00), GOOD], through_lanes=False, state=NexusState(key=K))
    guest = GuestUnit("forgetful", 0, ForgetfulDevice(side.guest.device), side.guest.snooper)
    assert [result.status for result in guest.execute_batch([READ, WRITE, RESERVE_6])] == [0x00, 0x02, 0x00]
    assert {"inspect-events-lost", "unit-attention-29"} <= set(guest.state.suspect)
    assert guest.state.spc2_reserved
    assert [event.opcode for event in side.observed] == [0x2A, 0x16]


class LeavingDevice(WithoutLanes):
    """Its lanes leave every command to the caller."""

    def execute_lanes(self, commands: Sequence[Command]) -> LaneOutcome:
        return LaneOutcome([None] * len(commands), [])


def test_what_the_lanes_left_is_executed_once(store: SqliteStore) -> None:
    side = Side(store, [GOOD, CONFLICT], through_lanes=False)
    guest = GuestUnit("leaving", 0, LeavingDevice(side.guest.device), side.guest.snooper)
    assert [result.status for result in guest.execute_batch([READ, WRITE])] == [0x00, 0x18]
    assert side.engine.opcodes == bytes.fromhex("28 2A")
