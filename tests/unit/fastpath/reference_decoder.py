"""A slow decoder of CDBs, written from the standards' field tables and sharing nothing with the one under test."""

from __future__ import annotations

from typing import NamedTuple

BLOCK = 512

# SPC-4 5.13.3, SBC-4 4.17: which commands pass under every reservation, which are stopped by exclusive access only.
ALWAYS = {0x00, 0x03, 0x05, 0x12, 0x23, 0x25, 0x46, 0x4A, 0x4D, 0x5E, 0x86, 0x87, 0xA0}
ALWAYS_ACTIONS = {
    0x84: set(range(9)),
    0x9E: {0x10, 0x13},
    0xA3: {0x05, 0x0A, 0x0B, 0x0E, 0x0F, 0x1D},
    0xAB: {0x01},
}
READS = {
    *(0x08, 0x28, 0xA8, 0x88),  # READ
    *(0x0F, 0x14, 0x52, 0x3E, 0xB9, 0xBE),  # READ REVERSE, RECOVER BUFFERED DATA, XDREAD, READ LONG, READ CD
    *(0x13, 0x2F, 0xAF, 0x8F, 0x39),  # VERIFY, COMPARE
    *(0x30, 0x31, 0x32, 0xB0, 0xB1, 0xB2),  # SEARCH DATA
    *(0x34, 0x90),  # PRE-FETCH
    *(0x1A, 0x5A, 0x8C, 0x3C, 0x9B, 0x37, 0xB7, 0x1C, 0xA2),  # state
    *(0x43, 0x44, 0x45, 0x47, 0x4B, 0x4E, 0x5C, 0xAD, 0xB4, 0xB8, 0xBA, 0xBD),  # changers and optical drives
}
READ_ACTIONS = {
    0x83: {0x10},
    0x95: set(range(32)) - {0x08},
    0x9E: {0x0F, 0x11, 0x12, 0x16, 0x17},
    0xA3: {0x0C, 0x0D, 0x10},
    0x7F: {0x0003, 0x0009, 0x000A, 0x0012},
}
SPC2 = {0x16, 0x17, 0x56, 0x57}

# Operation codes whose byte 1 bits 4-0 are a service action or mode.
WITH_ACTION = {
    *(0x3B, 0x3C, 0x48, 0x5E, 0x5F, 0x83, 0x84, 0x86, 0x87, 0x8C, 0x94, 0x95, 0x96, 0x9B, 0x9D, 0x9E, 0x9F),
    *(0xA3, 0xA4, 0xA9, 0xAB),
}

LBA_21 = {0x08, 0x0A, 0x0B}
LBA_32 = {
    *(0x25, 0x28, 0x2A, 0x2B, 0x2C, 0x2E, 0x2F, 0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x3E, 0x3F, 0x41),
    *(0x50, 0x51, 0x52, 0x53, 0x80, 0x81, 0x82, 0xA8, 0xAA, 0xAE, 0xAF, 0xB0, 0xB1, 0xB2, 0xB3, 0xBE),
}
LBA_64 = {0x88, 0x89, 0x8A, 0x8B, 0x8E, 0x8F, 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x9A, 0x9C}
LBA_64_ACTIONS = {0x9E: {0x10, 0x11, 0x12, 0x13}, 0x9F: {0x11}}
LBA_OF_32 = {0x03, 0x04, 0x06, 0x07, 0x09, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F, 0x10, 0x12}

# Where the number of blocks is: operation code -> (first byte, width).
BLOCKS_10 = {0x28, 0x2A, 0x2C, 0x2E, 0x2F, 0x33, 0x34, 0x35, 0x36, 0x41, 0x50, 0x51, 0x52, 0x53}
BLOCKS_12 = {0xA8, 0xAA, 0xAE, 0xAF, 0xB3}
BLOCKS_16 = {0x80, 0x88, 0x8A, 0x8B, 0x8E, 0x8F, 0x90, 0x91, 0x92, 0x93}
MOVES_NO_DATA = {0x2C, 0x33, 0x34, 0x35, 0x36, 0x90, 0x91, 0x92, 0xB3, 0xBE}

BYTES = {
    **dict.fromkeys((0x03, 0x15, 0x1A), (4, 1)),
    **dict.fromkeys((0x12, 0x16, 0x1C, 0x1D), (3, 2)),
    0x18: (2, 3),
    **dict.fromkeys((0x39, 0x3A), (3, 3)),
    **dict.fromkeys((0x3B, 0x3C, 0x5D), (6, 3)),
    0x40: (8, 1),
    **dict.fromkeys(
        (0x23, 0x37, 0x3E, 0x3F, 0x42, 0x43, 0x44, 0x46, 0x4A, 0x4C, 0x4D, 0x54, 0x55, 0x56, 0x57, 0x5A, 0x5C, 0x5E),
        (7, 2),
    ),
    0x5F: (5, 4),
    **dict.fromkeys((0x81, 0x82, 0x86, 0x87, 0x8C, 0x8D, 0x95, 0x9B), (10, 4)),
    **dict.fromkeys((0xA0, 0xB7), (6, 4)),
    **dict.fromkeys((0xAD, 0xBD, 0xBF), (8, 2)),
    **dict.fromkeys((0xB4, 0xB8), (7, 3)),
}
BYTES_ACTIONS = {
    0x48: {0x01: (7, 2)},
    0x83: dict.fromkeys((0x00, 0x01, 0x10, 0x11), (10, 4)),
    0x84: dict.fromkeys(range(9), (10, 4)),
    0x9E: {
        **dict.fromkeys((0x0F, 0x10, 0x12, 0x13, 0x14, 0x16, 0x17), (10, 4)),
        0x11: (12, 2),
    },
    0x9F: {0x11: (12, 2)},
    0xA3: dict.fromkeys((0x05, 0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F, 0x10, 0x1D), (6, 4)),
    0xA4: dict.fromkeys((0x06, 0x0A, 0x0B, 0x0C, 0x0E, 0x0F, 0x10), (6, 4)),
    0xAB: {0x01: (6, 4)},
}


class Decoded(NamedTuple):
    opcode: int
    service_action: int
    lba: int
    blocks: int
    bytes: int
    cls: int
    lane: int
    cdb_length: int
    valid: bool


def _number(cdb: bytes, first: int, width: int) -> int:
    return int.from_bytes(cdb[first : first + width], "big")


def cdb_length(opcode: int) -> int:
    """Group code rule of SPC-4 4.2.5.1; 0 for the reserved and vendor specific groups."""
    if opcode < 0x20:
        return 6
    if opcode < 0x60:
        return 10
    if opcode < 0x80:
        return 0
    if opcode < 0xA0:
        return 16
    return 12 if opcode < 0xC0 else 0


def _class(cdb: bytes, opcode: int, action: int) -> int:
    if opcode == 0x5F:
        return 3
    if opcode in SPC2:
        return 4
    if opcode == 0x1B:
        return 0 if cdb[4] & 1 and cdb[4] >> 4 == 0 else 2
    if opcode == 0x1E:
        return 0 if cdb[4] & 3 == 0 else 2
    if opcode in ALWAYS or action in ALWAYS_ACTIONS.get(opcode, ()):
        return 0
    if opcode in READS or action in READ_ACTIONS.get(opcode, ()):
        return 1
    return 2


def _lane(opcode: int, action: int) -> int:
    if opcode in (0x5E, 0x5F):
        return 2
    return 1 if opcode in SPC2 or (opcode == 0xA3 and action == 0x0C) else 0


def _lba(cdb: bytes, opcode: int, action: int) -> int:
    if opcode in LBA_21:
        return _number(cdb, 1, 3) & 0x1FFFFF
    if opcode in LBA_32:
        return _number(cdb, 2, 4)
    if opcode in LBA_64 or action in LBA_64_ACTIONS.get(opcode, ()):
        return _number(cdb, 2, 8)
    return 0


def _blocks(cdb: bytes, opcode: int, action: int) -> int:
    if opcode in (0x08, 0x0A):
        return cdb[4] or 256
    if opcode in (0x0F, 0x14):
        return _number(cdb, 2, 3) if cdb[1] & 1 else 0
    if opcode in BLOCKS_10:
        return _number(cdb, 7, 2)
    if opcode in BLOCKS_12:
        return _number(cdb, 6, 4)
    if opcode in BLOCKS_16 or (opcode == 0x9F and action == 0x12):
        return _number(cdb, 10, 4)
    if opcode in (0x9A, 0x9C):
        return _number(cdb, 12, 2)
    if opcode == 0x89:
        return cdb[13]
    return _number(cdb, 6, 3) if opcode == 0xBE else 0


def _verify_blocks(blocks: int, bytchk: int) -> int:
    return {0b01: blocks, 0b11: 1}.get(bytchk, 0)


def _bytes(cdb: bytes, opcode: int, action: int, blocks: int) -> int:
    if opcode in (0x2F, 0xAF, 0x8F):
        return BLOCK * _verify_blocks(blocks, cdb[1] >> 1 & 3)
    if opcode == 0x41:
        return BLOCK
    if opcode == 0x93:
        return 0 if cdb[1] & 1 else BLOCK
    if opcode == 0x89:
        return 2 * BLOCK * blocks
    if opcode in MOVES_NO_DATA:
        return 0
    if opcode == 0x25:
        return 8
    if opcode in (0x0F, 0x14) and not cdb[1] & 1:
        return _number(cdb, 2, 3)
    if opcode in (0xA2, 0xB5):
        return _number(cdb, 6, 4) * (512 if cdb[4] & 0x80 else 1)
    field = BYTES.get(opcode) or BYTES_ACTIONS.get(opcode, {}).get(action)
    return _number(cdb, *field) if field else BLOCK * blocks


def _decode_32(cdb: bytes) -> Decoded:
    if len(cdb) < 10:
        return Decoded(0x7F, 0, 0, 0, 0, 2, 0, 0, False)
    action = _number(cdb, 8, 2)
    length = 8 + cdb[7]
    lengths = {**dict.fromkeys(range(0x01, 0x13), 32), 0x08: 64, 0x1FF0: 32}
    cls = 1 if action in READ_ACTIONS[0x7F] else 2
    if length < 10 or length % 4 or length > len(cdb) or lengths.get(action, length) != length:
        return Decoded(0x7F, action, 0, 0, 0, cls, 0, length, False)
    lba = _number(cdb, 12, 8) if action in LBA_OF_32 else 0
    blocks = _number(cdb, 28, 4) if action in (LBA_OF_32 | {0x11}) - {0x12} else 0
    transfer = blocks * BLOCK
    if action == 0x0A:
        transfer = BLOCK * _verify_blocks(blocks, cdb[10] >> 1 & 3)
    elif action == 0x0D:
        transfer = 0 if cdb[10] & 1 else BLOCK
    elif action == 0x12:
        transfer = _number(cdb, 28, 4)
    return Decoded(0x7F, action, lba, blocks, transfer, cls, 0, length, True)


def decode(cdb: bytes) -> Decoded:
    """Decode at a block size of 512 bytes. For CDBs too short to hold byte 4, only opcode and validity count."""
    opcode = cdb[0] if cdb else 0
    if opcode == 0x7F:
        return _decode_32(cdb)
    length = cdb_length(opcode)
    padded = cdb.ljust(16, b"\0")
    action = padded[1] & 0x1F if opcode in WITH_ACTION else 0
    cls, lane = _class(padded, opcode, action), _lane(opcode, action)
    if len(cdb) < max(length, 6):
        return Decoded(opcode, action, 0, 0, 0, cls, lane, length, False)
    blocks = _blocks(cdb, opcode, action)
    transfer = _bytes(cdb, opcode, action, blocks)
    return Decoded(opcode, action, _lba(cdb, opcode, action), blocks, transfer, cls, lane, length, True)
