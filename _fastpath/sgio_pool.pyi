"""The thread pool behind SyncEngine and BsgEngine."""

from typing import Final

from _fastpath.sgio import Engine

MAX_POOL_THREADS: Final[int]

class PoolEngine(Engine):
    """An engine whose system call waits for the command: ``threads - 1`` workers and every caller execute them."""
