"""Two hosts, a guest and its units: both engines, their real stores and the emulated unit in one process, step by step.

An instant is just before or just after a command reaches a unit through a host's nexus or a row becomes durable in its
store. A crash at an instant is an exception that nothing in the product may catch: the host's objects are dropped, and
it starts again from its store. Nothing runs by itself: ``run`` steps what is to be done until nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from sqlite3 import Connection

import msgspec

from pyproxy import config
from pyproxy.config import Config, GuestSection, UnitSection
from pyproxy.daemon import host as host_module
from pyproxy.daemon.backing import Backing
from pyproxy.daemon.gates import Gates
from pyproxy.daemon.host import Host
from pyproxy.daemon.standing import Standing
from pyproxy.device.emulated import EmulatedNexus, EmulatedUnit
from pyproxy.migration.engine import Engine, MigrationError
from pyproxy.migration.messages import Reply, Request
from pyproxy.migration.outbound import Outbound
from pyproxy.migration.peer import PeerError, PeerRefusedError
from pyproxy.migration.phases import OVER, Phase, SourcePhase
from pyproxy.migration.work import Work
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import ParameterList
from pyproxy.scsi.transport_id import TransportId
from pyproxy.store.sqlite import SqliteStore

GUEST = "web1"
K = 0x1122334455667788
TYPES = (1, 3, 5, 6, 7, 8)
_REQUESTS = msgspec.json.Decoder(Request)
_REPLIES = msgspec.json.Decoder(Reply)


class Crash(BaseException):
    """The process is gone."""


class TappedStore(SqliteStore):
    """The real store, every commit of which is two instants."""

    instant: Callable[[str], None] = staticmethod(lambda _: None)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        self.instant("before a row")
        with super()._transaction() as run:
            yield run
        self.instant("after a row")


class TappedNexus:
    """A host's nexus on the unit, every command through which is two instants; those of takeovers can fail."""

    def __init__(self, nexus: EmulatedNexus, side: Side) -> None:
        self.nexus = nexus
        self._side = side

    @property
    def name(self) -> str:
        return f"/dev/{self._side.name}"

    def execute(self, command: Command) -> Result:
        self._side.instant("before a command")
        failure = self._side.world.fails(self._side, command)
        if failure is not None:
            return failure(self.nexus, command)
        result = self.nexus.execute(command)
        self._side.instant("after a command")
        return result

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        return [self.execute(command) for command in commands]

    def close(self) -> None:
        pass


@dataclass
class Side:
    """One host. ``start`` brings its daemon up from what is on disk."""

    world: World
    name: str
    ports: list[TransportId]
    running: bool = False
    host: Host = field(init=False)
    gates: Gates = field(init=False)
    engine: Engine = field(init=False)
    up: bool = False

    @property
    def other(self) -> Side:
        return self.world.d if self is self.world.s else self.world.s

    def start(self) -> None:
        units = "".join(f'[[guest.unit]]\nlun = {lun}\ndevice = "/dev/{lun}"\n' for lun in range(len(self.world.units)))
        text = (
            f'[daemon]\nhost_name = "{self.name}"\nstate_dir = "{self.world.directory / self.name}"\n'
            f'[[guest]]\nname = "{GUEST}"\n{units}'
        )
        self.host = Host(config.parse(text, "test", {}), open_backing=self._open)
        self.gates = Gates()
        self.engine = Engine(
            Standing(self.host, self.gates),
            {self.other.name: Wire(self, self.other)},
            clock=lambda: 1.0 + next(self.world.ticks),
            draw=self.world.draw,
            pause=lambda _: None,
            drain_seconds=0.0,
            hold_seconds=0.0,
            ask_ms=0,
            threads=self.world.threads,
        )
        self.up = True
        try:
            store = self.host.store
            assert isinstance(store, TappedStore)
            store.instant = self.instant  # type: ignore[method-assign]
            self.engine.resume()
            self.gates.events = self.engine
            self.host.open_all()
            if self.world.threads:
                self.engine.start()
            if self.running:
                self.gates.rings(GUEST).started()
        except Crash:
            self.crash()

    def _open(self, _config: Config, _guest: GuestSection, section: UnitSection) -> Backing:
        unit, port = self.world.units[section.lun], self.ports[section.lun]
        nexus = unit.nexus(port)
        named = port if self.world.named else None
        return Backing(TappedNexus(nexus, self), named, 1 if named else None, lambda: None)

    def crash(self) -> None:
        self.up = False
        self.engine.close()
        self.host.close()

    def instant(self, what: str) -> None:
        self.world.instant(self, what)

    def act(self, what: Callable[[], object]) -> bool:
        """Do something in this host's daemon; False where it crashed over it, or refused."""
        if not self.up:
            return False
        try:
            what()
        except Crash:
            self.crash()
            return False
        except MigrationError:
            return False
        return True

    def guest_starts(self) -> None:
        assert not self.other.running
        self.running = True
        self.act(lambda: self.gates.rings(GUEST).started())

    def guest_stops(self) -> None:
        self.running = False
        self.act(lambda: self.gates.rings(GUEST).stopped())

    @property
    def work(self) -> Work:
        return self.engine.works()[-1]

    @property
    def phase(self) -> Phase | None:
        works = self.engine.works()
        return works[-1].phase if works else None

    @property
    def open(self) -> bool:
        return self.up and self.gates.why(GUEST) is None


class Wire:
    """The way from one daemon to the other: messages as JSON, each of which may be lost."""

    def __init__(self, near: Side, far: Side) -> None:
        self._near = near
        self._far = far
        self.name = far.name

    def call(self, request: Request) -> Reply:
        world = self._near.world
        if world.cut or not self._far.up:
            raise PeerError(f"{self.name} does not answer", sent=False)
        world.log.append((self._near.name, request))
        decoded = _REQUESTS.decode(msgspec.json.encode(request))
        try:
            reply = self._far.engine.serve(self._near.name, decoded)
        except Crash:
            self._far.crash()
            raise PeerError(f"{self.name} does not answer any more") from None
        except PeerRefusedError as error:
            raise PeerRefusedError(str(error), error.reason) from None
        if world.loses(request):
            raise PeerError(f"the answer of {self.name} is lost")
        return _REPLIES.decode(msgspec.json.encode(reply))


class World:
    """Everything. ``crash_at`` counts instants; ``lost`` and ``failing`` choose messages and commands that fail.

    With ``threads`` the engines run by themselves, as in a daemon.
    """

    def __init__(
        self, directory: Path, *, units: int = 1, named: bool = True, shared_nexus: bool = False, threads: int = 0
    ) -> None:
        self.directory = directory
        self.threads = threads
        directory.mkdir(exist_ok=True)
        self.named = named
        self.units = [
            EmulatedUnit(1 << 16, path=directory / f"unit{lun}", serial=f"unit{lun}", power_on_attention=False)
            for lun in range(units)
        ]
        self.ticks = count()
        self.instants = count()
        self.crash_at: int | None = None
        self.crashed: str | None = None
        self.cut = False
        self.log: list[tuple[str, Request]] = []
        self.lose: Callable[[Request], bool] = lambda _: False
        self.failing: Callable[[Side, Command], Callable[[EmulatedNexus, Command], Result] | None] = lambda *_: None
        self._key = count(0xA5A5000000000001)
        ports = [
            [TransportId.parse(f"naa.50000000000{host}{lun:04x}") for lun in range(units)]
            for host in (("1", "1") if shared_nexus else ("1", "2"))
        ]
        self.s = Side(self, "s", ports[0])
        self.d = Side(self, "d", ports[1])
        self.by = [unit.nexus(TransportId.parse("naa.5000000000000b00")) for unit in self.units]
        self.fencer = [unit.nexus(TransportId.parse("naa.5000000000000f00")) for unit in self.units]

    def __enter__(self) -> World:
        self._class = host_module.SqliteStore
        host_module.SqliteStore = TappedStore  # type: ignore[misc]
        self.s.start()
        self.d.start()
        self.s.guest_starts()
        return self

    def __exit__(self, *_: object) -> None:
        host_module.SqliteStore = self._class  # type: ignore[misc]
        for side in (self.s, self.d):
            if side.up:
                side.engine.close()
                side.host.close()
        for unit in self.units:
            unit.close()

    def instant(self, side: Side, what: str) -> None:
        if self.crash_at is None:
            return
        if next(self.instants) == self.crash_at:
            self.crash_at = None
            self.crashed = f"{side.name} {what}"
            raise Crash

    def crash_in(self, instants: int) -> None:
        """Crash whoever comes to the instant of that number from now."""
        self.instants = count()
        self.crash_at = instants

    def draw(self, taken: frozenset[int]) -> int:
        return next(self._key)

    def fails(self, side: Side, command: Command) -> Callable[[EmulatedNexus, Command], Result] | None:
        return self.failing(side, command)

    def loses(self, request: Request) -> bool:
        return self.lose(request)

    # The guest.

    def guest(self, side: Side, lun: int, cdb: bytes, data: bytes = b"") -> Result:
        return side.host.unit(GUEST, lun).execute(Command(cdb, data))

    def claim(self, side: Side, kind: int | None, *, aptpl: bool = True, key: int = K) -> None:
        """Let the guest register on each unit, and reserve with type ``kind``."""
        for lun in range(len(self.units)):
            register = ParameterList(0, key, aptpl=aptpl).encode()
            assert self.guest(side, lun, PrOut(0, 0, 0, 24).encode(), register).good
            if kind:
                assert self.guest(side, lun, PrOut(1, 0, kind, 24).encode(), ParameterList(key, 0).encode()).good

    def join(self, nexus: EmulatedNexus, key: int) -> None:
        """Register another node."""
        assert nexus.execute(Command(PrOut(0, 0, 0, 24).encode(), ParameterList(0, key, aptpl=True).encode())).good

    def leave(self, nexus: EmulatedNexus, key: int) -> None:
        """Take another node's registration back."""
        assert nexus.execute(Command(PrOut(0, 0, 0, 24).encode(), ParameterList(key, 0, aptpl=True).encode())).good

    # What happens.

    def run(self, limit: int = 200) -> None:
        """Step both sides, starting again what has crashed, until nothing changes any more."""
        quiet = 0
        for _ in range(limit):
            for side in (self.s, self.d):
                if not side.up:
                    side.start()
            before = self._state()
            for side in (self.s, self.d):
                for work in side.engine.works() if side.up else ():
                    if not work.over:
                        side.act(work.step)
            # Twice: what was lost the first time is asked for again.
            quiet = quiet + 1 if self._state() == before and self.s.up and self.d.up else 0
            if quiet == 2:
                return
        raise AssertionError(f"it does not come to rest: {self._state()}")

    def _state(self) -> object:
        return [
            (side.up, [(work.record.phase, work.record.told, work.record.units) for work in side.engine.works()])
            for side in (self.s, self.d)
        ]

    def migrate(self, source: Side, *, finish: bool = True) -> None:
        """Move the guest from ``source`` to the other side as a hypervisor does."""
        assert source.act(lambda: source.engine.migrate(GUEST, source.other.name)) or not source.up
        source.guest_stops()
        self.run()
        if finish:
            source.other.guest_starts()
            self.run()

    def verified(self, source: Side) -> bool:
        work = source.work if source.phase is not None else None
        return isinstance(work, Outbound) and (work.verified or work.phase is SourcePhase.RELEASED)


def registered(unit: EmulatedUnit) -> dict[str, int]:
    """The registered keys, by initiator port."""
    return {str(nexus.initiator): one.key for nexus, one in unit.reservations.registrations.items()}


def at_rest(world: World) -> bool:
    return all(work.phase in OVER for side in (world.s, world.d) for work in side.engine.works())
