"""Which logical unit and which kind of target a device node leads to, read without changing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pyproxy.reservation.executor import Port
from pyproxy.scsi.command import Command, Result
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.identity import LogicalUnitIdentity
from pyproxy.scsi.inquiry import StandardInquiry
from pyproxy.scsi.vpd import DEVICE_IDENTIFICATION

_INQUIRY: Final = 0x12
_STANDARD_ALLOCATION: Final = 96
_FIRST_ALLOCATION: Final = 1024
_LARGEST_ALLOCATION: Final = 0xFFFF
_EVPD: Final = 0x01
_TIMEOUT_MS: Final = 10_000
_RETRIES: Final = 10


class UnitError(Exception):
    """A device could not be identified; the message names it and says what it answered."""


@dataclass(frozen=True, slots=True)
class UnitFound:
    """Identity of the logical unit, and the T10 vendor identification of the target."""

    identity: LogicalUnitIdentity
    vendor: str


def identify(port: Port) -> UnitFound:
    """Read standard INQUIRY and VPD page 83h (SPC-4 6.4, 7.8.6); raises UnitError.

    INQUIRY neither reports nor clears a unit attention (SAM-5 5.14), so nothing of the guest's is lost.
    """
    try:
        vendor = StandardInquiry.decode(_inquire(port, 0, 0, _STANDARD_ALLOCATION)).vendor
        page = _inquire(port, _EVPD, DEVICE_IDENTIFICATION, _FIRST_ALLOCATION)
        size = 4 + int.from_bytes(page[2:4]) if len(page) >= 4 else 0
        if size > len(page):
            page = _inquire(port, _EVPD, DEVICE_IDENTIFICATION, min(size, _LARGEST_ALLOCATION))
        return UnitFound(LogicalUnitIdentity.from_vpd83(page), vendor)
    except DecodeError as error:
        raise UnitError(f"{port.name}: the logical unit cannot be identified: {error}") from None


def _inquire(port: Port, evpd: int, page: int, allocation: int) -> bytes:
    cdb = bytes([_INQUIRY, evpd, page, allocation >> 8, allocation & 0xFF, 0])
    result = Result(0)
    for _ in range(_RETRIES):
        try:
            result = port.execute(Command(cdb, data_in=allocation, timeout_ms=_TIMEOUT_MS))
        except OSError as error:
            raise UnitError(f"{port.name}: INQUIRY could not be sent or answered: {error}") from None
        sense = result.decoded_sense
        if sense is None or not sense.is_unit_attention:
            break
    if not result.good:
        text = str(result.decoded_sense) if result.decoded_sense is not None else f"status {result.status:02X}h"
        if result.host_status:
            text = f"transport failure (host status {result.host_status:#x})"
        raise UnitError(f"{port.name}: INQUIRY ended with {text}; the logical unit cannot be identified")
    return result.data
