"""The SCSI operation codes as data: name, CDB length, direction, access class, lane and where LBA and length sit.

``_fastpath.cdb`` compiles these rows into its C tables when it is imported; nothing else interprets them.

Sources: SPC-4 6.1 and annex E.3 (operation codes), SBC-4 5 (block commands), SSC-4, SMC-3 and MMC-6 for the
commands only tapes, changers and optical drives have, SAT-3 12 (ATA PASS-THROUGH). Access classes: SPC-4 5.13.3
tables 65 to 68 and SBC-4 4.17; a command those tables leave out is classed by its effect: it changes the medium or
shared state - write; it exposes medium data or state - read.

Where one operation code means different things to different device types, the direct-access block device wins.
"""

from __future__ import annotations

from typing import Final, NamedTuple

# Access under a persistent reservation: a nexus without privilege is refused WRITE by every type and READ by the
# exclusive access types; ALWAYS passes; PR (PERSISTENT RESERVE OUT) and SPC2 (RESERVE, RELEASE) have their own rules.
CLASS_ALWAYS: Final = 0
CLASS_READ: Final = 1
CLASS_WRITE: Final = 2
CLASS_PR: Final = 3
CLASS_SPC2: Final = 4

# Who sees the command: nobody but the device (fast), Python afterwards (inspect), Python instead (pr).
LANE_FAST: Final = 0
LANE_INSPECT: Final = 1
LANE_PR: Final = 2

DIRECTION_NONE: Final = 0
DIRECTION_IN: Final = 1
DIRECTION_OUT: Final = 2
DIRECTION_BIDIRECTIONAL: Final = 3
DIRECTION_UNKNOWN: Final = 4

# How many bytes one unit of the transfer field stands for.
UNIT_NONE: Final = 0  # the CDB does not say
UNIT_BYTES: Final = 1
UNIT_BLOCKS: Final = 2
UNIT_TWO_BLOCKS: Final = 3  # COMPARE AND WRITE sends each block twice: what to compare, what to write
UNIT_ONE_BLOCK: Final = 4  # the field counts blocks of the medium, the data is one block whatever it says
UNIT_NO_DATA: Final = 5  # the field counts blocks of the medium; nothing, or an amount not in the CDB, is transferred
UNIT_512: Final = 6
UNIT_EIGHT_BYTES: Final = 7  # fixed by the standard, no field

VARIABLE_LENGTH: Final = 0x7F
"""Operation code whose CDBs carry their length in byte 7 and the service action in bytes 8 and 9 (SPC-4 4.2.3)."""

ANY_SERVICE_ACTION: Final = -1
"""In a row: every service action of the operation code that has no row of its own."""


class Field(NamedTuple):
    """A big-endian number in a CDB: its first and last byte and how many low bits of them belong to it."""

    first: int
    last: int
    bits: int


class When(NamedTuple):
    """A row applies only where ``cdb[byte] & mask == value``."""

    byte: int
    mask: int
    value: int


class Operation(NamedTuple):
    """One command. ``cdb_length`` 0: the command's length varies and only the CDB tells it.

    ``service_action`` is None where the operation code has none. Rows with ``when`` come before the row of the same
    command without it. ``zero_means`` is what a transfer field of 0 stands for, in its unit.
    """

    opcode: int
    service_action: int | None
    name: str
    cdb_length: int
    direction: int
    cls: int
    lane: int
    lba: Field | None
    transfer: Field | None
    unit: int
    zero_means: int
    when: When | None


def _op(
    opcode: int,
    name: str,
    cdb_length: int,
    direction: int,
    cls: int,
    transfer: Field | None = None,
    unit: int | None = None,
    *,
    sa: int | None = None,
    lba: Field | None = None,
    lane: int = LANE_FAST,
    zero_means: int = 0,
    when: When | None = None,
) -> Operation:
    if unit is None:
        unit = UNIT_NONE if transfer is None else UNIT_BYTES
    return Operation(opcode, sa, name, cdb_length, direction, cls, lane, lba, transfer, unit, zero_means, when)


_NONE, _IN, _OUT, _BOTH = DIRECTION_NONE, DIRECTION_IN, DIRECTION_OUT, DIRECTION_BIDIRECTIONAL
_ALWAYS, _READ, _WRITE = CLASS_ALWAYS, CLASS_READ, CLASS_WRITE
_BLOCKS = UNIT_BLOCKS

# Where the standards put the fields, by CDB size.
_LBA_6 = Field(1, 3, 21)
_LBA_10 = Field(2, 5, 32)
_LBA_16 = Field(2, 9, 64)
_LBA_32 = Field(12, 19, 64)
_BYTE_4 = Field(4, 4, 8)
_BYTES_2_4 = Field(2, 4, 24)
_BYTES_3_4 = Field(3, 4, 16)
_BYTES_3_5 = Field(3, 5, 24)
_BYTES_5_8 = Field(5, 8, 32)
_BYTES_6_8 = Field(6, 8, 24)
_BYTES_6_9 = Field(6, 9, 32)
_BYTES_7_8 = Field(7, 8, 16)
_BYTES_7_9 = Field(7, 9, 24)
_BYTES_8_9 = Field(8, 9, 16)
_BYTES_10_13 = Field(10, 13, 32)
_BYTES_12_13 = Field(12, 13, 16)
_BYTE_13 = Field(13, 13, 8)
_BYTES_28_31 = Field(28, 31, 32)


def _verify(
    opcode: int, name: str, cdb_length: int, lba: Field, blocks: Field, byte: int = 1, sa: int | None = None
) -> list[Operation]:
    """VERIFY: BYTCHK 01b compares every block with the data, 11b every block with one, else nothing is sent."""
    return [
        _op(opcode, name, cdb_length, _OUT, _READ, blocks, _BLOCKS, lba=lba, sa=sa, when=When(byte, 0x06, 0x02)),
        _op(opcode, name, cdb_length, _OUT, _READ, blocks, UNIT_ONE_BLOCK, lba=lba, sa=sa, when=When(byte, 0x06, 0x06)),
        _op(opcode, name, cdb_length, _NONE, _READ, blocks, UNIT_NO_DATA, lba=lba, sa=sa),
    ]


def _ata(opcode: int, name: str, cdb_length: int, byte: int, sa: int | None = None) -> list[Operation]:
    """ATA PASS-THROUGH: T_LENGTH 0 moves no data, else T_DIR tells; how much depends on several fields together."""
    return [
        _op(opcode, name, cdb_length, _NONE, _WRITE, sa=sa, when=When(byte, 0x03, 0x00)),
        _op(opcode, name, cdb_length, _IN, _WRITE, sa=sa, when=When(byte, 0x08, 0x08)),
        _op(opcode, name, cdb_length, _OUT, _WRITE, sa=sa),
    ]


def _security(opcode: int, name: str, direction: int, cls: int) -> list[Operation]:
    """INC_512 (byte 4 bit 7): the length counts 512 byte units."""
    return [
        _op(opcode, name, 12, direction, cls, _BYTES_6_9, UNIT_512, when=When(4, 0x80, 0x80)),
        _op(opcode, name, 12, direction, cls, _BYTES_6_9),
    ]


_SIX: list[Operation] = [
    _op(0x00, "TEST UNIT READY", 6, _NONE, _ALWAYS),
    _op(0x01, "REWIND", 6, _NONE, _WRITE),
    _op(0x03, "REQUEST SENSE", 6, _IN, _ALWAYS, _BYTE_4),
    _op(0x04, "FORMAT UNIT", 6, _OUT, _WRITE, when=When(1, 0x10, 0x10)),  # FMTDATA
    _op(0x04, "FORMAT UNIT", 6, _NONE, _WRITE),
    _op(0x05, "READ BLOCK LIMITS", 6, _IN, _ALWAYS),
    _op(0x07, "REASSIGN BLOCKS", 6, _OUT, _WRITE),
    _op(0x08, "READ(6)", 6, _IN, _READ, _BYTE_4, _BLOCKS, lba=_LBA_6, zero_means=256),
    _op(0x0A, "WRITE(6)", 6, _OUT, _WRITE, _BYTE_4, _BLOCKS, lba=_LBA_6, zero_means=256),
    _op(0x0B, "SEEK(6)", 6, _NONE, _WRITE, lba=_LBA_6),  # SET CAPACITY on a tape loses data
    _op(0x0F, "READ REVERSE(6)", 6, _IN, _READ, _BYTES_2_4, _BLOCKS, when=When(1, 0x01, 0x01)),  # FIXED
    _op(0x0F, "READ REVERSE(6)", 6, _IN, _READ, _BYTES_2_4),
    _op(0x10, "WRITE FILEMARKS(6)", 6, _NONE, _WRITE),
    _op(0x11, "SPACE(6)", 6, _NONE, _WRITE),
    _op(0x12, "INQUIRY", 6, _IN, _ALWAYS, _BYTES_3_4),
    _op(0x13, "VERIFY(6)", 6, _OUT, _READ, when=When(1, 0x02, 0x02)),  # BYTCMP
    _op(0x13, "VERIFY(6)", 6, _NONE, _READ),
    _op(0x14, "RECOVER BUFFERED DATA", 6, _IN, _READ, _BYTES_2_4, _BLOCKS, when=When(1, 0x01, 0x01)),  # FIXED
    _op(0x14, "RECOVER BUFFERED DATA", 6, _IN, _READ, _BYTES_2_4),
    _op(0x15, "MODE SELECT(6)", 6, _OUT, _WRITE, _BYTE_4),
    _op(0x16, "RESERVE(6)", 6, _OUT, CLASS_SPC2, _BYTES_3_4, lane=LANE_INSPECT),
    _op(0x17, "RELEASE(6)", 6, _NONE, CLASS_SPC2, lane=LANE_INSPECT),
    _op(0x18, "COPY", 6, _OUT, _WRITE, _BYTES_2_4),
    _op(0x19, "ERASE(6)", 6, _NONE, _WRITE),
    _op(0x1A, "MODE SENSE(6)", 6, _IN, _READ, _BYTE_4),
    _op(0x1B, "START STOP UNIT", 6, _NONE, _ALWAYS, when=When(4, 0xF1, 0x01)),  # START and POWER CONDITION 0
    _op(0x1B, "START STOP UNIT", 6, _NONE, _WRITE),
    _op(0x1C, "RECEIVE DIAGNOSTIC RESULTS", 6, _IN, _READ, _BYTES_3_4),
    _op(0x1D, "SEND DIAGNOSTIC", 6, _OUT, _WRITE, _BYTES_3_4),
    _op(0x1E, "PREVENT ALLOW MEDIUM REMOVAL", 6, _NONE, _ALWAYS, when=When(4, 0x03, 0x00)),  # allow
    _op(0x1E, "PREVENT ALLOW MEDIUM REMOVAL", 6, _NONE, _WRITE),
]

_TEN: list[Operation] = [
    _op(0x23, "READ FORMAT CAPACITIES", 10, _IN, _ALWAYS, _BYTES_7_8),
    _op(0x25, "READ CAPACITY(10)", 10, _IN, _ALWAYS, unit=UNIT_EIGHT_BYTES, lba=_LBA_10),
    _op(0x28, "READ(10)", 10, _IN, _READ, _BYTES_7_8, _BLOCKS, lba=_LBA_10),
    _op(0x2A, "WRITE(10)", 10, _OUT, _WRITE, _BYTES_7_8, _BLOCKS, lba=_LBA_10),
    _op(0x2B, "SEEK(10)", 10, _NONE, _WRITE, lba=_LBA_10),  # LOCATE(10) and POSITION TO ELEMENT move shared state
    _op(0x2C, "ERASE(10)", 10, _NONE, _WRITE, _BYTES_7_8, UNIT_NO_DATA, lba=_LBA_10),
    _op(0x2E, "WRITE AND VERIFY(10)", 10, _OUT, _WRITE, _BYTES_7_8, _BLOCKS, lba=_LBA_10),
    *_verify(0x2F, "VERIFY(10)", 10, _LBA_10, _BYTES_7_8),
    _op(0x30, "SEARCH DATA HIGH(10)", 10, _OUT, _READ, lba=_LBA_10),
    _op(0x31, "SEARCH DATA EQUAL(10)", 10, _OUT, _READ, lba=_LBA_10),
    _op(0x32, "SEARCH DATA LOW(10)", 10, _OUT, _READ, lba=_LBA_10),
    _op(0x33, "SET LIMITS(10)", 10, _NONE, _WRITE, _BYTES_7_8, UNIT_NO_DATA, lba=_LBA_10),
    _op(0x34, "PRE-FETCH(10)", 10, _NONE, _READ, _BYTES_7_8, UNIT_NO_DATA, lba=_LBA_10),
    _op(0x35, "SYNCHRONIZE CACHE(10)", 10, _NONE, _WRITE, _BYTES_7_8, UNIT_NO_DATA, lba=_LBA_10),
    _op(0x36, "LOCK UNLOCK CACHE(10)", 10, _NONE, _WRITE, _BYTES_7_8, UNIT_NO_DATA, lba=_LBA_10),
    _op(0x37, "READ DEFECT DATA(10)", 10, _IN, _READ, _BYTES_7_8),
    _op(0x39, "COMPARE", 10, _OUT, _READ, _BYTES_3_5),
    _op(0x3A, "COPY AND VERIFY", 10, _OUT, _WRITE, _BYTES_3_5),
    _op(0x3B, "WRITE BUFFER", 10, _OUT, _WRITE, _BYTES_6_8, sa=ANY_SERVICE_ACTION),
    _op(0x3C, "READ BUFFER(10)", 10, _IN, _READ, _BYTES_6_8, sa=ANY_SERVICE_ACTION),
    _op(0x3E, "READ LONG(10)", 10, _IN, _READ, _BYTES_7_8, lba=_LBA_10),
    _op(0x3F, "WRITE LONG(10)", 10, _OUT, _WRITE, _BYTES_7_8, lba=_LBA_10),
    _op(0x40, "CHANGE DEFINITION", 10, _OUT, _WRITE, Field(8, 8, 8)),
    _op(0x41, "WRITE SAME(10)", 10, _OUT, _WRITE, _BYTES_7_8, UNIT_ONE_BLOCK, lba=_LBA_10),
    _op(0x42, "UNMAP", 10, _OUT, _WRITE, _BYTES_7_8),
    _op(0x43, "READ TOC/PMA/ATIP", 10, _IN, _READ, _BYTES_7_8),
    _op(0x44, "REPORT DENSITY SUPPORT", 10, _IN, _READ, _BYTES_7_8),
    _op(0x45, "PLAY AUDIO(10)", 10, _NONE, _READ),
    _op(0x46, "GET CONFIGURATION", 10, _IN, _ALWAYS, _BYTES_7_8),
    _op(0x47, "PLAY AUDIO MSF", 10, _NONE, _READ),
    _op(0x48, "SANITIZE (OVERWRITE)", 10, _OUT, _WRITE, _BYTES_7_8, sa=0x01),
    _op(0x48, "SANITIZE", 10, _NONE, _WRITE, sa=ANY_SERVICE_ACTION),
    _op(0x4A, "GET EVENT STATUS NOTIFICATION", 10, _IN, _ALWAYS, _BYTES_7_8),
    _op(0x4B, "PAUSE/RESUME", 10, _NONE, _READ),
    _op(0x4C, "LOG SELECT", 10, _OUT, _WRITE, _BYTES_7_8),
    _op(0x4D, "LOG SENSE", 10, _IN, _ALWAYS, _BYTES_7_8),
    _op(0x4E, "STOP PLAY/SCAN", 10, _NONE, _READ),
    _op(0x50, "XDWRITE(10)", 10, _OUT, _WRITE, _BYTES_7_8, _BLOCKS, lba=_LBA_10),
    _op(0x51, "XPWRITE(10)", 10, _OUT, _WRITE, _BYTES_7_8, _BLOCKS, lba=_LBA_10),
    _op(0x52, "XDREAD(10)", 10, _IN, _READ, _BYTES_7_8, _BLOCKS, lba=_LBA_10),
    _op(0x53, "XDWRITEREAD(10)", 10, _BOTH, _WRITE, _BYTES_7_8, _BLOCKS, lba=_LBA_10),
    _op(0x54, "SEND OPC INFORMATION", 10, _OUT, _WRITE, _BYTES_7_8),
    _op(0x55, "MODE SELECT(10)", 10, _OUT, _WRITE, _BYTES_7_8),
    _op(0x56, "RESERVE(10)", 10, _OUT, CLASS_SPC2, _BYTES_7_8, lane=LANE_INSPECT),
    _op(0x57, "RELEASE(10)", 10, _OUT, CLASS_SPC2, _BYTES_7_8, lane=LANE_INSPECT),
    _op(0x58, "REPAIR TRACK", 10, _NONE, _WRITE),
    _op(0x5A, "MODE SENSE(10)", 10, _IN, _READ, _BYTES_7_8),
    _op(0x5B, "CLOSE TRACK/SESSION", 10, _NONE, _WRITE),
    _op(0x5C, "READ BUFFER CAPACITY", 10, _IN, _READ, _BYTES_7_8),
    _op(0x5D, "SEND CUE SHEET", 10, _OUT, _WRITE, _BYTES_6_8),
    *(
        _op(0x5E, f"PERSISTENT RESERVE IN ({name})", 10, _IN, _ALWAYS, _BYTES_7_8, sa=sa, lane=LANE_PR)
        for sa, name in (
            (0x00, "READ KEYS"),
            (0x01, "READ RESERVATION"),
            (0x02, "REPORT CAPABILITIES"),
            (0x03, "READ FULL STATUS"),
            (ANY_SERVICE_ACTION, "reserved service action"),
        )
    ),
    *(
        _op(0x5F, f"PERSISTENT RESERVE OUT ({name})", 10, _OUT, CLASS_PR, _BYTES_5_8, sa=sa, lane=LANE_PR)
        for sa, name in (
            (0x00, "REGISTER"),
            (0x01, "RESERVE"),
            (0x02, "RELEASE"),
            (0x03, "CLEAR"),
            (0x04, "PREEMPT"),
            (0x05, "PREEMPT AND ABORT"),
            (0x06, "REGISTER AND IGNORE EXISTING KEY"),
            (0x07, "REGISTER AND MOVE"),
            (0x08, "REPLACE LOST RESERVATION"),
            (ANY_SERVICE_ACTION, "reserved service action"),
        )
    ),
]

_THIRTY_TWO: list[Operation] = [
    # REBUILD, REGENERATE and the EXTENDED writes are long obsolete: only what access control needs.
    _op(0x7F, "REBUILD(32)", 32, _OUT, _WRITE, sa=0x0001),
    _op(0x7F, "REGENERATE(32)", 32, _OUT, _WRITE, sa=0x0002),
    _op(0x7F, "XDREAD(32)", 32, _IN, _READ, _BYTES_28_31, _BLOCKS, sa=0x0003, lba=_LBA_32),
    _op(0x7F, "XDWRITE(32)", 32, _OUT, _WRITE, _BYTES_28_31, _BLOCKS, sa=0x0004, lba=_LBA_32),
    _op(0x7F, "XDWRITE EXTENDED(32)", 32, _OUT, _WRITE, sa=0x0005),
    _op(0x7F, "XPWRITE(32)", 32, _OUT, _WRITE, _BYTES_28_31, _BLOCKS, sa=0x0006, lba=_LBA_32),
    _op(0x7F, "XDWRITEREAD(32)", 32, _BOTH, _WRITE, _BYTES_28_31, _BLOCKS, sa=0x0007, lba=_LBA_32),
    _op(0x7F, "XDWRITE EXTENDED(64)", 64, _OUT, _WRITE, sa=0x0008),
    _op(0x7F, "READ(32)", 32, _IN, _READ, _BYTES_28_31, _BLOCKS, sa=0x0009, lba=_LBA_32),
    *_verify(0x7F, "VERIFY(32)", 32, _LBA_32, _BYTES_28_31, byte=10, sa=0x000A),
    _op(0x7F, "WRITE(32)", 32, _OUT, _WRITE, _BYTES_28_31, _BLOCKS, sa=0x000B, lba=_LBA_32),
    _op(0x7F, "WRITE AND VERIFY(32)", 32, _OUT, _WRITE, _BYTES_28_31, _BLOCKS, sa=0x000C, lba=_LBA_32),
    _op(
        0x7F,
        "WRITE SAME(32)",
        32,
        _NONE,
        _WRITE,
        _BYTES_28_31,
        UNIT_NO_DATA,
        sa=0x000D,
        lba=_LBA_32,
        when=When(10, 0x01, 0x01),  # NDOB
    ),
    _op(0x7F, "WRITE SAME(32)", 32, _OUT, _WRITE, _BYTES_28_31, UNIT_ONE_BLOCK, sa=0x000D, lba=_LBA_32),
    _op(0x7F, "ORWRITE(32)", 32, _OUT, _WRITE, _BYTES_28_31, _BLOCKS, sa=0x000E, lba=_LBA_32),
    _op(0x7F, "WRITE ATOMIC(32)", 32, _OUT, _WRITE, _BYTES_28_31, _BLOCKS, sa=0x000F, lba=_LBA_32),
    _op(0x7F, "WRITE STREAM(32)", 32, _OUT, _WRITE, _BYTES_28_31, _BLOCKS, sa=0x0010, lba=_LBA_32),
    _op(0x7F, "WRITE SCATTERED(32)", 32, _OUT, _WRITE, _BYTES_28_31, _BLOCKS, sa=0x0011),
    _op(0x7F, "GET LBA STATUS(32)", 32, _IN, _READ, _BYTES_28_31, sa=0x0012, lba=_LBA_32),
    _op(0x7F, "RECEIVE CREDENTIAL", 0, _IN, _WRITE, sa=0x1800),
    *_ata(0x7F, "ATA PASS-THROUGH(32)", 32, byte=11, sa=0x1FF0),
]

_SIXTEEN: list[Operation] = [
    _op(0x80, "XDWRITE EXTENDED(16)", 16, _OUT, _WRITE, _BYTES_10_13, _BLOCKS, lba=_LBA_10),
    _op(0x81, "REBUILD(16)", 16, _OUT, _WRITE, _BYTES_10_13, lba=_LBA_10),
    _op(0x82, "REGENERATE(16)", 16, _OUT, _WRITE, _BYTES_10_13, lba=_LBA_10),
    _op(0x83, "EXTENDED COPY(LID1)", 16, _OUT, _WRITE, _BYTES_10_13, sa=0x00),
    _op(0x83, "EXTENDED COPY(LID4)", 16, _OUT, _WRITE, _BYTES_10_13, sa=0x01),
    _op(0x83, "POPULATE TOKEN", 16, _OUT, _READ, _BYTES_10_13, sa=0x10),
    _op(0x83, "WRITE USING TOKEN", 16, _OUT, _WRITE, _BYTES_10_13, sa=0x11),
    _op(0x83, "COPY OPERATION ABORT", 16, _NONE, _WRITE, sa=0x1C),
    *(
        _op(0x84, name, 16, _IN, _ALWAYS, _BYTES_10_13, sa=sa)
        for sa, name in (
            (0x00, "RECEIVE COPY STATUS(LID1)"),
            (0x01, "RECEIVE COPY DATA(LID1)"),
            (0x02, "RECEIVE COPY RESULTS (reserved service action)"),
            (0x03, "RECEIVE COPY OPERATING PARAMETERS"),
            (0x04, "RECEIVE COPY FAILURE DETAILS(LID1)"),
            (0x05, "RECEIVE COPY STATUS(LID4)"),
            (0x06, "RECEIVE COPY DATA(LID4)"),
            (0x07, "RECEIVE ROD TOKEN INFORMATION"),
            (0x08, "REPORT ALL ROD TOKENS"),
        )
    ),
    *_ata(0x85, "ATA PASS-THROUGH(16)", 16, byte=2),
    _op(0x86, "ACCESS CONTROL IN", 16, _IN, _ALWAYS, _BYTES_10_13, sa=ANY_SERVICE_ACTION),
    _op(0x87, "ACCESS CONTROL OUT", 16, _OUT, _ALWAYS, _BYTES_10_13, sa=ANY_SERVICE_ACTION),
    _op(0x88, "READ(16)", 16, _IN, _READ, _BYTES_10_13, _BLOCKS, lba=_LBA_16),
    _op(0x89, "COMPARE AND WRITE", 16, _OUT, _WRITE, _BYTE_13, UNIT_TWO_BLOCKS, lba=_LBA_16),
    _op(0x8A, "WRITE(16)", 16, _OUT, _WRITE, _BYTES_10_13, _BLOCKS, lba=_LBA_16),
    _op(0x8B, "ORWRITE(16)", 16, _OUT, _WRITE, _BYTES_10_13, _BLOCKS, lba=_LBA_16),
    _op(0x8C, "READ ATTRIBUTE", 16, _IN, _READ, _BYTES_10_13, sa=ANY_SERVICE_ACTION),
    _op(0x8D, "WRITE ATTRIBUTE", 16, _OUT, _WRITE, _BYTES_10_13),
    _op(0x8E, "WRITE AND VERIFY(16)", 16, _OUT, _WRITE, _BYTES_10_13, _BLOCKS, lba=_LBA_16),
    *_verify(0x8F, "VERIFY(16)", 16, _LBA_16, _BYTES_10_13),
    _op(0x90, "PRE-FETCH(16)", 16, _NONE, _READ, _BYTES_10_13, UNIT_NO_DATA, lba=_LBA_16),
    _op(0x91, "SYNCHRONIZE CACHE(16)", 16, _NONE, _WRITE, _BYTES_10_13, UNIT_NO_DATA, lba=_LBA_16),
    _op(0x92, "LOCK UNLOCK CACHE(16)", 16, _NONE, _WRITE, _BYTES_10_13, UNIT_NO_DATA, lba=_LBA_16),
    _op(0x93, "WRITE SAME(16)", 16, _NONE, _WRITE, _BYTES_10_13, UNIT_NO_DATA, lba=_LBA_16, when=When(1, 0x01, 0x01)),
    _op(0x93, "WRITE SAME(16)", 16, _OUT, _WRITE, _BYTES_10_13, UNIT_ONE_BLOCK, lba=_LBA_16),
    _op(0x94, "ZBC OUT", 16, _NONE, _WRITE, lba=_LBA_16, sa=ANY_SERVICE_ACTION),
    _op(0x95, "ZONE ACTIVATE", 16, _IN, _WRITE, _BYTES_10_13, lba=_LBA_16, sa=0x08),
    _op(0x95, "ZBC IN", 16, _IN, _READ, _BYTES_10_13, lba=_LBA_16, sa=ANY_SERVICE_ACTION),
    _op(0x96, "WRITE BUFFER(16)", 16, _OUT, _WRITE, sa=ANY_SERVICE_ACTION),
    _op(0x9A, "WRITE STREAM(16)", 16, _OUT, _WRITE, _BYTES_12_13, _BLOCKS, lba=_LBA_16),
    _op(0x9B, "READ BUFFER(16)", 16, _IN, _READ, _BYTES_10_13, sa=ANY_SERVICE_ACTION),
    _op(0x9C, "WRITE ATOMIC(16)", 16, _OUT, _WRITE, _BYTES_12_13, _BLOCKS, lba=_LBA_16),
    _op(0x9E, "RECEIVE BINDING REPORT", 16, _IN, _READ, _BYTES_10_13, sa=0x0F),
    _op(0x9E, "READ CAPACITY(16)", 16, _IN, _ALWAYS, _BYTES_10_13, sa=0x10, lba=_LBA_16),
    _op(0x9E, "READ LONG(16)", 16, _IN, _READ, _BYTES_12_13, sa=0x11, lba=_LBA_16),
    _op(0x9E, "GET LBA STATUS(16)", 16, _IN, _READ, _BYTES_10_13, sa=0x12, lba=_LBA_16),
    _op(0x9E, "REPORT REFERRALS", 16, _IN, _ALWAYS, _BYTES_10_13, sa=0x13, lba=_LBA_16),
    _op(0x9E, "STREAM CONTROL", 16, _IN, _WRITE, _BYTES_10_13, sa=0x14),
    _op(0x9E, "BACKGROUND CONTROL", 16, _NONE, _WRITE, sa=0x15),
    _op(0x9E, "GET STREAM STATUS", 16, _IN, _READ, _BYTES_10_13, sa=0x16),
    _op(0x9E, "GET PHYSICAL ELEMENT STATUS", 16, _IN, _READ, _BYTES_10_13, sa=0x17),
    _op(0x9E, "REMOVE ELEMENT AND TRUNCATE", 16, _NONE, _WRITE, sa=0x18),
    _op(0x9E, "RESTORE ELEMENTS AND REBUILD", 16, _NONE, _WRITE, sa=0x19),
    _op(0x9E, "REMOVE ELEMENT AND MODIFY ZONES", 16, _NONE, _WRITE, sa=0x1A),
    _op(0x9F, "WRITE LONG(16)", 16, _OUT, _WRITE, _BYTES_12_13, sa=0x11, lba=_LBA_16),
    _op(0x9F, "WRITE SCATTERED(16)", 16, _OUT, _WRITE, _BYTES_10_13, _BLOCKS, sa=0x12),
]

_TWELVE: list[Operation] = [
    _op(0xA0, "REPORT LUNS", 12, _IN, _ALWAYS, _BYTES_6_9),
    *_ata(0xA1, "ATA PASS-THROUGH(12)", 12, byte=2),
    *_security(0xA2, "SECURITY PROTOCOL IN", _IN, _READ),
    *(
        _op(0xA3, name, 12, _IN, cls, _BYTES_6_9, sa=sa, lane=lane)
        for sa, name, cls, lane in (
            (0x05, "REPORT IDENTIFYING INFORMATION", _ALWAYS, LANE_FAST),
            (0x0A, "REPORT TARGET PORT GROUPS", _ALWAYS, LANE_FAST),
            (0x0B, "REPORT ALIASES", _ALWAYS, LANE_FAST),
            (0x0C, "REPORT SUPPORTED OPERATION CODES", _READ, LANE_INSPECT),
            (0x0D, "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS", _READ, LANE_FAST),
            (0x0E, "REPORT PRIORITY", _ALWAYS, LANE_FAST),
            (0x0F, "REPORT TIMESTAMP", _ALWAYS, LANE_FAST),
            (0x10, "MANAGEMENT PROTOCOL IN", _READ, LANE_FAST),
            (0x1D, "REPORT PROVISIONING INITIALIZATION PATTERN", _ALWAYS, LANE_FAST),
        )
    ),
    *(
        _op(0xA4, name, 12, _OUT, _WRITE, _BYTES_6_9, sa=sa)
        for sa, name in (
            (0x06, "SET IDENTIFYING INFORMATION"),
            (0x0A, "SET TARGET PORT GROUPS"),
            (0x0B, "CHANGE ALIASES"),
            (0x0C, "REMOVE I_T NEXUS"),
            (0x0E, "SET PRIORITY"),
            (0x0F, "SET TIMESTAMP"),
            (0x10, "MANAGEMENT PROTOCOL OUT"),
        )
    ),
    _op(0xA5, "MOVE MEDIUM", 12, _NONE, _WRITE),
    _op(0xA6, "EXCHANGE MEDIUM", 12, _NONE, _WRITE),
    _op(0xA7, "MOVE MEDIUM ATTACHED", 12, _NONE, _WRITE),
    _op(0xA8, "READ(12)", 12, _IN, _READ, _BYTES_6_9, _BLOCKS, lba=_LBA_10),
    _op(0xAA, "WRITE(12)", 12, _OUT, _WRITE, _BYTES_6_9, _BLOCKS, lba=_LBA_10),
    _op(0xAB, "READ MEDIA SERIAL NUMBER", 12, _IN, _ALWAYS, _BYTES_6_9, sa=0x01),
    # Optical memory erases with it, CD and DVD drives report performance: neither may be taken for the other.
    _op(0xAC, "ERASE(12) / GET PERFORMANCE", 12, DIRECTION_UNKNOWN, _WRITE),
    _op(0xAD, "READ DISC STRUCTURE", 12, _IN, _READ, _BYTES_8_9),
    _op(0xAE, "WRITE AND VERIFY(12)", 12, _OUT, _WRITE, _BYTES_6_9, _BLOCKS, lba=_LBA_10),
    *_verify(0xAF, "VERIFY(12)", 12, _LBA_10, _BYTES_6_9),
    _op(0xB0, "SEARCH DATA HIGH(12)", 12, _OUT, _READ, lba=_LBA_10),
    _op(0xB1, "SEARCH DATA EQUAL(12)", 12, _OUT, _READ, lba=_LBA_10),
    _op(0xB2, "SEARCH DATA LOW(12)", 12, _OUT, _READ, lba=_LBA_10),
    _op(0xB3, "SET LIMITS(12)", 12, _NONE, _WRITE, _BYTES_6_9, UNIT_NO_DATA, lba=_LBA_10),
    _op(0xB4, "READ ELEMENT STATUS ATTACHED", 12, _IN, _READ, _BYTES_7_9),
    *_security(0xB5, "SECURITY PROTOCOL OUT", _OUT, _WRITE),
    _op(0xB6, "SEND VOLUME TAG", 12, _OUT, _WRITE),  # and SET STREAMING, whose length is elsewhere
    _op(0xB7, "READ DEFECT DATA(12)", 12, _IN, _READ, _BYTES_6_9),
    _op(0xB8, "READ ELEMENT STATUS", 12, _IN, _READ, _BYTES_7_9),
    _op(0xB9, "READ CD MSF", 12, _IN, _READ),
    _op(0xBA, "SCAN", 12, _NONE, _READ),
    _op(0xBB, "SET CD SPEED", 12, _NONE, _WRITE),
    _op(0xBD, "MECHANISM STATUS", 12, _IN, _READ, _BYTES_8_9),
    _op(0xBE, "READ CD", 12, _IN, _READ, _BYTES_6_8, UNIT_NO_DATA, lba=_LBA_10),  # sector size depends on byte 9
    _op(0xBF, "SEND DISC STRUCTURE", 12, _OUT, _WRITE, _BYTES_8_9),
]

OPERATIONS: Final[tuple[Operation, ...]] = (*_SIX, *_TEN, *_THIRTY_TWO, *_SIXTEEN, *_TWELVE)

SERVICE_ACTION_OPCODES: Final[dict[int, tuple[str, int]]] = {
    0x3B: ("WRITE BUFFER", DIRECTION_OUT),
    0x3C: ("READ BUFFER(10)", DIRECTION_IN),
    0x48: ("SANITIZE", DIRECTION_NONE),
    0x5E: ("PERSISTENT RESERVE IN", DIRECTION_IN),
    0x5F: ("PERSISTENT RESERVE OUT", DIRECTION_OUT),
    0x83: ("THIRD-PARTY COPY OUT", DIRECTION_OUT),
    0x84: ("THIRD-PARTY COPY IN", DIRECTION_IN),
    0x86: ("ACCESS CONTROL IN", DIRECTION_IN),
    0x87: ("ACCESS CONTROL OUT", DIRECTION_OUT),
    0x8C: ("READ ATTRIBUTE", DIRECTION_IN),
    0x94: ("ZBC OUT", DIRECTION_NONE),
    0x95: ("ZBC IN", DIRECTION_IN),
    0x96: ("WRITE BUFFER(16)", DIRECTION_OUT),
    0x9B: ("READ BUFFER(16)", DIRECTION_IN),
    0x9D: ("SERVICE ACTION BIDIRECTIONAL", DIRECTION_BIDIRECTIONAL),
    0x9E: ("SERVICE ACTION IN(16)", DIRECTION_IN),
    0x9F: ("SERVICE ACTION OUT(16)", DIRECTION_OUT),
    0xA3: ("MAINTENANCE IN", DIRECTION_IN),
    0xA4: ("MAINTENANCE OUT", DIRECTION_OUT),
    0xA9: ("SERVICE ACTION OUT(12)", DIRECTION_OUT),
    0xAB: ("SERVICE ACTION IN(12)", DIRECTION_IN),
}
"""Operation codes with a service action (or a mode) in byte 1 bits 4-0: their own name and direction."""


def unknown_cdb_length(opcode: int) -> int:
    """CDB length in bytes by the operation code's group (SPC-4 4.2.5.1), 0 where the group does not tell."""
    return (6, 10, 10, 0, 16, 12, 0, 0)[opcode >> 5]


def operation_name(opcode: int, service_action: int = 0) -> str:
    """Name a command as the standards do, for logs and people: ``READ(10)``, or ``operation code C1h``."""
    fallback = f"operation code {opcode:02X}h"
    if opcode in SERVICE_ACTION_OPCODES or opcode == VARIABLE_LENGTH:
        family = SERVICE_ACTION_OPCODES.get(opcode, ("variable length CDB", DIRECTION_UNKNOWN))[0]
        fallback = f"{family} service action {service_action:02X}h"
    for row in OPERATIONS:
        if row.opcode == opcode and row.service_action in (None, service_action, ANY_SERVICE_ACTION):
            return row.name
    return fallback
