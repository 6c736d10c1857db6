"""Byte storage of the emulated logical unit."""

from collections.abc import Sequence

from _fastpath.gate import NexusGate

_Readable = bytes | bytearray | memoryview
_Writable = bytearray | memoryview

class Medium:
    """Logical blocks in anonymous memory, or in a sparse file where a descriptor is given.

    ``size`` and every ``offset`` and ``length`` are in bytes and multiples of ``block_size`` (512 or 4096).
    Unwritten and unmapped blocks read as zeros. Each call is one isolated action: overlapping calls from
    other threads see all of it or nothing. A call whose ``gate`` and ``token`` were aborted ends with
    OSError ECANCELED, possibly half done; other failures are OSError with the system's number, ENODEV
    after ``close``. The descriptor remains the caller's.
    """

    def __init__(self, size: int, block_size: int, fd: int = -1) -> None: ...
    @property
    def size(self) -> int:
        """Capacity in bytes."""

    @property
    def block_size(self) -> int:
        """Bytes of a logical block."""

    def read(self, gate: NexusGate, token: int, offset: int, length: int) -> bytes:
        """Read ``length`` bytes."""

    def read_into(
        self, gate: NexusGate, token: int, offset: int, length: int, buffers: _Writable | Sequence[_Writable]
    ) -> None:
        """Scatter ``length`` bytes over the buffers, in place; they must hold at least that many."""

    def write(
        self,
        gate: NexusGate,
        token: int,
        offset: int,
        length: int,
        buffers: _Readable | Sequence[_Readable],
        durable: bool = False,
    ) -> None:
        """Gather ``length`` bytes from the buffers; ``durable`` returns only once they are on stable storage."""

    def write_and_compare(
        self, gate: NexusGate, token: int, offset: int, length: int, buffers: _Readable | Sequence[_Readable]
    ) -> int:
        """Write durably, read back and compare; the first differing byte's offset, or -1."""

    def compare(
        self, gate: NexusGate, token: int, offset: int, length: int, buffers: _Readable | Sequence[_Readable]
    ) -> int:
        """Compare with the buffers; the first differing byte's offset, or -1."""

    def compare_same(self, gate: NexusGate, token: int, offset: int, length: int, block: _Readable) -> int:
        """Compare every block with one; the first differing byte's offset from ``offset``, or -1."""

    def compare_and_write(
        self,
        gate: NexusGate,
        token: int,
        offset: int,
        length: int,
        buffers: _Readable | Sequence[_Readable],
        durable: bool = False,
    ) -> int:
        """Write the buffers' second ``length`` bytes if the medium equals their first; -1, or the first difference."""

    def verify(self, gate: NexusGate, token: int, offset: int, length: int) -> None:
        """Find out whether the range can be read, without handing it out."""

    def write_same(
        self, gate: NexusGate, token: int, offset: int, length: int, block: _Readable, durable: bool = False
    ) -> None:
        """Write one block's content to every block of the range."""

    def unmap(self, gate: NexusGate, token: int, offset: int, length: int) -> None:
        """Deallocate the range; it reads as zeros afterwards."""

    def allocation(self, block: int, limit: int) -> tuple[int, bool]:
        """How many blocks from ``block`` on (at most ``limit``) share its state, and whether they are mapped."""

    def grow(self, size: int) -> None:
        """Make it larger; what is new reads as zeros. A file must be that long. Not beside ``allocation``."""

    def flush(self) -> None:
        """Bring everything written to stable storage."""

    def close(self) -> None:
        """Wait for calls under way and give the memory back; safe to repeat."""
