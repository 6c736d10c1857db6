"""The rules of the snooper, each against a scripted device and a real store.

guest g, LUN 0 ── nexus (A, port 1) ──┐
                                      ├── logical unit
another host  ── nexus (B, port 1) ───┘
"""

from __future__ import annotations

import json

import pytest

from pyproxy.device.base import TransportError
from pyproxy.reservation.snooper import Snooper
from pyproxy.reservation.state import NexusState, Suspicion, decode_state
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.sense import Sense
from pyproxy.scsi.transport_id import SasTransportId
from pyproxy.store.sqlite import SqliteStore
from tests.unit.reservation.script import (
    BUSY,
    CAPABILITIES,
    CONFLICT,
    GOOD,
    LOST,
    NOT_SENT,
    READ_RESERVATION,
    TIMEOUT,
    UNSUPPORTED,
    ScriptedDevice,
    capabilities,
    check,
    keys,
    pr_in,
    pr_out,
    registration,
    reservation,
    view,
)
from tests.unit.reservation.snooping import (
    ABORT,
    CLEAR,
    HOLDING,
    IGNORE,
    LUN,
    MOVE,
    PREEMPT,
    REGISTER,
    REGISTERED,
    RELEASE,
    RESERVE,
    US,
    WE,
    A,
    B,
    F,
    K,
    N,
    break_store,
    make,
    make_fresh,
    mend_store,
    run,
    stored,
)

# durable before the device, durable before the guest


def test_intent_is_durable_before_and_result_before_good(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)
    command = pr_out(RESERVE, K, 0, 0x1)

    def at_the_device(seen: Command) -> Result:
        (intent,) = store.open_intents("g", LUN)
        assert intent.cdb == command.cdb
        assert intent.parameter_list == command.data_out
        assert decode_state(intent.before).key == K
        assert seen.data_out == command.data_out
        return GOOD

    assert run(snooper, command, ("5f01", at_the_device)).good
    assert store.open_intents() == []
    assert stored(store).type is WE
    (intent,) = store.intents()
    assert json.loads(intent.result or b"") == {"status": 0, "sense": "", "reason": "reserve"}


def test_what_cannot_be_recorded_is_not_sent(store: SqliteStore, caplog: pytest.LogCaptureFixture) -> None:
    snooper = make(store, REGISTERED)
    break_store(store)
    result = run(snooper, pr_out(RESERVE, K, 0, 0x1))
    # NOT READY, LOGICAL UNIT NOT READY: nothing was executed, the guest may try again.
    assert (result.status, result.sense[2], result.sense[12:14]) == (0x02, 0x02, b"\x04\x00")
    assert "was not sent" in caplog.text
    assert snooper.state == make_fresh(REGISTERED)
    mend_store(store)
    assert run(snooper, pr_out(RESERVE, K, 0, 0x1), ("5f01", GOOD)).good


def test_good_that_cannot_be_recorded_is_never_answered_good(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)

    def executes(_: Command) -> Result:
        break_store(store)
        return GOOD

    result = run(snooper, pr_out(RESERVE, K, 0, 0x1), ("5f01", executes))
    # HARDWARE ERROR, INTERNAL TARGET FAILURE: the guest has to read its state.
    assert (result.status, result.sense[2], result.sense[12:14]) == (0x02, 0x04, b"\x44\x00")
    assert Suspicion.STORE_FAILED in snooper.state.suspect
    assert len(store.open_intents()) == 1
    mend_store(store)
    # The next one first reads what became of it.
    listed = [registration(K, A, holder=1)]
    result = run(snooper, pr_out(RELEASE, K, 0, 0x1), *view(1, [K], (K, 1), listed), ("5f02", GOOD))
    assert result.good
    assert store.open_intents() == []
    assert snooper.state.fresh
    assert not snooper.state.holds


def test_error_that_cannot_be_recorded_is_still_the_devices(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)

    def refuses(_: Command) -> Result:
        break_store(store)
        return CONFLICT

    assert run(snooper, pr_out(RESERVE, K, 0, 0x1), ("5f01", refuses)).conflict
    assert len(store.open_intents()) == 1
    mend_store(store)


def test_taken_over_elsewhere_nothing_is_sent(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)
    store.raise_epoch("g", LUN)
    result = run(snooper, pr_out(RESERVE, K, 0, 0x1))
    assert (result.status, result.sense[2]) == (0x02, 0x02)


# only GOOD changes state


@pytest.mark.parametrize(
    "command",
    [pr_out(action, key, N, 0x1) for action in (RESERVE, RELEASE, PREEMPT) for key in (K,)]
    + [pr_out(REGISTER, 0, N), pr_out(RESERVE, K, 0, 0x3)],
)
def test_ordinary_conflict_changes_nothing(store: SqliteStore, command: Command) -> None:
    state = REGISTERED if command.cdb[1] != RELEASE else HOLDING
    snooper = make(store, state)
    if command.cdb[1] == RELEASE:
        # Not ordinary: a holder's RELEASE does not conflict. The device is asked.
        listed = [registration(K, A, holder=1)]
        assert run(snooper, command, ("5f", CONFLICT), *view(1, [K], (K, 1), listed)).conflict
    else:
        assert run(snooper, command, ("5f", CONFLICT)).conflict
    assert snooper.state.key == K
    assert snooper.state.type == state.type
    assert snooper.state.fresh
    assert store.open_intents() == []


def test_telling_conflict_is_followed_by_a_resync(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    command = pr_out(REGISTER, K, N)
    assert run(snooper, command, ("5f00", CONFLICT), *view(5, [F], (F, 1), [registration(F, B, holder=1)])).conflict
    assert snooper.state == NexusState(aptpl=False, generation=5, transport_id=US, rtpi=1)
    # The guest lost its registration without seeing a unit attention: it gets the one that goes with it.
    assert snooper.attentions.pending == (Sense(6, 0x2A, 0x05),)


@pytest.mark.parametrize("answer", [check(5, 0x24, 0), check(5, 0x26, 0), check(5, 0x1A, 0), check(5, 0x26, 4)])
def test_illegal_request_changes_nothing(store: SqliteStore, answer: Result) -> None:
    snooper = make(store, HOLDING)
    assert run(snooper, pr_out(RELEASE, K, 0, 0x3), ("5f02", answer)) == answer
    assert snooper.state == make_fresh(HOLDING)


def test_metadata_error_of_lio_is_followed_by_a_resync(store: SqliteStore) -> None:
    # LIO answers 02/08/00 to REGISTER after the registration was changed.
    snooper = make(store, NexusState())
    run(snooper, pr_out(REGISTER, 0, K), ("5f00", check(2, 8, 0)), *view(1, [K], None, [registration(K, A)]))
    assert snooper.state.key == K
    assert snooper.state.fresh


def test_unit_attention_means_not_executed(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    answer = check(6, 0x2A, 0x04)
    assert run(snooper, pr_out(RELEASE, K, 0, 1), ("5f02", answer)) == answer
    assert snooper.state.type is WE
    assert snooper.state.suspect == (Suspicion.RESERVATIONS_RELEASED,)
    assert store.open_intents() == []


# fate unknown


@pytest.mark.parametrize("answer", [TIMEOUT, BUSY, Result(0x28), Result(0x40), Result(0x00, driver_status=0x06)])
def test_answer_that_is_not_the_devices_keeps_the_intent_open(store: SqliteStore, answer: Result) -> None:
    snooper = make(store, HOLDING)
    assert run(snooper, pr_out(REGISTER, K, N), ("5f00", answer)) == answer
    assert snooper.state.key == K
    assert snooper.state.suspect == (Suspicion.FATE_UNKNOWN,)
    assert len(store.open_intents()) == 1


def test_transport_error_keeps_the_intent_open(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    with pytest.raises(TransportError, match="gone"):
        run(snooper, pr_out(REGISTER, K, N), ("5f00", LOST))
    assert snooper.state.suspect == (Suspicion.FATE_UNKNOWN,)
    assert len(store.open_intents()) == 1


def test_command_that_was_surely_not_sent_leaves_nothing_open(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    with pytest.raises(TransportError):
        run(snooper, pr_out(REGISTER, K, N), ("5f00", NOT_SENT))
    assert snooper.state == make_fresh(HOLDING)
    assert store.open_intents() == []
    assert store.intents()[0].outcome == "not-sent"


@pytest.mark.parametrize("executed", [False, True])
def test_reading_resolves_what_became_of_it(store: SqliteStore, executed: bool) -> None:
    snooper = make(store, HOLDING)
    run(snooper, pr_out(REGISTER, K, N), ("5f00", TIMEOUT))
    now = N if executed else K
    device = ScriptedDevice(*view(5, [now], (now, 1), [registration(now, A, holder=1)]))
    state = snooper.resync(device)
    assert (state.key, state.type, state.fresh) == (now, WE, True)
    assert store.open_intents() == []
    assert store.intents()[0].outcome == "resolved-by-reading"
    assert not snooper.attentions


def test_next_pr_out_first_resolves_what_is_open(store: SqliteStore) -> None:
    snooper = make(store, NexusState())
    run(snooper, pr_out(REGISTER, 0, K), ("5f00", TIMEOUT))
    result = run(snooper, pr_out(RESERVE, K, 0, 1), *view(1, [K], None, [registration(K, A)]), ("5f01", GOOD))
    assert result.good
    assert (snooper.state.key, snooper.state.type, snooper.state.fresh) == (K, WE, True)


def test_without_full_status_an_unregistration_of_unknown_fate_stays_open(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED, known=False)
    run(snooper, pr_out(REGISTER, K, 0), ("5f00", TIMEOUT))
    state = snooper.resync(ScriptedDevice(*view(3, [K])))
    assert state.suspect == (Suspicion.AMBIGUOUS_KEY,)
    assert len(store.open_intents()) == 1
    # A registration of the guest itself settles it.
    run(snooper, pr_out(IGNORE, 0, K), *view(3, [K]), ("5f06", GOOD), *view(4, [K]))
    assert snooper.state.fresh
    assert store.open_intents() == []


def test_guest_that_may_have_unregistered_itself_is_not_told_that_it_was_preempted(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    run(snooper, pr_out(CLEAR, K), ("5f03", TIMEOUT))
    assert snooper.resync(ScriptedDevice(*view(9, [], None, []))).key == 0
    assert not snooper.attentions


# asking the device before the guest is answered


@pytest.mark.parametrize("action", [PREEMPT, ABORT])
def test_preempt_is_followed_by_reading_before_the_answer(store: SqliteStore, action: int) -> None:
    snooper = make(store, REGISTERED)
    lines = view(6, [K], (K, 5), [registration(K, A, holder=5)])
    result = run(snooper, pr_out(action, K, F, 0x5), (f"5f0{action}", GOOD), *lines)
    assert result.good
    assert snooper.state.type is PrType(5)
    assert snooper.state.fresh
    assert stored(store).type is PrType(5)


def test_preempt_with_the_own_key_may_remove_the_sender(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)
    run(snooper, pr_out(PREEMPT, K, K, 0x1), ("5f04", GOOD), *view(6, [], None, []))
    assert not snooper.state.registered
    assert not snooper.attentions


def test_preempt_that_cannot_be_read_back_is_good_but_suspect(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)
    result = run(snooper, pr_out(PREEMPT, K, F, 0x1), ("5f04", GOOD), (CAPABILITIES, BUSY))
    assert result.good
    assert Suspicion.PREEMPT_OUTCOME in snooper.state.suspect
    assert Suspicion.RESYNC_FAILED in snooper.state.suspect
    assert Suspicion.PREEMPT_OUTCOME in stored(store).suspect


def test_new_registration_reads_the_reservation(store: SqliteStore) -> None:
    snooper = make(store, NexusState())
    run(snooper, pr_out(REGISTER, 0, K, 0, 1), ("5f00", GOOD), (READ_RESERVATION, reservation(2, 0, 7)))
    assert (snooper.state.key, snooper.state.type, snooper.state.aptpl) == (K, PrType(7), True)
    assert snooper.state.generation == 2


def test_key_change_asks_nothing(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    assert run(snooper, pr_out(REGISTER, K, N), ("5f00", GOOD)).good
    assert (snooper.state.key, snooper.state.type) == (N, WE)


def test_suspect_state_is_resynced_by_the_next_good(store: SqliteStore) -> None:
    snooper = make(store, HOLDING)
    snooper.suspect(Suspicion.DEVICE_REPLACED)
    lines = view(4, [N], None, [registration(N, A)])
    run(snooper, pr_out(IGNORE, 0, N), ("5f06", GOOD), *lines)
    assert (snooper.state.key, snooper.state.type, snooper.state.fresh) == (N, None, True)


def test_own_transport_id_is_learnt_from_the_first_registration(store: SqliteStore) -> None:
    snooper = Snooper("g", 0, LUN, store, migrate_pr=True)
    snooper.resync(ScriptedDevice(*view(0, [F], None, [registration(F, B)])))
    listed = [registration(F, B), registration(K, A, rtpi=4)]
    run(snooper, pr_out(REGISTER, 0, K), ("5f00", GOOD), *view(1, [F, K], None, listed))
    assert (snooper.state.transport_id, snooper.state.rtpi) == (US, 4)
    assert snooper.state.fresh
    again = Snooper("g", 0, LUN, store, migrate_pr=True)
    assert (again.state.transport_id, again.state.rtpi) == (US, 4)
    # Once known, another registration needs no full status.
    run(snooper, pr_out(REGISTER, K, N), ("5f00", GOOD))


def test_configured_transport_id_that_is_not_ours_is_corrected(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    snooper = Snooper("g", 0, LUN, store, migrate_pr=True, initiator=SasTransportId(bytes(8)))
    snooper.resync(ScriptedDevice(*view(0, [], None, [])))
    run(snooper, pr_out(REGISTER, 0, K), ("5f00", GOOD), *view(1, [K], None, [registration(K, A)]))
    assert snooper.state.transport_id == US
    assert "correct the configuration" in caplog.text


def test_device_without_full_status_is_asked_once(store: SqliteStore) -> None:
    snooper = Snooper("g", 0, LUN, store, migrate_pr=True)
    snooper.resync(ScriptedDevice(*view(0, [])))
    run(snooper, pr_out(REGISTER, 0, K), ("5f00", GOOD), *view(1, [K], (0, 8)))
    assert snooper.state.type is PrType(8)
    run(snooper, pr_out(REGISTER, K, N), ("5f00", GOOD))
    assert snooper.state.fresh


# masking and refusal


def test_refused_commands_reach_neither_device_nor_store(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED)
    for command, sense in [
        (pr_out(MOVE, K, N), b"\x24\x00"),
        (pr_out(REGISTER, K, N, 0, 0x04), b"\x26\x00"),
        (pr_out(IGNORE, K, N, 0, 0x04), b"\x26\x00"),
        (pr_out(REGISTER, K, N, 0, 0x08), b"\x26\x00"),
        (pr_out(REGISTER, K, N, data=bytes(8)), b"\x1a\x00"),
    ]:
        result = run(snooper, command)
        assert (result.status, result.sense[2], result.sense[12:14]) == (0x02, 0x05, sense)
    assert store.intents() == []
    assert snooper.state == make_fresh(REGISTERED)


def test_capabilities_are_masked(store: SqliteStore) -> None:
    snooper = make(store)
    assert run(snooper, pr_in(2, 8), ("5e02", capabilities(0x1D))).data == bytes.fromhex("000811 80ea01 0000")
    for room in range(8):
        result = run(snooper, pr_in(2, room), ("5e02", capabilities(0x1D)))
        assert result.data == bytes.fromhex("000811 80ea01 0000")[:room]


def test_capabilities_are_masked_in_the_guests_buffers(store: SqliteStore) -> None:
    first, second = bytearray(2), bytearray(6)

    def fills(_: Command) -> Result:
        first[:], second[:] = b"\0\x08", bytes.fromhex("1d80ea010000")
        return GOOD

    command = Command(bytes.fromhex("5e020000000000000800"), data_in=[first, second])
    assert run(make(store), command, ("5e02", fills)) == GOOD
    assert second == bytes.fromhex("1180ea010000")


def test_other_reads_pass_as_they_are(store: SqliteStore) -> None:
    snooper = make(store)
    for action, answer in ((0, keys(1, 5)), (1, reservation(1)), (3, UNSUPPORTED), (7, UNSUPPORTED), (2, UNSUPPORTED)):
        result = run(snooper, pr_in(action), (f"5e0{action}", answer))
        assert result == (answer(pr_in(action)) if callable(answer) else answer)


def test_without_migration_everything_passes_verbatim_and_is_tracked(store: SqliteStore) -> None:
    snooper = make(store, REGISTERED, migrate_pr=False)
    whole = bytes.fromhex("00081d80ea010000")
    assert run(snooper, pr_in(2, 8), ("5e02", capabilities(0x1D))).data == whole
    command = pr_out(MOVE, K, N, 0, length=48, data=bytes(range(48)))
    device = ScriptedDevice(("5f07", CONFLICT), *view(1, [K], None, [registration(K, A)]))
    assert snooper.handle(command, device).conflict
    assert device.seen[0].cdb == command.cdb
    assert device.seen[0].data_out == command.data_out
    listed = [registration(N, A, all_tg_pt=True)]
    run(snooper, pr_out(REGISTER, K, N, 0, 0x04), ("5f00", GOOD), *view(2, [N], None, listed))
    assert (snooper.state.key, snooper.state.all_tg_pt) == (N, True)
    # A list of which less came than the CDB says is the device's to answer.
    short = pr_out(REGISTER, K, N, data=bytes(8))
    assert run(snooper, short, ("5f00", check(5, 0x1A, 0))).sense[12] == 0x1A


@pytest.mark.parametrize("size", range(10))
def test_cdb_cut_short(store: SqliteStore, size: int) -> None:
    for cdb in (pr_out(REGISTER).cdb[:size], pr_in(0).cdb[:size]):
        result = run(make(store), Command(cdb, data_out=bytes(24)))
        assert (result.status, result.sense[12:14]) == (0x02, b"\x24\x00")


def test_guest_cannot_change_the_list_after_it_was_judged(store: SqliteStore) -> None:
    snooper = make(store, NexusState())
    memory = bytearray(bytes(8) + K.to_bytes(8) + bytes(8))

    def executes(command: Command) -> Result:
        memory[20] = 0x04
        memory[8:16] = F.to_bytes(8)
        assert bytes(command.data_out) == bytes(8) + K.to_bytes(8) + bytes(8)  # type: ignore[arg-type]
        return GOOD

    run(snooper, pr_out(REGISTER, data=memory), ("5f00", executes), (READ_RESERVATION, reservation(1)))  # type: ignore[arg-type]
    assert snooper.state.key == K


def test_list_in_pieces(store: SqliteStore) -> None:
    snooper = make(store, NexusState())
    whole = bytes(8) + K.to_bytes(8) + bytes(8)
    command = Command(pr_out(REGISTER).cdb, data_out=[whole[:5], memoryview(whole)[5:13], whole[13:]])
    run(snooper, command, ("5f00", GOOD), (READ_RESERVATION, reservation(1)))
    assert snooper.state.key == K
