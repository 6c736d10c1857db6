"""The takeover table covers every situation and never says what must never be done."""

from __future__ import annotations

import random
from itertools import product

from pyproxy.reservation.classify import (
    ROWS,
    Claim,
    Decision,
    Direction,
    Holder,
    Move,
    OwnKey,
    Situation,
    Source,
    classify,
)

FLAGS = (
    "same_nexus",
    "perhaps_same",
    "held_before",
    "shared",
    "proven",
    "key_left",
    "power_lost",
    "touched",
    "began",
    "witnessed",
    "earned",
    "preempted",
    "preempt_unknown",
    "unsafe_target",
)
SOURCE_MOVES = (Move.REKEY_SOURCE, Move.UNREGISTER_SOURCE, Move.DROP_NONCE, Move.RESTORE_SOURCE)


def _situations() -> list[Situation]:
    draw = random.Random(1)
    return [
        Situation(*axes, **{name: draw.random() < 0.5 for name in FLAGS})
        for axes in product(Source, OwnKey, OwnKey, Holder, Claim, Direction)
        for _ in range(3)
    ]


def test_every_situation_has_a_row_and_no_move_is_forbidden() -> None:
    used = set()
    for at in _situations():
        verdict = classify(at)
        used.add(verdict.what)
        if isinstance(verdict.what, Decision):
            continue
        move = verdict.what
        assert at.source is not Source.ABSENT, at
        assert at.source is Source.ALIVE or move not in SOURCE_MOVES, at
        match move:
            case Move.REGISTER_DESTINATION:
                assert at.source is Source.ALIVE
                assert (at.source_key, at.destination_key) == (OwnKey.GUEST, OwnKey.NONE), at
            case Move.REKEY_SOURCE | Move.UNREGISTER_SOURCE:
                assert (at.source_key, at.destination_key) == (OwnKey.GUEST, OwnKey.GUEST), at
                held = at.claim in (Claim.HELD, Claim.PERHAPS_HELD)
                assert held is (move is Move.REKEY_SOURCE), "an UNREGISTER would release what the source holds"
            case Move.REGISTER_TEMPORARY | Move.REKEY_TEMPORARY | Move.PREEMPT_GUEST:
                assert at.source is Source.DEAD
                assert at.source_key is OwnKey.GUEST
                assert at.proven
                assert not at.shared
                assert not (at.unsafe_target and at.claim is Claim.ALL_REGISTRANTS)
            case Move.PREEMPT_NONCE:
                assert (at.source_key, at.destination_key) == (OwnKey.NONCE, OwnKey.GUEST), at
            case Move.SETTLE_DESTINATION:
                assert at.destination_key is OwnKey.TEMPORARY
                removed_by_us = at.holder is Holder.TEMPORARY or at.preempted
                assert at.source_key is not OwnKey.NONE or removed_by_us, "a fenced guest would be resurrected"
            case Move.RESTORE_SOURCE:
                assert at.source_key is OwnKey.NONCE
                assert at.direction is Direction.BACK
            case Move.UNREGISTER_DESTINATION:
                assert at.destination_key in (OwnKey.GUEST, OwnKey.TEMPORARY), at
    assert used >= {decision for decision in Decision if decision not in _OUTSIDE}
    assert used >= set(Move)


_OUTSIDE = {Decision.ALREADY_DONE, Decision.NOT_REGISTERED, Decision.UNSETTLED, Decision.WRONG_UNIT}


def test_success_is_never_claimed_for_another_nexuss_reservation() -> None:
    for at in _situations():
        if classify(at).what is Decision.TAKEN_OVER:
            assert at.destination_key is OwnKey.GUEST
            assert at.source_key is OwnKey.NONE
            assert at.earned, "another host may have taken over"
            if at.claim is Claim.HELD:
                assert at.holder is Holder.GUEST
            else:
                assert at.witnessed


def test_no_row_is_dead() -> None:
    """Each row decides some situation, so none is a leftover."""
    missing = set(range(len(ROWS)))
    for at in _situations():
        missing.discard(next(index for index, row in enumerate(ROWS) if row.fits(at)))
        if not missing:
            return
    assert not missing, [ROWS[index] for index in missing]
