"""TransportIDs: how persistent reservations name initiator ports (SPC-4 7.6.4)."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from pyproxy.scsi.cursor import Buffer, Cursor, unsigned
from pyproxy.scsi.errors import DecodeError
from pyproxy.scsi.sense import INVALID_FIELD_IN_PARAMETER_LIST

MINIMUM_SIZE = 24
"""Bytes of the shortest TransportID, and of every one that is not iSCSI."""

_FIBRE_CHANNEL = 0x0
_ISCSI = 0x5
_SAS = 0x6
_ISCSI_DEVICE_FORMAT = 0x05
_ISCSI_PORT_FORMAT = 0x45

_ISID_SEPARATOR = ",i,0x"
_ISID_SIZE = 6
_ISCSI_NAME_LIMIT = 223
_ISCSI_MINIMUM_ADDITIONAL = 20

_HEX_64 = re.compile(r"[0-9a-fA-F]{16}")
_HEX_ISID = re.compile(r"[0-9a-fA-F]{12}")
_HEX_SHORT_ISID = re.compile(r"[0-9a-fA-F]{1,12}")
_ISCSI_TYPES = ("iqn.", "eui.")


class TransportId:
    """Name of a SCSI initiator port.

    Equality and hash follow the standard's comparison rules. ``str()`` is a form for configuration files and
    reports, which ``parse`` reads back to an equal value.
    """

    __slots__ = ()

    def encode(self) -> bytes:
        """Return the bytes as they stand in parameter data; a multiple of 4 and at least 24, unless opaque."""
        raise NotImplementedError

    @staticmethod
    def parse(text: str) -> TransportId:
        """Read the text form; raises ValueError with what is allowed.

        Forms: ``naa.HEX16`` or ``sas:HEX16`` (SAS address), ``fc:HEX16`` (N_Port_Name, colons between bytes allowed),
        ``iqn...`` or ``eui...`` (iSCSI initiator name), the same followed by ``,i,0xHEX12`` (initiator
        port with its ISID), ``iscsi:NAME`` for iSCSI names of another type, ``opaque:HEX``.
        """
        return _parse(text)


@dataclass(frozen=True, slots=True)
class FcTransportId(TransportId):
    """Fibre Channel: ``port_name`` is the 8-byte N_Port_Name."""

    port_name: bytes

    def __post_init__(self) -> None:
        _require_size(self.port_name, 8, "N_Port_Name")

    def encode(self) -> bytes:
        """Return 24 bytes."""
        return bytes(8) + self.port_name + bytes(8)

    def __str__(self) -> str:
        return f"fc:{self.port_name.hex()}"


@dataclass(frozen=True, slots=True)
class SasTransportId(TransportId):
    """SAS (and LIO's loop back): ``address`` is the 8-byte SAS address."""

    address: bytes

    def __post_init__(self) -> None:
        _require_size(self.address, 8, "SAS address")

    def encode(self) -> bytes:
        """Return 24 bytes."""
        return bytes([_SAS, 0, 0, 0]) + self.address + bytes(12)

    def __str__(self) -> str:
        return f"sas:{self.address.hex()}"


@dataclass(frozen=True, slots=True, eq=False)
class IscsiTransportId(TransportId):
    """iSCSI: an initiator port (``isid``, 6 bytes) or, without ISID, every port under that name.

    ``name`` is kept as received; two names that differ only in case are equal (RFC 7143 4.2.7.2).
    """

    name: str
    isid: bytes | None = None

    def __post_init__(self) -> None:
        problem = _name_problem(self.name)
        if problem:
            raise ValueError(f"iSCSI name {self.name!r} {problem}")
        if self.isid is not None:
            _require_size(self.isid, _ISID_SIZE, "ISID")

    @property
    def _identity(self) -> tuple[str, bytes | None]:
        return unicodedata.normalize("NFKC", self.name).casefold(), self.isid

    def __eq__(self, other: object) -> bool:
        return self._identity == other._identity if isinstance(other, IscsiTransportId) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _text(self) -> str:
        return self.name if self.isid is None else f"{self.name}{_ISID_SEPARATOR}{self.isid.hex()}"

    def encode(self) -> bytes:
        """Return 24 bytes or more: the name NUL terminated and padded to a multiple of 4."""
        text = self._text.encode() + b"\0"
        size = max(_ISCSI_MINIMUM_ADDITIONAL, -(-len(text) // 4) * 4)
        head = _ISCSI_DEVICE_FORMAT if self.isid is None else _ISCSI_PORT_FORMAT
        return bytes([head, 0]) + unsigned(size, 2, "additional length") + text.ljust(size, b"\0")

    def __str__(self) -> str:
        return self._text if self.name.lower().startswith(_ISCSI_TYPES) else f"iscsi:{self._text}"


@dataclass(frozen=True, slots=True)
class OpaqueTransportId(TransportId):
    """A TransportID of a protocol or format not known here, kept byte for byte in ``raw``."""

    raw: bytes

    def encode(self) -> bytes:
        """Return the bytes as they were received."""
        return self.raw

    def __str__(self) -> str:
        return f"opaque:{self.raw.hex()}"


def decode_transport_id(data: Buffer, offset: int = 0) -> tuple[TransportId, int]:
    """Read one TransportID of a parameter list at ``offset``; returns it and how many bytes it takes.

    Checks what a device server must (SPC-4 7.6.4); raises DecodeError with 05/26/00. Protocols and formats that are not
    known take 24 bytes and come back opaque.
    """
    cursor = Cursor(bytes(data)[offset:], "TransportID", sense=INVALID_FIELD_IN_PARAMETER_LIST, base=offset)
    if cursor.remaining < MINIMUM_SIZE:
        raise cursor.error(f"{cursor.remaining} bytes at offset {offset}, expected at least {MINIMUM_SIZE}")
    before = cursor.remaining
    value = _decode(cursor, tolerant=False)
    return value, before - cursor.remaining


def decode_reported_transport_id(data: Buffer) -> TransportId | None:
    """Read a TransportID a device reports, which is all of ``data``; never raises.

    Targets pad and terminate carelessly, so an iSCSI name may be shorter than 20 bytes, lack its NUL, or have
    fewer ISID digits. None for no bytes at all; what cannot be read comes back opaque.
    """
    raw = bytes(data)
    if not raw:
        return None
    try:
        return _decode(Cursor(raw, "TransportID"), tolerant=True)
    except DecodeError:
        return OpaqueTransportId(raw)


def _decode(cursor: Cursor, *, tolerant: bool) -> TransportId:
    head = cursor.u8("format and protocol")
    wire_format, protocol = head & 0xC0, head & 0x0F
    if protocol == _ISCSI and wire_format in (0x00, 0x40):
        return _decode_iscsi(cursor, has_isid=wire_format == 0x40, tolerant=tolerant)
    if protocol == _FIBRE_CHANNEL and wire_format == 0:
        cursor.skip(7)
        port_name = cursor.take(8, "N_Port_Name")
        cursor.skip(8)
        return FcTransportId(port_name)
    if protocol == _SAS and wire_format == 0:
        cursor.skip(3)
        address = cursor.take(8, "SAS address")
        cursor.skip(12)
        return SasTransportId(address)
    size = cursor.remaining if tolerant else MINIMUM_SIZE - 1
    return OpaqueTransportId(bytes([head]) + cursor.take(size, "TransportID"))


def _decode_iscsi(cursor: Cursor, *, has_isid: bool, tolerant: bool) -> IscsiTransportId:
    cursor.skip(1)
    size = cursor.u16("additional length")
    if not tolerant and (size < _ISCSI_MINIMUM_ADDITIONAL or size % 4):
        raise cursor.error(
            f"additional length {size}, expected a multiple of 4 and at least {_ISCSI_MINIMUM_ADDITIONAL}"
        )
    raw = cursor.take(size, "iSCSI name")
    text, terminator, padding = raw.partition(b"\0")
    if not tolerant and not terminator:
        raise cursor.error(f"iSCSI name {text!r} is not terminated by NUL")
    if not tolerant and any(padding):
        raise cursor.error(f"iSCSI name {text!r} is followed by {padding.hex()}, expected NUL padding")
    try:
        name = text.decode()
    except UnicodeDecodeError:
        raise cursor.error(f"iSCSI name {text!r} is not UTF-8") from None
    isid: bytes | None = None
    if has_isid:
        name, separator, digits = name.rpartition(_ISID_SEPARATOR)
        expected = _HEX_SHORT_ISID if tolerant else _HEX_ISID
        if not separator or not expected.fullmatch(digits):
            raise cursor.error(f"iSCSI port name {text!r} does not end in {_ISID_SEPARATOR!r} and 12 hex digits")
        isid = bytes.fromhex(digits.rjust(2 * _ISID_SIZE, "0"))
    problem = _name_problem(name)
    if problem:
        raise cursor.error(f"iSCSI name {name!r} {problem}")
    return IscsiTransportId(name, isid)


def _name_problem(name: str) -> str | None:
    """Say what is wrong with an iSCSI name (RFC 7143 4.2.7.1), or return None."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "cannot be encoded as UTF-8"
    if not 1 <= size <= _ISCSI_NAME_LIMIT:
        return f"is {size} bytes long, expected 1 to {_ISCSI_NAME_LIMIT}"
    if "," in name or any(not character.isprintable() or character.isspace() for character in name):
        return "has a comma, a space or a character that cannot be printed"
    return None


def _require_size(value: bytes, size: int, what: str) -> None:
    if len(value) != size:
        raise ValueError(f"{what} is {len(value)} bytes long, expected {size}")


def _parse(text: str) -> TransportId:
    kind, _, rest = text.partition(":")
    lowered = text.lower()
    if kind.lower() == "sas" and _HEX_64.fullmatch(rest):
        return SasTransportId(bytes.fromhex(rest))
    if kind.lower() == "fc" and _HEX_64.fullmatch(rest.replace(":", "")):
        return FcTransportId(bytes.fromhex(rest.replace(":", "")))
    if kind.lower() == "opaque" and re.fullmatch(r"([0-9a-fA-F]{2})+", rest):
        return OpaqueTransportId(bytes.fromhex(rest))
    if kind.lower() == "iscsi":
        return _parse_iscsi(rest)
    if lowered.startswith("naa.") and _HEX_64.fullmatch(text[4:]):
        return SasTransportId(bytes.fromhex(text[4:]))
    if lowered.startswith(_ISCSI_TYPES):
        return _parse_iscsi(text)
    raise ValueError(
        f"{text!r} names no initiator port; write naa.<16 hex digits> or sas:<16 hex digits>, fc:<16 hex digits>, "
        "or an iSCSI initiator name such as iqn.2026-01.org.example:host, with ,i,0x<12 hex digits> for one port of it"
    )


def _parse_iscsi(text: str) -> IscsiTransportId:
    name, separator, digits = text.partition(_ISID_SEPARATOR)
    if separator and not _HEX_ISID.fullmatch(digits):
        raise ValueError(f"{text!r}: the ISID after {_ISID_SEPARATOR!r} is {digits!r}, expected 12 hex digits")
    return IscsiTransportId(name, bytes.fromhex(digits) if separator else None)
