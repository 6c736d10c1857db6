"""A guest whose commands pass pyproxy on one host after the other, and what watches the unit while it moves.

        host 1: GuestUnit ── SgDevice ── nexus 1 ──┐
                                                   ├── LIO ── nexus 3: an outsider that must never get through
        host 2: GuestUnit ── SgDevice ── nexus 2 ──┘

Each host is wired from a configuration file as the daemon does it, with a store of its own.
"""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pyproxy import config
from pyproxy.config import Config, GuestSection, UnitSection
from pyproxy.daemon.backing import Backing, open_backing
from pyproxy.daemon.host import Host
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.operations import RestoreRequest
from pyproxy.device.base import Device
from pyproxy.device.sg import SgDevice
from pyproxy.migration.checkpoint import decode_checkpoint
from pyproxy.migration.restore import RestoreReport
from pyproxy.reservation.state import NexusState
from pyproxy.scsi.command import Command, Result
from pyproxy.unit import GuestUnit
from tests.vm.rig.lio import LioNexus, LioUnit
from tests.vm.rig.sg_direct import SgNode
from tests.vm.rig.witness import TYPE_WORDS

GUEST = "db"
REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_AND_IGNORE = range(7)
APTPL = 0x01
CONFLICT = 0x18
OUTSIDERS_BLOCK = 9
"""Where the outsider writes; nobody else does, so that what it holds tells whether a write came through."""

_READ_FULL_STATUS = b"\x5e\x03"
# CHECK CONDITION 05/24/00 as fixed sense (SPC-4 4.5.3): what targets without READ FULL STATUS answer.
_NOT_SUPPORTED = Result(0x02, bytes.fromhex("700005000000000A00000000240000000000"))


class HostDiedError(BaseException):
    """The host lost power: nothing in pyproxy may catch this."""


class WithoutFullStatus:
    """A device as targets without READ FULL STATUS (tgt, LIO in PR passthrough) would have it: it names no nexus."""

    def __init__(self, device: Device) -> None:
        self._device = device

    @property
    def name(self) -> str:
        return self._device.name

    def execute(self, command: Command) -> Result:
        return _NOT_SUPPORTED if command.cdb[:2] == _READ_FULL_STATUS else self._device.execute(command)

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        return [self.execute(command) for command in commands]

    def close(self) -> None:
        self._device.close()


@dataclass(eq=False)
class Watch:
    """Sees every command that a restore sends to either side, in order.

    ``look`` is called after each. The host dies at ``dies``: a command's number, counted from 0, and whether the device
    still executes it. ``changes`` lists each PERSISTENT RESERVE OUT: its number, the side, the service action.
    """

    look: Callable[[], None] = lambda: None
    dies: tuple[int, bool] | None = None
    count: int = 0
    changes: list[tuple[int, str, int]] = field(default_factory=list)

    def over(self, device: Device, side: str) -> Device:
        return _Watched(device, side, self)


class _Watched(WithoutFullStatus):
    def __init__(self, device: Device, side: str, watch: Watch) -> None:
        super().__init__(device)
        self._side = side
        self._watch = watch

    def execute(self, command: Command) -> Result:
        watch, number = self._watch, self._watch.count
        watch.count += 1
        if watch.dies == (number, False):
            raise HostDiedError
        result = self._device.execute(command)
        if command.cdb[0] == 0x5F:
            watch.changes.append((number, self._side, command.cdb[1] & 0x1F))
        watch.look()
        if watch.dies == (number, True):
            raise HostDiedError
        return result


class GuestHost:
    """Guest ``db`` with logical unit 0 on one host, whose I_T nexus is ``nexus``.

    ``named``: the configuration says what the nexus is called. Without ``full_status`` the device has no
    READ FULL STATUS on this host.
    """

    def __init__(self, directory: Path, nexus: LioNexus, *, named: bool = False, full_status: bool = True) -> None:
        self.nexus = nexus
        self.full_status = full_status
        self.config_file = write_config(directory, f"host-{nexus.number}", nexus, named=named)
        self._host: Host | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    @property
    def host(self) -> Host:
        if self._host is None:
            self._host = Host(config.load(self.config_file), open_backing=self._open)
        return self._host

    @property
    def unit(self) -> GuestUnit:
        return self.host.unit(GUEST, 0)

    @property
    def state(self) -> NexusState:
        return self.unit.state

    def close(self) -> None:
        """Release device and store; what was tracked stays in the state directory for the next start."""
        if self._host is not None:
            self._host.close()
            self._host = None

    def pr_out(self, action: int, *, key: int = 0, sa_key: int = 0, type_: int = 0, flags: int = 0) -> Result:
        """PERSISTENT RESERVE OUT as the guest."""
        cdb = struct.pack(">BBB2xIx", 0x5F, action, type_, 24)
        return self.unit.execute(Command(cdb, struct.pack(">QQ4xB3x", key, sa_key, flags)))

    def write(self, data: bytes = bytes(512), lba: int = 0) -> Result:
        return self.unit.execute(Command(struct.pack(">BxIxHx", 0x2A, lba, len(data) // 512), data))

    def read(self, lba: int = 0) -> Result:
        return self.unit.execute(Command(struct.pack(">BxIxHx", 0x28, lba, 1), data_in=512))

    def claim(self, key: int, type_: int | None, *, aptpl: bool = False) -> None:
        """REGISTER and RESERVE as the guest."""
        assert self.pr_out(REGISTER, sa_key=key, flags=APTPL if aptpl else 0).good
        if type_ is not None:
            assert self.pr_out(RESERVE, key=key, type_=type_).good

    def checkpoint(self) -> bytes:
        return LocalOperations(self.host).checkpoint(GUEST, None)

    def restore(
        self, document: bytes, *, source: LioNexus | None = None, source_dead: bool = False, watch: Watch | None = None
    ) -> RestoreReport:
        """What ``pyproxy restore`` does, with every command of it under ``watch``."""
        watch = watch or Watch()
        found = self.host.open_unit(GUEST, 0)
        with contextlib.ExitStack() as opened:
            port = None
            if source is not None:
                port = self._hidden(opened.enter_context(SgDevice.open(source.sg, threads=1, slots=1)))
            return LocalOperations(self.host).take_over(
                decode_checkpoint(document),
                watch.over(found.unit.device, "destination"),
                None if port is None else watch.over(port, "source"),
                RestoreRequest(document=document, source_dead=source_dead),
                found,
            )

    def _hidden(self, device: Device) -> Device:
        return device if self.full_status else WithoutFullStatus(device)

    def _open(self, settings: Config, guest: GuestSection, section: UnitSection) -> Backing:
        backing = open_backing(settings, guest, section)
        return Backing(self._hidden(backing.device), backing.initiator, backing.rtpi, backing.close)


def write_config(
    directory: Path, name: str, nexus: LioNexus, *, named: bool = False, adopt: bool = False, guest_keys: str = ""
) -> Path:
    """The configuration of a host called ``name`` with its one guest on the nexus' SG node.

    ``named``: it says what the nexus is called; ``adopt``: what was registered before the daemon starts is taken over;
    ``guest_keys``: further lines of the guest's table.
    """
    home = directory / name
    home.mkdir(parents=True)
    names = f'initiator = "{nexus.transport_id}"\nrtpi = {nexus.relative_target_port}\n' if named else ""
    path = home / "pyproxy.toml"
    path.write_text(
        f"""
[daemon]
host_name = "{name}"
state_dir = "{home / "state"}"
runtime_dir = "{home / "run"}"

[[guest]]
name = "{GUEST}"
{guest_keys}

[[guest.unit]]
lun = 0
device = "{nexus.sg}"
adopt = {str(adopt).lower()}
{names}""",
        encoding="utf-8",
    )
    return path


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything LIO's configfs tells about a unit's reservations."""

    registered: dict[str, int]
    holder: str | None
    type: int | None
    generation: int
    aptpl: bool


def shown(unit: LioUnit) -> Shown:
    """Read configfs."""
    words = unit.reservation_type
    types = [number for number, (name, _) in TYPE_WORDS.items() if name == words]
    assert len(types) == (words is not None), f"LIO calls the reservation {words!r}"
    active = (unit.backstore / "pr" / "res_aptpl_active").read_text(encoding="ascii").strip()
    assert active in ("APTPL Bit Status: Activated", "APTPL Bit Status: Disabled")
    return Shown(unit.registered, unit.holder, types[0] if types else None, unit.generation, active.endswith("ated"))


def tracked_is_true(host: GuestHost, unit: LioUnit) -> None:
    """What the host's snooper knows is what LIO has, of this nexus."""
    state, truth, name = host.state, shown(unit), host.nexus.initiator
    assert state.fresh, f"suspect: {state.suspect}"
    assert state.key == truth.registered.get(name, 0)
    holds = state.registered and (truth.holder == name or truth.type in (7, 8))
    assert state.type == (truth.type if holds else None)


class Outsider:
    """Writes to the unit through its own nexus over and over, in a thread; ``statuses`` counts the answers."""

    def __init__(self, nexus: LioNexus) -> None:
        self._nexus = nexus
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outsider")
        self.statuses: Counter[int] = Counter()

    def __enter__(self) -> Self:
        self._nexus.direct.drain_unit_attentions()
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        node = SgNode(self._nexus.sg)
        try:
            while not self._stop.is_set():
                self.statuses[node.write(OUTSIDERS_BLOCK, b"\xee" * 512).status] += 1
                time.sleep(0.005)
        finally:
            node.close()


@contextlib.contextmanager
def shut_out(nexus: LioNexus, *, reads: bool = False) -> Iterator[Watch]:
    """A watch during which the nexus' writes (and reads) conflict between any two commands, and all the time."""

    def look() -> None:
        assert nexus.direct.write(OUTSIDERS_BLOCK, b"\xee" * 512).status == CONFLICT
        if reads:
            assert nexus.direct.read(OUTSIDERS_BLOCK).status == CONFLICT

    with Outsider(nexus) as outsider:
        look()
        yield Watch(look)
    assert set(outsider.statuses) == {CONFLICT}, f"the outsider's writes ended with {outsider.statuses}"
