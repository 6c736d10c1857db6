"""Table-driven CDB parsing (SPC-4 4.2, SBC-4 5)."""

from typing import Final, final

from _typeshed import ReadableBuffer

CLASS_ALWAYS: Final = 0
"""Passes under every persistent reservation."""
CLASS_READ: Final = 1
"""Refused to nexuses without privilege by the exclusive access types."""
CLASS_WRITE: Final = 2
"""Refused to nexuses without privilege by every type; also everything unknown."""
CLASS_PR: Final = 3
"""PERSISTENT RESERVE OUT: decided per service action (SPC-4 5.13.3, table 66)."""
CLASS_SPC2: Final = 4
"""RESERVE and RELEASE (6) and (10): decided by the compatible reservation handling (SPC-4 5.13.3)."""

LANE_FAST: Final = 0
"""Straight to the device."""
LANE_INSPECT: Final = 1
"""To the device; its completion concerns the snooper."""
LANE_PR: Final = 2
"""Handed to the snooper instead of the device."""

DIRECTION_NONE: Final = 0
DIRECTION_IN: Final = 1
"""Device to initiator."""
DIRECTION_OUT: Final = 2
"""Initiator to device."""
DIRECTION_BIDIRECTIONAL: Final = 3
DIRECTION_UNKNOWN: Final = 4

ITEM_FORMAT: Final[str]
"""``struct`` format of one item of a ParsedBatch's buffer: lba, bytes, blocks, cdb_length, service_action, opcode,
cls, lane, direction, valid, unknown (native byte order)."""
ITEM_SIZE: Final[int]
"""Bytes per item of a ParsedBatch's buffer (32)."""
MAX_BLOCK_SIZE: Final[int]
"""Largest logical block size parse accepts, in bytes."""

@final
class ParsedCdb:
    """What one CDB says. Immutable, comparable, hashable."""

    @property
    def opcode(self) -> int: ...
    @property
    def service_action(self) -> int:
        """Service action (or buffer mode); 0 for operation codes without one."""

    @property
    def lba(self) -> int:
        """Logical block address, 0 for commands without one."""

    @property
    def blocks(self) -> int:
        """Logical blocks of the medium the command names, 0 for commands that count bytes.

        A READ(6) or WRITE(6) length of 0 is reported as 256.
        """

    @property
    def bytes(self) -> int:
        """Bytes the CDB asks to transfer, without protection information; 0 where it does not say.

        For commands that count blocks this is blocks times the block size (twice that for COMPARE AND WRITE, one
        block for WRITE SAME and VERIFY with BYTCHK 11b, 0 for SYNCHRONIZE CACHE, PRE-FETCH and VERIFY without BYTCHK).
        """

    @property
    def cls(self) -> int:
        """Access class: one of CLASS_*."""

    @property
    def lane(self) -> int:
        """One of LANE_*."""

    @property
    def direction(self) -> int:
        """One of DIRECTION_*. FORMAT UNIT and REASSIGN BLOCKS send data whose length only the data tells."""

    @property
    def cdb_length(self) -> int:
        """Length of the CDB in bytes by its operation code; 0 where that does not tell (vendor specific)."""

    @property
    def valid(self) -> bool:
        """False where fewer bytes were given than the operation code demands; LBA, blocks and bytes are then 0.

        Also False where a variable length CDB's ADDITIONAL CDB LENGTH is not that of its service action.
        """

    @property
    def unknown(self) -> bool:
        """True where no standard known here defines the operation code or service action; ``cls`` is then write."""

    @property
    def name(self) -> str:
        """The command's name in the standards."""

    def as_tuple(self) -> tuple[int, int, int, int, int, int, int, int, int, bool, bool]:
        """Return (opcode, service_action, lba, blocks, bytes, cls, lane, direction, cdb_length, valid, unknown)."""

    def __hash__(self) -> int: ...

@final
class ParsedBatch:
    """Room for ``capacity`` parsed CDBs, filled and refilled by parse_batch.

    The buffer protocol gives the items as read-only bytes, ITEM_SIZE each in ITEM_FORMAT, with no Python object per
    CDB; a view keeps showing this memory when the batch is refilled. Indexing makes one ParsedCdb.
    """

    capacity: int
    count: int
    """CDBs in it."""
    invalid: int
    """How many of them are not valid."""

    def __init__(self, capacity: int) -> None: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> ParsedCdb: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

def parse(cdb: ReadableBuffer, block_size: int = 512) -> ParsedCdb:
    """Parse one CDB; bytes beyond the length its operation code demands are ignored.

    ``block_size`` is the logical block size in bytes. Never fails on what the CDB contains, however short: look at
    ``valid``. Raises ValueError for a block size outside 1..MAX_BLOCK_SIZE.
    """

def parse_batch(
    cdbs: ReadableBuffer, stride: int, out: ParsedBatch | None = None, block_size: int = 512
) -> ParsedBatch:
    """Parse ``len(cdbs) / stride`` CDBs, each at the start of a slot of ``stride`` bytes.

    Large batches are parsed without the GIL; small ones are done before another thread could make use of it.

    Results replace what ``out`` held; without ``out`` a new batch is made. Raises ValueError where ``cdbs`` is not a
    whole number of slots or does not fit ``out``.
    """
