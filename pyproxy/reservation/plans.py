"""The takeover of one guest's registration and reservation, as a sans-IO plan.

A plan is a generator: it yields Steps, is sent what became of each as an Answer, and ends with an Outcome. It never
assumes: it reads the device, looks the situation up in ``classify.ROWS``, makes one move, and reads again. That
is also how it resumes after a crash. The procedures behind the table (P1, P2, P3) are explained in docs/takeover.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from typing import Final, NamedTuple, TypeAlias

from pyproxy.reservation.classify import (
    Claim,
    Decision,
    Direction,
    Holder,
    Move,
    OwnKey,
    Situation,
    Source,
    Verdict,
    classify,
)
from pyproxy.reservation.facts import Facts, describe_keys, describe_reservation
from pyproxy.reservation.history import REMOVES_SOURCE, Fate, History, Run, Settled, Side, Witnessed
from pyproxy.reservation.outcome import Outcome, conclude
from pyproxy.reservation.sighting import Observer, Sight
from pyproxy.reservation.snapshot import Snapshot, SnapshotError
from pyproxy.reservation.steps import Answer, Step, Steps, UnsettledError
from pyproxy.scsi.constants import PrOutAction, PrType
from pyproxy.scsi.sense import INVALID_COMMAND_OPERATION_CODE, INVALID_FIELD_IN_CDB

MAXIMUM_MOVES: Final = 24
REFUSALS_BEFORE_UNDOING: Final = 2
TRIES_WITH_UNKNOWN_FATE: Final = 3

_NO_PREEMPT_AND_ABORT: Final = (INVALID_FIELD_IN_CDB.code, INVALID_COMMAND_OPERATION_CODE.code)
_QUICK_LOOK_AFTER: Final = (Move.REGISTER_DESTINATION, Move.REKEY_SOURCE, Move.PREEMPT_GUEST)
"""Between these and the next step a fence cannot hit the guest's claim whole: read as little as decides."""

Plan: TypeAlias = Generator[Step, Answer, Outcome]


class _Registration(NamedTuple):
    """How a move that is a REGISTER changes which key."""

    side: Side
    before: OwnKey
    after: OwnKey


_REGISTRATIONS: Final = {
    Move.REGISTER_DESTINATION: _Registration(Side.DESTINATION, OwnKey.NONE, OwnKey.GUEST),
    Move.REGISTER_TEMPORARY: _Registration(Side.DESTINATION, OwnKey.NONE, OwnKey.TEMPORARY),
    Move.REKEY_TEMPORARY: _Registration(Side.DESTINATION, OwnKey.GUEST, OwnKey.TEMPORARY),
    Move.SETTLE_DESTINATION: _Registration(Side.DESTINATION, OwnKey.TEMPORARY, OwnKey.GUEST),
    Move.REKEY_SOURCE: _Registration(Side.SOURCE, OwnKey.GUEST, OwnKey.NONCE),
    Move.RESTORE_SOURCE: _Registration(Side.SOURCE, OwnKey.NONCE, OwnKey.GUEST),
    Move.UNREGISTER_SOURCE: _Registration(Side.SOURCE, OwnKey.GUEST, OwnKey.NONE),
    Move.DROP_NONCE: _Registration(Side.SOURCE, OwnKey.NONCE, OwnKey.NONE),
}


def takeover(facts: Facts, history: History, draw: Callable[[frozenset[int]], int]) -> Plan:
    """Return the plan that brings what ``facts`` describe from the source's nexus to the destination's.

    ``history`` has the events of earlier runs and is appended to; whoever runs the plan must make what was appended
    durable before it issues a step that is ``journalled``. ``draw`` returns a random 64-bit key that is
    neither 0 nor among those given.
    """
    return _Takeover(facts, history, draw).run()


class _Takeover:
    def __init__(self, facts: Facts, history: History, draw: Callable[[frozenset[int]], int]) -> None:
        self._facts = facts
        self._history = history
        self._observer = Observer(facts, history, draw)
        self._channel = self._observer.channel
        self._alive = facts.source is Source.ALIVE
        self._direction = Direction.FORWARD
        self._tries: Counter[Move] = Counter()
        self._last: dict[Move, Answer] = {}
        self._moved = False
        self._refusal = ""

    def run(self) -> Plan:
        self._history.add(Run())
        try:
            verdict = yield from self._converge()
        except (UnsettledError, SnapshotError) as error:
            verdict = Verdict(Decision.UNSETTLED, str(error))
        if verdict.what is Decision.TAKEN_OVER:
            yield from self._swallow_own_attention()
            if not self._moved:
                verdict = Verdict(Decision.ALREADY_DONE, verdict.why)
        seen = self._observer
        return conclude(self._facts, self._history, verdict, before=seen.before, after=seen.after, aptpl=seen.aptpl)

    def _converge(self) -> Steps[Verdict]:
        yield from self._channel.drain(Side.DESTINATION)
        if self._alive:
            yield from self._channel.drain(Side.SOURCE)
        sight = yield from self._observer.look(full=True)
        suspected: Decision | None = None
        for _ in range(MAXIMUM_MOVES):
            situation = self._situation(sight)
            verdict = classify(situation)
            if isinstance(verdict.what, Decision):
                if sight.full and (verdict.what.succeeded or verdict.what is suspected):
                    return self._explained(verdict, sight)
                # A refusal must show twice: a fence in the midst of the reading makes a picture that never was.
                suspected = verdict.what if sight.full else None
                sight = yield from self._observer.look(full=True)
                continue
            suspected = None
            move = verdict.what
            if self._turned_back(move):
                continue
            fate = yield from self._make(move, verdict.why, sight)
            if fate is Fate.GOOD and move is Move.REGISTER_DESTINATION and situation.claim is Claim.HELD:
                # The next step proves itself on the source, and who holds tells of a fence in between.
                sight = self._observer.registered(sight)
            else:
                sight = yield from self._observer.look(full=fate is not Fate.GOOD or move not in _QUICK_LOOK_AFTER)
        raise UnsettledError(f"the device did not come to rest within {MAXIMUM_MOVES} moves")

    # Deciding.

    def _turned_back(self, move: Move) -> bool:
        """Whether to undo from now on, because the target refused ``move``; raises UnsettledError to stop instead."""
        answer = self._last.get(move)
        limit = REFUSALS_BEFORE_UNDOING if answer and answer.fate is Fate.REFUSED else TRIES_WITH_UNKNOWN_FATE
        if answer is None or self._tries[move] < limit:
            return False
        why = f"{move.value} was tried {self._tries[move]} times and ended with {answer.text}"
        if answer.fate is not Fate.REFUSED or self._direction is Direction.BACK:
            raise UnsettledError(why)
        self._direction = Direction.BACK
        self._refusal = why
        return True

    def _explained(self, verdict: Verdict, sight: Sight) -> Verdict:
        if verdict.what is Decision.REVERTED:
            return Verdict(verdict.what, self._refusal)
        if verdict.what is Decision.OLDER and sight.source_key is OwnKey.GUEST:
            return Verdict(verdict.what, "; ".join(self._differences(sight)))
        return verdict

    def _situation(self, sight: Sight) -> Situation:
        facts, history = self._facts, self._history
        snapshot = sight.snapshot
        kind = snapshot.reservation_type
        if kind is not None and not isinstance(kind, PrType):
            raise UnsettledError(
                f"READ RESERVATION shows type {kind:#x}, which no procedure here can move; "
                "release it by the means that made it"
            )
        claim = self._settle(sight)
        if sight.both_seen and (self._alive or sight.source_key is OwnKey.NONCE) and not history.witnessed:
            history.add(Witnessed())
        preempted, unknown = self._preempt_state(snapshot)
        return Situation(
            source=facts.source,
            source_key=sight.source_key,
            destination_key=sight.destination_key,
            holder=sight.holder,
            claim=claim,
            direction=self._direction,
            same_nexus=sight.one_nexus,
            perhaps_same=sight.perhaps_one,
            held_before=facts.type is not None,
            shared=sight.others > 0,
            proven=not self._differences(sight),
            key_left=facts.key in snapshot.keys,
            power_lost=(
                sight.holder is Holder.NOBODY
                and facts.key not in snapshot.keys
                and snapshot.generation < facts.generation
                and facts.aptpl is not True
            ),
            touched=history.touched,
            began=history.issued(*Move),
            witnessed=history.witnessed,
            earned=history.issued(*REMOVES_SOURCE) or sight.holder_side is Side.DESTINATION,
            preempted=preempted,
            preempt_unknown=unknown,
            unsafe_target=facts.unsafe_target,
        )

    def _settle(self, sight: Sight) -> Claim:
        """Tell what the guest is entitled to: what the device shows while the source is proven to be registered."""
        settled = self._history.settled
        claim = settled.claim if settled is not None else self._facts.claim
        observed = sight.snapshot.reservation_type
        kept = settled.type if settled is not None else int(self._facts.type or 0)
        if sight.source_key is OwnKey.GUEST:
            claim = self._observed_claim(sight, claim if settled is not None else None)
            kept = int(observed or 0)
        elif sight.source_key is OwnKey.NONCE and sight.holder is Holder.NONCE:
            claim = Claim.HELD
            kept = int(observed or 0)
        if settled is None or (settled.claim, settled.type) != (claim, kept):
            self._history.add(Settled(claim, kept))
        return claim

    def _observed_claim(self, sight: Sight, settled: Claim | None) -> Claim:
        if sight.holder is Holder.EVERYONE:
            return Claim.ALL_REGISTRANTS
        if sight.holder is not Holder.GUEST or (sight.holder_side is Side.DESTINATION and not sight.one_nexus):
            return Claim.REGISTERED
        one = sight.one_nexus or sight.destination_key is not OwnKey.GUEST or settled is Claim.HELD
        alone = sight.others == 0 and one
        return Claim.HELD if alone or sight.holder_side is Side.SOURCE else Claim.PERHAPS_HELD

    def _preempt_state(self, snapshot: Snapshot) -> tuple[bool, bool]:
        """Whether the PREEMPT of K was executed, and whether its fate is unknown."""
        preempts = self._history.preempts
        good = [command for command, fate in preempts if fate is Fate.GOOD]
        unknown = any(fate is Fate.UNKNOWN for _, fate in preempts)
        refused_abort = any(
            command.action == PrOutAction.PREEMPT_AND_ABORT and fate is Fate.REFUSED for command, fate in preempts
        )
        if good and refused_abort:
            # Of the targets without PREEMPT AND ABORT some answer GOOD when nobody has the key. They count one for
            # the command and one for each registration removed, so a third step of PRGENERATION is another node's.
            steps = (snapshot.generation - good[-1].generation) & 0xFFFFFFFF
            if not 1 <= steps <= 2:
                good, unknown = [], True
        if unknown and self._facts.fence_ruled_out:
            return True, False
        return bool(good), unknown and not good

    def _differences(self, sight: Sight) -> list[str]:
        """In what the device shows something younger than the checkpoint; empty when the checkpoint stands."""
        if self._alive:
            return []
        facts, snapshot = self._facts, sight.snapshot
        nonce, temporary = self._observer.nonces()
        found: list[str] = []
        named = self._observer.locate(Side.SOURCE, snapshot)
        if named is not OwnKey.GUEST:
            least, most = self._history.counted()
            counted = (snapshot.generation - facts.generation) & 0xFFFFFFFF
            if not least <= counted <= most:
                found.append(f"PRGENERATION is {snapshot.generation}, in the checkpoint {facts.generation}")
        key = facts.key if snapshot.reservation_key == nonce else snapshot.reservation_key
        kind = snapshot.reservation_type
        if kind != facts.reservation_type or (not snapshot.all_registrants and key != facts.reservation_key):
            found.append(
                f"the reservation is {describe_reservation(key, kind)}, in the checkpoint "
                f"{describe_reservation(facts.reservation_key, facts.reservation_type)}"
            )
        keys = Counter(snapshot.keys)
        own = {OwnKey.GUEST: facts.key, OwnKey.TEMPORARY: temporary}.get(sight.destination_key)
        if own is not None:
            keys[own] -= 1
        if nonce is not None and keys[nonce]:
            keys[facts.key] += keys.pop(nonce)
        if +keys != Counter(facts.keys):
            added = sorted((+keys - Counter(facts.keys)).elements())
            removed = sorted((Counter(facts.keys) - +keys).elements())
            parts = [f"new {describe_keys(added)}"] * bool(added) + [f"gone {describe_keys(removed)}"] * bool(removed)
            found.append("the registered keys differ: " + ", ".join(parts))
        return found

    # Acting.

    def _make(self, move: Move, why: str, sight: Sight) -> Steps[Fate]:
        self._tries[move] += 1
        answer = yield from self._command(move, why, sight)
        self._last[move] = answer
        if answer.fate is Fate.GOOD:
            self._moved = True
            self._believe(move)
        else:
            self._moved = self._moved or answer.fate is Fate.UNKNOWN
            self._observer.doubt()
            refused = move in (Move.REGISTER_DESTINATION, Move.REGISTER_TEMPORARY)
            if refused and answer.result is not None and answer.result.conflict:
                self._observer.destination_refused()
        return answer.fate

    def _command(self, move: Move, why: str, sight: Sight) -> Steps[Answer]:
        if move is Move.PREEMPT_NONCE:
            return (yield from self._preempt(move, why, sight, OwnKey.GUEST, OwnKey.NONCE, PrOutAction.PREEMPT))
        if move is Move.PREEMPT_GUEST:
            keys = OwnKey.TEMPORARY, OwnKey.GUEST
            answer = yield from self._preempt(move, why, sight, *keys, PrOutAction.PREEMPT_AND_ABORT)
            if _refused_as_unknown(answer):
                answer = yield from self._preempt(move, why, sight, *keys, PrOutAction.PREEMPT)
            return answer
        if move is Move.UNREGISTER_DESTINATION:
            return (yield from self._register(move, Side.DESTINATION, sight.destination_key, OwnKey.NONE, why, sight))
        registration = _REGISTRATIONS[move]
        return (yield from self._register(move, registration.side, registration.before, registration.after, why, sight))

    def _register(self, move: Move, side: Side, before: OwnKey, after: OwnKey, why: str, sight: Sight) -> Steps[Answer]:
        seen = self._observer
        keys = seen.key_of(before), seen.key_of(after)
        aptpl, generation = seen.aptpl_in_force(), sight.snapshot.generation
        return (yield from self._channel.register(move, side, keys, aptpl=aptpl, why=why, generation=generation))

    def _preempt(
        self, move: Move, why: str, sight: Sight, own: OwnKey, victim: OwnKey, action: PrOutAction
    ) -> Steps[Answer]:
        keys = self._observer.key_of(own), self._observer.key_of(victim)
        settled = self._history.settled
        kind = int(sight.snapshot.reservation_type or (settled.type if settled is not None else 0))
        kind = kind or int(PrType.WRITE_EXCLUSIVE)  # valid even where it is ignored: some targets check it first
        generation = sight.snapshot.generation
        return (yield from self._channel.preempt(move, action, keys, kind, why=why, generation=generation))

    def _believe(self, move: Move) -> None:
        registration = _REGISTRATIONS.get(move)
        if registration is not None:
            self._observer.believe(registration.side, registration.after)
        elif move is Move.UNREGISTER_DESTINATION:
            self._observer.believe(Side.DESTINATION, OwnKey.NONE)
        elif self._alive:
            self._observer.believe(Side.SOURCE, OwnKey.NONE)

    def _swallow_own_attention(self) -> Steps[None]:
        """Fetch the unit attention that our own PREEMPT left on the source, so that nobody takes it for a fence."""
        if self._alive and self._history.issued(Move.PREEMPT_NONCE):
            yield from self._channel.drain(Side.SOURCE)


def _refused_as_unknown(answer: Answer) -> bool:
    """Whether the target does not have the service action: certainly not executed."""
    return answer.fate is Fate.REFUSED and answer.sense is not None and answer.sense.code in _NO_PREEMPT_AND_ABORT
