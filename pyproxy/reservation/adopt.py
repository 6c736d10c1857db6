"""Takes a registration that was made without us into the tracked state: one made before, or by another program.

Sans-IO: ``adopt`` yields commands and is sent results. READ FULL STATUS decides where it names this nexus' TransportID.
Else the nexus is asked itself: REGISTER from a key to the same key changes nothing, and is answered GOOD where that
key is this nexus' and RESERVATION CONFLICT where it is not (SPC-4 5.13.7); it counts in PRGENERATION.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from pyproxy.reservation.events import is_conflict
from pyproxy.reservation.reconcile import Reconciliation, Verdict, learn_nexus, own_descriptors, reconcile
from pyproxy.reservation.snapshot import (
    READ_TIMEOUT_MS,
    Conversation,
    Snapshot,
    past_attentions,
    read_snapshot,
)
from pyproxy.reservation.state import NexusState
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrOutAction
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import BASIC_SIZE, ParameterList
from pyproxy.scsi.sense import Sense

MOST_PROBES: Final = 64
"""Different keys that are tried without being named; each try is a PERSISTENT RESERVE OUT."""


class Decision(StrEnum):
    """What an adoption came to."""

    TRACKED = "already-tracked"
    LISTED = "listed-by-full-status"
    PROBED = "proven-by-probe"
    NOT_REGISTERED = "not-registered"
    OTHER_KEY = "registered-with-another-key"
    KEY_NOT_REGISTERED = "key-not-registered"
    KEY_NOT_OURS = "key-of-another-nexus"
    AMBIGUOUS_HOLDER = "ambiguous-holder"
    UNKNOWN_TYPE = "unknown-reservation-type"
    APTPL_UNKNOWN = "aptpl-unknown"
    TOO_MANY_KEYS = "too-many-keys"
    PROBE_REFUSED = "probe-refused"
    CHANGED = "changed-meanwhile"

    @property
    def certain(self) -> bool:
        """Whether it is known now what this nexus has registered and reserved, as was asked for."""
        return self in (Decision.TRACKED, Decision.LISTED, Decision.PROBED, Decision.NOT_REGISTERED)


@dataclass(frozen=True, slots=True)
class Adoption:
    """How an adoption ended: a word for programs, a sentence for people.

    ``state`` is what is true of the nexus now; None: that was not found out, what was tracked stays. ``probed`` are
    the keys that were tried, in order. ``snapshot`` is the last read.
    """

    decision: Decision
    sentence: str
    state: NexusState | None
    snapshot: Snapshot
    probed: tuple[int, ...] = ()


def adopt(tracked: NexusState, key: int | None = None) -> Conversation[Adoption]:
    """Find out what this nexus has registered and reserved, whoever did it.

    ``tracked`` is what is known, with the reasons it is suspect for. ``key`` (64 bit) is the only one to try, or the
    tracked one to confirm; None tries those of READ KEYS where nothing is tracked for certain. Raises SnapshotError
    where the device cannot be read or a probe cannot be sent.
    """
    snapshot = yield from read_snapshot()
    listed = own_descriptors(tracked, snapshot)
    if listed is not None and len(listed) == 1:
        return _listed(tracked, snapshot, key)
    if listed == () and key is None:
        return Adoption(
            Decision.NOT_REGISTERED,
            f"not registered: READ FULL STATUS does not list its TransportID {tracked.transport_id}",
            reconcile(tracked, snapshot).state,
            snapshot,
        )
    known = reconcile(tracked, snapshot)
    if tracked.fresh and tracked.registered and key is None and known.verdict is Verdict.LEVEL:
        return Adoption(Decision.TRACKED, f"{known.state}, as tracked", known.state, snapshot)
    if key is not None and key == tracked.key and key in snapshot.keys:
        key = None  # where it turns out not to be this nexus', what is tracked is wrong and any other may be
    candidates = _candidates(tracked, snapshot, key)
    refusal = _refusal(tracked, snapshot, candidates, key)
    return refusal if refusal is not None else (yield from _probe_all(tracked, snapshot, candidates, key))


def _listed(tracked: NexusState, snapshot: Snapshot, key: int | None) -> Adoption:
    found = reconcile(tracked, snapshot)
    registered = found.state.key
    if key is not None and registered != key:
        return Adoption(
            Decision.OTHER_KEY,
            f"READ FULL STATUS lists it with key {registered:#018x}, not with {key:#018x}; leave the key out to adopt "
            "what is listed",
            None,
            snapshot,
        )
    if found.verdict is Verdict.UNKNOWN_TYPE:
        return Adoption(Decision.UNKNOWN_TYPE, found.sentence, found.state, snapshot)
    if tracked.fresh and found.verdict is Verdict.LEVEL:
        return Adoption(Decision.TRACKED, f"{found.state}, as tracked", found.state, snapshot)
    return Adoption(Decision.LISTED, f"{found.state}, by READ FULL STATUS", found.state, snapshot)


def _candidates(tracked: NexusState, snapshot: Snapshot, key: int | None) -> tuple[int, ...]:
    """Return the keys to try: the one that was named, or every registered one, the tracked one first."""
    there = dict.fromkeys(snapshot.keys)
    if key is not None:
        return (key,) if key in there else ()
    return tuple(sorted(there, key=lambda one: one != tracked.key))


def _refusal(tracked: NexusState, snapshot: Snapshot, candidates: Sequence[int], key: int | None) -> Adoption | None:
    """Return how it ends where nothing is to be tried."""
    if not candidates and key is None:
        gone = replace(reconcile(tracked, snapshot).state, key=0, type=None, all_tg_pt=False).cleared()
        return Adoption(Decision.NOT_REGISTERED, "not registered: the device has no registrations", gone, snapshot)
    if not candidates:
        sentence = f"no nexus is registered with key {key:#018x}; pyproxy pr keys shows those that are"
        return Adoption(Decision.KEY_NOT_REGISTERED, sentence, None, snapshot)
    if len(candidates) > MOST_PROBES:
        sentence = (
            f"{len(candidates)} different keys are registered, at most {MOST_PROBES} are tried: name it with --key"
        )
        return Adoption(Decision.TOO_MANY_KEYS, sentence, None, snapshot)
    if _aptpl_in_force(tracked, snapshot) is None:
        return Adoption(
            Decision.APTPL_UNKNOWN,
            "the device does not tell whether registrations persist through power loss (REPORT CAPABILITIES), and a "
            "probe would set that for the whole logical unit; register again from the guest",
            None,
            snapshot,
        )
    return None


def _aptpl_in_force(tracked: NexusState, snapshot: Snapshot) -> bool | None:
    return snapshot.ptpl_active if snapshot.ptpl_active is not None else tracked.aptpl


def _probe_all(
    tracked: NexusState, before: Snapshot, candidates: Sequence[int], key: int | None
) -> Conversation[Adoption]:
    aptpl = bool(_aptpl_in_force(tracked, before))
    attentions: list[Sense] = []
    probed: list[int] = []
    for candidate in candidates:
        probed.append(candidate)
        result = yield from _probe(candidate, aptpl, attentions)
        if result.good:
            snapshot = yield from read_snapshot()
            return _proven(tracked, snapshot, candidate, tuple(probed))
        if not is_conflict(result):
            return Adoption(
                Decision.PROBE_REFUSED,
                f"REGISTER from key {candidate:#018x} to the same key ended with {_answer(result)}; that does not tell "
                "whose key it is: register again from the guest",
                None,
                before,
                tuple(probed),
            )
    if key is not None:
        sentence = f"key {key:#018x} is registered by another nexus, not by this one (RESERVATION CONFLICT)"
        return Adoption(Decision.KEY_NOT_OURS, sentence, None, before, tuple(probed))
    after = yield from read_snapshot()
    if not set(after.keys) <= set(probed):
        return _changed("another key was registered while keys were tried", after, probed)
    gone = replace(reconcile(tracked, after).state, key=0, type=None, all_tg_pt=False).cleared()
    sentence = (
        f"not registered: none of the {len(probed)} registered keys is this nexus' (RESERVATION CONFLICT to each)"
    )
    return Adoption(Decision.NOT_REGISTERED, sentence, gone, after, tuple(probed))


def _probe(key: int, aptpl: bool, attentions: list[Sense]) -> Conversation[Result]:
    """REGISTER from ``key`` to ``key`` with the APTPL value in force, past unit attentions."""
    cdb = PrOut(PrOutAction.REGISTER, 0, 0, BASIC_SIZE).encode()
    command = Command(cdb, data_out=ParameterList(key, key, aptpl=aptpl).encode(), timeout_ms=READ_TIMEOUT_MS)
    return (yield from past_attentions(command, "REGISTER", attentions))


def _proven(tracked: NexusState, snapshot: Snapshot, key: int, probed: tuple[int, ...]) -> Adoption:
    """Decide after GOOD: the registration is this nexus', the reservation may still be a sibling's."""
    own = replace(tracked, key=key, type=tracked.type if tracked.key == key else None).cleared()
    if own_descriptors(own, snapshot) == ():
        own = replace(own, transport_id=None, rtpi=None)  # registered but not listed: that name is not this nexus'
    found: Reconciliation = reconcile(learn_nexus(own, snapshot), snapshot)
    if found.verdict is Verdict.LOST or found.state.key != key:
        return _changed(f"key {key:#018x} was this nexus' and was removed at once", snapshot, probed)
    if found.verdict in (Verdict.AMBIGUOUS_HOLDER, Verdict.UNKNOWN_TYPE):
        decision = Decision(found.verdict.value)
        return Adoption(decision, f"registered with key {key:#018x}: {found.sentence}", found.state, snapshot, probed)
    return Adoption(
        Decision.PROBED, f"{found.state}; the device confirmed the key to this nexus", found.state, snapshot, probed
    )


def _changed(what: str, snapshot: Snapshot, probed: Sequence[int]) -> Adoption:
    sentence = f"{what}; another initiator is changing registrations: try again when it is done"
    return Adoption(Decision.CHANGED, sentence, None, snapshot, tuple(probed))


def _answer(result: Result) -> str:
    if result.host_status:
        return f"host status {result.host_status:#x}"
    sense = result.decoded_sense
    return f"status {result.status:02X}h" + (f", {sense}" if sense is not None else "")
