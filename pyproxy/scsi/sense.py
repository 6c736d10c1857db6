"""Sense data in fixed and descriptor format (SPC-4 4.5)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from pyproxy.scsi.additional_sense import ADDITIONAL_SENSE_NAMES
from pyproxy.scsi.constants import SenseKey
from pyproxy.scsi.cursor import Buffer, bits

_RESPONSE_FIXED = (0x70, 0x71)
_RESPONSE_DESCRIPTOR = (0x72, 0x73)
_DEFERRED = (0x71, 0x73)

_FIXED_SIZE = 18
_INFORMATION_DESCRIPTOR = 0x00
_SENSE_KEY_SPECIFIC_DESCRIPTOR = 0x02
_SKSV = 0x80
_SKS_COMMAND = 0x40
_SKS_BIT_POINTER_VALID = 0x08


@dataclass(frozen=True, slots=True)
class Sense:
    """What a logical unit says about a command that ended with CHECK CONDITION.

    ``key``, ``asc`` and ``ascq`` are the numbers of SPC-4 4.5.6. ``deferred`` tells that it is about an earlier
    command. ``information`` is the INFORMATION field when valid. ``sense_key_specific`` is the three
    bytes of that field when SKSV is set. Values that do not fit raise ValueError.
    """

    key: int
    asc: int
    ascq: int
    deferred: bool = False
    information: int | None = None
    sense_key_specific: bytes | None = None

    def __post_init__(self) -> None:
        bits(self.key, 4, "sense key")
        bits(self.asc, 8, "additional sense code")
        bits(self.ascq, 8, "additional sense code qualifier")
        if self.information is not None:
            bits(self.information, 64, "sense information")
        sks = self.sense_key_specific
        if sks is not None and (len(sks) != 3 or not sks[0] & _SKSV):
            raise ValueError(f"sense key specific is {sks.hex() or 'empty'}, expected 3 bytes with SKSV (80h) set")

    @property
    def is_unit_attention(self) -> bool:
        """Whether the sense key is UNIT ATTENTION."""
        return self.key == SenseKey.UNIT_ATTENTION

    @property
    def code(self) -> tuple[int, int, int]:
        """Sense key, ASC and ASCQ: what most decisions compare."""
        return self.key, self.asc, self.ascq

    def with_field_pointer(self, byte: int, bit: int | None = None, *, in_cdb: bool = False) -> Sense:
        """Return a copy whose sense key specific bytes point at a field in error (SPC-4 4.5.2.4.2).

        ``byte`` is the offset in the CDB (``in_cdb``) or in the parameter list, ``bit`` the leftmost bit.
        """
        head = _SKSV | (_SKS_COMMAND if in_cdb else 0)
        if bit is not None:
            head |= _SKS_BIT_POINTER_VALID | bits(bit, 3, "bit pointer")
        return replace(self, sense_key_specific=bytes([head]) + bits(byte, 16, "field pointer").to_bytes(2))

    def encode(self, descriptor: bool = False) -> bytes:
        """Return fixed format (18 bytes) or, with ``descriptor``, descriptor format (8 bytes and more).

        Follow D_SENSE of the Control mode page. INFORMATION over 32 bits is left out of the fixed format, as SPC-4
        4.5.3 demands.
        """
        return self._encode_descriptor() if descriptor else self._encode_fixed()

    def _encode_fixed(self) -> bytes:
        out = bytearray(_FIXED_SIZE)
        out[0] = _RESPONSE_FIXED[self.deferred]
        out[2] = self.key
        if self.information is not None and self.information <= 0xFFFFFFFF:
            out[0] |= 0x80
            out[3:7] = self.information.to_bytes(4)
        out[7] = _FIXED_SIZE - 8
        out[12] = self.asc
        out[13] = self.ascq
        if self.sense_key_specific is not None:
            out[15:18] = self.sense_key_specific
        return bytes(out)

    def _encode_descriptor(self) -> bytes:
        descriptors = b""
        if self.information is not None:
            descriptors += bytes([_INFORMATION_DESCRIPTOR, 0x0A, 0x80, 0x00]) + self.information.to_bytes(8)
        if self.sense_key_specific is not None:
            descriptors += bytes([_SENSE_KEY_SPECIFIC_DESCRIPTOR, 0x06, 0, 0]) + self.sense_key_specific + b"\0"
        head = bytes([_RESPONSE_DESCRIPTOR[self.deferred], self.key, self.asc, self.ascq, 0, 0, 0, len(descriptors)])
        return head + descriptors

    def __str__(self) -> str:
        name = ADDITIONAL_SENSE_NAMES.get((self.asc, self.ascq))
        if name is None:
            key = next((known.name.replace("_", " ") for known in SenseKey if known == self.key), "RESERVED SENSE KEY")
            name = f"({key})"
        suffix = " (deferred)" if self.deferred else ""
        return f"{self.key:02X}/{self.asc:02X}/{self.ascq:02X} {name}{suffix}"


def decode_sense(data: Buffer) -> Sense | None:
    """Read the sense bytes a transport delivered, in either format; ``data`` is only what was really written.

    Returns None where there is no usable sense: too short, or a response code that is not 70h to 73h. ASC
    and ASCQ beyond the end or beyond the ADDITIONAL SENSE LENGTH are 0. Never raises.
    """
    raw = bytes(data)
    if not raw:
        return None
    response_code = raw[0] & 0x7F
    deferred = response_code in _DEFERRED
    if response_code in _RESPONSE_FIXED:
        return _decode_fixed(raw, deferred)
    if response_code in _RESPONSE_DESCRIPTOR:
        return _decode_descriptor(raw, deferred)
    return None


def _decode_fixed(raw: bytes, deferred: bool) -> Sense | None:
    if len(raw) < 3:
        return None
    end = min(len(raw), 8 + raw[7]) if len(raw) >= 8 else len(raw)
    asc, ascq = (raw[12], raw[13]) if end >= 14 else (0, 0)
    information = int.from_bytes(raw[3:7]) if raw[0] & 0x80 and len(raw) >= 7 else None
    sks = raw[15:18] if end >= 18 and raw[15] & _SKSV else None
    return Sense(raw[2] & 0x0F, asc, ascq, deferred, information, sks)


def _decode_descriptor(raw: bytes, deferred: bool) -> Sense | None:
    if len(raw) < 4:
        return None
    end = min(len(raw), 8 + raw[7]) if len(raw) >= 8 else len(raw)
    information: int | None = None
    sks: bytes | None = None
    position = 8
    while position + 2 <= end:
        kind, size = raw[position], 2 + raw[position + 1]
        body = raw[position : min(position + size, end)]
        if kind == _INFORMATION_DESCRIPTOR and len(body) >= 12 and body[2] & 0x80:
            information = int.from_bytes(body[4:12])
        elif kind == _SENSE_KEY_SPECIFIC_DESCRIPTOR and len(body) >= 7 and body[4] & _SKSV:
            sks = body[4:7]
        position += size
    return Sense(raw[1] & 0x0F, raw[2], raw[3], deferred, information, sks)


NO_SENSE: Final = Sense(0x0, 0x00, 0x00)

LOGICAL_UNIT_NOT_READY: Final = Sense(0x2, 0x04, 0x00)
LOGICAL_UNIT_BECOMING_READY: Final = Sense(0x2, 0x04, 0x01)
INITIALIZING_COMMAND_REQUIRED: Final = Sense(0x2, 0x04, 0x02)
MEDIUM_NOT_PRESENT: Final = Sense(0x2, 0x3A, 0x00)

WRITE_ERROR: Final = Sense(0x3, 0x0C, 0x00)
UNRECOVERED_READ_ERROR: Final = Sense(0x3, 0x11, 0x00)
INTERNAL_TARGET_FAILURE: Final = Sense(0x4, 0x44, 0x00)

PARAMETER_LIST_LENGTH_ERROR: Final = Sense(0x5, 0x1A, 0x00)
INVALID_COMMAND_OPERATION_CODE: Final = Sense(0x5, 0x20, 0x00)
LBA_OUT_OF_RANGE: Final = Sense(0x5, 0x21, 0x00)
INVALID_FIELD_IN_CDB: Final = Sense(0x5, 0x24, 0x00)
LOGICAL_UNIT_NOT_SUPPORTED: Final = Sense(0x5, 0x25, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST: Final = Sense(0x5, 0x26, 0x00)
INVALID_RELEASE_OF_PERSISTENT_RESERVATION: Final = Sense(0x5, 0x26, 0x04)
SAVING_PARAMETERS_NOT_SUPPORTED: Final = Sense(0x5, 0x39, 0x00)
INSUFFICIENT_RESOURCES: Final = Sense(0x5, 0x55, 0x03)
INSUFFICIENT_REGISTRATION_RESOURCES: Final = Sense(0x5, 0x55, 0x04)

POWER_ON_RESET_OR_BUS_DEVICE_RESET: Final = Sense(0x6, 0x29, 0x00)
POWER_ON: Final = Sense(0x6, 0x29, 0x01)
SCSI_BUS_RESET: Final = Sense(0x6, 0x29, 0x02)
BUS_DEVICE_RESET_FUNCTION: Final = Sense(0x6, 0x29, 0x03)
DEVICE_INTERNAL_RESET: Final = Sense(0x6, 0x29, 0x04)
IT_NEXUS_LOSS: Final = Sense(0x6, 0x29, 0x07)
MODE_PARAMETERS_CHANGED: Final = Sense(0x6, 0x2A, 0x01)
RESERVATIONS_PREEMPTED: Final = Sense(0x6, 0x2A, 0x03)
RESERVATIONS_RELEASED: Final = Sense(0x6, 0x2A, 0x04)
REGISTRATIONS_PREEMPTED: Final = Sense(0x6, 0x2A, 0x05)
ASYMMETRIC_ACCESS_STATE_CHANGED: Final = Sense(0x6, 0x2A, 0x06)
CAPACITY_DATA_CHANGED: Final = Sense(0x6, 0x2A, 0x09)
PREVIOUS_RESERVATION_CONFLICT_STATUS: Final = Sense(0x6, 0x2C, 0x09)
COMMANDS_CLEARED_BY_ANOTHER_INITIATOR: Final = Sense(0x6, 0x2F, 0x00)
THIN_PROVISIONING_SOFT_THRESHOLD_REACHED: Final = Sense(0x6, 0x38, 0x07)
INQUIRY_DATA_CHANGED: Final = Sense(0x6, 0x3F, 0x03)
REPORTED_LUNS_DATA_CHANGED: Final = Sense(0x6, 0x3F, 0x0E)

WRITE_PROTECTED: Final = Sense(0x7, 0x27, 0x00)
SPACE_ALLOCATION_FAILED_WRITE_PROTECT: Final = Sense(0x7, 0x27, 0x07)
PERSISTENT_RESERVATION_INFORMATION_LOST: Final = Sense(0x7, 0x44, 0x01)

MISCOMPARE: Final = Sense(0xE, 0x1D, 0x00)
