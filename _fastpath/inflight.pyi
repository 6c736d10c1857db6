"""The inflight region of split virtqueues, which outlives the process."""

from typing import final

@final
class InflightRegion:
    """A mapped region for ``queues`` rings of up to ``queue_size`` descriptors; the descriptor stays the caller's.

    Raises ValueError where the region is too small or not aligned, OSError where it cannot be mapped.
    """

    descriptor: int
    offset: int
    size: int
    queues: int
    queue_size: int

    def __init__(self, descriptor: int, offset: int, size: int, queues: int, queue_size: int) -> None: ...
    @staticmethod
    def create(queues: int, queue_size: int) -> InflightRegion:
        """Make a sealed file of zeros for the region; its descriptor is the caller's to close."""
