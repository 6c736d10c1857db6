"""Standard INQUIRY data (SPC-4 6.6.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pyproxy.scsi.cursor import Buffer, Cursor, bits, fixed_text, unsigned

_HEADER_SIZE = 5
_SHORT_SIZE = 36
_LONG_SIZE = 96
_VENDOR_SPECIFIC_SIZE = 20
_VERSION_DESCRIPTORS = 8
_LARGEST_SIZE = _HEADER_SIZE + 0xFF


@dataclass(frozen=True, slots=True)
class StandardInquiry:
    """Standard INQUIRY data, the bits under their names in the standard.

    ``third_party_copy`` is 3PC. ``vendor``, ``product`` and ``revision`` are 8, 16 and 4 bytes, kept with
    trailing spaces removed. ``vendor_specific`` is bytes 36 to 55, ``version_descriptors`` up to eight
    numbers. ``additional_length`` None means as short as the content allows (36 or 96 bytes in all); a decoded value
    is what the device announces. ``complete`` is False where the reply was cut; what is missing is then zero or empty.
    """

    peripheral_device_type: int = 0x00
    qualifier: int = 0
    removable: bool = False
    version: int = 0x06
    normaca: bool = False
    hisup: bool = True
    response_data_format: int = 2
    sccs: bool = False
    acc: bool = False
    tpgs: int = 0
    third_party_copy: bool = False
    protect: bool = False
    encserv: bool = False
    multip: bool = False
    cmdque: bool = True
    vendor: str = ""
    product: str = ""
    revision: str = ""
    vendor_specific: bytes = b""
    version_descriptors: tuple[int, ...] = ()
    additional_length: int | None = None
    complete: bool = True

    def encode(self) -> bytes:
        """Return all the bytes that ``additional_length`` announces; ValueError when a field does not fit."""
        if len(self.vendor_specific) > _VENDOR_SPECIFIC_SIZE:
            raise ValueError(f"vendor specific data is {len(self.vendor_specific)} bytes long, expected at most 20")
        if len(self.version_descriptors) > _VERSION_DESCRIPTORS:
            raise ValueError(f"{len(self.version_descriptors)} version descriptors, expected at most 8")
        additional_length = self._announced()
        out = bytearray(_LARGEST_SIZE)
        out[0] = _peripheral(self.qualifier, self.peripheral_device_type)
        out[1] = 0x80 * self.removable
        out[2] = bits(self.version, 8, "version")
        out[3] = 0x20 * self.normaca | 0x10 * self.hisup | bits(self.response_data_format, 4, "response data format")
        out[4] = additional_length
        out[5] = (
            0x80 * self.sccs
            | 0x40 * self.acc
            | bits(self.tpgs, 2, "TPGS") << 4
            | 0x08 * self.third_party_copy
            | 0x01 * self.protect
        )
        out[6] = 0x40 * self.encserv | 0x10 * self.multip
        out[7] = 0x02 * self.cmdque
        out[8:16] = fixed_text(self.vendor, 8, "vendor")
        out[16:32] = fixed_text(self.product, 16, "product")
        out[32:36] = fixed_text(self.revision, 4, "revision")
        out[36 : 36 + len(self.vendor_specific)] = self.vendor_specific
        for index, number in enumerate(self.version_descriptors):
            out[58 + 2 * index : 60 + 2 * index] = unsigned(number, 2, "version descriptor")
        return bytes(out[: _HEADER_SIZE + additional_length])

    def _announced(self) -> int:
        if self.additional_length is not None:
            return bits(self.additional_length, 8, "additional length")
        short = not self.vendor_specific and not self.version_descriptors
        return (_SHORT_SIZE if short else _LONG_SIZE) - _HEADER_SIZE

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read whole or truncated INQUIRY data; DecodeError when fewer than 5 bytes are there.

        Bytes behind the announced length are ignored.
        """
        cursor = Cursor(data, "standard INQUIRY data")
        peripheral, removable, version, formats, additional_length = cursor.take(_HEADER_SIZE, "header")
        body = cursor.take_at_most(additional_length)
        raw = bytes(_HEADER_SIZE) + body + bytes(_LARGEST_SIZE - len(body))
        present = _HEADER_SIZE + len(body)
        vendor_specific = raw[36:56]
        versions = tuple(int.from_bytes(raw[at : at + 2]) for at in range(58, 74, 2))
        while versions and versions[-1] == 0:
            versions = versions[:-1]
        return cls(
            peripheral_device_type=peripheral & 0x1F,
            qualifier=peripheral >> 5,
            removable=bool(removable & 0x80),
            version=version,
            normaca=bool(formats & 0x20),
            hisup=bool(formats & 0x10),
            response_data_format=formats & 0x0F,
            sccs=bool(raw[5] & 0x80),
            acc=bool(raw[5] & 0x40),
            tpgs=raw[5] >> 4 & 0x03,
            third_party_copy=bool(raw[5] & 0x08),
            protect=bool(raw[5] & 0x01),
            encserv=bool(raw[6] & 0x40),
            multip=bool(raw[6] & 0x10),
            cmdque=bool(raw[7] & 0x02),
            vendor=_text(raw[8 : min(16, present)]),
            product=_text(raw[16 : min(32, present)]),
            revision=_text(raw[32 : min(36, present)]),
            vendor_specific=vendor_specific.rstrip(b"\0"),
            version_descriptors=versions,
            additional_length=additional_length,
            complete=len(body) == additional_length,
        )


def _peripheral(qualifier: int, device_type: int) -> int:
    return bits(qualifier, 3, "peripheral qualifier") << 5 | bits(device_type, 5, "peripheral device type")


def _text(raw: bytes) -> str:
    return raw.decode("latin-1").rstrip(" \0")
