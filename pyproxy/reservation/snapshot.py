"""One consistent view of a logical unit's registrations and reservation, read through one I_T nexus.

Sans-IO: ``read_snapshot`` yields commands and is sent results; ``drive`` connects it to something that executes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, TypeAlias, TypeVar

from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.constants import PrInAction, PrType, SenseKey, Status
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.pr_cdb import PrIn
from pyproxy.scsi.pr_in import FullStatus, ReadKeys, ReadReservation, RegistrationDescriptor, ReportCapabilities
from pyproxy.scsi.sense import Sense

MAXIMUM_ROUNDS: Final = 3
MAXIMUM_UNIT_ATTENTIONS: Final = 10
FIRST_ALLOCATION: Final = 8192
LARGEST_ALLOCATION: Final = 0xFFFF
READ_TIMEOUT_MS: Final = 10_000

_RESERVATION_ALLOCATION: Final = 24
_CAPABILITIES_ALLOCATION: Final = 8

T = TypeVar("T")
Conversation: TypeAlias = Generator[Command, Result, T]
Execute: TypeAlias = Callable[[Command], Result]


class SnapshotFailure(StrEnum):
    """Why a snapshot could not be had."""

    CONFLICT = "reservation-conflict"
    CHANGING = "registrations-keep-changing"
    UNIT_ATTENTIONS = "too-many-unit-attentions"
    TOO_MANY_KEYS = "too-many-registrations"
    MALFORMED = "malformed-reply"
    REFUSED = "refused-by-device"
    TRANSPORT = "transport-failed"
    NOT_READY = "device-not-ready"
    INFORMATION_LOST = "reservation-information-lost"


class SnapshotError(Exception):
    """The registrations could not be read; the message says what the device answered and what to do.

    ``reason`` names the failure. ``unit_attentions`` are those the reads received before it: they were the
    guest's and must not be lost.
    """

    def __init__(self, reason: SnapshotFailure, message: str, unit_attentions: tuple[Sense, ...] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.unit_attentions = unit_attentions


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Registrations and reservation of a logical unit, all replies with the same PRGENERATION.

    ``generation`` is PRGENERATION. ``keys`` has one 64-bit key per registered I_T nexus. ``reservation_key`` is
    as READ RESERVATION gives it (0 for all-registrants types on most targets), ``reservation_type`` None when
    nothing is reserved. ``full`` has READ FULL STATUS, or None where the device lacks it or does not list all
    registrations. ``ptpl_active`` is PTPL_A of REPORT CAPABILITIES, None when not known. ``unit_attentions`` (and
    deferred errors) are what the reads received in between.
    """

    generation: int
    keys: tuple[int, ...]
    reservation_key: int = 0
    reservation_type: PrType | int | None = None
    full: tuple[RegistrationDescriptor, ...] | None = None
    ptpl_active: bool | None = None
    unit_attentions: tuple[Sense, ...] = ()

    @property
    def all_registrants(self) -> bool:
        """Whether the reservation is of an all-registrants type (decided by type, never by key)."""
        return isinstance(self.reservation_type, PrType) and self.reservation_type.all_registrants


def drive(conversation: Conversation[T], execute: Execute) -> T:
    """Run a sans-IO conversation against ``execute`` and return what it ends with.

    What ``execute`` raises is raised inside the conversation, which may turn it into an error of its own.
    """
    try:
        command = next(conversation)
        while True:
            try:
                result = execute(command)
            except OSError as error:
                command = conversation.throw(error)
            else:
                command = conversation.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        conversation.close()


def read_snapshot(full_status: bool = True, capabilities: bool = True) -> Conversation[Snapshot]:
    """Read keys, reservation and, where the device has it, full status until all are from one moment.

    At most 3 rounds; unit attentions are retried (at most 10) and collected. ``full_status`` and ``capabilities`` False
    leave out READ FULL STATUS and REPORT CAPABILITIES. Raises SnapshotError.
    """
    reader = _Reader()
    ptpl_active = (yield from reader.persistence()) if capabilities else None
    for last in (False,) * (MAXIMUM_ROUNDS - 1) + (True,):
        keys = yield from reader.keys()
        reservation = yield from reader.reservation()
        full = (yield from reader.full_status()) if full_status else None
        generations = {reply.generation for reply in (keys, reservation, full) if reply is not None}
        if len(generations) > 1:
            continue
        descriptors = full.descriptors if full is not None else None
        if descriptors is not None and not _agree(keys, reservation, descriptors):
            # RESERVE and RELEASE do not count in PRGENERATION (SPC-4 5.13), some targets do not count a removed
            # registration either: read again. A difference that stays is the target's way, so full status is not used.
            if not last:
                continue
            descriptors = None
        return Snapshot(
            generation=keys.generation,
            keys=keys.keys,
            reservation_key=reservation.key,
            reservation_type=reservation.type,
            full=descriptors,
            ptpl_active=ptpl_active,
            unit_attentions=reader.attentions,
        )
    raise SnapshotError(
        SnapshotFailure.CHANGING,
        f"PRGENERATION changed during each of {MAXIMUM_ROUNDS} rounds of reading the registrations; another initiator "
        "is changing them: try again when it is done",
        reader.attentions,
    )


def past_attentions(command: Command, name: str, attentions: list[Sense]) -> Conversation[Result]:
    """Send a command until its answer is no unit attention; those are added to ``attentions``. Raises SnapshotError.

    ``name`` is how errors call the command.
    """
    while True:
        try:
            result = yield command
        except OSError as error:
            raise SnapshotError(
                SnapshotFailure.TRANSPORT, f"{name} could not be sent to the device: {error}", tuple(attentions)
            ) from error
        sense = result.decoded_sense
        if sense is None or not (sense.is_unit_attention or sense.deferred):
            return result
        attentions.append(sense)
        if len(attentions) >= MAXIMUM_UNIT_ATTENTIONS:
            raise SnapshotError(
                SnapshotFailure.UNIT_ATTENTIONS,
                f"{name} was answered with {len(attentions)} unit attentions, the last is {sense}; the device keeps "
                "resetting: check it and its path",
                tuple(attentions),
            )


def read_reservation() -> Conversation[tuple[ReadReservation, tuple[Sense, ...]]]:
    """READ RESERVATION alone, with the unit attentions it received. Raises SnapshotError."""
    reader = _Reader()
    reservation = yield from reader.reservation()
    return reservation, reader.attentions


def _agree(keys: ReadKeys, reservation: ReadReservation, full: tuple[RegistrationDescriptor, ...]) -> bool:
    """Whether READ FULL STATUS lists the same registrations and the same holder as the other two replies."""
    listed = [descriptor.key for descriptor in full]
    if any(descriptor.all_tg_pt for descriptor in full):
        # One descriptor may stand for the nexuses through every target port.
        if set(listed) != set(keys.keys):
            return False
    elif Counter(listed) != Counter(keys.keys):
        return False
    holders = [descriptor for descriptor in full if descriptor.holder]
    if reservation.type is None:
        return not holders
    return bool(holders) and all(descriptor.type == reservation.type for descriptor in holders)


class _Reader:
    """The PERSISTENT RESERVE IN commands of one snapshot, with the unit attentions they receive."""

    def __init__(self) -> None:
        self._attentions: list[Sense] = []

    @property
    def attentions(self) -> tuple[Sense, ...]:
        return tuple(self._attentions)

    def keys(self) -> Conversation[ReadKeys]:
        allocation = FIRST_ALLOCATION
        while True:
            result = yield from self._read(PrInAction.READ_KEYS, allocation)
            reply = self._decode(ReadKeys.decode, result, PrInAction.READ_KEYS)
            # Some targets announce a length cut to the allocation, so a list that fills it is not taken as whole.
            if reply.complete and reply.allocation_length + 8 <= allocation:
                return reply
            if allocation == LARGEST_ALLOCATION:
                raise self._error(
                    SnapshotFailure.TOO_MANY_KEYS,
                    f"READ KEYS announces {reply.additional_length} bytes of keys and returned {len(reply.keys)} keys; "
                    "remove stale registrations, more than 8189 cannot be read",
                )
            allocation = min(max(reply.allocation_length + 16, 2 * allocation), LARGEST_ALLOCATION)

    def reservation(self) -> Conversation[ReadReservation]:
        result = yield from self._read(PrInAction.READ_RESERVATION, _RESERVATION_ALLOCATION)
        return self._decode(ReadReservation.decode, result, PrInAction.READ_RESERVATION)

    def full_status(self) -> Conversation[FullStatus | None]:
        allocation = FIRST_ALLOCATION
        while True:
            result = yield from self._read_optional(PrInAction.READ_FULL_STATUS, allocation)
            if result is None:
                return None
            try:
                reply = FullStatus.decode(result.data)
            except DecodeError:
                return None
            # A descriptor that would exactly fill the buffer is left out by SCST: always ask for more than announced.
            if reply.complete and reply.allocation_length < allocation:
                return reply
            if allocation == LARGEST_ALLOCATION:
                return None
            if reply.allocation_length < allocation // 2:
                return None  # announced as whole, but a descriptor inside reaches past the end
            allocation = min(max(reply.allocation_length + 16, 2 * allocation), LARGEST_ALLOCATION)

    def persistence(self) -> Conversation[bool | None]:
        result = yield from self._read_optional(PrInAction.REPORT_CAPABILITIES, _CAPABILITIES_ALLOCATION)
        if result is None or len(result.data) < 4:
            return None
        try:
            return ReportCapabilities.decode(result.data).ptpl_a
        except DecodeError:
            return None

    def _read(self, action: PrInAction, allocation: int) -> Conversation[Result]:
        result = yield from self._ask(action, allocation)
        if result.good:
            return result
        raise self._refusal(action, result)

    def _read_optional(self, action: PrInAction, allocation: int) -> Conversation[Result | None]:
        """As ``_read``, but None where the device does not implement the service action."""
        result = yield from self._ask(action, allocation)
        if result.good:
            return result
        sense = result.decoded_sense
        if sense is not None and sense.key == SenseKey.ILLEGAL_REQUEST:
            return None
        raise self._refusal(action, result)

    def _ask(self, action: PrInAction, allocation: int) -> Conversation[Result]:
        """Issue one command until it is answered by something other than a unit attention or a deferred error."""
        command = Command(PrIn(action, allocation).encode(), data_in=allocation, timeout_ms=READ_TIMEOUT_MS)
        while True:
            try:
                result = yield command
            except OSError as error:
                raise self._error(
                    SnapshotFailure.TRANSPORT, f"{_name(action)} could not be sent to the device: {error}"
                ) from error
            sense = result.decoded_sense
            if sense is None or not (sense.is_unit_attention or sense.deferred):
                return result
            self._attentions.append(sense)
            if len(self._attentions) >= MAXIMUM_UNIT_ATTENTIONS:
                raise self._error(
                    SnapshotFailure.UNIT_ATTENTIONS,
                    f"{_name(action)} was answered with {len(self._attentions)} unit attentions in a row, the last is "
                    f"{sense}; the device keeps resetting: check it and its path",
                )

    def _decode(self, decode: Callable[[bytes], T], result: Result, action: PrInAction) -> T:
        try:
            return decode(result.data)
        except DecodeError as error:
            raise self._error(
                SnapshotFailure.MALFORMED, f"the device's answer to {_name(action)} cannot be read: {error}"
            ) from error

    def _refusal(self, action: PrInAction, result: Result) -> SnapshotError:
        name = _name(action)
        if result.host_status:
            return self._error(
                SnapshotFailure.TRANSPORT,
                f"{name} failed on the way (host status {result.host_status:#x}); check the path to the device",
            )
        if result.conflict:
            return self._error(
                SnapshotFailure.CONFLICT,
                f"{name} got RESERVATION CONFLICT: an initiator holds the unit with an SPC-2 RESERVE; "
                "try again when it is released",
            )
        sense = result.decoded_sense
        if sense is None:
            return self._error(
                SnapshotFailure.NOT_READY, f"{name} ended with status {_status(result.status)}; try again"
            )
        if sense.code == (0x7, 0x44, 0x01):
            return self._error(
                SnapshotFailure.INFORMATION_LOST,
                f"{name} ended with {sense}: the device lost its reservation data; follow the device's procedure",
            )
        if sense.key == SenseKey.ILLEGAL_REQUEST:
            return self._error(
                SnapshotFailure.REFUSED, f"{name} ended with {sense}: the device has no persistent reservations"
            )
        return self._error(SnapshotFailure.NOT_READY, f"{name} ended with {sense}; try again")

    def _error(self, reason: SnapshotFailure, message: str) -> SnapshotError:
        return SnapshotError(reason, message, self.attentions)


def _name(action: PrInAction) -> str:
    return action.name.replace("_", " ")


def _status(status: int) -> str:
    known = next((value.name.replace("_", " ") for value in Status if value == status), None)
    return f"{status:02X}h" if known is None else f"{status:02X}h {known}"
