"""What the two I_T nexuses of a takeover are registered with, found out by reading and, where needed, by asking.

READ FULL STATUS names each registration's nexus where the target has it and the nexus's own name is known. Otherwise
the random keys speak for themselves, and a REGISTER with the guest's key in both fields asks for the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from pyproxy.reservation.classify import Holder, OwnKey, Source
from pyproxy.reservation.facts import Facts
from pyproxy.reservation.history import Fate, History, Nonces, Side, registrations_lost
from pyproxy.reservation.snapshot import Snapshot
from pyproxy.reservation.steps import Channel, Steps, UnsettledError
from pyproxy.scsi.pr_in import RegistrationDescriptor
from pyproxy.scsi.sense import Sense

COMPARISONS: Final = 3


@dataclass(frozen=True, slots=True)
class Sight:
    """What one round of reading showed.

    ``holder_side`` is who of ours READ FULL STATUS names as holder; ``others`` how many other nexuses have K;
    ``full`` whether everything was read; ``one_nexus``: source and destination are the same, ``perhaps_one``: they may
    be; ``read`` is False for what was only concluded from an answer.
    """

    snapshot: Snapshot
    source_key: OwnKey
    destination_key: OwnKey
    holder: Holder
    holder_side: Side | None
    others: int
    full: bool
    one_nexus: bool = False
    perhaps_one: bool = False
    read: bool = True

    @property
    def both_seen(self) -> bool:
        """Whether reading showed the source, with K or the nonce, while the destination had K."""
        return self.read and self.destination_key is OwnKey.GUEST and self.source_key in (OwnKey.GUEST, OwnKey.NONCE)


class Observer:
    """Finds out who is registered with what; remembers what GOOD answers have proven in this run."""

    def __init__(self, facts: Facts, history: History, draw: Callable[[frozenset[int]], int]) -> None:
        self._facts = facts
        self._history = history
        self._draw = draw
        self._alive = facts.source is Source.ALIVE
        self._belief: dict[Side, OwnKey] = {}
        self._distrusted: set[Side] = set()
        self._busy = False
        self._compared = not self._alive
        self._aptpl: bool | None = None
        self._before: Snapshot | None = None
        self._after: Snapshot | None = None
        self.channel = Channel(history, source_alive=self._alive, on_attention=self._hear)

    @property
    def before(self) -> Snapshot | None:
        """The first snapshot of this run."""
        return self._before

    @property
    def after(self) -> Snapshot | None:
        """The last snapshot of this run."""
        return self._after

    @property
    def aptpl(self) -> bool | None:
        """The APTPL value in force: PTPL_A where the device tells it, else the tracked value."""
        return self._aptpl

    def believe(self, side: Side, key: OwnKey) -> None:
        """Take as proven what a GOOD answer said."""
        self._belief[side] = key

    def doubt(self) -> None:
        """Believe nothing that was not read since."""
        self._belief.clear()

    def destination_refused(self) -> None:
        """Note that the destination's nexus refused a new registration: it has one already."""
        self._busy = True

    def look(self, *, full: bool) -> Steps[Sight]:
        """Read through the destination and find out what both nexuses are registered with."""
        snapshot = yield from self.channel.snapshot(Side.DESTINATION, full=full, capabilities=self._aptpl is None)
        if not self._compared:
            snapshot = yield from self._compare(snapshot)
        self._after = snapshot
        if self._before is None:
            self._before = snapshot
        if self._aptpl is None:
            self._aptpl = snapshot.ptpl_active if snapshot.ptpl_active is not None else self._facts.aptpl
        if self._history.nonces is None:
            self._name_nonces(snapshot)
        if list(self._belief.values()).count(OwnKey.GUEST) > snapshot.keys.count(self._facts.key):
            self.doubt()
        destination = yield from self._destination_key(snapshot, full=full)
        source: OwnKey
        if self._facts.same_device:
            source = destination if destination is OwnKey.GUEST else OwnKey.NONE
        else:
            source = yield from self._source_key(snapshot, destination, full=full)
        return self._sight(snapshot, source, destination, full=full)

    def _sight(self, snapshot: Snapshot, source: OwnKey, destination: OwnKey, *, full: bool) -> Sight:
        both = source is OwnKey.GUEST and destination is OwnKey.GUEST
        one_nexus = both and self._one_nexus(snapshot)
        ours = 1 if one_nexus else [source, destination].count(OwnKey.GUEST)
        others = max(0, Counter(snapshot.keys)[self._facts.key] - ours)
        holder, side = self._holder(snapshot, {Side.SOURCE: source, Side.DESTINATION: destination}, others)
        perhaps = both and not one_nexus and not self._two_nexuses(snapshot)
        return Sight(snapshot, source, destination, holder, side, others, full, one_nexus, perhaps)

    def registered(self, sight: Sight) -> Sight:
        """Return what a read would show after a GOOD registration of the destination if nothing else happened."""
        snapshot = replace(sight.snapshot, keys=(*sight.snapshot.keys, self._facts.key), full=None)
        return replace(sight, snapshot=snapshot, destination_key=OwnKey.GUEST, full=False, read=False)

    def _compare(self, snapshot: Snapshot) -> Steps[Snapshot]:
        """Require that the source's nexus shows the same unit; changes in between are read again."""
        for _ in range(COMPARISONS):
            other = yield from self.channel.snapshot(Side.SOURCE, full=False, capabilities=False)
            if _alike(snapshot, other):
                self._compared = True
                return snapshot
            snapshot = yield from self.channel.snapshot(Side.DESTINATION, full=True, capabilities=True)
        raise UnsettledError(
            "source and destination show different registrations or reservations; either they are not paths to the "
            "same logical unit or another initiator is changing them right now"
        )

    def _name_nonces(self, snapshot: Snapshot) -> None:
        taken = frozenset((*snapshot.keys, *self._facts.keys, self._facts.key, snapshot.reservation_key, 0))
        nonce = self._draw(taken)
        temporary = self._draw(taken | {nonce})
        self._history.add(Nonces(f"{nonce:#x}", f"{temporary:#x}"))

    def nonces(self) -> tuple[int | None, int | None]:
        """Return the random keys N and M, or None for both before they are drawn."""
        return self._history.nonces or (None, None)

    def _destination_key(self, snapshot: Snapshot, *, full: bool) -> Steps[OwnKey]:
        named = self.locate(Side.DESTINATION, snapshot)
        if named is not None and not self._through_any_port(named):
            return named
        absent = OwnKey.OTHER if self._busy else OwnKey.NONE
        _, temporary = self.nonces()
        if temporary in snapshot.keys:
            return OwnKey.TEMPORARY
        if self._facts.key not in snapshot.keys:
            return absent
        if self._facts.same_device:
            return OwnKey.GUEST  # one nexus: a fence would have removed the key, nothing needs to be sent
        belief = self._belief.get(Side.DESTINATION)
        alone = Counter(snapshot.keys)[self._facts.key] == 1
        if belief is OwnKey.GUEST and (alone or not full):
            return belief
        if belief is OwnKey.NONE:
            return absent
        registered = yield from self._probe(Side.DESTINATION)
        return OwnKey.GUEST if registered else absent

    def _source_key(self, snapshot: Snapshot, destination: OwnKey, *, full: bool) -> Steps[OwnKey]:
        named = self.locate(Side.SOURCE, snapshot)
        if named is not None:
            return named
        nonce, _ = self.nonces()
        if nonce in snapshot.keys:
            return OwnKey.NONCE
        count = Counter(snapshot.keys)[self._facts.key]
        if not self._alive:
            left = count - (destination is OwnKey.GUEST)
            return OwnKey.GUEST if left and not self._history.source_removed else OwnKey.NONE
        belief = self._belief.get(Side.SOURCE)
        if not count or belief is OwnKey.NONE:
            return OwnKey.NONE
        if belief is OwnKey.GUEST and not full:
            return belief
        registered = yield from self._probe(Side.SOURCE)
        return OwnKey.GUEST if registered else OwnKey.NONE

    def locate(self, side: Side, snapshot: Snapshot) -> OwnKey | None:
        """Return what READ FULL STATUS says the nexus is registered with; None when it cannot tell."""
        found = self._descriptors(side, snapshot)
        if found is None or len(found) > 1:
            return None
        located = self._own_key(found[0].key) if found else OwnKey.NONE
        belief = self._belief.get(side)
        if located is OwnKey.NONE and belief not in (None, OwnKey.NONE, OwnKey.OTHER):
            key = self.key_of(belief)
            if key in snapshot.keys:
                # The device accepted a registration through this nexus, so the configured name is not its name.
                self._distrusted.add(side)
                return None
        return located

    def _descriptors(self, side: Side, snapshot: Snapshot) -> list[RegistrationDescriptor] | None:
        nexus = self._facts.source_nexus if side is Side.SOURCE else self._facts.destination_nexus
        if nexus is None or snapshot.full is None or side in self._distrusted:
            return None
        return [descriptor for descriptor in snapshot.full if nexus.names(descriptor)]

    def _own_key(self, key: int) -> OwnKey:
        nonce, temporary = self.nonces()
        known = {nonce: OwnKey.NONCE, temporary: OwnKey.TEMPORARY, self._facts.key: OwnKey.GUEST}
        return known.get(key, OwnKey.OTHER)

    def key_of(self, own: OwnKey | None) -> int:
        """Return the 64-bit key that stands for K, N or M, 0 for none."""
        nonce, temporary = self.nonces()
        known = {OwnKey.GUEST: self._facts.key, OwnKey.NONCE: nonce or 0, OwnKey.TEMPORARY: temporary or 0}
        return known.get(own, 0) if own is not None else 0

    def _holder(self, snapshot: Snapshot, own_keys: dict[Side, OwnKey], others: int) -> tuple[Holder, Side | None]:
        if snapshot.reservation_type is None:
            return Holder.NOBODY, None
        if snapshot.all_registrants:
            return Holder.EVERYONE, None
        own = self._own_key(snapshot.reservation_key)
        if own is OwnKey.NONCE:
            return Holder.NONCE, Side.SOURCE
        if own is OwnKey.TEMPORARY:
            return Holder.TEMPORARY, Side.DESTINATION
        if own is not OwnKey.GUEST:
            return Holder.FOREIGN, None
        candidates = [side for side, key in own_keys.items() if key is OwnKey.GUEST]
        named = {side: self._descriptors(side, snapshot) for side in candidates}
        for side in candidates:
            if any(descriptor.holder for descriptor in named[side] or ()):
                return Holder.GUEST, side
        if all(named[side] is not None for side in candidates):
            return Holder.SIBLING, None
        if not others and len(candidates) == 1:
            return Holder.GUEST, candidates[0]
        return Holder.GUEST, None

    def _probe(self, side: Side) -> Steps[bool]:
        """Ask a nexus whether it is registered with K: REGISTER K to K is GOOD only then."""
        key = self._facts.key
        answer = yield from self.channel.register(
            None,
            side,
            (key, key),
            aptpl=self.aptpl_in_force(),
            why=f"is the {side.value} registered with the guest's key",
            generation=self._after.generation if self._after is not None else 0,
        )
        if answer.fate is Fate.GOOD:
            self.believe(side, OwnKey.GUEST)
            return True
        if answer.result is not None and answer.result.conflict:
            self.believe(side, OwnKey.NONE)
            return False
        raise UnsettledError(f"whether the {side.value} is registered could not be found out: {answer.text}")

    def aptpl_in_force(self) -> bool:
        """Return the APTPL value that a REGISTER must repeat; raises UnsettledError when it is not known."""
        if self._aptpl is None:
            raise UnsettledError(
                "neither the checkpoint nor REPORT CAPABILITIES tells whether registrations persist through power loss "
                "(APTPL), and a REGISTER with the wrong value would change that for every node"
            )
        return self._aptpl

    def _one_nexus(self, snapshot: Snapshot) -> bool:
        """Tell whether two nexuses that are both registered with K are one."""
        facts = self._facts
        if facts.same_device:
            return True
        source, destination = facts.source_nexus, facts.destination_nexus
        if source is not None and destination is not None and None not in (source.rtpi, destination.rtpi):
            return source == destination
        named = self._named_registrations(snapshot)
        return named[0] is named[1] if named is not None else Counter(snapshot.keys)[facts.key] == 1

    def _two_nexuses(self, snapshot: Snapshot) -> bool:
        """Tell whether they are certainly two: READ FULL STATUS lists both, or this takeover registered one of them."""
        named = self._named_registrations(snapshot)
        return self._history.touched or (named is not None and named[0] is not named[1])

    def _named_registrations(self, snapshot: Snapshot) -> tuple[RegistrationDescriptor, RegistrationDescriptor] | None:
        source, destination = (self._descriptors(side, snapshot) or () for side in (Side.SOURCE, Side.DESTINATION))
        return (source[0], destination[0]) if len(source) == len(destination) == 1 else None

    def _through_any_port(self, key: OwnKey) -> bool:
        """Whether only the initiator was found registered with K, maybe through another target port: to be asked."""
        nexus = self._facts.destination_nexus
        unasked = self._belief.get(Side.DESTINATION) is not OwnKey.GUEST
        return key is OwnKey.GUEST and nexus is not None and nexus.rtpi is None and unasked

    def _hear(self, sense: Sense) -> None:
        if registrations_lost(sense):
            self.doubt()


def _alike(first: Snapshot, second: Snapshot) -> bool:
    return (
        Counter(first.keys) == Counter(second.keys)
        and first.reservation_key == second.reservation_key
        and first.reservation_type == second.reservation_type
    )
