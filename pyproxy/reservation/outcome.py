"""How a takeover ended: the decision, one sentence for the operator, and what the guest must still be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pyproxy.reservation.classify import Claim, Decision, Move, Verdict
from pyproxy.reservation.facts import Facts, describe_keys, describe_reservation
from pyproxy.reservation.history import History
from pyproxy.reservation.snapshot import Snapshot
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.sense import (
    POWER_ON_RESET_OR_BUS_DEVICE_RESET,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    Sense,
)

_LOST: Final = (RESERVATIONS_PREEMPTED.code, REGISTRATIONS_PREEMPTED.code)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a takeover plan.

    ``decision`` and ``why`` come from the table, ``sentence`` says both for people. ``before`` and ``after`` are
    the first and the last snapshot (None when none could be read). ``claim`` is what the guest was entitled to,
    ``key`` and ``type`` what the destination's nexus has for it now (0 and None: nothing), ``aptpl`` the value in
    force. ``attentions`` are the unit attentions seen on the way that the guest must still be told,
    wherever it resumes. ``procedure`` names what was used: P1, P2, P3 or empty.
    """

    decision: Decision
    why: str
    sentence: str
    before: Snapshot | None
    after: Snapshot | None
    claim: Claim
    key: int
    type: PrType | None
    aptpl: bool | None
    attentions: tuple[Sense, ...]
    procedure: str


def conclude(
    facts: Facts,
    history: History,
    verdict: Verdict,
    *,
    before: Snapshot | None,
    after: Snapshot | None,
    aptpl: bool | None,
) -> Outcome:
    """Build the Outcome of a final verdict."""
    decision = verdict.what
    if not isinstance(decision, Decision):
        raise TypeError(f"a takeover cannot end with the move {decision}")
    settled = history.settled
    claim = settled.claim if settled is not None else facts.claim
    held = _held(facts, decision, claim, after) if decision.succeeded else None
    return Outcome(
        decision=decision,
        why=verdict.why,
        sentence=_sentence(facts, history, decision, verdict.why, after, held),
        before=before,
        after=after,
        claim=claim,
        key=facts.key if decision.succeeded else 0,
        type=held,
        aptpl=aptpl,
        attentions=_attentions(decision, history, after),
        procedure=procedure(history),
    )


def procedure(history: History) -> str:
    """Name the procedure whose commands were used: P1, P2, P3, or empty when nothing was changed."""
    for name, moves in (
        ("P2", (Move.REGISTER_TEMPORARY, Move.REKEY_TEMPORARY)),
        ("P1", (Move.REKEY_SOURCE, Move.PREEMPT_NONCE)),
        ("P3", (Move.REGISTER_DESTINATION, Move.UNREGISTER_SOURCE)),
    ):
        if history.issued(*moves):
            return name
    return ""


def _held(facts: Facts, decision: Decision, claim: Claim, after: Snapshot | None) -> PrType | None:
    kind = after.reservation_type if after is not None else None
    if after is None or not isinstance(kind, PrType):
        return None
    if kind.all_registrants or claim is Claim.HELD:
        return kind
    # One nexus among others with its key, on a target that does not tell which holds: as it was.
    return kind if decision is Decision.SAME_NEXUS and claim is Claim.PERHAPS_HELD and facts.type is not None else None


def _attentions(decision: Decision, history: History, after: Snapshot | None) -> tuple[Sense, ...]:
    """Collect what the guest must still see; where the target tells nothing about a fence, what it would have seen."""
    found = history.guest_attentions(one_nexus=decision is Decision.SAME_NEXUS)
    if decision is Decision.FENCED and not any(sense.code in _LOST for sense in found):
        emptied = after is not None and not after.keys
        return (*found, RESERVATIONS_PREEMPTED if emptied else REGISTRATIONS_PREEMPTED)
    if decision is Decision.POWER_LOST and not any(
        sense.asc == POWER_ON_RESET_OR_BUS_DEVICE_RESET.asc for sense in found
    ):
        return (*found, POWER_ON_RESET_OR_BUS_DEVICE_RESET)
    return found


def _sentence(
    facts: Facts, history: History, decision: Decision, why: str, after: Snapshot | None, held: PrType | None
) -> str:
    who = f"guest {facts.guest} on {facts.unit}"
    key = f"key {facts.key:#018x}"
    now = describe_reservation(after.reservation_key, after.reservation_type) if after is not None else "not readable"
    keys = describe_keys(after.keys) if after is not None else "not readable"
    shows = f"the unit shows reservation {now} and keys {keys}"
    has = f"registered with {key}" + (f" and holds {held.name.replace('_', ' ')}" if held is not None else "")
    match decision:
        case Decision.TAKEN_OVER:
            return f"{who}: taken over by {procedure(history)}; this host is {has}"
        case Decision.ALREADY_DONE:
            return f"{who}: already done, nothing was changed; this host is {has}"
        case Decision.SAME_NEXUS:
            return f"{who}: source and destination are one I_T nexus, nothing was sent; it is {has}"
        case Decision.NOT_REGISTERED:
            return f"{who}: the guest had no registration, nothing was sent"
        case Decision.FENCED:
            return (
                f"{who}: FENCED, {why}. The guest's registration was not replayed; {shows}. The guest must resume "
                f"as not registered{_left_behind(history, after)}"
            )
        case Decision.POWER_LOST:
            return (
                f"{who}: the logical unit lost power without persistence, {why}. Nothing was registered; the guest "
                "must resume as after a power cycle"
            )
        case Decision.OLDER:
            return (
                f"{who}: REFUSED, the checkpoint is older than what the device shows: {why}; {shows}. Nothing is left "
                "changed: make a new checkpoint on the source"
            )
        case Decision.SHARED_KEY:
            count = after.keys.count(facts.key) if after is not None else 0
            return (
                f"{who}: REFUSED, {key} is registered {count} times and {why}. Nothing is left changed: give the "
                "source's device node, or have the other nexuses use keys of their own"
            )
        case Decision.DESTINATION_BUSY:
            return (
                f"{who}: REFUSED, {why}; {shows}. Nothing was changed: make sure that the registration is not the "
                "guest's own and unregister this host's nexus first, or use another path to the unit"
            )
        case Decision.UNSUPPORTED:
            return (
                f"{who}: REFUSED, {why}. Its PREEMPT can free the registration that the reservation is recorded under. "
                "Nothing is left changed: give the source's device node"
            )
        case Decision.SOURCE_NEEDED:
            return (
                f"{who}: REFUSED, the claim is to be moved ({why}), but the source's device node was not given and the "
                "source was not declared dead. Nothing was changed"
            )
        case Decision.UNDECIDED:
            return (
                f"{who}: NOT DECIDED, {why}; {shows}. An earlier run was interrupted at its PREEMPT. The guest has no "
                "registration: make sure that no node fenced it and say so, or leave it fenced"
            )
        case Decision.REVERTED:
            return (
                f"{who}: UNDONE, a step was refused or could not be sent: {why}. "
                f"The source is registered as before; {shows}"
            )
        case Decision.UNSETTLED:
            return f"{who}: NOT FINISHED, {why}. Restore again: it continues from what the device shows ({shows})"
        case Decision.WRONG_UNIT:
            return f"{who}: REFUSED, {why}. Nothing was sent but reads"
    raise AssertionError(f"no sentence for {decision}")


def _left_behind(history: History, after: Snapshot | None) -> str:
    nonces = history.nonces
    if after is None or nonces is None or nonces[0] not in after.keys:
        return ""
    return (
        f". The source's nexus is still registered with {nonces[0]:#018x} of this takeover; restore again with the "
        "source's device node to remove it"
    )
