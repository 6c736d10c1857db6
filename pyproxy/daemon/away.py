"""Units whose device was detached: known by who they are, found again under whatever node they come back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyproxy.daemon.failures import OperationError
from pyproxy.device.discover import DEV, nodes_of
from pyproxy.device.node import SYSFS, NodeKind
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.identity import LogicalUnitIdentity


class AwayError(OperationError):
    """The device of a unit was detached; ``problem`` is why one that says it is the unit cannot be used."""

    def __init__(self, message: str, problem: str | None = None) -> None:
        super().__init__(message, "device-away")
        self.problem = problem


@dataclass(eq=False, slots=True)
class Away:
    """A unit that is away: who it is, what it was called, since when (RFC 3339, UTC).

    ``kind`` is the kind of node that it was used by. ``others`` are the addresses of other paths to it that were there
    when it went: other I_T nexuses, on which the guest is not registered. ``leaving`` until nothing uses the old device
    any more; only then can it come back.
    """

    identity: LogicalUnitIdentity
    name: str
    since: str
    kind: NodeKind
    others: frozenset[str]
    leaving: bool = True

    def is_same(self, identity: LogicalUnitIdentity) -> bool:
        """Whether a device is the unit; without a world-wide unique name every designator has to be equal."""
        mine = self.identity
        return mine.matches(identity) or (not mine.unique and not identity.unique and mine == identity)


def attached_units(*, sysfs: Path = SYSFS) -> dict[str, list[Path]]:
    """Return the directories in sysfs of all attached devices by the names of the units they lead to.

    Their page 83h is as the kernel read it when they were attached; a device without one is left out.
    """
    found: dict[str, list[Path]] = {}
    try:
        entries = sorted((sysfs / "class" / "scsi_device").iterdir())
    except OSError:
        return found
    for entry in entries:
        device = entry / "device"
        try:
            identity = LogicalUnitIdentity.from_vpd83((device / "vpd_pg83").read_bytes())
            found.setdefault(identity.name, []).append(device.resolve(strict=True))
        except (OSError, DecodeError):
            continue
    return found


def nodes_to(away: Away, *, sysfs: Path = SYSFS, dev: Path = DEV) -> list[Path]:
    """Return the nodes by which a unit that was away may be used again; who they are is still to be asked."""
    devices = attached_units(sysfs=sysfs).get(away.identity.name, ())
    return [node for one in devices if one.name not in away.others for node in nodes_of(one, dev, away.kind)]
