"""Runs a host's migrations: begins them, answers other daemons, hears of the guests, goes on after a restart."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from pyproxy.migration.guest import MigratingUnit, MigrationHost
from pyproxy.migration.inbound import Inbound, unit_records
from pyproxy.migration.messages import (
    MAXIMUM_UNITS,
    VERSION,
    Abort,
    Ask,
    Close,
    Execute,
    Invite,
    Numbered,
    Offer,
    Prepare,
    Progress,
    Reply,
    Request,
    Withdraw,
)
from pyproxy.migration.outbound import Outbound
from pyproxy.migration.peer import UNKNOWN_MIGRATION, Peer, PeerError, PeerRefusedError
from pyproxy.migration.phases import (
    HANDING_OVER,
    OVER,
    UNDONE,
    DestinationEvent,
    DestinationPhase,
    Role,
    SourceEvent,
    SourcePhase,
)
from pyproxy.migration.prepare import Prepared, examine
from pyproxy.migration.record import Record, load_records, why_shut
from pyproxy.migration.restore import draw_key
from pyproxy.migration.work import Draw, Surroundings, Work
from pyproxy.store.base import StoreError

log = logging.getLogger(__name__)

DRAIN_SECONDS: Final = 30.0
HOLD_SECONDS: Final = 60.0
"""How long a guest that has stopped is held (the answer to GET_VRING_BASE waits), at most."""
ASK_MS: Final = 5_000
THREADS: Final = 64
_AFTER_A_DEFECT_SECONDS: Final = 5.0
_STORE_RETRY_SECONDS: Final = 1.0


class MigrationError(Exception):
    """What was asked for cannot be done; the message says why and what to do, ``reason`` is a word for programs."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def one_by_one(act: Callable[[MigratingUnit], Any], units: Iterable[MigratingUnit]) -> list[Any]:
    """Call ``act`` for each unit in order."""
    return [act(unit) for unit in units]


class Engine:
    """The migrations of ``host`` with ``peers`` (by name). Implements ``peer.Service`` and ``guest.GuestEvents``.

    Call ``resume`` before anything of a guest is served, ``start`` when the peers can be reached, ``close`` at the end.
    ``clock`` counts seconds since 1970. Without ``threads`` nothing happens by itself: ``works`` are to be stepped.
    """

    def __init__(
        self,
        host: MigrationHost,
        peers: Mapping[str, Peer],
        *,
        clock: Callable[[], float] = time.time,
        draw: Draw = draw_key,
        pause: Callable[[float], None] = time.sleep,
        drain_seconds: float = DRAIN_SECONDS,
        hold_seconds: float = HOLD_SECONDS,
        ask_ms: int = ASK_MS,
        threads: int = THREADS,
        told: Callable[[Record], None] = lambda _: None,
    ) -> None:
        self._host = host
        self._clock = clock
        self._hold_seconds = hold_seconds
        self._pool = ThreadPoolExecutor(threads, "migrate-unit") if threads else None
        self._around = Surroundings(
            host=host,
            peers=peers,
            clock=clock,
            draw=draw,
            each=one_by_one if self._pool is None else self._side_by_side,
            pause=pause,
            settle_gate=self.settle_gate,
            drain_seconds=drain_seconds,
            ask_ms=ask_ms,
            told=told,
        )
        self._lock = threading.RLock()
        self._gate_lock = threading.Lock()
        """Between reading the records and the gate that follows them."""
        self._works: dict[tuple[str, Role], Work] = {}
        self._threads: dict[tuple[str, Role], threading.Thread] = {}
        self._started = False
        self._closing = False

    # From and to the daemon.

    def resume(self) -> None:
        """Load what is known and shut the gates of guests that may not be served; raises StoreError, RecordError."""
        for record in load_records(self._host.store):
            work = self._add(record)
            if isinstance(work, Outbound) and not work.over:
                work.feed(SourceEvent.RESTARTED)
        for guest in {work.record.guest for work in self.works()}:
            why = self.settle_gate(guest)
            if why is not None:
                log.warning("guest %s is not served: %s", guest, why)

    def start(self) -> None:
        """Go on with what is not over."""
        with self._lock:
            self._started = True
        for work in self.works():
            if not work.over:
                self._go_on(work)

    def close(self) -> None:
        """Do nothing more, and let nobody wait any longer; what is not over goes on after the next start."""
        with self._lock:
            self._closing = True
            threads = list(self._threads.values())
        for work in self.works():
            work.wake()
        for thread in threads:
            thread.join(1.0)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def works(self) -> list[Work]:
        """Return the migrations that are known, in the order they were begun."""
        with self._lock:
            return list(self._works.values())

    def why_shut(self, guest: str) -> str | None:
        """Say why a guest may not be served here; None where it may."""
        return why_shut([work.record for work in self.works()], guest)

    def settle_gate(self, guest: str) -> str | None:
        """Open or shut the guest's gate as the records say; returns why it is shut."""
        with self._gate_lock:
            why = self.why_shut(guest)
            if why is None:
                self._host.open_gate(guest)
            else:
                self._host.shut_gate(guest, why)
        return why

    # What an operator asks for.

    def migrate(self, guest: str, to: str, *, number: str = "", reason: str = "the operator asks for it") -> Record:
        """Prepare a migration and arm it: the handover begins when the guest stops. Raises MigrationError, StoreError.

        Raises what opening the guest's units raises. ``number`` is the migration's where it has one already.
        """
        self._check_peer(to)
        why = self.why_shut(guest)
        if why is not None:
            raise MigrationError(f"guest {guest} is not served on this host: {why}", "not-here")
        units = self._host.units(guest)
        if not 0 < len(units) <= MAXIMUM_UNITS:
            raise MigrationError(f"guest {guest} has {len(units)} units, 1 to {MAXIMUM_UNITS} can move", "units")
        with self._lock:
            self._check_free(guest)
            record = Record.begun(
                SourcePhase.PREPARING,
                self._clock(),
                reason,
                migration=number or secrets.token_hex(16),
                role=Role.SOURCE,
                guest=guest,
                peer=to,
                epoch=1 + self._epoch(guest, [unit.facts.unit.name for unit in units]),
                units=unit_records(units),
            )
            work = self._add(record)
            work.save()
        work.step()
        if work.phase is not SourcePhase.ARMED:
            self._go_on(work)
            raise MigrationError(f"guest {guest} cannot move to {to}: {work.record.text}", "refused")
        return work.record

    def invite(self, guest: str, source: str | None) -> None:
        """Have the peer that serves the guest arm a migration to here: ``source``, or whichever it is.

        Raises MigrationError, which says what each peer answered, and StoreError.
        """
        if source is not None:
            self._check_peer(source)
        self._host.units(guest)  # before anybody else is troubled with a guest that is none
        number = secrets.token_hex(16)
        answers: list[str] = []
        for name in self._around.peers if source is None else (source,):
            try:
                self._around.peers[name].call(Invite(migration=number, guest=guest))
            except PeerError as error:
                answers.append(str(error))
                expected = self._works.get((number, Role.DESTINATION))
                if expected is not None:  # it was armed, and nobody will come
                    self._withdraw(expected)
            else:
                return
        raise MigrationError(
            f"guest {guest} cannot be expected here: {'; '.join(answers) or 'no peer is configured'}", "refused"
        )

    def withdraw(self, guest: str) -> None:
        """Call off what ``invite`` began, or any migration to here of a guest that does not come.

        Raises MigrationError where the source does not answer.
        """
        work = self._latest(guest)
        if not isinstance(work, Inbound) or work.phase in OVER or work.phase is DestinationPhase.SERVING:
            return
        answer = self._withdraw(work)
        if answer:
            raise MigrationError(f"{work.who}: {answer}", "refused")

    def _withdraw(self, work: Work) -> str:
        record = work.record
        try:
            work.peer.call(Withdraw(migration=record.migration, guest=record.guest, epoch=record.epoch))
        except PeerError as error:
            return str(error)
        return ""

    def hand_over(self, guest: str) -> None:
        """Begin the handover now: the operator or the hook has stopped the guest. Raises MigrationError, StoreError.

        Safe to repeat, also where the guest's virtqueues have told it meanwhile.
        """
        work = self._current(guest)
        if work.phase in HANDING_OVER:
            return
        if not work.feed(SourceEvent.STOPPED, "the operator says that the guest has stopped"):
            raise MigrationError(f"{work.who} is {work.phase}, not armed", "wrong-phase")
        self._host.halted(guest)
        self._go_on(work)

    def cancel(self, guest: str, *, destination_dead: bool = False, fence_ruled_out: bool = False) -> None:
        """Keep the guest here, or forget that it was expected here. Raises MigrationError, StoreError.

        ``destination_dead`` is the operator's statement that the guest does not run there and never will: it takes the
        guest back from a destination that does not answer, also when it had arrived there. ``fence_ruled_out`` is the
        statement that no node fenced the guest meanwhile, where that is asked for.
        """
        work = self._current(guest)
        if destination_dead:
            done = work.feed(SourceEvent.DESTINATION_DEAD, peer_dead=True, told=False, fence_ruled_out=fence_ruled_out)
        else:
            done = work.feed(SourceEvent.CANCEL) or work.feed(DestinationEvent.CANCEL, told=False)
        if not done:
            raise MigrationError(_cannot_cancel(work), "wrong-phase")
        self._go_on(work)

    def source_dead(self, guest: str, *, fence_ruled_out: bool = False) -> None:
        """Take the claims over without the source, which the operator says is dead.

        Raises MigrationError, StoreError.
        """
        work = self._current(guest)
        if any(unit.claim is None for unit in work.record.units):
            raise MigrationError(
                f"{work.who} is {work.phase}: its claims have not come here, so there is nothing to take over; with a "
                "checkpoint of the guest: pyproxy restore --source-dead",
                "no-claims",
            )
        if not work.feed(DestinationEvent.SOURCE_DEAD, peer_dead=True, told=False, fence_ruled_out=fence_ruled_out):
            raise MigrationError(f"{work.who} is {work.phase}: there are no claims to take over", "wrong-phase")
        self._go_on(work)

    # What the guest does (``guest.GuestEvents``).

    def stopped(self, guest: str) -> None:
        """Hand over where that is armed; returns when the destination has the claims, or the guest is served here."""
        work = self._latest(guest)
        if not isinstance(work, Outbound) or not work.feed(SourceEvent.STOPPED):
            return
        self._go_on(work)
        if not work.wait(lambda: work.settled or self._closing, self._hold_seconds):
            log.error(
                "%s: the guest is let go after %g s, still %s (%s); it is served nowhere until that ends",
                work.who,
                self._hold_seconds,
                work.phase,
                work.text,
            )

    def started(self, guest: str) -> None:
        """Serve the guest that has arrived, or take one back that goes on here."""
        for work in self.works():
            if work.record.guest != guest or work.over:
                continue
            try:
                moved = work.feed(SourceEvent.RESUMED) or work.feed(DestinationEvent.STARTED)
            except StoreError:
                log.exception("%s: that the guest has started cannot be made durable; it waits", work.who)
                continue
            if moved:
                self._go_on(work)
        why = self.why_shut(guest)
        if why is not None:
            log.error("guest %s has started here and is not served: %s", guest, why)

    def left(self, guest: str) -> None:
        """Nothing: a front end that is gone runs no guest, but may come back."""

    # What other daemons ask (``peer.Service``).

    def serve(self, peer: str, request: Request) -> Reply:
        """See peer.Service."""
        if request.version != VERSION:
            raise PeerRefusedError(
                f"{self._host.name} speaks version {VERSION} of these messages, {peer} version {request.version}: use "
                "the same pyproxy on both",
                "version",
            )
        try:
            if isinstance(request, Invite):
                return self._invited(peer, request)
            if isinstance(request, Prepare):
                return self._prepare(peer, request)
            if isinstance(request, Withdraw):
                leaving = self._asked(peer, request, Role.SOURCE)
                if leaving.feed(SourceEvent.WITHDRAWN):
                    self._go_on(leaving)
                return leaving.progress()
            if isinstance(request, Execute):
                return self._asked(peer, request).execute(request)
            work = self._asked(peer, request, Role.DESTINATION)
            assert isinstance(work, Inbound)
            return self._answer(work, request)
        except StoreError as error:
            raise PeerRefusedError(f"{self._host.name}: {error}", "store") from error

    def _invited(self, peer: str, request: Invite) -> Progress:
        """Arm a migration for a destination whose hypervisor begins to receive the guest, unless it is armed."""
        known = self._works.get((request.migration, Role.SOURCE))
        if known is not None and (known.record.peer, known.record.guest) != (peer, request.guest):
            raise PeerRefusedError(f"migration {request.migration} is not one of guest {request.guest}", "foreign")
        latest = self._latest(request.guest)
        if known is None and latest is not None and latest.phase is SourcePhase.ARMED and latest.record.peer == peer:
            known = latest
        if known is None:
            try:
                self.migrate(request.guest, peer, number=request.migration, reason=f"{peer} is to receive the guest")
            except MigrationError as error:
                raise PeerRefusedError(f"{self._host.name}: {error}", error.reason) from None
            except StoreError:
                raise
            except Exception as error:  # whatever keeps the guest's units from being used here is the answer
                raise PeerRefusedError(f"{self._host.name}: {error}", "not-found") from error
            known = self._works[request.migration, Role.SOURCE]
        return known.progress()

    def _answer(self, work: Inbound, request: Numbered) -> Progress:
        match request:
            case Offer():
                work.receive(request)
            case Ask():
                work.wait(lambda: work.phase != request.seen or self._closing, request.wait_ms / 1000)
            case Abort():
                work.feed(DestinationEvent.ABORT)
            case Close(committed=committed):
                work.feed(DestinationEvent.COMMIT if committed else DestinationEvent.CLOSE)
        self._go_on(work)
        return work.progress()

    def _prepare(self, peer: str, request: Prepare) -> Progress:
        known = self._works.get((request.migration, Role.DESTINATION))
        if known is not None:
            work = self._asked(peer, request)
            if work.phase is not DestinationPhase.PREPARED:
                raise PeerRefusedError(f"{work.who} is {work.phase} already", "over")
        prepared: Prepared = examine(self._host, request)
        if prepared.problems:
            return Progress(phase="", problems=list(prepared.problems))
        with self._lock:
            if known is None:
                self._expect(peer, request, prepared)
        return Progress(
            phase=DestinationPhase.PREPARED, paths=list(prepared.paths), same_nexus=list(prepared.same_nexus)
        )

    def _expect(self, peer: str, request: Prepare, prepared: Prepared) -> None:
        """Begin a migration to here; one that came no further than this from the same peer is forgotten."""
        latest = self._latest(request.guest)
        if latest is not None and latest.record.peer == peer and latest.phase is DestinationPhase.PREPARED:
            latest.feed(DestinationEvent.CLOSE)
            latest.step()
        try:
            self._check_free(request.guest)
        except MigrationError as error:
            raise PeerRefusedError(f"{self._host.name}: {error}", error.reason) from None
        if request.epoch <= self._epoch(request.guest, [unit.unit.name for unit in request.units]):
            raise PeerRefusedError(
                f"{self._host.name}: guest {request.guest} has been taken over since (number {request.epoch} is asked "
                "for); this request is old",
                "old",
            )
        record = Record.begun(
            DestinationPhase.PREPARED,
            self._clock(),
            f"{peer} asks for it",
            migration=request.migration,
            role=Role.DESTINATION,
            guest=request.guest,
            peer=peer,
            epoch=request.epoch,
            units=prepared.records,
        )
        self._add(record).save()
        self.settle_gate(request.guest)

    def _asked(self, peer: str, request: Numbered, *roles: Role) -> Work:
        """Find what a request is about; raises PeerRefusedError for anything that is not that very migration."""
        with self._lock:
            found = [self._works.get((request.migration, role)) for role in (roles or tuple(Role))]
        for work in found:
            if work is None:
                continue
            record = work.record
            if (record.peer, record.guest, record.epoch) != (peer, request.guest, request.epoch):
                raise PeerRefusedError(
                    f"migration {request.migration} is not one of guest {request.guest} with {peer} and number "
                    f"{request.epoch}",
                    "foreign",
                )
            return work
        raise PeerRefusedError(
            f"{self._host.name} knows no migration {request.migration} of guest {request.guest}", UNKNOWN_MIGRATION
        )

    # Inside.

    def _current(self, guest: str) -> Work:
        """Return the migration that says where the guest is; raises MigrationError."""
        found = [one for one in self.works() if one.record.guest == guest]
        if not found:
            raise MigrationError(f"guest {guest} is not being migrated", "not-found")
        return next((one for one in reversed(found) if one.phase not in UNDONE), found[-1])

    def latest(self, guest: str) -> Work:
        """Return the guest's latest migration; raises MigrationError."""
        found = self._latest(guest)
        if found is None:
            raise MigrationError(f"guest {guest} has not been migrated", "not-found")
        return found

    def _latest(self, guest: str) -> Work | None:
        return next((one for one in reversed(self.works()) if one.record.guest == guest), None)

    def _check_peer(self, name: str) -> None:
        if name not in self._around.peers:
            known = ", ".join(self._around.peers) or "none"
            raise MigrationError(f"there is no peer {name}; the peers: {known}", "not-found")

    def _check_free(self, guest: str) -> None:
        """Raise MigrationError where another migration of the guest has not ended, or it is not served here at all."""
        for work in self.works():
            if work.record.guest == guest and work.phase not in OVER:
                raise MigrationError(
                    f"{work.who} is {work.phase} ({work.text or 'nothing is wrong'}): let it end or cancel it", "busy"
                )

    def _epoch(self, guest: str, units: Iterable[str]) -> int:
        found = (self._host.store.load_nexus(guest, unit) for unit in units)
        return max((one.epoch for one in found if one is not None), default=0)

    def _add(self, record: Record) -> Work:
        work = Outbound(self._around, record) if record.role is Role.SOURCE else Inbound(self._around, record)
        with self._lock:
            self._works[record.migration, record.role] = work
        return work

    def _side_by_side(self, act: Callable[[MigratingUnit], Any], units: Iterable[MigratingUnit]) -> Iterable[Any]:
        assert self._pool is not None
        return self._pool.map(act, units)

    def _go_on(self, work: Work) -> None:
        """See to it that somebody steps the migration, who is to look at it now."""
        key = (work.record.migration, work.record.role)
        with self._lock:
            if self._pool is None or self._closing or not self._started:
                return
            if key not in self._threads:
                name = f"migrate {work.record.guest}"
                self._threads[key] = threading.Thread(target=self._run, args=(key, work), name=name, daemon=True)
                self._threads[key].start()
        work.wake()

    def _run(self, key: tuple[str, Role], work: Work) -> None:
        while True:
            before = work.changes
            delay = self._step(work)
            with self._lock:
                # Under the lock: whoever wakes it now starts another thread, or finds this one.
                if self._closing or (work.over and work.changes == before):
                    del self._threads[key]
                    return
            work.wait(lambda seen=before: work.changes != seen or self._closing, 3600.0 if delay is None else delay)  # type: ignore[misc]

    def _step(self, work: Work) -> float | None:
        try:
            return work.step()
        except StoreError as error:
            work.say(str(error))
            return _STORE_RETRY_SECONDS
        except Exception as error:
            log.exception("%s: a step failed inside pyproxy", work.who)
            work.say(f"a step failed inside pyproxy ({error}); it is tried again")
            return _AFTER_A_DEFECT_SECONDS


def _cannot_cancel(work: Work) -> str:
    if work.phase is SourcePhase.RELEASED:
        return (
            f"{work.who}: the guest is served by {work.record.peer} and not here any more; migrate it back from there, "
            "or say --destination-dead if that host is dead"
        )
    return f"{work.who} is {work.phase}: there is nothing to cancel"
