"""Parameter lists of PERSISTENT RESERVE OUT (SPC-4 6.16.3, 6.16.4), checked as a device server checks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pyproxy.scsi.constants import PrOutAction
from pyproxy.scsi.cursor import Buffer, Cursor, unsigned
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.sense import INVALID_FIELD_IN_PARAMETER_LIST, PARAMETER_LIST_LENGTH_ERROR
from pyproxy.scsi.transport_id import MINIMUM_SIZE, TransportId, decode_transport_id

BASIC_SIZE = 24
"""Bytes of a parameter list without TransportIDs."""

_SPEC_I_PT = 0x08
_ALL_TG_PT = 0x04
_APTPL = 0x01
_UNREG = 0x02


@dataclass(frozen=True, slots=True)
class ParameterList:
    """Parameter list of every service action except REGISTER AND MOVE.

    ``key`` is the RESERVATION KEY field, ``sa_key`` the SERVICE ACTION RESERVATION KEY field, both 64 bits.
    ``transport_ids`` follow only with ``spec_i_pt``.
    """

    key: int
    sa_key: int
    spec_i_pt: bool = False
    all_tg_pt: bool = False
    aptpl: bool = False
    transport_ids: tuple[TransportId, ...] = ()

    def __post_init__(self) -> None:
        if self.transport_ids and not self.spec_i_pt:
            raise ValueError("a parameter list names TransportIDs but SPEC_I_PT is not set; set spec_i_pt")

    def encode(self) -> bytes:
        """Return 24 bytes, or with ``spec_i_pt`` 28 and the TransportIDs; ValueError when a field does not fit."""
        flags = _SPEC_I_PT * self.spec_i_pt | _ALL_TG_PT * self.all_tg_pt | _APTPL * self.aptpl
        basic = _keys(self.key, self.sa_key) + bytes([0, 0, 0, 0, flags, 0, 0, 0])
        if not self.spec_i_pt:
            return basic
        names = b"".join(transport_id.encode() for transport_id in self.transport_ids)
        return basic + unsigned(len(names), 4, "TransportID parameter data length") + names

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read a whole parameter list; raises DecodeError with the sense to answer.

        Without SPEC_I_PT the length must be 24 (05/1A/00). With it, the list of TransportIDs must lie within the
        data and none may be cut (05/26/00); bytes behind it are ignored.
        """
        basic = cls.decode_basic(data)
        raw = bytes(data)
        if not basic.spec_i_pt:
            if len(raw) != BASIC_SIZE:
                raise _length_error(len(raw), f"{BASIC_SIZE} without SPEC_I_PT")
            return basic
        cursor = Cursor(raw, "PERSISTENT RESERVE OUT parameter list", sense=INVALID_FIELD_IN_PARAMETER_LIST)
        cursor.skip(BASIC_SIZE)
        size = cursor.u32("TransportID parameter data length")
        names = cursor.take(size, "TransportIDs")
        transport_ids: list[TransportId] = []
        position = 0
        while position < len(names):
            transport_id, used = decode_transport_id(names, position)
            transport_ids.append(transport_id)
            position += used
        return cls(basic.key, basic.sa_key, True, basic.all_tg_pt, basic.aptpl, tuple(transport_ids))

    @classmethod
    def decode_basic(cls, data: Buffer) -> Self:
        """Read only the first 24 bytes, whatever follows; raises DecodeError with 05/1A/00 when there are fewer."""
        cursor = Cursor(data, "PERSISTENT RESERVE OUT parameter list", sense=PARAMETER_LIST_LENGTH_ERROR)
        if cursor.remaining < BASIC_SIZE:
            raise _length_error(cursor.remaining, f"at least {BASIC_SIZE}")
        key = cursor.u64("reservation key")
        sa_key = cursor.u64("service action reservation key")
        cursor.skip(4)
        flags = cursor.u8("SPEC_I_PT, ALL_TG_PT and APTPL")
        return cls(key, sa_key, bool(flags & _SPEC_I_PT), bool(flags & _ALL_TG_PT), bool(flags & _APTPL))


@dataclass(frozen=True, slots=True)
class MoveParameterList:
    """Parameter list of REGISTER AND MOVE.

    ``key`` is the caller's, ``sa_key`` what the destination nexus is registered with; the destination is
    ``transport_id`` through the target port ``rtpi`` (relative target port identifier).
    """

    key: int
    sa_key: int
    unreg: bool = False
    aptpl: bool = False
    rtpi: int = 0
    transport_id: TransportId | None = None

    def encode(self) -> bytes:
        """Return 24 bytes and the TransportID; ValueError when it is missing or a field does not fit."""
        if self.transport_id is None:
            raise ValueError("REGISTER AND MOVE names no destination; set transport_id")
        name = self.transport_id.encode()
        flags = _UNREG * self.unreg | _APTPL * self.aptpl
        return (
            _keys(self.key, self.sa_key)
            + bytes([0, flags])
            + unsigned(self.rtpi, 2, "relative target port identifier")
            + unsigned(len(name), 4, "TransportID length")
            + name
        )

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read a parameter list; raises DecodeError with the sense to answer.

        Fewer than 24 bytes are 05/1A/00. A TransportID length that is not a multiple of 4, is under 24, reaches past
        the end, or does not hold exactly one TransportID is 05/26/00. Bytes behind it are ignored.
        """
        cursor = Cursor(data, "REGISTER AND MOVE parameter list", sense=INVALID_FIELD_IN_PARAMETER_LIST)
        if cursor.remaining < BASIC_SIZE:
            raise _length_error(cursor.remaining, f"at least {BASIC_SIZE}")
        key = cursor.u64("reservation key")
        sa_key = cursor.u64("service action reservation key")
        cursor.skip(1)
        flags = cursor.u8("UNREG and APTPL")
        rtpi = cursor.u16("relative target port identifier")
        size = cursor.u32("TransportID length")
        if size < MINIMUM_SIZE or size % 4:
            raise cursor.error(f"TransportID length at offset 20 is {size}, expected a multiple of 4 and at least 24")
        transport_id, used = decode_transport_id(cursor.take(size, "TransportID"))
        if used != size:
            raise cursor.error(f"TransportID length at offset 20 is {size}, but the TransportID takes {used} bytes")
        return cls(key, sa_key, bool(flags & _UNREG), bool(flags & _APTPL), rtpi, transport_id)


def decode_parameter_list(action: int, data: Buffer) -> ParameterList | MoveParameterList:
    """Read the parameter list of service action ``action`` in the order a device server checks it.

    Beyond the ``decode`` of each list: SPEC_I_PT with any service action but REGISTER is 05/26/00, whatever the
    length (SPC-4 6.16.3). Raises DecodeError with the sense to answer.
    """
    if action == PrOutAction.REGISTER_AND_MOVE:
        return MoveParameterList.decode(data)
    if ParameterList.decode_basic(data).spec_i_pt and action != PrOutAction.REGISTER:
        raise DecodeError(
            f"PERSISTENT RESERVE OUT parameter list: SPEC_I_PT at offset 20 is set with service action {action:02X}h, "
            "expected only with REGISTER",
            sense=INVALID_FIELD_IN_PARAMETER_LIST,
        )
    return ParameterList.decode(data)


def _keys(key: int, sa_key: int) -> bytes:
    return unsigned(key, 8, "reservation key") + unsigned(sa_key, 8, "service action reservation key")


def _length_error(got: int, expected: str) -> DecodeError:
    return DecodeError(
        f"PERSISTENT RESERVE OUT parameter list: got {got} bytes, expected {expected}",
        sense=PARAMETER_LIST_LENGTH_ERROR,
    )
