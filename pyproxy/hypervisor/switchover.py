"""A migration of QEMU's that goes on only when the guest's claims are at the destination: the veto."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from pyproxy.hypervisor.qmp import Qemu


class Ending(StrEnum):
    """How QEMU's migration ended."""

    MIGRATED = "migrated"
    """The guest is the destination's."""
    CANCELLED = "cancelled"
    """It was called off, and the guest goes on here: its claims were not at the destination."""
    FAILED = "failed"
    """QEMU's migration failed by itself; the guest goes on here."""


class Handover(Protocol):
    """What pyproxy does meanwhile."""

    async def claims_arrive(self) -> bool:
        """Wait, the guest being stopped, until the destination has its claims; False where it has not in time."""


async def switch(qemu: Qemu, handover: Handover, uri: str | None) -> Ending:
    """See a migration through that is to pause before it switches over; raises QemuError.

    ``uri`` None: somebody else begins it.
    """
    await qemu.pause_before_switchover()
    if uri is not None:
        await qemu.migrate(uri)
        status = await qemu.until("pre-switchover", "completed", "failed", "cancelled")
    else:
        await qemu.until("setup", "active", "device", "pre-switchover")
        status = await qemu.until("pre-switchover", "completed", "failed", "cancelled")
    if status == "pre-switchover":
        if not await handover.claims_arrive():
            await qemu.cancel()
            await qemu.until("cancelled", "failed")
            return Ending.CANCELLED
        await qemu.switch_over()
        status = await qemu.until("completed", "failed", "cancelled")
    return {"completed": Ending.MIGRATED, "cancelled": Ending.CANCELLED}.get(status, Ending.FAILED)
