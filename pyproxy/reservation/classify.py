"""From what two I_T nexuses and the logical unit show to what a takeover does next: one table, no I/O.

The guest's key is K. The source nexus gives it up, the destination nexus takes it. On the way the source may be
registered with a nonce (N) and the destination with a temporary key (M); both are random, journalled before use, and
used for nothing else. ``classify`` looks a Situation up in ``ROWS``; the first row that fits wins, and a situation
without a row is a defect (the tests draw all of them).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Source(StrEnum):
    """What can be done through the source nexus."""

    ALIVE = "alive"
    """Its device node was given: it can be asked and can give up its registration itself."""
    DEAD = "dead"
    """The operator or a fencing agent states that it has stopped for good."""
    ABSENT = "absent"
    """Neither: nothing may be changed."""


class OwnKey(StrEnum):
    """What one of the two nexuses is registered with."""

    GUEST = "guest"
    NONCE = "nonce"
    TEMPORARY = "temporary"
    NONE = "none"
    OTHER = "other"


class Holder(StrEnum):
    """Who holds the reservation, as far as READ RESERVATION and READ FULL STATUS tell."""

    NOBODY = "nobody"
    GUEST = "guest"
    """A nexus registered with K; the source or the destination where READ FULL STATUS tells."""
    NONCE = "nonce"
    TEMPORARY = "temporary"
    SIBLING = "sibling"
    """A third nexus that is registered with K as well."""
    FOREIGN = "foreign"
    EVERYONE = "everyone"
    """All registrants: type 7 or 8."""


class Claim(StrEnum):
    """What the guest is entitled to, settled before the first change and journalled."""

    HELD = "held"
    PERHAPS_HELD = "perhaps_held"
    """The reservation is under K, K is shared, and the target does not tell which nexus holds."""
    REGISTERED = "registered"
    ALL_REGISTRANTS = "all_registrants"


class Direction(StrEnum):
    """Whether the takeover goes on or is being undone because the target refused a step."""

    FORWARD = "forward"
    BACK = "back"


class Move(StrEnum):
    """One change on the device. K, N, M as above; 0 is "not registered"."""

    REGISTER_DESTINATION = "destination REGISTER 0 -> K"
    REKEY_SOURCE = "source REGISTER K -> N"
    PREEMPT_NONCE = "destination PREEMPT N"
    UNREGISTER_SOURCE = "source REGISTER K -> 0"
    DROP_NONCE = "source REGISTER N -> 0"
    RESTORE_SOURCE = "source REGISTER N -> K"
    REGISTER_TEMPORARY = "destination REGISTER 0 -> M"
    REKEY_TEMPORARY = "destination REGISTER K -> M"
    PREEMPT_GUEST = "destination PREEMPT K"
    SETTLE_DESTINATION = "destination REGISTER M -> K"
    UNREGISTER_DESTINATION = "destination REGISTER own -> 0"


class Decision(StrEnum):
    """How a takeover ended."""

    TAKEN_OVER = "taken_over"
    ALREADY_DONE = "already_done"
    NOT_REGISTERED = "not_registered"
    SAME_NEXUS = "same_nexus"
    FENCED = "fenced"
    POWER_LOST = "power_lost"
    OLDER = "older"
    SHARED_KEY = "shared_key"
    DESTINATION_BUSY = "destination_busy"
    UNSUPPORTED = "unsupported"
    SOURCE_NEEDED = "source_needed"
    UNDECIDED = "undecided"
    REVERTED = "reverted"
    UNSETTLED = "unsettled"
    WRONG_UNIT = "wrong_unit"

    @property
    def succeeded(self) -> bool:
        """Whether the guest may start on the destination with what it had."""
        return self in (Decision.TAKEN_OVER, Decision.ALREADY_DONE, Decision.NOT_REGISTERED, Decision.SAME_NEXUS)


@dataclass(frozen=True, slots=True)
class Situation:
    """Everything the decision depends on.

    ``perhaps_same``: both are registered with K, and whether they are one nexus cannot be told.
    ``source_key`` and ``destination_key`` are proven, except ``source_key`` with a source that is not alive and not
    named by READ FULL STATUS: then it is inferred from the key list. ``held_before``: the checkpoint says
    that the guest held a reservation. ``shared``: nexuses other than the two are registered with K. ``proven``: the
    checkpoint is not older than what the device shows. ``key_left``: some nexus is registered with K. ``power_lost``:
    nothing is reserved and PRGENERATION has restarted. ``touched``: this takeover has registered the destination and
    not unregistered it again. ``began``: it has changed something, even if that is undone. ``witnessed``: the source
    was seen registered when the destination got K, so K there is no resurrection. ``earned``: this takeover may have
    removed the source's registration, or the destination alone holds; else another host may have taken over from the
    same checkpoint. ``preempted``: the PREEMPT of K is
    known to have been executed; ``preempt_unknown``: it was issued and its fate is not known. ``unsafe_target``: a
    target on which an all-registrants PREEMPT leaves a dangling holder.
    """

    source: Source
    source_key: OwnKey
    destination_key: OwnKey
    holder: Holder
    claim: Claim
    direction: Direction = Direction.FORWARD
    same_nexus: bool = False
    perhaps_same: bool = False
    held_before: bool = False
    shared: bool = False
    proven: bool = True
    key_left: bool = True
    power_lost: bool = False
    touched: bool = False
    began: bool = False
    witnessed: bool = False
    earned: bool = False
    preempted: bool = False
    preempt_unknown: bool = False
    unsafe_target: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row: what must be true (None: anything), what is done, and why in a few words."""

    what: Move | Decision
    why: str
    source: frozenset[Source] | None = None
    s: frozenset[OwnKey] | None = None
    d: frozenset[OwnKey] | None = None
    holder: frozenset[Holder] | None = None
    claim: frozenset[Claim] | None = None
    direction: Direction | None = None
    same_nexus: bool | None = None
    perhaps_same: bool | None = None
    held_before: bool | None = None
    shared: bool | None = None
    proven: bool | None = None
    key_left: bool | None = None
    power_lost: bool | None = None
    touched: bool | None = None
    began: bool | None = None
    witnessed: bool | None = None
    earned: bool | None = None
    preempted: bool | None = None
    preempt_unknown: bool | None = None
    unsafe_target: bool | None = None

    def fits(self, at: Situation) -> bool:
        """Whether every condition of the row holds."""
        sets = (
            (self.source, at.source),
            (self.s, at.source_key),
            (self.d, at.destination_key),
            (self.holder, at.holder),
            (self.claim, at.claim),
        )
        flags = (
            (self.direction, at.direction),
            (self.same_nexus, at.same_nexus),
            (self.perhaps_same, at.perhaps_same),
            (self.held_before, at.held_before),
            (self.shared, at.shared),
            (self.proven, at.proven),
            (self.key_left, at.key_left),
            (self.power_lost, at.power_lost),
            (self.touched, at.touched),
            (self.began, at.began),
            (self.witnessed, at.witnessed),
            (self.earned, at.earned),
            (self.preempted, at.preempted),
            (self.preempt_unknown, at.preempt_unknown),
            (self.unsafe_target, at.unsafe_target),
        )
        return all(allowed is None or value in allowed for allowed, value in sets) and all(
            wanted is None or value == wanted for wanted, value in flags
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """The next move or the final decision, and why."""

    what: Move | Decision
    why: str


_ALIVE = frozenset({Source.ALIVE})
_NOT_ALIVE = frozenset({Source.DEAD, Source.ABSENT})
_K = frozenset({OwnKey.GUEST})
_N = frozenset({OwnKey.NONCE})
_M = frozenset({OwnKey.TEMPORARY})
_NONE = frozenset({OwnKey.NONE})
_OTHER = frozenset({OwnKey.OTHER})
_OURS = frozenset({OwnKey.GUEST, OwnKey.TEMPORARY})
_NOT_OURS = frozenset({OwnKey.NONE, OwnKey.OTHER, OwnKey.NONCE})
_ANOTHERS = frozenset({Holder.FOREIGN, Holder.SIBLING})
_HELD = frozenset({Claim.HELD, Claim.PERHAPS_HELD})
_MOVED_ALONE = frozenset({Claim.REGISTERED, Claim.ALL_REGISTRANTS})

ROWS: Final[tuple[Row, ...]] = (
    # Fenced while the source is still registered: its reservation has gone to another nexus.
    Row(
        Move.UNREGISTER_DESTINATION,
        "the reservation the guest held is another nexus's",
        s=_K,
        d=_OURS,
        holder=_ANOTHERS,
        held_before=True,
        touched=True,
    ),
    Row(
        Decision.FENCED,
        "the reservation the guest held is another nexus's",
        s=_K,
        holder=_ANOTHERS,
        held_before=True,
    ),
    Row(Decision.SAME_NEXUS, "source and destination are one I_T nexus", same_nexus=True),
    Row(
        Decision.DESTINATION_BUSY,
        "the destination's nexus was registered with the guest's key before, and may be the source's nexus itself",
        s=_K,
        d=_K,
        perhaps_same=True,
    ),
    # The destination holds under the temporary key: the PREEMPT of K is done, whatever registered K since.
    Row(
        Move.SETTLE_DESTINATION,
        "the reservation was taken under the temporary key",
        source=_NOT_ALIVE,
        s=_K | _NONE,
        d=_M,
        holder=frozenset({Holder.TEMPORARY}),
    ),
    # Undoing: the source first while it holds the reservation, then the destination.
    Row(
        Move.RESTORE_SOURCE,
        "the takeover is undone: the source gets its key back",
        source=_ALIVE,
        s=_N,
        d=_OURS,
        holder=frozenset({Holder.NONCE, Holder.NOBODY, Holder.GUEST, Holder.SIBLING, Holder.EVERYONE}),
        direction=Direction.BACK,
    ),
    Row(
        Move.UNREGISTER_DESTINATION,
        "the takeover is undone: the source keeps its registration",
        s=_K,
        d=_OURS,
        direction=Direction.BACK,
    ),
    Row(
        Decision.REVERTED,
        "the takeover is undone, the source is registered as before",
        s=_K,
        d=_NOT_OURS,
        direction=Direction.BACK,
    ),
    Row(
        Decision.DESTINATION_BUSY,
        "the destination's nexus is registered with a key that is not this guest's",
        s=_K,
        d=_OTHER | _N,
    ),
    # Source alive: P1 for a reservation the source holds, P3 otherwise.
    Row(Move.SETTLE_DESTINATION, "the temporary key is not needed with a live source", source=_ALIVE, s=_K | _N, d=_M),
    Row(Move.REGISTER_DESTINATION, "the source is registered, the destination not yet", source=_ALIVE, s=_K, d=_NONE),
    Row(Move.REKEY_SOURCE, "both are registered and the source holds", source=_ALIVE, s=_K, d=_K, claim=_HELD),
    Row(
        Move.UNREGISTER_SOURCE,
        "both are registered and the source holds nothing alone",
        source=_ALIVE,
        s=_K,
        d=_K,
        claim=_MOVED_ALONE,
    ),
    # Source dead: P2, after everything that forbids it. What was begun is taken back first.
    Row(
        Move.UNREGISTER_DESTINATION,
        "this target cannot move an all-registrants reservation without the source",
        source=_NOT_ALIVE,
        s=_K,
        d=_OURS,
        claim=frozenset({Claim.ALL_REGISTRANTS}),
        unsafe_target=True,
        touched=True,
    ),
    Row(
        Decision.UNSUPPORTED,
        "this target cannot move an all-registrants reservation without the source",
        source=_NOT_ALIVE,
        s=_K,
        claim=frozenset({Claim.ALL_REGISTRANTS}),
        unsafe_target=True,
    ),
    Row(
        Move.UNREGISTER_DESTINATION,
        "other nexuses share the guest's key and would be removed with it",
        source=_NOT_ALIVE,
        s=_K,
        d=_OURS,
        shared=True,
        touched=True,
    ),
    Row(
        Decision.SHARED_KEY,
        "other nexuses share the guest's key and would be removed with it",
        source=_NOT_ALIVE,
        s=_K,
        shared=True,
    ),
    Row(
        Move.UNREGISTER_DESTINATION,
        "the checkpoint is older than what the device shows",
        source=_NOT_ALIVE,
        s=_K,
        d=_OURS,
        proven=False,
        touched=True,
    ),
    Row(Decision.OLDER, "the checkpoint is older than what the device shows", source=_NOT_ALIVE, s=_K, proven=False),
    Row(Move.REGISTER_TEMPORARY, "the source's key is alone and unchanged", source=_NOT_ALIVE, s=_K, d=_NONE),
    Row(Move.REKEY_TEMPORARY, "the destination may not share the key it preempts", source=_NOT_ALIVE, s=_K, d=_K),
    Row(Move.PREEMPT_GUEST, "the destination is registered and may preempt", source=_NOT_ALIVE, s=_K, d=_M),
    # The source is registered with the nonce.
    Row(Move.SETTLE_DESTINATION, "the nonce is still to be preempted", source=_NOT_ALIVE, s=_N, d=_M),
    Row(
        Move.PREEMPT_NONCE,
        "the source holds under the nonce",
        s=_N,
        d=_K,
        holder=frozenset({Holder.NONCE}),
    ),
    Row(
        Move.DROP_NONCE,
        "the source was not the holder; only its registration is left to remove",
        source=_ALIVE,
        s=_N,
        d=_K,
        claim=frozenset({Claim.PERHAPS_HELD}),
        holder=frozenset({Holder.GUEST, Holder.SIBLING, Holder.NOBODY, Holder.EVERYONE}),
    ),
    Row(
        Move.PREEMPT_NONCE,
        "the source was not the holder; only its registration is left to remove",
        source=_NOT_ALIVE,
        s=_N,
        d=_K,
        claim=frozenset({Claim.PERHAPS_HELD}),
        holder=frozenset({Holder.GUEST, Holder.SIBLING, Holder.NOBODY, Holder.EVERYONE}),
    ),
    Row(
        Move.DROP_NONCE,
        "the source held nothing alone; only its registration is left to remove",
        source=_ALIVE,
        s=_N,
        d=_K,
        claim=_MOVED_ALONE,
    ),
    Row(
        Move.PREEMPT_NONCE,
        "the source held nothing alone; only its registration is left to remove",
        source=_NOT_ALIVE,
        s=_N,
        d=_K,
        claim=_MOVED_ALONE,
    ),
    Row(Move.UNREGISTER_DESTINATION, "the reservation was taken while the source held the nonce", s=_N, d=_K),
    Row(
        Move.DROP_NONCE,
        "the guest's key was removed while the source held the nonce: the fence is honoured",
        source=_ALIVE,
        s=_N,
    ),
    Row(
        Decision.FENCED,
        "the guest's key was removed while the source held the nonce; the nonce stays until the source removes it",
        s=_N,
    ),
    # The source has nothing any more: done, to be settled, or fenced.
    Row(
        Decision.TAKEN_OVER,
        "the destination has what the source had",
        s=_NONE,
        d=_K,
        claim=frozenset({Claim.HELD}),
        holder=frozenset({Holder.GUEST}),
        earned=True,
    ),
    Row(
        Decision.TAKEN_OVER,
        "the destination has what the source had",
        s=_NONE,
        d=_K,
        claim=frozenset({Claim.PERHAPS_HELD}),
        holder=frozenset({Holder.GUEST, Holder.SIBLING, Holder.NOBODY, Holder.EVERYONE}),
        witnessed=True,
        earned=True,
    ),
    Row(
        Decision.TAKEN_OVER,
        "the destination has what the source had",
        s=_NONE,
        d=_K,
        claim=frozenset({Claim.REGISTERED}),
        witnessed=True,
        earned=True,
    ),
    Row(
        Decision.TAKEN_OVER,
        "the destination has what the source had",
        s=_NONE,
        d=_K,
        claim=frozenset({Claim.ALL_REGISTRANTS}),
        holder=frozenset({Holder.EVERYONE, Holder.NOBODY}),
        witnessed=True,
        earned=True,
    ),
    Row(
        Move.SETTLE_DESTINATION,
        "the reservation was taken under the temporary key",
        s=_NONE,
        d=_M,
        holder=frozenset({Holder.TEMPORARY}),
    ),
    Row(
        Move.SETTLE_DESTINATION,
        "the source's registration was removed by this takeover",
        s=_NONE,
        d=_M,
        claim=frozenset({Claim.REGISTERED}),
        preempted=True,
    ),
    Row(
        Move.SETTLE_DESTINATION,
        "the source's registration was removed by this takeover",
        s=_NONE,
        d=_M,
        claim=frozenset({Claim.ALL_REGISTRANTS}),
        holder=frozenset({Holder.EVERYONE, Holder.NOBODY}),
        preempted=True,
    ),
    Row(
        Decision.UNDECIDED,
        "the source's registration is gone, and whether this takeover or another node removed it cannot be told",
        s=_NONE,
        d=_M,
        claim=_MOVED_ALONE,
        holder=frozenset({Holder.EVERYONE, Holder.NOBODY, Holder.FOREIGN}),
        preempt_unknown=True,
    ),
    Row(
        Move.UNREGISTER_DESTINATION,
        "the guest's registration or reservation was taken by another node",
        s=_NONE,
        d=_M,
    ),
    Row(
        Move.UNREGISTER_DESTINATION,
        "the guest's registration or reservation was taken by another node",
        s=_NONE,
        d=_K,
        touched=True,
    ),
    Row(
        Decision.FENCED,
        "the reservation the guest held is another nexus's",
        s=_NONE,
        d=_K,
        holder=_ANOTHERS,
        held_before=True,
    ),
    Row(
        Decision.DESTINATION_BUSY,
        "the destination's nexus is registered with the guest's key, but not by this takeover",
        s=_NONE,
        d=_K,
    ),
    Row(
        Decision.FENCED,
        "the source's nexus has lost its registration; others still use the same key",
        s=_NONE,
        key_left=True,
        began=True,
    ),
    Row(
        Decision.OLDER,
        "the source's nexus is not registered with the guest's key; others are",
        s=_NONE,
        key_left=True,
    ),
    Row(
        Decision.POWER_LOST,
        "the key is gone, nothing is reserved and PRGENERATION has restarted",
        s=_NONE,
        power_lost=True,
    ),
    Row(Decision.FENCED, "the guest's key is gone", s=_NONE),
    # The source's nexus is registered with something this checkpoint does not know.
    Row(
        Move.UNREGISTER_DESTINATION,
        "the source's nexus is registered with another key",
        s=_OTHER | _M,
        d=_OURS,
        touched=True,
    ),
    Row(Decision.OLDER, "the source's nexus is registered with another key", s=_OTHER | _M),
)


def classify(at: Situation) -> Verdict:
    """Look the situation up; raises LookupError for one the table does not cover.

    With the source neither given nor declared dead no move is allowed: what would be a move is SOURCE_NEEDED.
    """
    for row in ROWS:
        if row.fits(at):
            if at.source is Source.ABSENT and (isinstance(row.what, Move) or row.what is Decision.SHARED_KEY):
                return Verdict(Decision.SOURCE_NEEDED, row.why)
            return Verdict(row.what, row.why)
    raise LookupError(f"no row of the takeover table fits {at}")
