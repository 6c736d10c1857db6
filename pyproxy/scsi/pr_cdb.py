"""CDBs of PERSISTENT RESERVE IN and PERSISTENT RESERVE OUT (SPC-4 6.15.1, 6.16.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pyproxy.scsi.constants import LU_SCOPE, PERSISTENT_RESERVE_IN, PERSISTENT_RESERVE_OUT
from pyproxy.scsi.cursor import Buffer, Cursor, bits, unsigned
from pyproxy.scsi.sense import INVALID_COMMAND_OPERATION_CODE, INVALID_FIELD_IN_CDB

_CDB_SIZE = 10
_LONGEST_PADDED = 16


@dataclass(frozen=True, slots=True)
class PrIn:
    """PERSISTENT RESERVE IN.

    ``action`` is the 5-bit service action, a PrInAction or a reserved number; ``allocation_length`` in bytes.
    """

    action: int
    allocation_length: int

    def encode(self) -> bytes:
        """Return the 10 bytes; raises ValueError when a field does not fit."""
        action = bits(self.action, 5, "service action")
        length = unsigned(self.allocation_length, 2, "allocation length")
        return bytes([PERSISTENT_RESERVE_IN, action, 0, 0, 0, 0, 0]) + length + b"\0"

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read a CDB of 10 bytes, or of up to 16 when the rest is zero; raises DecodeError."""
        cursor = _open(data, PERSISTENT_RESERVE_IN, "PERSISTENT RESERVE IN CDB")
        action = cursor.u8("service action") & 0x1F
        cursor.skip(5)
        return cls(action, cursor.u16("allocation length"))


@dataclass(frozen=True, slots=True)
class PrOut:
    """PERSISTENT RESERVE OUT.

    ``action`` is the 5-bit service action, a PrOutAction or a reserved number; ``scope`` and ``type`` are 4 bits
    each and may be reserved values; ``parameter_list_length`` in bytes.
    """

    action: int
    scope: int = LU_SCOPE
    type: int = 0
    parameter_list_length: int = 24

    def encode(self) -> bytes:
        """Return the 10 bytes; raises ValueError when a field does not fit."""
        action = bits(self.action, 5, "service action")
        scope_type = bits(self.scope, 4, "scope") << 4 | bits(self.type, 4, "type")
        length = unsigned(self.parameter_list_length, 4, "parameter list length")
        return bytes([PERSISTENT_RESERVE_OUT, action, scope_type, 0, 0]) + length + b"\0"

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read a CDB of 10 bytes, or of up to 16 when the rest is zero; raises DecodeError."""
        cursor = _open(data, PERSISTENT_RESERVE_OUT, "PERSISTENT RESERVE OUT CDB")
        action = cursor.u8("service action") & 0x1F
        scope_type = cursor.u8("scope and type")
        cursor.skip(2)
        return cls(action, scope_type >> 4, scope_type & 0x0F, cursor.u32("parameter list length"))


def _open(data: Buffer, opcode: int, what: str) -> Cursor:
    """Check length, padding and operation code; the cursor stands behind the operation code."""
    raw = bytes(data)
    cursor = Cursor(raw, what, sense=INVALID_FIELD_IN_CDB)
    if not _CDB_SIZE <= len(raw) <= _LONGEST_PADDED:
        raise cursor.error(f"got {len(raw)} bytes, expected {_CDB_SIZE} (or up to {_LONGEST_PADDED} padded with zero)")
    if any(raw[_CDB_SIZE:]):
        raise cursor.error(f"bytes after offset {_CDB_SIZE} are {raw[_CDB_SIZE:].hex()}, expected zero padding")
    got = cursor.u8("operation code")
    if got != opcode:
        cursor.sense = INVALID_COMMAND_OPERATION_CODE
        raise cursor.error(f"operation code at offset 0 is {got:02X}h, expected {opcode:02X}h")
    return cursor
