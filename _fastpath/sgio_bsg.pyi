"""ioctl(SG_IO) with sg_io_v4 on /dev/bsg/H:C:T:L."""

from _fastpath.sgio_pool import PoolEngine

class BsgEngine(PoolEngine):
    """Up to ``threads`` commands of a batch at once, the caller's thread included.

    ``fd`` is duplicated. The node takes one buffer per command: several are copied once. It reports no duration.
    """

    def __init__(self, fd: int, threads: int = 4, *, label: str | None = None) -> None: ...
