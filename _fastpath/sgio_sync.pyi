"""ioctl(SG_IO) with sg_io_hdr on /dev/sgN and /dev/sdX."""

from _fastpath.sgio_pool import PoolEngine

class SyncEngine(PoolEngine):
    """Up to ``threads`` commands of a batch at once, the caller's thread included.

    ``fd`` is duplicated (on /dev/sgN reopened per thread, one reserved buffer each). Commands carry up to 1024 buffers
    without a copy; more, or pieces the host cannot map, are copied once. ``label`` names the device in errors.
    """

    def __init__(self, fd: int, threads: int = 4, *, label: str | None = None) -> None: ...
