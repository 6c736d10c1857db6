"""What every back end is to the rest of pyproxy: something that executes SCSI commands for one I_T nexus."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol, TypeAlias, runtime_checkable

from pyproxy.scsi.command import DEFAULT_TIMEOUT_MS, Command, Result
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.sense import Sense

INQUIRY: Final = 0x12
DEVICE_IDENTIFICATION_PAGE: Final = 0x83

MAX_UNIT_ATTENTIONS: Final = 16
"""Unit attentions in a row after which a device counts as broken: more than any standard lets it queue for a nexus."""

_FIRST_ALLOCATION = 252
"""Some devices misread an INQUIRY allocation length above one byte; hardly any page is longer."""


class TransportError(OSError):
    """The command could not be handed to the device or its fate is unknown.

    ``errno`` is the operating system's, ``fate_unknown`` tells whether the device may have executed it. When it ends a
    batch, ``outcomes`` holds each command's own result or error in order, and ``fate_unknown`` is about the batch.
    """

    def __init__(
        self,
        number: int,
        message: str,
        *,
        fate_unknown: bool = False,
        outcomes: tuple[Result | TransportError, ...] = (),
    ) -> None:
        super().__init__(number, message)
        self.fate_unknown = fate_unknown
        self.outcomes = outcomes

    def __str__(self) -> str:
        """Return the message alone: it names the device and says in words what the number means."""
        return self.strerror or super().__str__()


def results_of(outcomes: Sequence[Result | TransportError]) -> list[Result]:
    """Return the results of a batch; where a command has none, raises one TransportError with every outcome."""
    results = [outcome for outcome in outcomes if isinstance(outcome, Result)]
    if len(results) == len(outcomes):
        return results
    errors = [outcome for outcome in outcomes if isinstance(outcome, TransportError)]
    raise TransportError(
        errors[0].errno or errno.EIO,
        f"{errors[0].strerror} ({len(errors)} of {len(outcomes)} commands of the batch failed to be executed)",
        fate_unknown=any(error.fate_unknown for error in errors),
        outcomes=tuple(outcomes),
    )


class UnexpectedReplyError(Exception):
    """The device answered what it must not, or not what is needed; the message names device, command and answer."""


class Device(Protocol):
    """One logical unit as one I_T nexus sees it. Methods may be called from any thread."""

    @property
    def name(self) -> str:
        """How an operator knows it: a node's path, or ``emulated:NAME``."""

    def execute(self, command: Command) -> Result:
        """Run one command to its end; raises TransportError where no result can be had."""

    def execute_batch(self, commands: Sequence[Command]) -> list[Result]:
        """Run commands submitted together; results in the same order. Raises TransportError as above."""

    def close(self) -> None:
        """Release the device; safe to repeat."""


LaneEvent: TypeAlias = tuple[int, int, int, int]
"""(number of the command in its batch, EVENT_* of ``_fastpath.lanes``, ASC, ASCQ)."""


class LaneOutcome(NamedTuple):
    """What became of a batch that went through the lanes of the fast path.

    ``outcomes`` is, in the order of the batch, each command's result or error; None for a PERSISTENT RESERVE IN or
    OUT, which was not executed. ``events`` is what the others say about reservations, in that order too but for
    EVENT_OVERFLOW, which comes first.
    """

    outcomes: list[Result | TransportError | None]
    events: list[LaneEvent]


@runtime_checkable
class LaneDevice(Device, Protocol):
    """A device whose fast path sorts batches into lanes and looks at what comes back without the GIL."""

    def execute_lanes(self, commands: Sequence[Command]) -> LaneOutcome:
        """Run commands submitted together but for those of the PR lane.

        Raises as ``execute_batch`` does, but for a command's own TransportError, which is its outcome.
        """


def execute_past_attentions(
    device: Device, command: Command, on_unit_attention: Callable[[Sense], None] | None = None
) -> Result:
    """Execute a command that is harmless to repeat until no unit attention answers it.

    Each unit attention eaten goes to ``on_unit_attention``: it may be a guest's. Raises UnexpectedReplyError after
    MAX_UNIT_ATTENTIONS of them, TransportError as ``execute``.
    """
    for _ in range(MAX_UNIT_ATTENTIONS):
        result = device.execute(command)
        sense = result.decoded_sense
        if sense is None or not sense.is_unit_attention:
            return result
        if on_unit_attention is not None:
            on_unit_attention(sense)
    raise UnexpectedReplyError(
        f"{device.name}: answered command {command.cdb[0]:02X}h with {MAX_UNIT_ATTENTIONS} unit attentions in a row, "
        f"the last {sense}; the device or its path keeps resetting"
    )


def describe_failure(result: Result) -> str:
    """Say in words why a result is not GOOD."""
    if result.host_status != 0:
        return f"the transport failed with host status {result.host_status:02X}h"
    sense = result.decoded_sense
    return f"status {result.status:02X}h" + (f", sense {sense}" if sense is not None else "")


def read_vpd_page(
    device: Device,
    page: int,
    on_unit_attention: Callable[[Sense], None] | None = None,
    *,
    timeout_ms: int = DEFAULT_TIMEOUT_MS,
) -> bytes:
    """Read a whole vital product data page (SPC-4 6.4, 7.8), however long.

    Raises UnexpectedReplyError where the device has no such page or cuts it, TransportError as ``execute``.
    """
    allocation = _FIRST_ALLOCATION
    while True:
        cdb = bytes([INQUIRY, 0x01, page, allocation >> 8, allocation & 0xFF, 0])
        result = execute_past_attentions(
            device, Command(cdb, data_in=allocation, timeout_ms=timeout_ms), on_unit_attention
        )
        if not result.good:
            raise UnexpectedReplyError(
                f"{device.name}: INQUIRY for VPD page {page:02X}h ended with {describe_failure(result)}"
            )
        data = result.data
        if len(data) < 4 or data[1] != page:
            raise UnexpectedReplyError(
                f"{device.name}: INQUIRY for VPD page {page:02X}h returned {data[:4].hex() or 'nothing'}, not that page"
            )
        size = 4 + int.from_bytes(data[2:4])
        if size <= len(data):
            return data[:size]
        if size <= allocation or size > 0xFFFF:
            raise UnexpectedReplyError(
                f"{device.name}: VPD page {page:02X}h announces {size} bytes but only {len(data)} arrived"
            )
        allocation = size


def read_identity(
    device: Device,
    on_unit_attention: Callable[[Sense], None] | None = None,
    *,
    timeout_ms: int = DEFAULT_TIMEOUT_MS,
) -> LogicalUnitIdentity:
    """Tell which logical unit this is by its VPD page 83h (SPC-4 7.8.6), whatever path leads to it.

    Each unit attention eaten on the way goes to ``on_unit_attention``. Raises UnexpectedReplyError where the device has
    no readable page 83h, TransportError as ``execute``.
    """
    page = read_vpd_page(device, DEVICE_IDENTIFICATION_PAGE, on_unit_attention, timeout_ms=timeout_ms)
    try:
        return LogicalUnitIdentity.from_vpd83(page)
    except DecodeError as error:
        raise UnexpectedReplyError(f"{device.name}: {error}") from error
