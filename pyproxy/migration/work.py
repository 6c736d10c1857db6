"""What both sides of a migration have in common: a record that is durable, and steps that act on its phase."""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec

from pyproxy.migration.guest import MigratingUnit, MigrationHost
from pyproxy.migration.lent import Lender
from pyproxy.migration.messages import LONGEST_TEXT, Execute, Executed, Progress, Reply, Request, UnitProgress
from pyproxy.migration.peer import Peer, PeerError, PeerRefusedError
from pyproxy.migration.phases import LENDING, OVER, Event, Phase, next_phase
from pyproxy.migration.record import Record, encode_record

log = logging.getLogger(__name__)

FIRST_RETRY_SECONDS: Final = 0.2
LAST_RETRY_SECONDS: Final = 10.0

Draw: TypeAlias = Callable[[frozenset[int]], int]
Each: TypeAlias = Callable[[Callable[[MigratingUnit], Any], Iterable[MigratingUnit]], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What migrations work with. ``clock`` counts seconds since 1970.

    ``each`` calls a function for each unit, side by side where it can. ``settle_gate`` opens or shuts a guest's
    gate as all that is known of its migrations says. ``drain_seconds`` is how long a guest's commands
    may take to end; ``ask_ms`` how long one question may wait at the other side. ``told`` hears of each change of
    phase, with what is durable then; it must not wait.
    """

    host: MigrationHost
    peers: Mapping[str, Peer]
    clock: Callable[[], float]
    draw: Draw
    each: Each
    pause: Callable[[float], None]
    settle_gate: Callable[[str], str | None]
    drain_seconds: float
    ask_ms: int
    told: Callable[[Record], None] = lambda _: None


class Work(ABC):
    """One migration on one side. Methods may be called from any thread; ``step`` by one at a time."""

    def __init__(self, around: Surroundings, record: Record) -> None:
        self.around = around
        self.changed = threading.Condition(threading.RLock())
        self.changes = 0
        """How often the phase was changed, or what is waited for was told to be there."""
        self._record = record
        self._text = ""
        self._lender = Lender(around.host.store, record.migration)
        self._retry = FIRST_RETRY_SECONDS

    @property
    def record(self) -> Record:
        """What is durable."""
        return self._record

    @property
    def phase(self) -> Phase:
        """Where it is."""
        return self._record.at

    @property
    def text(self) -> str:
        """What is waited for or was refused, for the operator."""
        return self._text or self._record.text

    @property
    def ready(self) -> bool:
        """Whether the destination has the claims and waits for the guest."""
        return False

    @property
    def over(self) -> bool:
        """Whether there is nothing to do or to wait for."""
        return self.phase in OVER and self._record.told

    @property
    def peer(self) -> Peer:
        """The other daemon; raises PeerError where the configuration no longer has it."""
        found = self.around.peers.get(self._record.peer)
        if found is None:
            raise PeerError(f"peer {self._record.peer} is not configured any more; add it again", sent=False)
        return found

    @property
    def who(self) -> str:
        """How messages name it."""
        return f"guest {self._record.guest}, migration {self._record.migration}"

    def feed(self, event: Event, why: str = "", **changed: Any) -> bool:
        """Let something happen: the phase it leads to is durable when this returns True. Raises StoreError.

        ``changed`` are fields of the record that change with it. False where it leads nowhere from here.
        """
        with self.changed:
            following = next_phase(self.phase, event)
            if following is None:
                return False
            text = changed.pop("text", "")
            record = msgspec.structs.replace(self._record, text=text, **changed)
            before = self._record.phase
            self._keep(record.moved_to(following, self.around.clock(), why or event.value))
            self._text = ""
            self._retry = FIRST_RETRY_SECONDS
            self.changes += 1
            self.around.told(self._record)
            log.info("%s: %s -> %s: %s", self.who, before, following, why or event.value)
            self.changed.notify_all()
            return True

    def save(self, **changed: Any) -> Record:
        """Make fields of the record durable without a change of phase; raises StoreError."""
        with self.changed:
            self._keep(msgspec.structs.replace(self._record, **changed))
            return self._record

    def save_unit(self, lun: int, **changed: Any) -> None:
        """Make fields of one unit's record durable; raises StoreError."""
        with self.changed:
            units = tuple(
                msgspec.structs.replace(one, **changed) if one.lun == lun else one for one in self._record.units
            )
            self._keep(msgspec.structs.replace(self._record, units=units))

    def say(self, text: str) -> None:
        """Note what is waited for; logged when it is something else than before."""
        text = text[:LONGEST_TEXT]
        with self.changed:
            if text != self._text:
                log.warning("%s is %s: %s", self.who, self.phase, text)
            self._text = text
            self.changed.notify_all()

    def wait(self, done: Callable[[], bool], seconds: float) -> bool:
        """Wait until ``done``, which is asked after each change."""
        with self.changed:
            return self.changed.wait_for(done, seconds)

    def wake(self) -> None:
        """Tell whoever waits to look again."""
        with self.changed:
            self.changes += 1
            self.changed.notify_all()

    @abstractmethod
    def step(self) -> float | None:
        """Do what the phase asks for; returns after how many seconds to go on, None: when something happens.

        Raises StoreError, after which nothing was done that is not durable.
        """

    def execute(self, request: Execute) -> Executed:
        """Send a command of the other side's takeover through this host's nexus; raises PeerRefusedError."""
        if self.phase not in LENDING:
            raise PeerRefusedError(f"{self.who} is {self.phase}: nothing is taken over now", "not-lending")
        if self._record.unit(request.lun) is None:
            raise PeerRefusedError(f"{self.who} has no LUN {request.lun}", "not-found")
        return self._lender.execute(self.around.host.unit(self._record.guest, request.lun), request)

    def progress(self) -> Progress:
        """Say where this side is."""
        with self.changed:
            record, text = self._record, self.text
        units = [
            UnitProgress(
                lun=one.lun,
                decision=one.decision,
                sentence=one.sentence,
                checkpoint=one.moved,
                heard=list(one.heard),
            )
            for one in record.units
        ]
        same = [one.lun for one in record.units if one.same_nexus]
        return Progress(phase=record.phase, text=text, units=units, same_nexus=same)

    def ask(self, request: Request) -> Progress | None:
        """Ask the other side; None where there is no answer now, which ``text`` then says.

        Raises PeerRefusedError.
        """
        try:
            answer: Reply = self.peer.call(request)
        except PeerRefusedError:
            raise
        except PeerError as error:
            self.say(str(error))
            return None
        if not isinstance(answer, Progress):
            self.say(f"{self._record.peer} answered with something else; it runs another version")
            return None
        if self.around.ask_ms:
            self._retry = FIRST_RETRY_SECONDS
        return answer

    def units(self) -> list[MigratingUnit]:
        """Return the guest's units that take part."""
        luns = {one.lun for one in self._record.units}
        return [unit for unit in self.around.host.units(self._record.guest) if unit.lun in luns]

    def later(self) -> float:
        """After how long to try again: longer each time."""
        delay = self._retry
        self._retry = min(2 * delay, LAST_RETRY_SECONDS)
        return delay

    def _keep(self, record: Record) -> None:
        record = record.bounded()
        self.around.host.store.migration_save(encode_record(record))
        self._record = record
