"""Executes a guest's requests: which logical unit a descriptor is, whether it is the guest's, and through its snooper.

The command runs on the descriptor that came with it. The unit is told by its own VPD page 83h, so that /dev/sda and
/dev/sg0 of one logical unit are one; a name is remembered as long as the kernel's device lives, and read again before
every command that changes something.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from pyproxy.connected import Peer
from pyproxy.device.base import Device, TransportError, UnexpectedReplyError, read_identity
from pyproxy.device.presence import Presence
from pyproxy.frontend.complaints import Complaints
from pyproxy.frontend.pr_helper.answers import reply_to_errno, reply_to_result, reply_with
from pyproxy.frontend.pr_helper.message import Reply, Request
from pyproxy.frontend.serve_gate import ServeGate
from pyproxy.reservation.events import EventKind, events_of
from pyproxy.scsi.command import DEFAULT_TIMEOUT_MS, Command, Result
from pyproxy.scsi.constants import Status
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.sense import (
    INTERNAL_TARGET_FAILURE,
    INVALID_COMMAND_OPERATION_CODE,
    LOGICAL_UNIT_BECOMING_READY,
    LOGICAL_UNIT_NOT_READY,
    LOGICAL_UNIT_NOT_SUPPORTED,
    Sense,
)
from pyproxy.unit import GuestUnit

log = logging.getLogger(__name__)

REMEMBERED_DEVICES: Final = 1024
GATE_SECONDS: Final = 10.0
"""How long a request waits for a shut gate before the guest is told to try again."""
_TARGET_CHANGED: Final = 0x3F
"""ASC of INQUIRY DATA HAS CHANGED and REPORTED LUNS DATA HAS CHANGED: a path may lead to another unit now."""


class PassedNode(Protocol):
    """What a descriptor turned out to be (``pyproxy.device.passed.PassedNode``)."""

    @property
    def device(self) -> Device:
        """Executes on that very descriptor."""

    @property
    def number(self) -> int:
        """The device number, as in ``st_rdev``."""

    @property
    def is_block(self) -> bool:
        """Whether it is a block device."""

    @property
    def address(self) -> str:
        """``H:C:T:L``."""

    def watch(self) -> int:
        """Open a file that can be read while the device is attached."""


OpenNode = Callable[[int], PassedNode]
"""Tells what a descriptor is; raises TransportError (NodeError) where it is no SCSI node."""

Resolve = Callable[[str, LogicalUnitIdentity, str], GuestUnit | None]
"""(guest, identity, H:C:T:L) -> the guest's unit, None where it is not the guest's. Called for every request that does
not pass straight, from any thread. May raise where the unit cannot be used now."""


@dataclass(frozen=True, slots=True)
class KnownDevice:
    """A device whose logical unit is known."""

    number: int
    is_block: bool
    presence: Presence
    identity: LogicalUnitIdentity


@dataclass(frozen=True, slots=True)
class Served:
    """The reply to a request, and the device and unit it was executed on where it was."""

    reply: Reply
    device: KnownDevice | None = None
    unit: GuestUnit | None = None


class _Recorder:
    """A device that remembers its last result, to answer with where an identity cannot be read."""

    def __init__(self, device: Device) -> None:
        self.name = device.name
        self.last: Result | None = None
        self._device = device

    def execute(self, command: Command) -> Result:
        self.last = None
        self.last = self._device.execute(command)
        return self.last

    def execute_batch(self, commands: object) -> list[Result]:
        raise NotImplementedError("identities are read one command after the other")

    def close(self) -> None:
        pass


class _NotServed(Exception):  # noqa: N818 -- carries an answer, not an error
    """Ends a request early with a reply."""

    def __init__(self, reply: Reply) -> None:
        super().__init__()
        self.reply = reply


class Service:
    """The requests of one guest, whatever connection they come by. Methods may be called from any thread.

    ``forgotten`` is called when a device's name must be read again, so that connections forget it too.
    """

    def __init__(
        self,
        guest: str,
        open_node: OpenNode,
        resolve: Resolve,
        complaints: Complaints,
        *,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
        forgotten: Callable[[], None] = lambda: None,
        gate: ServeGate | None = None,
        gate_seconds: float = GATE_SECONDS,
    ) -> None:
        self.guest = guest
        self.timeout_ms = timeout_ms
        self._open_node = open_node
        self._resolve = resolve
        self._complaints = complaints
        self._forgotten = forgotten
        self.gate: Final = gate if gate is not None else ServeGate()
        self._gate_seconds = gate_seconds
        self._lock = threading.Lock()
        self._devices: dict[tuple[bool, int], KnownDevice] = {}

    def execute(self, request: Request, peer: Peer) -> Served:
        """Run a request on its descriptor, which stays open; never raises. Waits a while where the gate is shut."""
        if not self.gate.enter(self._gate_seconds):
            return Served(reply_with(LOGICAL_UNIT_BECOMING_READY))
        try:
            return self._execute(request, peer)
        except _NotServed as ended:
            return Served(ended.reply)
        except Exception:
            log.exception("guest %s: a PERSISTENT RESERVE of %s failed inside pyproxy", self.guest, peer)
            return Served(reply_with(INTERNAL_TARGET_FAILURE))
        finally:
            self.gate.leave()

    def finish(self, unit: GuestUnit, cdb: bytes, result: Result, error: int) -> Reply:
        """Take note of a PERSISTENT RESERVE IN that passed straight and did not end with GOOD; returns its reply.

        ``error`` is the kernel's error number where there is no result, else 0.
        """
        if error:
            return reply_to_errno(error)
        snooper = unit.snooper
        if result.status == Status.CHECK_CONDITION:
            snooper.attentions.note_format(result.sense)
        for event in events_of(cdb, result):
            # A conflict with PERSISTENT RESERVE IN is an SPC-2 RESERVE of another nexus: no doubt on what is tracked.
            if event.kind is not EventKind.CONFLICT:
                snooper.observe(event)
        self._look_for_change(result)
        return reply_to_result(result)

    def forget(self) -> None:
        """Forget every device's identity; the next request reads it again."""
        with self._lock:
            self._devices.clear()
        self._forgotten()

    def _execute(self, request: Request, peer: Peer) -> Served:
        # The reference helper looks at the access first, whatever the descriptor is.
        if request.is_out and fcntl.fcntl(request.descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDWR:
            self._complain(peer, "access", "PERSISTENT RESERVE OUT needs a descriptor opened for reading and writing")
            raise _NotServed(reply_with(INVALID_COMMAND_OPERATION_CODE))
        try:
            node = self._open_node(request.descriptor)
        except TransportError as error:
            self._complain(peer, "node", str(error.strerror))
            raise _NotServed(reply_to_errno(error.errno)) from error
        device, eaten = self._identify(node, peer, again=request.is_out)
        unit = self._unit(node, device, peer)
        unit.snooper.received(*eaten)
        if request.is_out:
            command = Command(request.command, data_out=request.parameter_list, timeout_ms=self.timeout_ms)
        else:
            command = Command(request.command, data_in=request.length, timeout_ms=self.timeout_ms)
        try:
            result = unit.snooper.handle(command, node.device.execute)
        except TransportError as error:
            self._complain(peer, f"errno-{error.errno}", str(error.strerror))
            return Served(reply_to_errno(error.errno))
        self._look_for_change(result)
        return Served(reply_to_result(result), device, unit)

    def _identify(self, node: PassedNode, peer: Peer, *, again: bool) -> tuple[KnownDevice, tuple[Sense, ...]]:
        """Tell which logical unit a node is, and the unit attentions that were received on the way."""
        key = (node.is_block, node.number)
        with self._lock:
            known = self._devices.get(key)
        if known is not None and not again and known.presence.attached:
            return known, ()
        eaten: list[Sense] = []
        recorder = _Recorder(node.device)
        try:
            # In this order: an identity that is remembered was read while the watched device was attached.
            presence = Presence(node.watch())
            identity = read_identity(recorder, eaten.append, timeout_ms=self.timeout_ms)
        except TransportError as error:
            self._complain(peer, "identity", str(error.strerror))
            raise _NotServed(reply_to_errno(error.errno)) from error
        except UnexpectedReplyError as error:
            self._complain(peer, "identity", str(error))
            last = recorder.last
            silent = last is None or last.good
            raise _NotServed(
                reply_with(LOGICAL_UNIT_NOT_SUPPORTED) if last is None or silent else reply_to_result(last)
            ) from error
        if known is not None and known.identity == identity and known.presence.attached:
            return known, tuple(eaten)
        if known is not None:
            log.info("guest %s: %s is %s now", self.guest, node.device.name, identity.name)
            self.forget()
        found = KnownDevice(node.number, node.is_block, presence, identity)
        with self._lock:
            if len(self._devices) >= REMEMBERED_DEVICES:
                self._devices.clear()
            self._devices[key] = found
        return found, tuple(eaten)

    def _unit(self, node: PassedNode, device: KnownDevice, peer: Peer) -> GuestUnit:
        try:
            unit = self._resolve(self.guest, device.identity, node.address)
        except Exception as error:
            self._complain(peer, "unit", f"{node.device.name} cannot be served now: {error}")
            raise _NotServed(reply_with(LOGICAL_UNIT_NOT_READY)) from error
        if unit is None:
            self._complain(
                peer,
                f"unit-{device.identity.name}",
                f"{node.device.name} ({device.identity.name}, {node.address}) is no unit of this guest; "
                "add it to the guest's units in the configuration",
            )
            raise _NotServed(reply_with(LOGICAL_UNIT_NOT_SUPPORTED))
        return unit

    def _look_for_change(self, result: Result) -> None:
        sense = result.decoded_sense
        if sense is not None and sense.is_unit_attention and sense.asc == _TARGET_CHANGED:
            log.info("guest %s: the target reports %s; units are identified again", self.guest, sense)
            self.forget()

    def _complain(self, peer: Peer, what: str, sentence: str) -> None:
        self._complaints.once((peer.uid, peer.pid, what), "guest %s: %s: %s", self.guest, peer, sentence)
