"""What a takeover is told before it starts: the checkpoint's claim and the two I_T nexuses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyproxy.reservation.classify import Claim, Source
from pyproxy.scsi.constants import PrType
from pyproxy.scsi.pr_in import RegistrationDescriptor
from pyproxy.scsi.transport_id import TransportId

UNSAFE_VENDORS: Final = frozenset({"IET"})
"""Whose targets go on using a registration that a PREEMPT under an all-registrants reservation has freed (tgt)."""


@dataclass(frozen=True, slots=True)
class Nexus:
    """How READ FULL STATUS names an I_T nexus; ``rtpi`` (relative target port identifier) None where not known."""

    transport_id: TransportId
    rtpi: int | None = None

    def names(self, descriptor: RegistrationDescriptor) -> bool:
        """Whether a registration is this nexus's; RTPI does not count where it is undefined (ALL_TG_PT)."""
        return descriptor.transport_id == self.transport_id and (
            self.rtpi is None or descriptor.all_tg_pt or descriptor.rtpi == self.rtpi
        )


@dataclass(frozen=True, slots=True)
class Facts:
    """One guest's claim on one logical unit as the checkpoint has it, and what is known about the two nexuses.

    ``key`` is the guest's registered key, not 0; ``type`` the type of the reservation it held, or None.
    ``generation``, ``keys``, ``reservation_key`` and ``reservation_type`` are what the device showed at the
    checkpoint. ``aptpl`` is the tracked value, None when never seen. ``same_device``: source and destination are
    known to be one nexus. ``vendor`` is the T10 vendor identification of the target. ``fence_ruled_out`` is the
    operator's statement that no node fenced the guest while an earlier run was interrupted.
    """

    guest: str
    unit: str
    key: int
    type: PrType | None
    generation: int
    keys: tuple[int, ...]
    reservation_key: int
    reservation_type: PrType | int | None
    aptpl: bool | None
    source: Source
    source_nexus: Nexus | None = None
    destination_nexus: Nexus | None = None
    same_device: bool = False
    vendor: str = ""
    fence_ruled_out: bool = False

    @property
    def claim(self) -> Claim:
        """What the guest was entitled to at the checkpoint."""
        if self.type is None:
            return Claim.REGISTERED
        return Claim.ALL_REGISTRANTS if self.type.all_registrants else Claim.HELD

    @property
    def unsafe_target(self) -> bool:
        """Whether PREEMPT under an all-registrants reservation leaves this target with a dangling holder (tgt)."""
        return self.vendor.strip() in UNSAFE_VENDORS


def describe_reservation(key: int, kind: PrType | int | None) -> str:
    """Say a reservation in words: ``WRITE EXCLUSIVE under key 0x...`` or ``none``."""
    if kind is None:
        return "none"
    name = kind.name.replace("_", " ") if isinstance(kind, PrType) else f"of unknown type {int(kind):#x}"
    return name if isinstance(kind, PrType) and kind.all_registrants else f"{name} under key {key:#018x}"


def describe_keys(keys: Iterable[int]) -> str:
    """Say registered keys in words, each with how often it is there when more than once."""
    listed = list(keys)
    parts = [f"{key:#018x}" + (f" ({listed.count(key)} times)" if listed.count(key) > 1 else "") for key in listed]
    return ", ".join(dict.fromkeys(parts)) or "none"
