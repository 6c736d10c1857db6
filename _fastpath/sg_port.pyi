"""Asynchronous pass-through to /dev/sgN and /dev/sdX for a controller's workers."""

from types import TracebackType
from typing import Final, Self, final

from _fastpath.port import Port

MAX_PORT_THREADS: Final[int]

@final
class SgPort(Port):
    """A port on an open node, which stays the caller's; ``threads`` commands are executed at a time.

    With a block device the guest's memory is not copied. Raises ValueError for a wrong number of threads, OSError where
    a thread cannot be had. Close it when it is detached from its controller.
    """

    label: str

    def __init__(self, fd: int, threads: int = 4, *, label: str | None = None) -> None: ...
    def close(self) -> None:
        """End the threads after the commands they have; safe to repeat."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
