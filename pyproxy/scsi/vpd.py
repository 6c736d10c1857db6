"""Vital product data pages of a block device (SPC-4 7.8, SBC-4 6.6).

Replies cut by the allocation length still decode; ``complete`` then is False. Bytes behind the announced page
length are ignored. ``peripheral`` is byte 0: peripheral qualifier (bits 7-5) and device type (bits 4-0).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from pyproxy.scsi.cursor import Buffer, Cursor, bits, unsigned

SUPPORTED_PAGES: Final = 0x00
UNIT_SERIAL_NUMBER: Final = 0x80
DEVICE_IDENTIFICATION: Final = 0x83
BLOCK_LIMITS: Final = 0xB0
BLOCK_DEVICE_CHARACTERISTICS: Final = 0xB1
LOGICAL_BLOCK_PROVISIONING: Final = 0xB2

_HEADER_SIZE = 4
_DESIGNATOR_HEADER_SIZE = 4
_BLOCK_PAGE_BODY = 60


class Association(IntEnum):
    """What a designator names (SPC-4 7.8.6.1)."""

    LOGICAL_UNIT = 0
    TARGET_PORT = 1
    TARGET_DEVICE = 2


class DesignatorType(IntEnum):
    """How a designator is built (SPC-4 7.8.6.1)."""

    VENDOR_SPECIFIC = 0x0
    T10_VENDOR_ID = 0x1
    EUI_64 = 0x2
    NAA = 0x3
    RELATIVE_TARGET_PORT = 0x4
    TARGET_PORT_GROUP = 0x5
    LOGICAL_UNIT_GROUP = 0x6
    MD5_LOGICAL_UNIT = 0x7
    SCSI_NAME_STRING = 0x8
    PROTOCOL_SPECIFIC_PORT = 0x9
    UUID = 0xA


class CodeSet(IntEnum):
    """How the bytes of a designator are to be read (SPC-4 7.8.6.1)."""

    BINARY = 1
    ASCII = 2
    UTF_8 = 3


@dataclass(frozen=True, slots=True)
class SupportedPages:
    """VPD page 00h: the page codes the device has, ascending on a device that follows the standard."""

    pages: tuple[int, ...]
    peripheral: int = 0x00
    complete: bool = True

    def encode(self) -> bytes:
        """Return the page; ValueError when a page code does not fit a byte."""
        return _page(self.peripheral, SUPPORTED_PAGES, b"".join(unsigned(page, 1, "page code") for page in self.pages))

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read the page; DecodeError when its header is cut or it is another page."""
        peripheral, body, announced = _open(data, SUPPORTED_PAGES, "VPD page 00h")
        return cls(tuple(body), peripheral, len(body) == announced)


@dataclass(frozen=True, slots=True)
class UnitSerialNumber:
    """VPD page 80h: ``serial`` exactly as the device gives it, blanks included."""

    serial: str
    peripheral: int = 0x00
    complete: bool = True

    def encode(self) -> bytes:
        """Return the page; ValueError when the serial number is not ASCII or ISO 8859-1."""
        try:
            body = self.serial.encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"serial number {self.serial!r} has characters that are not ASCII") from None
        return _page(self.peripheral, UNIT_SERIAL_NUMBER, body)

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read the page; DecodeError when its header is cut or it is another page."""
        peripheral, body, announced = _open(data, UNIT_SERIAL_NUMBER, "VPD page 80h")
        return cls(body.decode("latin-1"), peripheral, len(body) == announced)


@dataclass(frozen=True, slots=True)
class Designator:
    """One designation descriptor of page 83h.

    ``association``, ``type`` and ``code_set`` are the numbers of the standard, known or not. ``protocol`` is the
    PROTOCOL IDENTIFIER, None when PIV is 0; ``piv`` follows from it.
    """

    association: int
    type: int
    code_set: int
    value: bytes
    protocol: int | None = None

    @property
    def piv(self) -> bool:
        """Whether the protocol identifier is valid."""
        return self.protocol is not None

    def encode(self) -> bytes:
        """Return 4 bytes and the value; ValueError when a field does not fit."""
        protocol = 0 if self.protocol is None else bits(self.protocol, 4, "protocol identifier")
        return bytes(
            [
                protocol << 4 | bits(self.code_set, 4, "code set"),
                0x80 * self.piv | bits(self.association, 2, "association") << 4 | bits(self.type, 4, "designator type"),
                0,
                bits(len(self.value), 8, "designator length"),
            ]
        ) + bytes(self.value)


@dataclass(frozen=True, slots=True)
class DeviceIdentification:
    """VPD page 83h: ``designators`` in the order the device gives them; one that was cut is left out."""

    designators: tuple[Designator, ...]
    peripheral: int = 0x00
    complete: bool = True

    def encode(self) -> bytes:
        """Return the page; ValueError when a field does not fit."""
        body = b"".join(designator.encode() for designator in self.designators)
        return _page(self.peripheral, DEVICE_IDENTIFICATION, body)

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read the page; DecodeError when its header is cut or it is another page."""
        peripheral, body, announced = _open(data, DEVICE_IDENTIFICATION, "VPD page 83h")
        cursor = Cursor(body, "VPD page 83h", base=_HEADER_SIZE)
        designators: list[Designator] = []
        complete = len(body) == announced
        while cursor.remaining:
            if cursor.remaining < _DESIGNATOR_HEADER_SIZE:
                complete = False
                break
            protocol_code_set, kinds, _, size = cursor.take(_DESIGNATOR_HEADER_SIZE, "designator header")
            if size > cursor.remaining:
                complete = False
                break
            designators.append(
                Designator(
                    association=kinds >> 4 & 0x03,
                    type=kinds & 0x0F,
                    code_set=protocol_code_set & 0x0F,
                    value=cursor.take(size, "designator"),
                    protocol=protocol_code_set >> 4 if kinds & 0x80 else None,
                )
            )
        return cls(tuple(designators), peripheral, complete)


@dataclass(frozen=True, slots=True)
class BlockLimits:
    """VPD page B0h (SBC-4 6.6.4); lengths in blocks, 0 means not reported.

    ``unmap_granularity_alignment`` is None when UGAVALID is 0. A page shorter than 64 bytes, as older devices send,
    leaves the later fields 0.
    """

    wsnz: bool = False
    max_compare_and_write_length: int = 0
    optimal_transfer_length_granularity: int = 0
    max_transfer_length: int = 0
    optimal_transfer_length: int = 0
    max_prefetch_length: int = 0
    max_unmap_lba_count: int = 0
    max_unmap_descriptor_count: int = 0
    optimal_unmap_granularity: int = 0
    unmap_granularity_alignment: int | None = None
    max_write_same_length: int = 0
    max_atomic_transfer_length: int = 0
    atomic_alignment: int = 0
    atomic_transfer_length_granularity: int = 0
    max_atomic_transfer_length_with_boundary: int = 0
    max_atomic_boundary_size: int = 0
    peripheral: int = 0x00
    complete: bool = True

    def encode(self) -> bytes:
        """Return the 64 bytes of the page; ValueError when a field does not fit."""
        alignment = 0
        if self.unmap_granularity_alignment is not None:
            alignment = 0x80000000 | bits(self.unmap_granularity_alignment, 31, "unmap granularity alignment")
        body = (
            bytes([self.wsnz])
            + unsigned(self.max_compare_and_write_length, 1, "maximum compare and write length")
            + unsigned(self.optimal_transfer_length_granularity, 2, "optimal transfer length granularity")
            + unsigned(self.max_transfer_length, 4, "maximum transfer length")
            + unsigned(self.optimal_transfer_length, 4, "optimal transfer length")
            + unsigned(self.max_prefetch_length, 4, "maximum prefetch length")
            + unsigned(self.max_unmap_lba_count, 4, "maximum unmap LBA count")
            + unsigned(self.max_unmap_descriptor_count, 4, "maximum unmap block descriptor count")
            + unsigned(self.optimal_unmap_granularity, 4, "optimal unmap granularity")
            + unsigned(alignment, 4, "unmap granularity alignment")
            + unsigned(self.max_write_same_length, 8, "maximum write same length")
            + unsigned(self.max_atomic_transfer_length, 4, "maximum atomic transfer length")
            + unsigned(self.atomic_alignment, 4, "atomic alignment")
            + unsigned(self.atomic_transfer_length_granularity, 4, "atomic transfer length granularity")
            + unsigned(self.max_atomic_transfer_length_with_boundary, 4, "maximum atomic transfer length with boundary")
            + unsigned(self.max_atomic_boundary_size, 4, "maximum atomic boundary size")
        )
        return _page(self.peripheral, BLOCK_LIMITS, body)

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read the page; DecodeError when its header is cut or it is another page."""
        peripheral, body, announced = _open(data, BLOCK_LIMITS, "VPD page B0h")
        cursor = _padded(body, "VPD page B0h")
        return cls(
            wsnz=bool(cursor.u8("WSNZ") & 0x01),
            max_compare_and_write_length=cursor.u8("maximum compare and write length"),
            optimal_transfer_length_granularity=cursor.u16("optimal transfer length granularity"),
            max_transfer_length=cursor.u32("maximum transfer length"),
            optimal_transfer_length=cursor.u32("optimal transfer length"),
            max_prefetch_length=cursor.u32("maximum prefetch length"),
            max_unmap_lba_count=cursor.u32("maximum unmap LBA count"),
            max_unmap_descriptor_count=cursor.u32("maximum unmap block descriptor count"),
            optimal_unmap_granularity=cursor.u32("optimal unmap granularity"),
            unmap_granularity_alignment=_alignment(cursor.u32("unmap granularity alignment")),
            max_write_same_length=cursor.u64("maximum write same length"),
            max_atomic_transfer_length=cursor.u32("maximum atomic transfer length"),
            atomic_alignment=cursor.u32("atomic alignment"),
            atomic_transfer_length_granularity=cursor.u32("atomic transfer length granularity"),
            max_atomic_transfer_length_with_boundary=cursor.u32("maximum atomic transfer length with boundary"),
            max_atomic_boundary_size=cursor.u32("maximum atomic boundary size"),
            peripheral=peripheral,
            complete=len(body) == announced,
        )


@dataclass(frozen=True, slots=True)
class BlockDeviceCharacteristics:
    """VPD page B1h (SBC-4 6.6.2), the bits under their names in the standard.

    ``medium_rotation_rate`` is in rotations per minute, 1 for a medium that does not rotate, 0 not reported.
    """

    medium_rotation_rate: int = 0
    product_type: int = 0
    wabereq: int = 0
    wacereq: int = 0
    nominal_form_factor: int = 0
    zoned: int = 0
    fuab: bool = False
    vbuls: bool = False
    peripheral: int = 0x00
    complete: bool = True

    def encode(self) -> bytes:
        """Return the 64 bytes of the page; ValueError when a field does not fit."""
        body = (
            unsigned(self.medium_rotation_rate, 2, "medium rotation rate")
            + unsigned(self.product_type, 1, "product type")
            + bytes(
                [
                    bits(self.wabereq, 2, "WABEREQ") << 6
                    | bits(self.wacereq, 2, "WACEREQ") << 4
                    | bits(self.nominal_form_factor, 4, "nominal form factor"),
                    bits(self.zoned, 2, "ZONED") << 4 | 0x02 * self.fuab | 0x01 * self.vbuls,
                ]
            )
        )
        return _page(self.peripheral, BLOCK_DEVICE_CHARACTERISTICS, body.ljust(_BLOCK_PAGE_BODY, b"\0"))

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read the page; DecodeError when its header is cut or it is another page."""
        peripheral, body, announced = _open(data, BLOCK_DEVICE_CHARACTERISTICS, "VPD page B1h")
        cursor = _padded(body, "VPD page B1h")
        rotation_rate = cursor.u16("medium rotation rate")
        product_type = cursor.u8("product type")
        erase = cursor.u8("WABEREQ, WACEREQ and nominal form factor")
        flags = cursor.u8("ZONED, FUAB and VBULS")
        return cls(
            medium_rotation_rate=rotation_rate,
            product_type=product_type,
            wabereq=erase >> 6,
            wacereq=erase >> 4 & 0x03,
            nominal_form_factor=erase & 0x0F,
            zoned=flags >> 4 & 0x03,
            fuab=bool(flags & 0x02),
            vbuls=bool(flags & 0x01),
            peripheral=peripheral,
            complete=len(body) == announced,
        )


@dataclass(frozen=True, slots=True)
class LogicalBlockProvisioning:
    """VPD page B2h (SBC-4 6.6.6), the bits under their names in the standard.

    ``lbprz`` is the 3-bit field (001b: unmapped blocks read as zero). ``provisioning_type`` is 0 not reported, 1
    resource, 2 thin. ``provisioning_group`` is the designator present with DP, None without.
    """

    threshold_exponent: int = 0
    lbpu: bool = False
    lbpws: bool = False
    lbpws10: bool = False
    lbprz: int = 0
    anc_sup: bool = False
    minimum_percentage: int = 0
    provisioning_type: int = 0
    threshold_percentage: int = 0
    provisioning_group: bytes | None = None
    peripheral: int = 0x00
    complete: bool = True

    def encode(self) -> bytes:
        """Return the page, 8 bytes and the provisioning group; ValueError when a field does not fit."""
        group = self.provisioning_group
        flags = (
            0x80 * self.lbpu
            | 0x40 * self.lbpws
            | 0x20 * self.lbpws10
            | bits(self.lbprz, 3, "LBPRZ") << 2
            | 0x02 * self.anc_sup
            | 0x01 * (group is not None)
        )
        kind = bits(self.minimum_percentage, 5, "minimum percentage") << 3
        kind |= bits(self.provisioning_type, 3, "provisioning type")
        body = (
            unsigned(self.threshold_exponent, 1, "threshold exponent")
            + bytes([flags, kind])
            + unsigned(self.threshold_percentage, 1, "threshold percentage")
        )
        return _page(self.peripheral, LOGICAL_BLOCK_PROVISIONING, body + (group or b""))

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read the page; DecodeError when its header is cut or it is another page."""
        peripheral, body, announced = _open(data, LOGICAL_BLOCK_PROVISIONING, "VPD page B2h")
        exponent, flags, kind, percentage = body[:4].ljust(4, b"\0")
        return cls(
            threshold_exponent=exponent,
            lbpu=bool(flags & 0x80),
            lbpws=bool(flags & 0x40),
            lbpws10=bool(flags & 0x20),
            lbprz=flags >> 2 & 0x07,
            anc_sup=bool(flags & 0x02),
            minimum_percentage=kind >> 3,
            provisioning_type=kind & 0x07,
            threshold_percentage=percentage,
            provisioning_group=body[4:] if flags & 0x01 else None,
            peripheral=peripheral,
            complete=len(body) == announced,
        )


def _page(peripheral: int, code: int, body: bytes) -> bytes:
    return bytes([bits(peripheral, 8, "peripheral"), code]) + unsigned(len(body), 2, "page length") + body


def _open(data: Buffer, code: int, what: str) -> tuple[int, bytes, int]:
    """Check the page code; returns byte 0, the body that is there and the body length announced."""
    cursor = Cursor(data, what)
    peripheral = cursor.u8("peripheral qualifier and device type")
    got = cursor.u8("page code")
    announced = cursor.u16("page length")
    if got != code:
        raise cursor.error(f"page code at offset 1 is {got:02X}h, expected {code:02X}h")
    return peripheral, cursor.take_at_most(announced), announced


def _padded(body: bytes, what: str) -> Cursor:
    return Cursor(body.ljust(_BLOCK_PAGE_BODY, b"\0"), what, base=_HEADER_SIZE)


def _alignment(field: int) -> int | None:
    return field & 0x7FFFFFFF if field & 0x80000000 else None
