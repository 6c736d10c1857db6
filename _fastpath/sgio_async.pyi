"""write, poll and read on /dev/sgN, one open file per slot."""

import os
from typing import Final

from _fastpath.sgio import Engine

DEFAULT_RESERVED_SIZE: Final[int]
DEFAULT_GRACE_MS: Final[int]

class AsyncEngine(Engine):
    """Up to ``slots`` commands in flight from any number of threads.

    Opens ``path`` itself, read-write, because sg refuses a file whose opener had other credentials: construct it after
    privileges were dropped. ``reserved_size`` is the kernel buffer of each slot in bytes. A command that the kernel has
    not ended ``grace_ms`` after its timeout gets ETIMEDOUT with an unknown fate. Raises OSError where the node cannot
    be opened or is not an sg node.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        slots: int = 16,
        *,
        label: str | None = None,
        reserved_size: int = ...,
        grace_ms: int = ...,
    ) -> None: ...
