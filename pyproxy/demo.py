"""``pyproxy demo``: two hosts' proxies over one emulated unit, and a reservation that moves from one to the other.

Both hosts are wired as the daemon wires them, each with a store of its own. What is reported is read from the unit.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from pyproxy.config import Config, GuestSection, UnitSection, parse
from pyproxy.daemon.backing import Backing
from pyproxy.daemon.documents import RestoreDocument, key_text, type_text
from pyproxy.daemon.failures import OperationError
from pyproxy.daemon.host import Host
from pyproxy.daemon.local import LocalOperations
from pyproxy.daemon.operations import RestoreRequest
from pyproxy.device.base import Device
from pyproxy.device.emulated import EmulatedUnit
from pyproxy.migration.checkpoint import decode_checkpoint
from pyproxy.reservation.snapshot import drive, read_snapshot
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PERSISTENT_RESERVE_OUT, PrOutAction, PrType, Status
from pyproxy.scsi.pr_cdb import PrOut
from pyproxy.scsi.pr_out import ParameterList
from pyproxy.scsi.transport_id import SasTransportId, TransportId
from pyproxy.unit import GuestUnit

if TYPE_CHECKING:
    from rich.console import Console

GUEST: Final = "web"
KEY: Final = 0xC0FFEE
BLOCK: Final = 512
BLOCKS_PER_WRITE: Final = 8
SLOTS: Final = 256
PROBE_SLOT: Final = SLOTS
UNIT_SIZE: Final = 64 << 20
WRITING_SECONDS: Final = 0.25
PORTS: Final[dict[str, TransportId]] = {
    "host-a": SasTransportId(bytes.fromhex("500140500000000a")),
    "host-b": SasTransportId(bytes.fromhex("500140500000000b")),
    "third party": SasTransportId(bytes.fromhex("500140500000000c")),
}


class InitiatorDocument(Struct, frozen=True, kw_only=True):
    """What one initiator has on the unit, and how a write of its ended."""

    initiator: str
    key: str | None
    holder: bool
    write_status: str


class DemoDocument(Struct, frozen=True, kw_only=True):
    """What was measured. ``handover_ms`` is from the guest's last write on host-a to its first on host-b."""

    reservation_type: str | None
    reservation_type_code: int | None
    holder_before: str | None
    holder_after: str | None
    source_status_after: str
    third_party_status: str
    third_party_status_after: str
    guest_writes: int
    guest_writes_after_handover: int
    guest_write_errors: int
    guest_bytes_verified: int
    commands_sent_to_take_over: list[str]
    commands_sent_by: list[str]
    procedure: str
    decision: str
    handover_ms: float
    elapsed_ms: float
    before: list[InitiatorDocument]
    after: list[InitiatorDocument]
    failures: list[str]


class Wire:
    """A host's nexus on the shared unit, noting every PERSISTENT RESERVE OUT that reaches it in ``sent``."""

    def __init__(self, host: str, device: Device, sent: list[tuple[str, str]]) -> None:
        self._host = host
        self._device = device
        self._sent = sent

    @property
    def name(self) -> str:
        """The device's name."""
        return self._device.name

    def execute(self, command: Command) -> Result:
        """Run one command."""
        if command.cdb[0] == PERSISTENT_RESERVE_OUT:
            self._sent.append((self._host, PrOutAction(PrOut.decode(command.cdb).action).name.replace("_", " ")))
        return self._device.execute(command)

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        """Run commands in order."""
        return [self.execute(command) for command in commands]

    def close(self) -> None:
        """Leave the shared unit open for the other host."""


class Guest:
    """A guest that writes in a loop, reads each block back, and can be paused and moved to another host's unit."""

    def __init__(self, unit: GuestUnit) -> None:
        self.unit = unit
        self.writes = 0
        self.errors: list[str] = []
        self.last_write = 0.0
        self.first_write_after_move: float | None = None
        self._content: dict[int, bytes] = {}
        self._turn = threading.Condition()
        self._running = False
        self._idle = True
        self._ended = False
        self._thread = threading.Thread(target=self._loop, name="guest")
        self._thread.start()

    def resume(self, unit: GuestUnit | None = None) -> None:
        """Go on writing, through ``unit`` when it moved."""
        with self._turn:
            if unit is not None:
                self.unit = unit
                self.first_write_after_move = None
            self._running = True
            self._turn.notify_all()

    def pause(self) -> None:
        """Stop writing; returns when the write under way has ended."""
        with self._turn:
            self._running = False
            self._turn.wait_for(lambda: self._idle)

    def end(self) -> None:
        """Stop for good."""
        with self._turn:
            self._running = False
            self._ended = True
            self._turn.notify_all()
        self._thread.join()

    def verify(self) -> int:
        """Read everything back that was written and return how many bytes were as written; adds to ``errors``."""
        verified = 0
        for slot, expected in self._content.items():
            result = self.unit.execute(Command(_read(slot), data_in=len(expected)))
            if result.good and result.data == expected:
                verified += len(expected)
            else:
                self.errors.append(f"slot {slot} was not as written ({status_name(result)})")
        return verified

    def _loop(self) -> None:
        for number in itertools.count():
            with self._turn:
                self._idle = True
                self._turn.notify_all()
                self._turn.wait_for(lambda: self._running or self._ended)
                if self._ended:
                    return
                self._idle = False
            self._write_one(number)

    def _write_one(self, number: int) -> None:
        slot, data = number % SLOTS, number.to_bytes(16) * (BLOCK * BLOCKS_PER_WRITE // 16)
        try:
            written = self.unit.execute(Command(_write(slot), data_out=data))
            if not written.good:
                self.errors.append(f"write {number} ended with {status_name(written)}")
                return
            self.writes += 1
            self._content[slot] = data
            self.last_write = time.perf_counter()
            if self.first_write_after_move is None:
                self.first_write_after_move = self.last_write
            read = self.unit.execute(Command(_read(slot), data_in=len(data)))
            if read.data != data:
                self.errors.append(f"write {number} read back differently ({status_name(read)})")
        except OSError as error:
            self.errors.append(f"write {number} could not be sent: {error}")


def run() -> DemoDocument:
    """Play it once and return what was measured."""
    began = time.perf_counter()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pyproxy-demo-")))
        shared = stack.enter_context(closing(EmulatedUnit(UNIT_SIZE, block_size=BLOCK, serial="demo")))
        sent: list[tuple[str, str]] = []
        host_a = stack.enter_context(closing(_host("host-a", shared, scratch, sent)))
        host_b = stack.enter_context(closing(_host("host-b", shared, scratch, sent)))
        guest = Guest(host_a.unit(GUEST, 0))
        stack.callback(guest.end)
        return _play(shared, host_a, host_b, guest, sent, began)


def _play(
    shared: EmulatedUnit, host_a: Host, host_b: Host, guest: Guest, sent: list[tuple[str, str]], began: float
) -> DemoDocument:
    third = shared.nexus(PORTS["third party"])
    ways: tuple[GuestUnit | Device, ...] = (host_a.unit(GUEST, 0), host_b.unit(GUEST, 0), third)
    for way in ways:
        _past_power_on(way)
    _pr_out(guest.unit, PrOutAction.REGISTER, ParameterList(key=0, sa_key=KEY))
    _pr_out(guest.unit, PrOutAction.RESERVE, ParameterList(key=KEY, sa_key=0), PrType.WRITE_EXCLUSIVE)
    guest.resume()
    time.sleep(WRITING_SECONDS)
    before = _observe(shared, third, host_a, host_b)

    guest.pause()
    paused_after = guest.last_write
    writes_before = guest.writes
    sent.clear()
    checkpoint = decode_checkpoint(LocalOperations(host_a).checkpoint(GUEST, 0))
    found = host_b.open_unit(GUEST, 0)
    report = RestoreDocument.of(
        LocalOperations(host_b).take_over(
            checkpoint,
            found.backing.device,
            host_a.open_unit(GUEST, 0).backing.device,
            RestoreRequest(document=b""),
            found,
        )
    )
    commands = list(sent)
    guest.resume(host_b.unit(GUEST, 0))
    time.sleep(WRITING_SECONDS)
    guest.pause()
    verified = guest.verify()
    after = _observe(shared, third, host_a, host_b)

    first = guest.first_write_after_move
    kind = after.reservation_type
    return DemoDocument(
        reservation_type=type_text(kind),
        reservation_type_code=kind,
        holder_before=before.holder,
        holder_after=after.holder,
        source_status_after=after.write_status("host-a"),
        third_party_status=before.write_status("third party"),
        third_party_status_after=after.write_status("third party"),
        guest_writes=guest.writes,
        guest_writes_after_handover=guest.writes - writes_before,
        guest_write_errors=len(guest.errors),
        guest_bytes_verified=verified,
        commands_sent_to_take_over=[action for _, action in commands],
        commands_sent_by=[host for host, _ in commands],
        procedure=report.procedure,
        decision=report.decision,
        handover_ms=round((first - paused_after) * 1000, 3) if first is not None else -1.0,
        elapsed_ms=round((time.perf_counter() - began) * 1000, 3),
        before=before.rows,
        after=after.rows,
        failures=_failures(before, after, guest, verified, writes_before, report, commands),
    )


@dataclass(frozen=True, slots=True)
class _Observed:
    reservation_type: int | None
    rows: list[InitiatorDocument]

    @property
    def holder(self) -> str | None:
        return ", ".join(row.initiator for row in self.rows if row.holder) or None

    def write_status(self, initiator: str) -> str:
        return next(row.write_status for row in self.rows if row.initiator == initiator)


def _observe(shared: EmulatedUnit, third: Device, host_a: Host, host_b: Host) -> _Observed:
    """Read the unit's full status, and let every initiator try a write."""
    observer = shared.nexus(SasTransportId(bytes.fromhex("500140500000000f")))
    snapshot = drive(read_snapshot(), observer.execute)
    registered = {descriptor.transport_id: descriptor for descriptor in snapshot.full or ()}
    ways: dict[str, GuestUnit | Device] = {
        "host-a": host_a.unit(GUEST, 0),
        "host-b": host_b.unit(GUEST, 0),
        "third party": third,
    }
    rows = []
    for name, way in ways.items():
        descriptor = registered.get(PORTS[name])
        result = way.execute(Command(_write(PROBE_SLOT), data_out=bytes(BLOCK * BLOCKS_PER_WRITE)))
        rows.append(
            InitiatorDocument(
                initiator=name,
                key=None if descriptor is None else key_text(descriptor.key),
                holder=descriptor is not None and descriptor.holder,
                write_status=status_name(result),
            )
        )
    kind = snapshot.reservation_type
    return _Observed(None if kind is None else int(kind), rows)


def _failures(
    before: _Observed,
    after: _Observed,
    guest: Guest,
    verified: int,
    writes_before: int,
    report: RestoreDocument,
    commands: list[tuple[str, str]],
) -> list[str]:
    """Compare what was measured with what has to be; returns one sentence for each difference."""
    conflict, good = "RESERVATION CONFLICT", "GOOD"
    expected = [
        ("the takeover's result", report.decision, "taken_over"),
        ("the reservation before", type_text(before.reservation_type), "Write Exclusive"),
        ("the reservation after", type_text(after.reservation_type), "Write Exclusive"),
        ("the holder before", before.holder, "host-a"),
        ("the holder after", after.holder, "host-b"),
        *(
            (f"a write of {name} before", before.write_status(name), want)
            for name, want in zip(PORTS, (good, conflict, conflict), strict=True)
        ),
        *(
            (f"a write of {name} after", after.write_status(name), want)
            for name, want in zip(PORTS, (conflict, good, conflict), strict=True)
        ),
        ("the key of host-a after", next(row.key for row in after.rows if row.initiator == "host-a"), None),
        ("PREEMPT sent by host-b", ("host-b", "PREEMPT") in commands, True),
        ("writes before the move", writes_before > 0, True),
        ("writes after the move", guest.writes > writes_before, True),
        ("data verified", verified > 0, True),
    ]
    told = [f"{what} is {got}, expected {want}" for what, got, want in expected if got != want]
    return told + [f"guest: {error}" for error in guest.errors[:10]]


def show(document: DemoDocument, console: Console) -> None:
    """Print the outcome for people."""
    from rich.table import Table

    for title, rows in (
        ("Before: the guest runs on host-a", document.before),
        ("After: the guest runs on host-b", document.after),
    ):
        table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
        for column in ("initiator", "registered key", "holds", "a write ends with"):
            table.add_column(column)
        for row in rows:
            holds = document.reservation_type if row.holder else "-"
            style = "green" if row.write_status == "GOOD" else "red"
            table.add_row(row.initiator, row.key or "-", holds, f"[{style}]{row.write_status}[/]")
        console.print(table)
    steps = zip(document.commands_sent_by, document.commands_sent_to_take_over, strict=True)
    console.print(
        f"Taken over by procedure {document.procedure}: {', '.join(f'{host} {action}' for host, action in steps)}"
    )
    console.print(
        f"The guest wrote {document.guest_writes} times, {document.guest_writes_after_handover} of them on host-b, "
        f"with {document.guest_write_errors} errors; {document.guest_bytes_verified} bytes read back as written."
    )
    console.print(
        f"It stood still for {document.handover_ms:.1f} ms; the whole demo took {document.elapsed_ms / 1000:.1f} s."
    )


def status_name(result: Result) -> str:
    """Return how a command ended, in the standard's words."""
    if result.host_status:
        return f"host status {result.host_status:02X}h"
    try:
        name = Status(result.status).name.replace("_", " ")
    except ValueError:
        name = f"status {result.status:02X}h"
    sense = result.decoded_sense
    return name if sense is None else f"{name} ({sense})"


def _host(name: str, shared: EmulatedUnit, scratch: Path, sent: list[tuple[str, str]]) -> Host:
    """Wire one host whose guest uses the shared unit through the host's own initiator port."""
    config = parse(
        f'[daemon]\nhost_name = "{name}"\nruntime_dir = "{scratch}/{name}"\nstate_dir = "{scratch}/{name}/state"\n'
        f'[[guest]]\nname = "{GUEST}"\n[[guest.unit]]\nlun = 0\nemulated = {{ size = {UNIT_SIZE} }}\n',
        "demo",
    )

    def open_shared(_config: Config, _guest: GuestSection, _section: UnitSection) -> Backing:
        wire = Wire(name, shared.nexus(PORTS[name]), sent)
        return Backing(wire, PORTS[name], 1, wire.close)

    return Host(config, open_backing=open_shared)


def _past_power_on(device: GuestUnit | Device) -> None:
    """Receive the unit attention POWER ON OCCURRED, as an operating system does when it finds a disk."""
    while (sense := device.execute(Command(bytes(6))).decoded_sense) is not None and sense.is_unit_attention:
        continue


def _pr_out(unit: GuestUnit, action: PrOutAction, parameters: ParameterList, kind: int = 0) -> None:
    data = parameters.encode()
    result = unit.execute(Command(PrOut(action, type=kind, parameter_list_length=len(data)).encode(), data_out=data))
    if not result.good:
        raise OperationError(f"demo: {action.name} of the guest ended with {status_name(result)}", "demo")


def _write(slot: int) -> bytes:
    return bytes([0x8A, 0]) + (slot * BLOCKS_PER_WRITE).to_bytes(8) + BLOCKS_PER_WRITE.to_bytes(4) + bytes(2)


def _read(slot: int) -> bytes:
    return bytes([0x88, 0]) + (slot * BLOCKS_PER_WRITE).to_bytes(8) + BLOCKS_PER_WRITE.to_bytes(4) + bytes(2)
