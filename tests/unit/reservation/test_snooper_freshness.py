"""How the snooper doubts its state, brings it level, and keeps what was meant for the guest.

guest g, LUN 0 ── nexus (A, port 1) ──┐
                                      ├── logical unit
another host  ── nexus (B, port 1) ───┘
"""

from __future__ import annotations

import sqlite3
import threading

import pytest

from pyproxy.reservation.events import EventKind, InspectEvent
from pyproxy.reservation.snapshot import SnapshotError, SnapshotFailure
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, StateDocumentError, Suspicion, encode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.sense import Sense
from pyproxy.store.sqlite import SqliteStore
from tests.unit.reservation.script import (
    CAPABILITIES,
    CONFLICT,
    FULL_STATUS,
    GOOD,
    READ_KEYS,
    TIMEOUT,
    ScriptedDevice,
    check,
    keys,
    pr_in,
    pr_out,
    registration,
    view,
)
from tests.unit.reservation.snooping import (
    HOLDING,
    IGNORE,
    LUN,
    MOVE,
    PREEMPT,
    REGISTER,
    REGISTERED,
    RELEASE,
    RESERVE,
    WE,
    A,
    B,
    F,
    K,
    N,
    break_store,
    make,
    mend_store,
    run,
    stored,
)

# freshness


@pytest.mark.parametrize(
    ("asc", "ascq", "reason"),
    [
        (0x2A, 0x03, "unit-attention-2a-03"),
        (0x2A, 0x04, "unit-attention-2a-04"),
        (0x2A, 0x05, "unit-attention-2a-05"),
        (0x2A, 0x06, "unit-attention-2a-06"),
        (0x29, 0x00, "unit-attention-29"),
        (0x29, 0x07, "unit-attention-29"),
        (0x2C, 0x09, "unit-attention-2c-09"),
        (0x2F, 0x00, "unit-attention-2f-00"),
        (0x3F, 0x0E, "unit-attention-3f-0e"),
        (0x2A, 0x01, "unit-attention-other"),
    ],
)
def test_unit_attention_seen_by_the_guest_makes_suspect(store: SqliteStore, asc: int, ascq: int, reason: str) -> None:
    snooper = make(store, HOLDING)
    snooper.observe(InspectEvent(EventKind.UNIT_ATTENTION, 0x2A, asc, ascq))
    assert snooper.state.suspect == (reason,)
    state = snooper.resync(ScriptedDevice(*view(1, [K], (K, 1), [registration(K, A, holder=1)])))
    assert state.fresh
    assert not snooper.attentions


def test_restart_makes_suspect_and_keeps_what_was_suspect(store: SqliteStore) -> None:
    store.save_nexus("g", LUN, encode_state(HOLDING.suspected(Suspicion.RESET)), epoch=4)
    snooper = Snooper("g", 0, LUN, store, migrate_pr=True)
    assert set(snooper.state.suspect) == {"restart", "unit-attention-29"}
    assert (snooper.state.key, snooper.state.type, snooper.state.epoch) == (K, WE, 4)


def test_state_that_cannot_be_read_stops_the_start(store: SqliteStore) -> None:
    store.save_nexus("g", LUN, b"{}", epoch=0)
    with pytest.raises(StateDocumentError):
        Snooper("g", 0, LUN, store, migrate_pr=True)


def test_first_takeover_leaves_only_an_epoch(store: SqliteStore) -> None:
    store.raise_epoch("g", LUN)
    assert Snooper("g", 0, LUN, store, migrate_pr=True).state.epoch == 1


@pytest.mark.parametrize(
    ("state", "held_by_others", "suspicious"),
    [
        (HOLDING, None, True),
        (REGISTERED, None, False),
        (REGISTERED, (F, 1), False),  # Write Exclusive of another nexus: conflicts are ordinary
        (REGISTERED, (F, 5), True),  # registrants may write
        (NexusState(), (F, 5), False),
    ],
)
def test_conflict_on_the_medium(
    store: SqliteStore, state: NexusState, held_by_others: tuple[int, int] | None, suspicious: bool
) -> None:
    snooper = make(store, state, known=False)
    if held_by_others is not None:
        registered = [F] if not state.registered else [F, K]
        snooper.resync(ScriptedDevice(*view(1, registered, held_by_others)))
    snooper.observe(InspectEvent(EventKind.CONFLICT, 0x2A))
    assert snooper.state.suspect == ((Suspicion.MEDIUM_CONFLICT,) if suspicious else ())


def test_what_happens_during_a_resync_stays_suspect(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    snooper.suspect(Suspicion.POLL_MISMATCH)
    lines = view(1, [K], (K, 1), [registration(K, A, holder=1)])
    answer = lines[2][1]

    def meanwhile(command: Command) -> Result:
        snooper.observe(InspectEvent(EventKind.UNIT_ATTENTION, 0x28, 0x2A, 0x05))
        assert callable(answer)
        return answer(command)

    lines[2] = (lines[2][0], meanwhile)
    state = snooper.resync(ScriptedDevice(*lines))
    assert state.suspect == (Suspicion.REGISTRATIONS_PREEMPTED,)


def test_resync_that_fails_leaves_suspect_and_says_why(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    with pytest.raises(SnapshotError) as caught:
        snooper.resync(ScriptedDevice((CAPABILITIES, check(6, 0x2A, 0x03)), (CAPABILITIES, CONFLICT)))
    assert caught.value.reason is SnapshotFailure.CONFLICT
    assert snooper.state.suspect == (Suspicion.RESYNC_FAILED,)
    assert snooper.attentions.pending == (Sense(6, 0x2A, 0x03),)


def test_resync_whose_result_cannot_be_recorded_stays_suspect(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    break_store(store)
    state = snooper.resync(ScriptedDevice(*view(1, [K], (K, 1), [registration(K, A, holder=1)])))
    assert state.suspect == (Suspicion.STORE_FAILED,)
    mend_store(store)


def test_information_lost_at_the_device(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    snooper.observe(InspectEvent(EventKind.INFORMATION_LOST))
    assert snooper.state.suspect == (Suspicion.INFORMATION_LOST,)


# SPC-2


def test_spc2_reserve_blocks_until_release_or_reset(store: SqliteStore) -> None:
    snooper = make(store, NexusState())
    snooper.observe(InspectEvent(EventKind.SPC2_RESERVED, 0x16))
    assert snooper.state.spc2_reserved
    assert stored(store).spc2_reserved
    snooper.observe(InspectEvent(EventKind.SPC2_RELEASED, 0x57))
    assert not snooper.state.spc2_reserved
    assert not stored(store).spc2_reserved
    snooper.observe(InspectEvent(EventKind.SPC2_UNKNOWN, 0x56))
    assert snooper.state.spc2_reserved
    snooper.observe(InspectEvent(EventKind.UNIT_ATTENTION, 0x00, 0x29, 0x03))
    assert not snooper.state.spc2_reserved


def test_spc2_reserve_survives_pr_commands_and_resyncs(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)
    snooper.observe(InspectEvent(EventKind.SPC2_RESERVED, 0x16))
    run(snooper, pr_out(RESERVE, K, 0, 1), ("5f01", GOOD))
    snooper.resync(ScriptedDevice(*view(1, [K], (K, 1), [registration(K, A, holder=1)])))
    assert snooper.state.spc2_reserved


# unit attentions of the guest


def test_attention_our_reads_received_is_told_to_the_guest_once(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    lines = view(1, [K], (K, 1), [registration(K, A, holder=1)])
    snooper.resync(ScriptedDevice((CAPABILITIES, check(6, 0x2A, 0x01)), *lines))
    result = run(snooper, pr_in(0))
    assert (result.status, result.sense[12:14]) == (0x02, b"\x2a\x01")
    assert run(snooper, pr_in(0), (READ_KEYS, keys(1, K))).good


def test_waiting_attention_survives_a_restart(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    lines = view(1, [K], (K, 1), [registration(K, A, holder=1)])
    snooper.resync(ScriptedDevice((CAPABILITIES, check(6, 0x2A, 0x01)), *lines))
    again = Snooper("g", 0, LUN, store, migrate_pr=True)
    assert again.attentions.pending == (Sense(6, 0x2A, 0x01),)
    run(again, pr_in(0))
    assert not Snooper("g", 0, LUN, store, migrate_pr=True).attentions


def test_attention_received_while_resolving_comes_before_the_command(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    run(snooper, pr_out(REGISTER, K, N), ("5f00", TIMEOUT))
    lines = view(1, [K], (K, 1), [registration(K, A, holder=1)])
    result = run(snooper, pr_out(RELEASE, K, 0, 1), (CAPABILITIES, check(6, 0x29, 0x02)), *lines)
    assert (result.status, result.sense[12:14]) == (0x02, b"\x29\x02")
    assert snooper.state.holds


def test_lost_registration_is_told_by_the_devices_own_attention_if_there_was_one(store: SqliteStore) -> None:
    gone = view(7, [F], None, [registration(F, B)])
    snooper = make(store, HOLDING)
    snooper.resync(ScriptedDevice((CAPABILITIES, check(6, 0x2A, 0x03)), *gone))
    assert snooper.attentions.pending == (Sense(6, 0x2A, 0x03),)

    snooper = make(store, HOLDING)
    snooper.attentions.discard((6, 0x2A, 0x03))
    snooper.observe(InspectEvent(EventKind.UNIT_ATTENTION, 0x2A, 0x2A, 0x05))
    snooper.resync(ScriptedDevice(*gone))
    assert not snooper.attentions


def test_format_of_refusals_follows_the_device(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)
    run(snooper, pr_out(RELEASE, K, 0, 1), ("5f02", check(5, 0x26, 0x04, descriptor=True)))
    assert run(snooper, pr_out(MOVE, K, N)).sense[:4] == bytes.fromhex("72052400")


# one at a time


def test_pr_outs_of_one_unit_and_their_reads_do_not_interleave(store: SqliteStore) -> None:
    lock = threading.RLock()
    order: list[str] = []
    inside = threading.Event()

    def device(name: str, address: str, key: int) -> ScriptedDevice:
        def slow(_: Command) -> Result:
            order.append(f"{name} sends")
            inside.set()
            return GOOD

        lines = view(1, [key], None, [registration(key, address)])
        last = lines[-1][1]

        def ends(command: Command) -> Result:
            order.append(f"{name} read")
            assert callable(last)
            return last(command)

        lines[-1] = (lines[-1][0], ends)
        return ScriptedDevice(("5f04", slow), *lines)

    snoopers = []
    for name, key in (("g", K), ("h", N)):
        store.save_nexus(name, LUN, encode_state(NexusState(key=key)), epoch=0)
        snoopers.append(Snooper(name, 0, LUN, store, migrate_pr=True, unit_lock=lock))
    threads = [
        threading.Thread(target=snooper.handle, args=(pr_out(PREEMPT, key, F, 1), device(name, address, key)))
        for snooper, name, address, key in zip(snoopers, "gh", (A, B), (K, N), strict=True)
    ]
    with lock:
        for thread in threads:
            thread.start()
        assert not inside.wait(0.05)
    for thread in threads:
        thread.join()
    first, second = order[0][0], order[2][0]
    assert order == [f"{first} sends", f"{first} read", f"{second} sends", f"{second} read"]
    assert first != second


def test_database_errors_of_another_kind_do_not_escape(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    snooper = make(store, REGISTERED)

    def fails(*_: object, **__: object) -> int:
        raise sqlite3.InterfaceError("broken")

    monkeypatch.setattr(store, "begin_intent", fails)
    assert run(snooper, pr_out(RESERVE, K, 0, 1)).status == 0x02


def test_full_status_line_is_used(store: SqliteStore) -> None:
    """READ KEYS alone would take the sibling's registration for ours."""
    snooper = make(store, HOLDING)
    lines = view(2, [K], (K, 1), [registration(K, B, holder=1)])
    assert lines[-1][0] == FULL_STATUS
    assert not snooper.resync(ScriptedDevice(*lines)).registered


def test_attention_that_other_reads_of_this_nexus_received_is_kept_and_makes_suspect(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    snooper.received(Sense(6, 0x2A, 0x05))
    assert snooper.state.suspect == (Suspicion.REGISTRATIONS_PREEMPTED,)
    again = Snooper("g", 0, LUN, store, migrate_pr=True)
    assert again.attentions.pending == (Sense(6, 0x2A, 0x05),)
    assert Suspicion.REGISTRATIONS_PREEMPTED in again.state.suspect


def test_key_that_is_still_there_after_a_preempt_may_be_a_siblings(store: SqliteStore) -> None:
    snooper = make(store, HOLDING, known=False)
    snooper.observe(InspectEvent(EventKind.UNIT_ATTENTION, 0x2A, 0x2A, 0x05))
    for _ in range(2):
        assert snooper.resync(ScriptedDevice(*view(3, [K], (K, 1)))).suspect == (Suspicion.AMBIGUOUS_KEY,)
    again = Snooper("g", 0, LUN, store, migrate_pr=True)
    assert Suspicion.AMBIGUOUS_KEY in again.resync(ScriptedDevice(*view(3, [K], (K, 1)))).suspect
    # The guest's own registration settles it.
    run(again, pr_out(IGNORE, 0, K), ("5f06", GOOD), *view(4, [K], (K, 1)))
    assert again.state.fresh
    assert again.resync(ScriptedDevice(*view(4, [K], (K, 1)))).fresh
