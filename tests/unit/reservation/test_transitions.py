"""The effect of every PERSISTENT RESERVE OUT on the sender's tracked state, for every way it can end.

The table below is typed from the standard's rules (SPC-4 5.13.7 to 5.13.11), not derived from the code:

    before                key and reservation of the sender as tracked
    command               service action, RESERVATION KEY, SERVICE ACTION RESERVATION KEY, type, byte 20 (17 for move)
    after GOOD            key, type held, APTPL, what must be read before the guest is answered
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from pyproxy.reservation.state import NexusState, Suspicion
from pyproxy.reservation.transitions import (
    Ask,
    Parameters,
    after_check_condition,
    after_conflict,
    apply,
    possible_keys,
)
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.sense import Sense

K, N, F = 0x1111, 0x2222, 0x9999  # own key, new key, a foreign key

NONE = NexusState(aptpl=False)
REG = NexusState(key=K, aptpl=False)
WE = NexusState(key=K, type=PrType(0x1), aptpl=False)
EA_RO = NexusState(key=K, type=PrType(0x6), aptpl=True)
WE_AR = NexusState(key=K, type=PrType(0x7), aptpl=False)

STATES = {"unregistered": NONE, "registered": REG, "holds-we": WE, "holds-ea-ro": EA_RO, "holds-we-ar": WE_AR}

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, ABORT, IGNORE, MOVE, REPLACE = range(9)
APTPL, ALL_TG_PT, SPEC_I_PT = 0x01, 0x04, 0x08
NOTHING, RESERVATION, RESYNC = Ask.NOTHING, Ask.RESERVATION, Ask.RESYNC


def out(action: int, key: int, sa_key: int, kind: int = 0, flags: int = 0) -> tuple[PrOut, Parameters | None]:
    data = bytearray(key.to_bytes(8) + sa_key.to_bytes(8) + bytes(8))
    data[17 if action == MOVE else 20] = flags
    return PrOut(action, 0, kind), Parameters.read(action, bytes(data))


# (state, action, RK, SARK, TYPE, flags) -> (key, type held, aptpl, ask)
GOOD_ROWS = [
    # REGISTER: the new key; a registration that was there keeps what it holds.
    ("unregistered", REGISTER, 0, N, 0, 0, N, None, False, RESERVATION),
    ("unregistered", REGISTER, 0, N, 0, APTPL, N, None, True, RESERVATION),
    ("registered", REGISTER, K, N, 0, APTPL, N, None, True, NOTHING),
    ("registered", REGISTER, K, K, 0, 0, K, None, False, NOTHING),
    ("holds-we", REGISTER, K, N, 0, 0, N, 0x1, False, NOTHING),
    ("holds-ea-ro", REGISTER, K, N, 0, 0, N, 0x6, False, NOTHING),
    ("holds-we-ar", REGISTER, K, N, 0, 0, N, 0x7, False, NOTHING),
    # REGISTER with key 0 and GOOD proves that nothing was registered; with another key 0, that nothing is now.
    ("unregistered", REGISTER, 0, 0, 0, APTPL, 0, None, True, NOTHING),
    ("registered", REGISTER, K, 0, 0, 0, 0, None, False, NOTHING),
    ("holds-we", REGISTER, K, 0, 0, 0, 0, None, False, NOTHING),
    ("holds-ea-ro", REGISTER, K, 0, 0, APTPL, 0, None, True, NOTHING),
    ("holds-we-ar", REGISTER, K, 0, 0, 0, 0, None, False, NOTHING),
    # REGISTER AND IGNORE EXISTING KEY: the same, whatever RESERVATION KEY says.
    ("unregistered", IGNORE, 0, N, 0, 0, N, None, False, RESERVATION),
    ("unregistered", IGNORE, F, N, 0, APTPL, N, None, True, RESERVATION),
    ("registered", IGNORE, F, N, 0, 0, N, None, False, NOTHING),
    ("holds-we", IGNORE, 0, N, 0, APTPL, N, 0x1, True, NOTHING),
    ("holds-we-ar", IGNORE, 0, N, 0, 0, N, 0x7, False, NOTHING),
    ("unregistered", IGNORE, 0, 0, 0, 0, 0, None, False, NOTHING),
    ("registered", IGNORE, 0, 0, 0, 0, 0, None, False, NOTHING),
    ("holds-ea-ro", IGNORE, 0, 0, 0, 0, 0, None, False, NOTHING),
    # RESERVE: GOOD means that the sender holds it.
    ("registered", RESERVE, K, 0, 0x1, 0, K, 0x1, False, NOTHING),
    ("registered", RESERVE, K, 0, 0x3, 0, K, 0x3, False, NOTHING),
    ("registered", RESERVE, K, 0, 0x5, 0, K, 0x5, False, NOTHING),
    ("registered", RESERVE, K, 0, 0x6, 0, K, 0x6, False, NOTHING),
    ("registered", RESERVE, K, 0, 0x7, 0, K, 0x7, False, NOTHING),
    ("registered", RESERVE, K, 0, 0x8, 0, K, 0x8, False, NOTHING),
    ("holds-we", RESERVE, K, 0, 0x1, APTPL, K, 0x1, False, NOTHING),
    # RELEASE: not held any more, or never was; an all-registrants reservation some targets keep.
    ("registered", RELEASE, K, 0, 0x1, 0, K, None, False, NOTHING),
    ("holds-we", RELEASE, K, 0, 0x1, 0, K, None, False, NOTHING),
    ("holds-ea-ro", RELEASE, K, 0, 0x6, 0, K, None, True, NOTHING),
    ("holds-we-ar", RELEASE, K, 0, 0x7, 0, K, None, False, RESERVATION),
    ("registered", RELEASE, K, 0, 0x8, 0, K, None, False, RESERVATION),
    # CLEAR: nothing is left; LIO switches APTPL off, the standard keeps it.
    ("registered", CLEAR, K, 0, 0, 0, 0, None, None, NOTHING),
    ("holds-we", CLEAR, K, 0, 0, 0, 0, None, None, NOTHING),
    ("holds-ea-ro", CLEAR, K, 0, 0, 0, 0, None, None, NOTHING),
    ("holds-we-ar", CLEAR, K, 0, 0, 0, 0, None, None, NOTHING),
    # PREEMPT: whether the sender keeps its registration and what it holds only the device tells.
    *[
        (state, action, K, target, 0x3, 0, K, held, aptpl, RESYNC)
        for action in (PREEMPT, ABORT)
        for target in (F, K, 0)
        for state, held, aptpl in (
            ("registered", None, False),
            ("holds-we", 0x1, False),
            ("holds-ea-ro", 0x6, True),
            ("holds-we-ar", 0x7, False),
        )
    ],
    # REGISTER AND MOVE: the reservation went to another nexus; with UNREG the registration is gone as well.
    ("holds-we", MOVE, K, N, 0, 0, K, None, False, RESYNC),
    ("holds-we", MOVE, K, N, 0, 0x01, K, None, True, RESYNC),
    ("holds-we", MOVE, K, N, 0, 0x02, 0, None, False, RESYNC),
    ("holds-ea-ro", MOVE, K, N, 0, 0x03, 0, None, True, RESYNC),
    # REPLACE LOST RESERVATION: registered with the new key, holding.
    ("unregistered", REPLACE, 0, N, 0x5, APTPL, N, 0x5, True, NOTHING),
    ("registered", REPLACE, 0, N, 0x8, 0, N, 0x8, False, NOTHING),
]


@pytest.mark.parametrize(
    ("state", "action", "key", "sa_key", "kind", "flags", "after", "held", "aptpl", "ask"), GOOD_ROWS
)
def test_good(
    state: str,
    action: int,
    key: int,
    sa_key: int,
    kind: int,
    flags: int,
    after: int,
    held: int | None,
    aptpl: bool | None,
    ask: Ask,
) -> None:
    result = apply(STATES[state], *out(action, key, sa_key, kind, flags))
    assert result.state.key == after
    assert result.state.type == held
    assert result.state.aptpl is aptpl
    assert result.ask is ask
    if ask is not RESYNC:
        assert result.state.fresh


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("action", range(9))
def test_good_to_a_suspect_state_is_always_followed_by_a_resync(state: str, action: int) -> None:
    before = STATES[state].suspected(Suspicion.RESTART)
    result = apply(before, *out(action, before.key, N, 0x1))
    assert result.ask is RESYNC
    assert Suspicion.RESTART in result.state.suspect


@pytest.mark.parametrize("action", [RESERVE, RELEASE, CLEAR, PREEMPT, ABORT, MOVE])
@pytest.mark.parametrize(("state", "key"), [("unregistered", K), ("registered", F), ("holds-we", 0)])
def test_good_with_a_key_that_is_not_the_tracked_one_is_doubted(action: int, state: str, key: int) -> None:
    result = apply(STATES[state], *out(action, key, N, 0x1))
    assert result.ask is RESYNC
    assert Suspicion.UNEXPECTED_GOOD in result.state.suspect


@pytest.mark.parametrize(("state", "key"), [("unregistered", K), ("registered", 0), ("holds-we", F)])
def test_good_to_register_that_contradicts_the_state_is_doubted(state: str, key: int) -> None:
    result = apply(STATES[state], *out(REGISTER, key, N))
    assert result.state.key == N
    assert result.ask is RESYNC
    assert Suspicion.UNEXPECTED_GOOD in result.state.suspect


@pytest.mark.parametrize("action", [REGISTER, IGNORE])
@pytest.mark.parametrize("flag", [ALL_TG_PT, SPEC_I_PT])
def test_registrations_of_other_nexuses_have_to_be_read(action: int, flag: int) -> None:
    result = apply(NONE, *out(action, 0, N, 0, flag))
    assert result.ask is RESYNC
    assert Suspicion.OTHER_NEXUSES in result.state.suspect
    assert result.state.all_tg_pt is (flag == ALL_TG_PT)


def test_all_target_ports_stays_across_a_key_change_and_ends_with_the_registration() -> None:
    before = replace(REG, all_tg_pt=True)
    assert apply(before, *out(REGISTER, K, N)).state.all_tg_pt
    assert not apply(before, *out(REGISTER, K, 0)).state.all_tg_pt
    assert not apply(before, *out(CLEAR, K, 0)).state.all_tg_pt


@pytest.mark.parametrize("kind", [0x0, 0x2, 0x4, 0x9, 0xF])
def test_reserve_with_a_type_the_standard_does_not_have_is_asked(kind: int) -> None:
    # SPDK accepts any type.
    result = apply(REG, *out(RESERVE, K, 0, kind))
    assert result.state.type is None
    assert result.ask is RESYNC
    assert Suspicion.UNKNOWN_TYPE in result.state.suspect


@pytest.mark.parametrize("action", range(0x09, 0x20))
def test_unknown_service_action_that_ends_good_changes_nothing_and_is_asked(action: int) -> None:
    result = apply(WE, *out(action, K, N, 0x3))
    assert replace(result.state, suspect=()) == WE
    assert result.ask is RESYNC


@pytest.mark.parametrize("size", range(24))
@pytest.mark.parametrize("action", range(9))
def test_short_parameter_list_changes_nothing_and_is_asked(action: int, size: int) -> None:
    parameters = Parameters.read(action, bytes(size))
    assert parameters is None
    result = apply(WE, PrOut(action, 0, 3), parameters)
    assert replace(result.state, suspect=()) == WE
    assert result.ask is RESYNC


def test_byte_20_of_register_and_move_is_part_of_a_length() -> None:
    data = bytearray(K.to_bytes(8) + N.to_bytes(8) + bytes(8))
    data[20:24] = b"\x0d\x00\x00\x18"
    assert Parameters.read(MOVE, bytes(data)) == Parameters(K, N)
    assert Parameters.read(REGISTER, bytes(data)) == Parameters(K, N, aptpl=True, all_tg_pt=True, spec_i_pt=True)


@pytest.mark.parametrize(
    ("state", "action", "key", "sa_key", "kind", "name"),
    [
        (NONE, REGISTER, 0, N, 0, "register: new-registration"),
        (REG, REGISTER, K, N, 0, "register: key-change"),
        (REG, IGNORE, K, 0, 0, "register-and-ignore-existing-key: unregister"),
        (REG, RESERVE, K, 0, 1, "reserve"),
        (WE_AR, RELEASE, K, 0, 7, "release: all-registrants"),
        (WE, PREEMPT, K, F, 1, "preempt"),
    ],
)
def test_reason(state: NexusState, action: int, key: int, sa_key: int, kind: int, name: str) -> None:
    assert apply(state, *out(action, key, sa_key, kind)).reason == name


ORDINARY_CONFLICTS = [
    # REGISTER with key 0 by a registered nexus.
    ("registered", REGISTER, 0, N, 0),
    ("holds-we", REGISTER, 0, 0, 0),
    ("holds-we-ar", REGISTER, 0, N, 0),
    # RESERVE while another nexus holds, or of another type than the one held.
    ("registered", RESERVE, K, 0, 0x1),
    ("registered", RESERVE, K, 0, 0x8),
    ("holds-we", RESERVE, K, 0, 0x3),
    ("holds-we-ar", RESERVE, K, 0, 0x1),
    # PREEMPT of a key that nobody has.
    ("registered", PREEMPT, K, F, 0x1),
    ("holds-we", ABORT, K, F, 0x1),
]

TELLING_CONFLICTS = [
    ("unregistered", REGISTER, 0, N, 0),
    ("unregistered", RESERVE, K, 0, 0x1),
    ("registered", REGISTER, K, N, 0),
    ("registered", REGISTER, K, 0, 0),
    ("registered", REGISTER, F, N, 0),
    ("registered", IGNORE, 0, N, 0),
    ("registered", RELEASE, K, 0, 0x1),
    ("registered", RESERVE, F, 0, 0x1),
    ("holds-we", RESERVE, K, 0, 0x1),
    ("holds-we", RELEASE, K, 0, 0x1),
    ("holds-we", CLEAR, K, 0, 0),
    # SPDK removes everybody when a nexus preempts its own key, and answers CONFLICT.
    ("registered", PREEMPT, K, K, 0x1),
    ("registered", PREEMPT, F, N, 0x1),
    ("holds-we", MOVE, K, N, 0),
]


@pytest.mark.parametrize(("state", "action", "key", "sa_key", "kind"), ORDINARY_CONFLICTS)
def test_conflict_that_the_state_explains(state: str, action: int, key: int, sa_key: int, kind: int) -> None:
    assert after_conflict(STATES[state], *out(action, key, sa_key, kind)) is None


@pytest.mark.parametrize(("state", "action", "key", "sa_key", "kind"), TELLING_CONFLICTS)
def test_conflict_that_speaks_against_the_state(state: str, action: int, key: int, sa_key: int, kind: int) -> None:
    assert after_conflict(STATES[state], *out(action, key, sa_key, kind)) is Suspicion.PR_OUT_CONFLICT


@pytest.mark.parametrize("action", range(9))
@pytest.mark.parametrize(
    ("sense", "expected"),
    [
        # A unit attention: not executed.
        (Sense(6, 0x2A, 0x05), None),
        (Sense(6, 0x29, 0x00), None),
        (Sense(2, 0x08, 0x00), Suspicion.PR_OUT_ERROR),  # LIO: registration changed, metadata not written
        (Sense(2, 0x00, 0x00), Suspicion.PR_OUT_ERROR),
        (Sense(1, 0x00, 0x00), Suspicion.PR_OUT_ERROR),
        (Sense(3, 0x0C, 0x00), Suspicion.PR_OUT_ERROR),
        (Sense(4, 0x44, 0x00), Suspicion.PR_OUT_ERROR),
        (Sense(0xB, 0x00, 0x00), Suspicion.PR_OUT_ERROR),
        (Sense(7, 0x44, 0x01), Suspicion.INFORMATION_LOST),
        (Sense(6, 0x29, 0x00, deferred=True), Suspicion.PR_OUT_ERROR),
        (None, Suspicion.PR_OUT_ERROR),
    ],
)
def test_check_condition(action: int, sense: Sense | None, expected: Suspicion | None) -> None:
    assert after_check_condition(PrOut(action), sense) is expected


@pytest.mark.parametrize(("asc", "ascq"), [(0x24, 0x00), (0x26, 0x00), (0x26, 0x04), (0x1A, 0x00), (0x55, 0x04)])
@pytest.mark.parametrize("action", range(9))
def test_illegal_request_changed_nothing_except_for_preempt(action: int, asc: int, ascq: int) -> None:
    expected = Suspicion.PR_OUT_ERROR if action in (PREEMPT, ABORT) else None
    assert after_check_condition(PrOut(action), Sense(5, asc, ascq)) is expected


@pytest.mark.parametrize(
    ("state", "action", "key", "sa_key", "expected"),
    [
        ("unregistered", REGISTER, 0, N, (0, N)),
        ("registered", REGISTER, K, N, (K, N)),
        ("registered", REGISTER, K, 0, (K, 0)),
        ("registered", IGNORE, 0, N, (K, N)),
        ("holds-we", RELEASE, K, 0, (K,)),
        ("holds-we", CLEAR, K, 0, (K, 0)),
        ("holds-we", PREEMPT, K, F, (K,)),
        ("holds-we", PREEMPT, K, K, (K, 0)),
    ],
)
def test_keys_a_command_of_unknown_outcome_may_leave(
    state: str, action: int, key: int, sa_key: int, expected: tuple[int, ...]
) -> None:
    assert possible_keys(STATES[state], *out(action, key, sa_key, 0x1)) == expected
