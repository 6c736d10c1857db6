"""What goes wrong around a guest's reservation commands: fences in between, guests that overdo it, stores that fail.

guest g, LUN 0 ── nexus (A, port 1) ──┐
                                      ├── logical unit
another host  ── nexus (B, port 1) ───┘
"""

from __future__ import annotations

import logging

import pytest

from pyproxy.reservation.events import EventKind, InspectEvent
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, StateDocumentError, Suspicion, encode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from tests.unit.reservation.script import (
    CAPABILITIES,
    CONFLICT,
    GOOD,
    LOST,
    READ_KEYS,
    READ_RESERVATION,
    ScriptedDevice,
    check,
    pr_in,
    pr_out,
    registration,
    reservation,
    view,
)
from tests.unit.reservation.snooping import (
    HOLDING,
    LUN,
    PREEMPT,
    REGISTER,
    REGISTERED,
    RESERVE,
    US,
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

PREEMPTED = InspectEvent(EventKind.UNIT_ATTENTION, 0x2A, 0x2A, 0x05)


# fences between a command and what follows it


def test_attention_received_by_the_read_after_a_registration_makes_suspect(store: SqliteStore) -> None:
    snooper = make(store, NexusState())
    lines = [(READ_RESERVATION, check(6, 0x2A, 0x05)), (READ_RESERVATION, reservation(2))]
    assert run(snooper, pr_out(REGISTER, 0, K), ("5f00", GOOD), *lines).good
    assert snooper.state.suspect == (Suspicion.REGISTRATIONS_PREEMPTED,)
    assert stored(store).suspect == (Suspicion.REGISTRATIONS_PREEMPTED,)
    assert snooper.attentions.pending == (Sense(6, 0x2A, 0x05),)


def test_first_registration_that_is_gone_when_it_is_looked_for_is_suspect(store: SqliteStore) -> None:
    """A target that tells nobody of a preempt."""
    snooper = make(store, NexusState(), known=False)
    snooper._nexus_verified = False
    run(snooper, pr_out(REGISTER, 0, K), ("5f00", GOOD), *view(2, [F], None, [registration(F, B)]))
    assert not snooper.state.fresh


def test_attention_seen_while_a_registration_is_under_way_may_be_younger(store: SqliteStore) -> None:
    """The guest's write is told of the preempt that came after its REGISTER was executed; a sibling has the key too."""
    snooper = make(store, NexusState(), known=False)

    def executes(_: Command) -> Result:
        snooper.observe(PREEMPTED)
        return GOOD

    run(snooper, pr_out(REGISTER, 0, K), ("5f00", executes), (READ_RESERVATION, reservation(1)))
    assert not snooper.state.fresh
    assert snooper.resync(ScriptedDevice(*view(3, [K]))).suspect == (Suspicion.AMBIGUOUS_KEY,)


def test_attention_seen_while_the_device_is_read_may_be_younger(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED, known=False)
    lines = view(1, [K])
    answer = lines[-1][1]

    def meanwhile(_: Command) -> Result:
        snooper.observe(PREEMPTED)
        assert isinstance(answer, Result)
        return answer

    assert not snooper.resync(ScriptedDevice(*lines[:-1], (lines[-1][0], meanwhile))).fresh
    assert snooper.resync(ScriptedDevice(*view(3, [K]))).suspect == (Suspicion.AMBIGUOUS_KEY,)


def test_guest_is_told_before_the_device_is_read_to_the_end(store: SqliteStore) -> None:
    """Its data commands do not wait for a resync, and must not run past the attention that the resync received."""
    snooper = make(store, HOLDING)
    told: list[Result | None] = []
    lines = view(1, [K], (K, 1), [registration(K, A, holder=1)])
    answer = lines[1][1]

    def meanwhile(command: Command) -> Result:
        told.append(snooper.report_attention(Command(bytes(6))))
        assert callable(answer)
        return answer(command)

    lines[1] = (READ_KEYS, meanwhile)
    snooper.resync(ScriptedDevice((CAPABILITIES, check(6, 0x29, 0x02)), *lines))
    assert told[0] is not None
    assert told[0].sense[12:14] == b"\x29\x02"
    assert not snooper.attentions, "told twice"


def test_attention_received_by_a_failing_read_is_durable(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    lines = [(CAPABILITIES, check(6, 0x2A, 0x03)), (CAPABILITIES, CONFLICT)]
    assert run(snooper, pr_out(PREEMPT, K, F, 1), ("5f04", GOOD), *lines).good
    assert Snooper("g", 0, LUN, store, migrate_pr=True).attentions.pending == (Sense(6, 0x2A, 0x03),)


# names


@pytest.mark.parametrize(("name", "port"), [(B, 1), (A, 2)])
def test_configured_name_that_contradicts_the_registration_does_not_fence_the_guest(
    store: SqliteStore, name: str, port: int
) -> None:
    """The device listed the registration under (A, port 1); after a restart somebody configured another name."""
    state = NexusState(key=K, type=HOLDING.type, aptpl=False, transport_id=US, rtpi=1)
    store.save_nexus("g", LUN, encode_state(state), epoch=0)
    initiator = SasTransportId(bytes.fromhex(name))
    snooper = Snooper("g", 0, LUN, store, migrate_pr=True, initiator=initiator, rtpi=port)
    here = view(3, [K], (K, 1), [registration(K, A, holder=1)])
    state = snooper.resync(ScriptedDevice(*here))
    assert state.key == K
    assert state.suspect == (Suspicion.AMBIGUOUS_KEY,), "nor does it let it be migrated"
    assert not snooper.attentions
    # Its own registration tells which name is right.
    run(snooper, pr_out(REGISTER, K, K), ("5f00", GOOD), *here)
    assert snooper.state.fresh
    assert snooper.state.transport_id == US


# stores


def test_without_migration_a_failing_store_stops_nothing(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED, migrate_pr=False)
    break_store(store)
    assert run(snooper, pr_out(RESERVE, K, 0, 1), ("5f01", GOOD)).good
    assert snooper.state.suspect == (Suspicion.STORE_FAILED,)
    mend_store(store)

    def breaks(_: Command) -> Result:
        break_store(store)
        return GOOD

    device = ScriptedDevice(("5f01", breaks), *view(1, [K], (K, 1), [registration(K, A, holder=1)]))
    assert snooper.handle(pr_out(RESERVE, K, 0, 1), device).good
    mend_store(store)


def test_damaged_attentions_in_the_store_are_told_as_such(store: SqliteStore) -> None:
    store.save_nexus("g", LUN, encode_state(REGISTERED), epoch=0, attentions=b"{")
    with pytest.raises(StateDocumentError, match="unit attentions"):
        Snooper("g", 0, LUN, store, migrate_pr=True)


def test_good_that_cannot_be_followed_is_resolved_by_reading(store: SqliteStore) -> None:
    snooper = make(store, NexusState())

    def breaks(_: Command) -> Result:
        raise RuntimeError("not an error of a device")

    with pytest.raises(RuntimeError):
        run(snooper, pr_out(REGISTER, 0, K), ("5f00", GOOD), (READ_RESERVATION, breaks))
    assert snooper.state.suspect == (Suspicion.FATE_UNKNOWN,)
    snooper.resync(ScriptedDevice(*view(1, [K], None, [registration(K, A)])))
    assert snooper.state.fresh
    assert stored(store).key == K
    assert not store.open_intents()


# guests that overdo it


def test_device_that_is_gone_does_not_fill_the_store(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)

    def gone(_: Command) -> Result:
        raise LOST

    not_ready = 0
    for _ in range(40):
        try:
            result = snooper.handle(pr_out(RESERVE, K, 0, 1), gone)
        except OSError:
            continue
        assert (result.status, result.sense[2], result.sense[12]) == (0x02, 0x02, 0x04)
        not_ready += 1
    assert (len(store.open_intents()), not_ready) == (16, 24)
    # The device is back: what is open is resolved, and the guest goes on.
    here = view(1, [K], (K, 1), [registration(K, A, holder=1)])
    assert run(snooper, pr_out(RESERVE, K, 0, 1), *here, ("5f01", GOOD)).good
    assert not store.open_intents()


def test_guest_cannot_change_a_list_that_is_longer_than_any(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)
    memory = bytearray(K.to_bytes(8) + N.to_bytes(8) + bytes(70_000))

    def executes(command: Command) -> Result:
        memory[20] = 0x04
        assert bytes(command.data_out)[:24] == K.to_bytes(8) + N.to_bytes(8) + bytes(8)  # type: ignore[arg-type]
        return GOOD

    run(snooper, pr_out(REGISTER, K, N, data=memory), ("5f00", executes))  # type: ignore[arg-type]
    assert (snooper.state.key, snooper.state.all_tg_pt) == (N, False)


def test_guest_cannot_fill_the_log(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pyproxy")
    snooper = make(store, REGISTERED)
    for _ in range(100):
        snooper.observe(InspectEvent(EventKind.SPC2_RESERVED, 0x16))
        run(snooper, pr_out(REGISTER, K, N), ("5f00", CONFLICT), (CAPABILITIES, CONFLICT))
        snooper.observe(InspectEvent(EventKind.SPC2_RELEASED, 0x17))
        run(snooper, pr_out(RESERVE, N, 0, 1), ("5f01", CONFLICT), *view(1, [K], None, [registration(K, A)]))
    assert len(caplog.records) < 150
    assert run(snooper, pr_in(0), (READ_KEYS, GOOD)).good
