"""Commands by which the unit introduces itself: INQUIRY, READ CAPACITY, REPORT LUNS."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from pyproxy.device.emulated.block import MAX_COMPARE_AND_WRITE_BLOCKS, MAX_TRANSFER_BYTES
from pyproxy.device.emulated.call import Call
from pyproxy.device.emulated.outcome import check_condition
from pyproxy.device.emulated.provisioning import MAX_UNMAP_BLOCKS, MAX_UNMAP_DESCRIPTORS, MAX_WRITE_SAME_BYTES
from pyproxy.scsi.capacity import ReadCapacity10, ReadCapacity16
from pyproxy.scsi.inquiry import StandardInquiry
from pyproxy.scsi.report_luns import ReportLuns, int_to_lun
from pyproxy.scsi.sense import INVALID_FIELD_IN_CDB
from pyproxy.scsi.vpd import (
    Association,
    BlockDeviceCharacteristics,
    BlockLimits,
    CodeSet,
    Designator,
    DesignatorType,
    DeviceIdentification,
    LogicalBlockProvisioning,
    SupportedPages,
    UnitSerialNumber,
)

_SAM_5: Final = 0x00A0
_SPC_4: Final = 0x0460
_SBC_3: Final = 0x04C0
_DOES_NOT_ROTATE: Final = 1
_READS_ZERO: Final = 0b001
_THIN: Final = 2
_PAGE: Final = 4096

# NAA 6 needs a company id; 525400h is the locally administered one that virtual machines' devices use.
_COMPANY_ID: Final = 0x525400


def naa_designator(serial: str) -> bytes:
    """Return the 16-byte NAA IEEE Registered Extended designator derived from the serial number."""
    digest = int.from_bytes(hashlib.sha256(serial.encode()).digest()[:13]) & (1 << 100) - 1
    return (0x6 << 124 | _COMPANY_ID << 100 | digest).to_bytes(16)


def _supported(_call: Call) -> bytes:
    return SupportedPages(tuple(VPD_PAGES)).encode()


def _serial(call: Call) -> bytes:
    return UnitSerialNumber(call.unit.serial).encode()


def _identification(call: Call) -> bytes:
    unit = call.unit
    t10 = unit.vendor.encode().ljust(8) + unit.product.encode().ljust(16) + unit.serial.encode()
    return DeviceIdentification(
        (
            Designator(Association.LOGICAL_UNIT, DesignatorType.NAA, CodeSet.BINARY, naa_designator(unit.serial)),
            Designator(Association.LOGICAL_UNIT, DesignatorType.T10_VENDOR_ID, CodeSet.ASCII, t10),
            Designator(
                Association.TARGET_PORT,
                DesignatorType.RELATIVE_TARGET_PORT,
                CodeSet.BINARY,
                call.nexus.rtpi.to_bytes(4),
            ),
        )
    ).encode()


def _block_limits(call: Call) -> bytes:
    size = call.unit.block_size
    return BlockLimits(
        max_compare_and_write_length=MAX_COMPARE_AND_WRITE_BLOCKS,
        optimal_transfer_length_granularity=_PAGE // size,
        max_transfer_length=MAX_TRANSFER_BYTES // size,
        max_unmap_lba_count=MAX_UNMAP_BLOCKS,
        max_unmap_descriptor_count=MAX_UNMAP_DESCRIPTORS,
        optimal_unmap_granularity=_PAGE // size,
        unmap_granularity_alignment=0,
        max_write_same_length=MAX_WRITE_SAME_BYTES // size,
    ).encode()


def _characteristics(_call: Call) -> bytes:
    return BlockDeviceCharacteristics(medium_rotation_rate=_DOES_NOT_ROTATE).encode()


def _provisioning(_call: Call) -> bytes:
    return LogicalBlockProvisioning(
        lbpu=True, lbpws=True, lbpws10=True, lbprz=_READS_ZERO, provisioning_type=_THIN
    ).encode()


VPD_PAGES: Final[Mapping[int, Callable[[Call], bytes]]] = MappingProxyType(
    {
        0x00: _supported,
        0x80: _serial,
        0x83: _identification,
        0xB0: _block_limits,
        0xB1: _characteristics,
        0xB2: _provisioning,
    }
)


def inquiry(call: Call) -> None:
    """INQUIRY: standard data, or with EVPD one of the vital product data pages."""
    evpd, page = call.cdb[1] & 0x01, call.cdb[2]
    allocation_length = int.from_bytes(call.cdb[3:5])
    if call.cdb[1] & 0x02 or (page and not evpd):
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(2, in_cdb=True))
    if not evpd:
        unit = call.unit
        data = StandardInquiry(
            vendor=unit.vendor,
            product=unit.product,
            revision=unit.revision,
            version_descriptors=(_SAM_5, _SPC_4, _SBC_3),
        )
        call.reply(data.encode(), allocation_length)
        return
    build = VPD_PAGES.get(page)
    if build is None:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(2, in_cdb=True))
    call.reply(build(call), allocation_length)


def read_capacity_10(call: Call) -> None:
    """READ CAPACITY (10)."""
    if any(call.cdb[2:6]) and not call.cdb[8] & 0x01:
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(2, in_cdb=True))
    call.reply(ReadCapacity10(call.unit.blocks - 1, call.unit.block_size).encode(), 8)


def read_capacity_16(call: Call) -> None:
    """READ CAPACITY (16): thin, unmapped blocks read as zeros."""
    data = ReadCapacity16(call.unit.blocks - 1, call.unit.block_size, lbpme=True, lbprz=True)
    call.reply(data.encode(), int.from_bytes(call.cdb[10:14]))


def report_luns(call: Call) -> None:
    """REPORT LUNS: this logical unit is LUN 0 and there are no well known ones."""
    select, allocation_length = call.cdb[2], int.from_bytes(call.cdb[6:10])
    if select > 0x02 or allocation_length < 16:
        field = 2 if select > 0x02 else 6
        raise check_condition(INVALID_FIELD_IN_CDB.with_field_pointer(field, in_cdb=True))
    luns = () if select == 0x01 else (int_to_lun(0),)
    call.reply(ReportLuns(luns).encode(), allocation_length)
