"""Parameter data of PERSISTENT RESERVE IN (SPC-4 6.15.2 to 6.15.5).

A reply that the allocation length cut short still decodes; ``complete`` then is False and the lengths it
announces tell how much to ask for.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from pyproxy.scsi.constants import LU_SCOPE, PrType
from pyproxy.scsi.cursor import COMPUTED, Buffer, Cursor, bits, unsigned
from pyproxy.scsi.transport_id import TransportId, decode_reported_transport_id

_HEADER_SIZE = 8
_RESERVATION_SIZE = 16
_CAPABILITIES_SIZE = 8
_DESCRIPTOR_SIZE = 24

_TYPE_MASK: Final = {
    PrType.WRITE_EXCLUSIVE: (0, 0x02),
    PrType.EXCLUSIVE_ACCESS: (0, 0x08),
    PrType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY: (0, 0x20),
    PrType.EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: (0, 0x40),
    PrType.WRITE_EXCLUSIVE_ALL_REGISTRANTS: (0, 0x80),
    PrType.EXCLUSIVE_ACCESS_ALL_REGISTRANTS: (1, 0x01),
}
_KNOWN_TYPES: Final = frozenset(PrType)


@dataclass(frozen=True, slots=True)
class ReadKeys:
    """READ KEYS: ``generation`` is PRGENERATION, ``keys`` one 64-bit key per registered I_T nexus.

    ``additional_length`` in bytes is what the device announces, never reduced by truncation.
    """

    generation: int
    keys: tuple[int, ...]
    additional_length: int = COMPUTED

    def __post_init__(self) -> None:
        if self.additional_length == COMPUTED:
            object.__setattr__(self, "additional_length", 8 * len(self.keys))

    @property
    def complete(self) -> bool:
        """Whether every announced key was received."""
        return len(self.keys) >= self.additional_length // 8

    @property
    def allocation_length(self) -> int:
        """Allocation length in bytes that fetches everything announced."""
        return _HEADER_SIZE + self.additional_length

    def encode(self) -> bytes:
        """Return the header and the keys; ValueError when a field does not fit."""
        keys = b"".join(unsigned(key, 8, "reservation key") for key in self.keys)
        return _header(self.generation, self.additional_length) + keys

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read whole or truncated parameter data; DecodeError when not even the 8-byte header is there."""
        cursor = Cursor(data, "READ KEYS parameter data")
        generation = cursor.u32("PRGENERATION")
        additional_length = cursor.u32("additional length")
        body = cursor.take_at_most(additional_length)
        keys = tuple(int.from_bytes(body[at : at + 8]) for at in range(0, len(body) - 7, 8))
        return cls(generation, keys, additional_length)


@dataclass(frozen=True, slots=True)
class ReadReservation:
    """READ RESERVATION; ``type`` None means that nothing is reserved.

    ``key`` is the holder's, 0 for all-registrants types on most targets: tell those by ``type``. ``type`` is
    a PrType or a number the standard reserves.
    """

    generation: int
    key: int = 0
    scope: int = LU_SCOPE
    type: int | None = None
    complete: bool = True

    @property
    def additional_length(self) -> int:
        """Bytes that follow the header: 0 or 16."""
        return 0 if self.type is None else _RESERVATION_SIZE

    def encode(self) -> bytes:
        """Return 8 bytes (nothing reserved) or 24; ValueError when a field does not fit."""
        head = _header(self.generation, self.additional_length)
        if self.type is None:
            return head
        scope_type = _scope_type(self.scope, self.type)
        return head + unsigned(self.key, 8, "reservation key") + bytes([0, 0, 0, 0, 0, scope_type, 0, 0])

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read parameter data.

        DecodeError when the header is cut, or when a reservation is announced but its type was cut off: that
        must not pass for "nothing reserved".
        """
        cursor = Cursor(data, "READ RESERVATION parameter data")
        generation = cursor.u32("PRGENERATION")
        additional_length = cursor.u32("additional length")
        if additional_length == 0:
            return cls(generation)
        if additional_length < _RESERVATION_SIZE:
            raise cursor.error(f"additional length at offset 4 is {additional_length}, expected 0 or 16")
        key = cursor.u64("reservation key")
        cursor.skip(5)
        scope_type = cursor.u8("scope and type")
        return cls(generation, key, scope_type >> 4, _as_type(scope_type & 0x0F), cursor.remaining >= 2)


@dataclass(frozen=True, slots=True)
class ReportCapabilities:
    """REPORT CAPABILITIES, the bits under their names in the standard.

    ``allow_commands`` is the 3-bit ALLOW COMMANDS field; ``types`` counts only when ``tmv``. What was cut off is
    False, 0 or empty, and ``complete`` False.
    """

    rlr_c: bool = False
    crh: bool = False
    sip_c: bool = False
    atp_c: bool = False
    ptpl_c: bool = False
    tmv: bool = False
    ptpl_a: bool = False
    allow_commands: int = 0
    types: frozenset[PrType] = frozenset()
    complete: bool = True

    def encode(self) -> bytes:
        """Return 8 bytes; ValueError when ``allow_commands`` does not fit."""
        supports = 0x80 * self.rlr_c | 0x10 * self.crh | 0x08 * self.sip_c | 0x04 * self.atp_c | 0x01 * self.ptpl_c
        allow = bits(self.allow_commands, 3, "ALLOW COMMANDS") << 4
        mask = bytearray(2)
        for reservation_type in self.types:
            index, bit = _TYPE_MASK[reservation_type]
            mask[index] |= bit
        return bytes([0, _CAPABILITIES_SIZE, supports, 0x80 * self.tmv | allow | 0x01 * self.ptpl_a, *mask, 0, 0])

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read whole or truncated parameter data; DecodeError when LENGTH is cut or under 8."""
        cursor = Cursor(data, "REPORT CAPABILITIES parameter data")
        length = cursor.u16("length")
        if length < _CAPABILITIES_SIZE:
            raise cursor.error(f"length at offset 0 is {length}, expected 8")
        body = cursor.take_at_most(_CAPABILITIES_SIZE - 2)
        supports, state, *mask = body[:4].ljust(4, b"\0")
        return cls(
            rlr_c=bool(supports & 0x80),
            crh=bool(supports & 0x10),
            sip_c=bool(supports & 0x08),
            atp_c=bool(supports & 0x04),
            ptpl_c=bool(supports & 0x01),
            tmv=bool(state & 0x80),
            ptpl_a=bool(state & 0x01),
            allow_commands=state >> 4 & 0x07,
            types=frozenset(known for known, (index, bit) in _TYPE_MASK.items() if mask[index] & bit),
            complete=len(body) == _CAPABILITIES_SIZE - 2,
        )


@dataclass(frozen=True, slots=True)
class RegistrationDescriptor:
    """One registration in READ FULL STATUS.

    ``holder`` is R_HOLDER; ``scope`` and ``type`` count only with it. ``rtpi`` is the relative target port
    identifier, undefined with ``all_tg_pt``. ``transport_id`` is None where the device names no initiator.
    """

    key: int
    holder: bool = False
    all_tg_pt: bool = False
    scope: int = LU_SCOPE
    type: int = 0
    rtpi: int = 0
    transport_id: TransportId | None = None

    def encode(self) -> bytes:
        """Return 24 bytes and the TransportID; ValueError when a field does not fit."""
        name = self.transport_id.encode() if self.transport_id is not None else b""
        return (
            unsigned(self.key, 8, "reservation key")
            + bytes([0, 0, 0, 0, 0x02 * self.all_tg_pt | 0x01 * self.holder, _scope_type(self.scope, self.type)])
            + bytes(4)
            + unsigned(self.rtpi, 2, "relative target port identifier")
            + unsigned(len(name), 4, "additional descriptor length")
            + name
        )


@dataclass(frozen=True, slots=True)
class FullStatus:
    """READ FULL STATUS: ``generation`` is PRGENERATION, ``descriptors`` one per registration.

    ``additional_length`` in bytes is what the device announces; ``complete`` whether all of it was received.
    """

    generation: int
    descriptors: tuple[RegistrationDescriptor, ...]
    additional_length: int = COMPUTED
    complete: bool = True

    def __post_init__(self) -> None:
        if self.additional_length == COMPUTED:
            object.__setattr__(self, "additional_length", len(_join(self.descriptors)))

    @property
    def allocation_length(self) -> int:
        """Allocation length in bytes that fetches everything announced."""
        return _HEADER_SIZE + self.additional_length

    def encode(self) -> bytes:
        """Return the header and the descriptors; ValueError when a field does not fit."""
        return _header(self.generation, self.additional_length) + _join(self.descriptors)

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read whole or truncated parameter data; DecodeError when not even the 8-byte header is there.

        Descriptors that were cut are left out. A TransportID that cannot be read stays, opaque.
        """
        cursor = Cursor(data, "READ FULL STATUS parameter data")
        generation = cursor.u32("PRGENERATION")
        additional_length = cursor.u32("additional length")
        complete = cursor.remaining >= additional_length
        body = Cursor(cursor.take_at_most(additional_length), "READ FULL STATUS descriptor", base=_HEADER_SIZE)
        descriptors: list[RegistrationDescriptor] = []
        while body.remaining >= _DESCRIPTOR_SIZE:
            descriptor = _decode_descriptor(body)
            if descriptor is None:
                complete = False
                break
            descriptors.append(descriptor)
        return cls(generation, tuple(descriptors), additional_length, complete)


def _decode_descriptor(body: Cursor) -> RegistrationDescriptor | None:
    """Read one descriptor of at least 24 bytes; None when its TransportID is cut."""
    key = body.u64("reservation key")
    body.skip(4)
    flags = body.u8("ALL_TG_PT and R_HOLDER")
    scope_type = body.u8("scope and type")
    body.skip(4)
    rtpi = body.u16("relative target port identifier")
    size = body.u32("additional descriptor length")
    if size > body.remaining:
        return None
    return RegistrationDescriptor(
        key=key,
        holder=bool(flags & 0x01),
        all_tg_pt=bool(flags & 0x02),
        scope=scope_type >> 4,
        type=_as_type(scope_type & 0x0F),
        rtpi=rtpi,
        transport_id=decode_reported_transport_id(body.take(size, "TransportID")),
    )


def _header(generation: int, additional_length: int) -> bytes:
    return unsigned(generation, 4, "PRGENERATION") + unsigned(additional_length, 4, "additional length")


def _scope_type(scope: int, reservation_type: int) -> int:
    return bits(scope, 4, "scope") << 4 | bits(reservation_type, 4, "type")


def _as_type(number: int) -> int:
    """Return the PrType for a number where there is one, so that messages show its name."""
    return PrType(number) if number in _KNOWN_TYPES else number


def _join(descriptors: Iterable[RegistrationDescriptor]) -> bytes:
    return b"".join(descriptor.encode() for descriptor in descriptors)
