"""A poll notices what others did without notice, says what it was, and brings the tracked state level.

guest g, LUN 0 ── nexus A ──┐
another host ──── nexus B ──┴── logical unit
"""

from __future__ import annotations

import threading

import pytest

from pyproxy.reservation.poll import Polled, UnitPoll, difference
from pyproxy.reservation.snapshot import Snapshot
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, encode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrType
from pyproxy.store.sqlite import SqliteStore
from tests.unit.reservation.script import CONFLICT, LOST, check, pr_out
from tests.unit.reservation.snooping import LUN
from tests.unit.reservation.targets import Port, Spdk, Target

K, F, N = 0x1111, 0x9999, 0x2222
WE, EA, AR = PrType(1), PrType(3), PrType(7)


def seen(*keys: int, held: tuple[int, int] | None = None, generation: int = 1) -> Snapshot:
    key, kind = held or (0, None)
    return Snapshot(generation, keys, key, PrType(kind) if kind in (1, 3, 5, 6, 7, 8) else kind)


HOLDING, REGISTERED, NONE = NexusState(key=K, type=WE), NexusState(key=K), NexusState()

DIFFERENCES = [
    (HOLDING, seen(K, held=(K, 1)), None),
    (HOLDING, seen(K, F, held=(K, 1), generation=9), None),
    (HOLDING, seen(K, K, held=(K, 1)), None),
    (HOLDING, seen(), "own-key-gone"),
    (HOLDING, seen(F, held=(F, 1)), "own-key-gone"),
    (HOLDING, seen(K), "own-reservation-gone"),
    (HOLDING, seen(K, held=(K, 3)), "own-reservation-type-changed"),
    (HOLDING, seen(K, held=(0, 7)), "own-reservation-type-changed"),
    (HOLDING, seen(K, F, held=(F, 1)), "held-by-another-nexus"),
    (HOLDING, seen(K, held=(K, 4)), "own-reservation-type-changed"),
    (NexusState(key=K, type=AR), seen(K, F, held=(0, 7)), None),
    (NexusState(key=K, type=AR), seen(K, F, held=(F, 7)), None),
    (REGISTERED, seen(K, F), None),
    (REGISTERED, seen(K, F, held=(F, 1)), None),
    (REGISTERED, seen(K, K, held=(K, 1)), None),  # the sibling's, as far as is known
    (REGISTERED, seen(K, held=(K, 4)), None),
    (REGISTERED, seen(F), "own-key-gone"),
    (REGISTERED, seen(K, F, held=(K, 1)), "reservation-not-tracked"),
    (REGISTERED, seen(K, K, held=(0, 8)), "reservation-not-tracked"),
    (NONE, seen(F, held=(F, 1)), None),
    (NONE, seen(), None),
]


@pytest.mark.parametrize(("tracked", "shown", "told"), DIFFERENCES)
def test_tracked_and_shown(tracked: NexusState, shown: Snapshot, told: str | None) -> None:
    assert difference(tracked, shown) == told


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (seen(K, F), seen(F, K), None),
        (seen(K, K), seen(K), "registrations-of-others-changed"),
        (seen(K), seen(K, F), "registrations-of-others-changed"),
        (seen(K, F), seen(K, F, held=(F, 1)), "reservation-of-others-changed"),
        (seen(K, F, held=(F, 1)), seen(K, F, held=(F, 3)), "reservation-of-others-changed"),
        (seen(K), seen(K, generation=2), None),
    ],
)
def test_what_others_have_changed(before: Snapshot, after: Snapshot, told: str | None) -> None:
    assert difference(REGISTERED, after, before) == told
    assert difference(REGISTERED, after) is None


# over a device that raises no unit attentions


class Scene:
    def __init__(self, store: SqliteStore, target: Target, state: NexusState) -> None:
        self.target = target
        self.port: Port = target.port("A")
        store.save_nexus("g", LUN, encode_state(state), epoch=0)
        self.lock = threading.RLock()
        self.snooper = Snooper("g", 0, LUN, store, migrate_pr=True, unit_lock=self.lock)
        self.snooper.resync(self.port.execute)
        self.unit_poll = UnitPoll()

    def poll(self) -> Polled:
        return self.unit_poll.run(self.snooper, self.lock, self.port.execute)


def holding(store: SqliteStore) -> Scene:
    return Scene(store, Spdk(full_status=False, regs={"A": K, "B": F}, kind=1, holder="A"), HOLDING)


def test_nothing_has_changed(store: SqliteStore) -> None:
    scene = holding(store)
    assert [scene.poll() for _ in range(3)] == [Polled.LEVEL] * 3
    assert scene.snooper.state.fresh


def test_a_preempt_without_unit_attention_is_noticed(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    scene = holding(store)
    scene.target.preempt("B", F, K, 1)
    generation = scene.snooper.state.generation
    assert scene.poll() is Polled.RESYNCED
    assert generation is not None
    assert (scene.snooper.state.key, scene.snooper.state.type, scene.snooper.state.fresh) == (0, None, True)
    assert "a poll found it changed without notice (own-key-gone)" in caplog.text
    assert "(poll-mismatch)" in caplog.text
    # As on bare metal, the guest learns of it.
    assert [sense.code for sense in scene.snooper.attentions.pending] == [(6, 0x2A, 0x05)]
    assert scene.poll() is Polled.LEVEL


def test_what_does_not_count_in_prgeneration_is_noticed(store: SqliteStore) -> None:
    scene = holding(store)
    assert scene.poll() is Polled.LEVEL
    generation = scene.target.generation
    scene.target.kind = scene.target.holder = None  # another program on our path: RELEASE
    assert scene.poll() is Polled.RESYNCED
    assert scene.snooper.state.type is None
    scene.target.kind, scene.target.holder = 3, "B"
    assert scene.poll() is Polled.RESYNCED
    assert scene.snooper.last_snapshot is not None
    assert scene.snooper.last_snapshot.reservation_key == F
    assert scene.target.generation == generation


def test_a_sibling_with_our_key_that_goes_is_noticed(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    scene = Scene(store, Spdk(full_status=False, regs={"A": K, "B": K}), REGISTERED)
    assert scene.poll() is Polled.LEVEL
    del scene.target.regs["B"]
    assert scene.poll() is Polled.RESYNCED
    assert "registrations-of-others-changed" in caplog.text


def test_what_the_guest_does_itself_is_no_difference(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    scene = holding(store)
    assert scene.poll() is Polled.LEVEL
    assert scene.snooper.handle(pr_out(0, K, N), scene.port.execute).good
    assert scene.poll() is Polled.LEVEL
    assert scene.snooper.handle(pr_out(0, N, 0), scene.port.execute).good
    assert scene.poll() is Polled.LEVEL
    assert "without notice" not in caplog.text
    assert scene.snooper.state.fresh


def test_a_generation_that_moved_alone_is_a_reason_to_read_but_not_to_doubt(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    scene = holding(store)
    assert scene.poll() is Polled.LEVEL
    scene.target.generation += 1
    assert scene.poll() is Polled.RESYNCED
    assert "poll-mismatch" not in caplog.text
    assert scene.poll() is Polled.LEVEL


def test_suspect_state_is_brought_level(store: SqliteStore) -> None:
    scene = holding(store)
    scene.port.fault = lambda _: check(2, 0x04, 0x01)
    assert scene.poll() is Polled.UNREADABLE
    with pytest.raises(Exception, match="try again"):
        scene.snooper.resync(scene.port.execute)
    assert scene.snooper.state.suspect == ("resync-failed",)
    scene.port.fault = lambda _: None
    assert scene.poll() is Polled.RESYNCED
    assert scene.snooper.state.fresh


def test_what_stays_ambiguous_is_not_read_again_and_again(store: SqliteStore) -> None:
    scene = Scene(store, Spdk(full_status=False, regs={"A": K, "B": K}, kind=1, holder="A"), HOLDING)
    assert scene.snooper.state.suspect == ("ambiguous-holder",)
    assert [scene.poll() for _ in range(2)] == [Polled.LEVEL] * 2
    assert scene.snooper.state.suspect == ("ambiguous-holder",)
    del scene.target.regs["B"]
    assert scene.poll() is Polled.RESYNCED
    assert scene.snooper.state.fresh


def test_unit_attentions_of_the_poll_are_the_guests(store: SqliteStore) -> None:
    scene = Scene(store, Target(full_status=False, regs={"A": K, "B": F}, kind=1, holder="A"), HOLDING)
    scene.target.preempt("B", F, K, 1)
    assert scene.poll() is Polled.RESYNCED
    assert scene.snooper.state.key == 0
    ready = Command(bytes(6))
    told = scene.snooper.report_attention(ready)
    assert told is not None
    assert (told.status, told.sense[2], told.sense[12:14]) == (2, 6, b"\x2a\x05")
    assert scene.snooper.report_attention(ready) is None


def test_unit_attentions_before_a_failed_read_are_kept_too(store: SqliteStore) -> None:
    scene = holding(store)
    answers: list[Result] = [check(6, 0x2A, 0x04), CONFLICT]
    scene.port.fault = lambda _: answers.pop(0)
    assert scene.poll() is Polled.UNREADABLE
    assert [sense.code for sense in scene.snooper.attentions.pending] == [(6, 0x2A, 0x04)]
    assert scene.snooper.state.suspect == ("unit-attention-2a-04",)


def test_a_busy_unit_is_left_alone(store: SqliteStore) -> None:
    scene = holding(store)
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with scene.lock:
            held.set()
            release.wait(10)

    other = threading.Thread(target=hold)
    other.start()
    held.wait(10)
    scene.port.fault = lambda command: pytest.fail(f"sent {command.cdb.hex()}")
    assert scene.poll() is Polled.BUSY
    release.set()
    other.join()
    scene.port.fault = lambda _: None
    assert scene.poll() is Polled.LEVEL


def test_a_device_that_cannot_be_read_is_told_once(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    scene = holding(store)

    def lost(_: Command) -> Result:
        raise LOST

    scene.port.fault = lost
    assert [scene.poll() for _ in range(3)] == [Polled.UNREADABLE] * 3
    assert caplog.text.count("a poll could not read") == 1
    assert scene.snooper.state.key == K
    scene.port.fault = lambda _: None
    caplog.set_level("INFO")
    assert scene.poll() is Polled.LEVEL
    assert "can be read again" in caplog.text
