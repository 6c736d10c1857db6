"""The SCSI devices this machine has: found in sysfs, asked who they are and what reservations they can hold."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from pyproxy.device.base import (
    Device,
    TransportError,
    UnexpectedReplyError,
    describe_failure,
    execute_past_attentions,
    read_identity,
)
from pyproxy.device.capacity import read_capacity
from pyproxy.device.node import SYSFS, NodeKind
from pyproxy.device.sg import SgDevice
from pyproxy.scsi.command import Command
from pyproxy.scsi.constants import PERSISTENT_RESERVE_IN, PrInAction
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.pr_in import ReportCapabilities
from pyproxy.scsi.sense import INVALID_COMMAND_OPERATION_CODE, INVALID_FIELD_IN_CDB

DEV: Final = Path("/dev")
TIMEOUT_MS: Final = 10_000
"""A device that does not answer an inquiry in this time is listed as failed; it must not hold up the others."""

_NODES: Final = {
    NodeKind.GENERIC: ("scsi_generic", ""),
    NodeKind.BLOCK: ("block", ""),
    NodeKind.BSG: ("bsg", "bsg"),
}
"""Where a device's nodes are: the directory in sysfs that has their names, and that in /dev."""

_WITH_CAPACITY = frozenset({0x00, 0x05, 0x07, 0x0E, 0x14})
"""Peripheral device types that know READ CAPACITY: disks, CD, optical, simplified, host-managed zoned."""

UNKNOWN_TYPE: Final = 0x1F
"""Peripheral device type of a device whose own is not known (SPC-4 6.4.2)."""


@dataclass(frozen=True, slots=True)
class ListedDevice:
    """One SCSI device as ``pyproxy devices`` shows it.

    ``address`` is H:C:T:L; ``type`` the peripheral device type; ``nodes`` its device nodes, the generic one first.
    ``identity`` is the logical unit's best name and ``unique`` whether that is world-wide unique; ``size`` and
    ``block_size`` are bytes; ``capabilities`` None means that it has no persistent reservations, incomplete ones that
    it has but does not report what they can do. What could not be read is None, and ``error`` says why.
    """

    address: str
    type: int
    vendor: str
    product: str
    revision: str
    nodes: tuple[str, ...]
    identity: str | None = None
    unique: bool = False
    size: int | None = None
    block_size: int | None = None
    capabilities: ReportCapabilities | None = None
    error: str | None = None


def open_for_inquiry(path: str) -> Device:
    """Open a node with as little as a few commands in a row need."""
    return SgDevice.open(path, threads=1, slots=1)


def list_devices(
    *, sysfs: Path = SYSFS, dev: Path = DEV, open_device: Callable[[str], Device] = open_for_inquiry
) -> list[ListedDevice]:
    """List every SCSI device in the order of H:C:T:L; one that fails is listed with its error."""
    try:
        entries = list((sysfs / "class" / "scsi_device").iterdir())
    except OSError:
        return []  # a kernel without SCSI has no such class
    return [_list_device(entry / "device", entry.name, dev, open_device) for entry in sorted(entries, key=_by_address)]


def _by_address(entry: Path) -> tuple[list[int], str]:
    return [int(part) for part in entry.name.split(":") if part.isdecimal()], entry.name


def _list_device(device: Path, address: str, dev: Path, open_device: Callable[[str], Device]) -> ListedDevice:
    kind = _attribute(device, "type")
    listed = ListedDevice(
        address=address,
        type=int(kind) if kind.isdecimal() else UNKNOWN_TYPE,
        vendor=_attribute(device, "vendor"),
        product=_attribute(device, "model"),
        revision=_attribute(device, "rev"),
        nodes=tuple(map(str, nodes_of(device, dev))),
    )
    state = _attribute(device, "state")
    if state not in ("", "running"):
        return replace(
            listed, error=f"{address}: is {state}, not running; find out why, then write running to its state"
        )
    if not listed.nodes:
        return replace(listed, error=f"{address}: has no device node; load the kernel module sg")
    try:
        with closing(open_device(listed.nodes[0])) as opened:
            # One after the other, so that what a device did answer is shown beside its error.
            for question in (_with_identity, _with_capacity, _with_capabilities):
                listed = question(opened, listed)
    except TransportError as error:
        return replace(listed, error=error.strerror)
    except (UnexpectedReplyError, DecodeError) as error:
        return replace(listed, error=str(error))
    return listed


def _with_identity(device: Device, listed: ListedDevice) -> ListedDevice:
    identity = read_identity(device, timeout_ms=TIMEOUT_MS)
    return replace(listed, identity=identity.name, unique=identity.unique)


def _with_capacity(device: Device, listed: ListedDevice) -> ListedDevice:
    if listed.type not in _WITH_CAPACITY:
        return listed
    capacity = read_capacity(device, timeout_ms=TIMEOUT_MS)
    return replace(listed, size=capacity.size, block_size=capacity.block_size)


def _with_capabilities(device: Device, listed: ListedDevice) -> ListedDevice:
    return replace(listed, capabilities=_read_capabilities(device))


def _read_capabilities(device: Device) -> ReportCapabilities | None:
    cdb = bytes([PERSISTENT_RESERVE_IN, PrInAction.REPORT_CAPABILITIES, *bytes(6), 8, 0])
    result = execute_past_attentions(device, Command(cdb, data_in=8, timeout_ms=TIMEOUT_MS))
    if result.good:
        return ReportCapabilities.decode(result.data)
    code = result.decoded_sense.code if result.decoded_sense is not None else None
    if code == INVALID_COMMAND_OPERATION_CODE.code:
        return None
    if code == INVALID_FIELD_IN_CDB.code:
        # Reservations from before SPC-3, which had no such report.
        return ReportCapabilities(complete=False)
    raise UnexpectedReplyError(f"{device.name}: PERSISTENT RESERVE IN ended with {describe_failure(result)}")


def nodes_of(device: Path, dev: Path, *kinds: NodeKind) -> list[Path]:
    """Find the nodes of a SCSI device, given by its directory in sysfs; without side effects, the generic one first.

    With ``kinds`` only those of these kinds.
    """
    found: list[Path] = []
    for kind, (directory, prefix) in _NODES.items():
        if kinds and kind not in kinds:
            continue
        try:
            names = sorted(entry.name for entry in (device / directory).iterdir())
        except OSError:
            continue
        found += [dev / prefix / name for name in names]
    return found


def _attribute(device: Path, name: str) -> str:
    try:
        return (device / name).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
