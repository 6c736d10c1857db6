"""Parameter data of READ CAPACITY (SBC-4 5.20, 5.21)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from pyproxy.scsi.cursor import Buffer, Cursor, bits, unsigned

CAPACITY_OVERFLOW: Final = 0xFFFFFFFF
"""RETURNED LOGICAL BLOCK ADDRESS of READ CAPACITY (10) that means: use READ CAPACITY (16)."""

_TAIL_SIZE = 20


@dataclass(frozen=True, slots=True)
class ReadCapacity10:
    """READ CAPACITY (10): ``last_lba`` is the highest address, ``block_size`` in bytes."""

    last_lba: int
    block_size: int

    @property
    def overflow(self) -> bool:
        """Whether the unit is too large for this command."""
        return self.last_lba == CAPACITY_OVERFLOW

    def encode(self) -> bytes:
        """Return 8 bytes; a ``last_lba`` over 32 bits becomes FFFFFFFFh, as SBC-4 5.20.2 demands."""
        return unsigned(min(self.last_lba, CAPACITY_OVERFLOW), 4, "last LBA") + unsigned(
            self.block_size, 4, "block size"
        )

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read 8 bytes, ignoring what follows; DecodeError when there are fewer."""
        cursor = Cursor(data, "READ CAPACITY (10) parameter data")
        return cls(cursor.u32("returned logical block address"), cursor.u32("logical block length"))


@dataclass(frozen=True, slots=True)
class ReadCapacity16:
    """READ CAPACITY (16): ``last_lba`` is the highest address, ``block_size`` in bytes.

    The other fields bear their names in the standard. When the reply was cut behind byte 12 they are 0 and
    ``complete`` is False.
    """

    last_lba: int
    block_size: int
    prot_en: bool = False
    p_type: int = 0
    p_i_exponent: int = 0
    logical_blocks_per_physical_exponent: int = 0
    lbpme: bool = False
    lbprz: bool = False
    lowest_aligned_lba: int = 0
    rc_basis: int = 0
    complete: bool = True

    @property
    def blocks(self) -> int:
        """Number of logical blocks."""
        return self.last_lba + 1

    @property
    def size(self) -> int:
        """Capacity in bytes."""
        return self.blocks * self.block_size

    def encode(self) -> bytes:
        """Return 32 bytes; ValueError when a field does not fit."""
        protection = bits(self.rc_basis, 2, "RC BASIS") << 4 | bits(self.p_type, 3, "P_TYPE") << 1 | self.prot_en
        exponents = bits(self.p_i_exponent, 4, "P_I_EXPONENT") << 4
        exponents |= bits(self.logical_blocks_per_physical_exponent, 4, "logical blocks per physical block exponent")
        provisioning = 0x8000 * self.lbpme | 0x4000 * self.lbprz
        provisioning |= bits(self.lowest_aligned_lba, 14, "lowest aligned LBA")
        return (
            unsigned(self.last_lba, 8, "last LBA")
            + unsigned(self.block_size, 4, "block size")
            + bytes([protection, exponents])
            + provisioning.to_bytes(2)
            + bytes(16)
        )

    @classmethod
    def decode(cls, data: Buffer) -> Self:
        """Read whole or truncated parameter data; DecodeError when fewer than 12 bytes are there."""
        cursor = Cursor(data, "READ CAPACITY (16) parameter data")
        last_lba = cursor.u64("returned logical block address")
        block_size = cursor.u32("logical block length")
        tail = cursor.take_at_most(_TAIL_SIZE)
        protection, exponents, high, low = tail[:4].ljust(4, b"\0")
        provisioning = high << 8 | low
        return cls(
            last_lba,
            block_size,
            prot_en=bool(protection & 0x01),
            p_type=protection >> 1 & 0x07,
            p_i_exponent=exponents >> 4,
            logical_blocks_per_physical_exponent=exponents & 0x0F,
            lbpme=bool(provisioning & 0x8000),
            lbprz=bool(provisioning & 0x4000),
            lowest_aligned_lba=provisioning & 0x3FFF,
            rc_basis=protection >> 4 & 0x03,
            complete=len(tail) == _TAIL_SIZE,
        )
