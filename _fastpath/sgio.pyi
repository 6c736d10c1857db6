"""Batches of SCSI commands for the pass-through engines; which engine fits which node is in pyproxy.device.sg."""

from collections.abc import Iterable
from types import TracebackType
from typing import Final, Self

from typing_extensions import Buffer

DIRECTION_NONE: Final[int]
DIRECTION_IN: Final[int]
DIRECTION_OUT: Final[int]
MAX_CDB_LENGTH: Final[int]
MAX_TRANSFER: Final[int]
SENSE_SIZE: Final[int]
DEFAULT_TIMEOUT_MS: Final[int]

class Batch:
    """Up to ``capacity`` commands that are submitted together, and their results.

    One thread at a time uses a batch; changing it while it runs raises RuntimeError.
    """

    capacity: int
    count: int

    def __init__(self, capacity: int) -> None: ...
    def __len__(self) -> int: ...
    def add(
        self,
        cdb: Buffer,
        direction: int = ...,
        buffers: Buffer | Iterable[Buffer] = ...,
        timeout_ms: int = ...,
    ) -> int:
        """Append a command; returns its number.

        ``cdb`` is 6 to 32 bytes and is copied. ``buffers`` are used in place, in order, and stay exported until
        ``clear``; for DIRECTION_IN they must be writable. ``timeout_ms`` 0 means 60 s. Raises IndexError where the
        batch is full, ValueError or BufferError for what no device could take.
        """

    def result(self, index: int) -> tuple[int, bytes, int, int, int, int, int]:
        """(status, sense, host_status, driver_status, residual bytes, duration in ms, errno) of a command.

        Only with errno 0 and host_status 0 is the status the device's.
        """

    def fate_unknown(self, index: int) -> bool:
        """Whether errno is set although the device may have executed the command."""

    def clear(self) -> None:
        """Drop all commands and let go of their buffers."""

class Engine:
    """Executes batches without the GIL; any number of threads may call ``run`` at once."""

    label: str

    def run(self, batch: Batch) -> None:
        """Execute all commands to their end. Raises ValueError where the engine is closed, RuntimeError after a fork.

        A command's own failure is in its result.
        """

    def close(self) -> None:
        """Wait for running batches, then release threads and descriptors; safe to repeat."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
