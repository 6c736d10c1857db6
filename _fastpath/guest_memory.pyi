"""A guest's memory: regions of files mapped here, checked translation of guest addresses, the dirty log."""

from collections.abc import Sequence
from typing import Final, final

from _typeshed import ReadableBuffer

MAX_MEMORY_REGIONS: Final[int]

Region = tuple[int, int, int, int, int]
"""(guest address, size in bytes, front end's address, file descriptor, offset in the file)."""

@final
class GuestMemory:
    """Mapped memory of a guest; immutable.

    Maps each region, shared and writable; the descriptors stay the caller's and may be closed afterwards. Raises
    ValueError where regions overlap, wrap, are empty, more than MAX_MEMORY_REGIONS or not covered by their file, and
    OSError where one cannot be mapped.
    """

    def __init__(self, regions: Sequence[Region] = ()) -> None: ...
    def with_region(self, region: Region) -> GuestMemory:
        """Return this memory and one more region; what is there already keeps its mapping."""

    def without_region(self, guest: int, size: int, user: int) -> GuestMemory:
        """Return this memory less the region that matches in all three; ValueError where none does."""

    def __len__(self) -> int: ...
    @property
    def regions(self) -> tuple[tuple[int, int, int], ...]:
        """(guest address, size, front end's address) of each region, by guest address."""

    @property
    def broken(self) -> bool:
        """Whether the owner truncated a file and some of the memory had to be replaced by zeros."""

    def read(self, address: int, length: int) -> bytes:
        """Copy out of guest memory; ValueError where it is not all in regions."""

    def write(self, address: int, data: ReadableBuffer, log: DirtyLog | None = None) -> None:
        """Copy into guest memory; ValueError where it is not all in regions."""

@final
class DirtyLog:
    """The front end's bitmap of pages written, one bit per 4096 bytes of guest address space, in a shared file.

    ``size`` is in bytes. The descriptor stays the caller's. Raises as GuestMemory.
    """

    def __init__(self, descriptor: int, offset: int, size: int) -> None: ...
    @property
    def missed(self) -> int:
        """Pages that were written beyond the log's end and could not be noted."""

    def mark(self, address: int, length: int) -> None:
        """Note that these bytes of guest memory were written."""
