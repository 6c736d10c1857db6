"""The engine for a descriptor that another process opened and passed."""

from _fastpath.sgio import Engine

class PassedEngine(Engine):
    """Executes commands on ``fd`` itself, one after the other, in the calling thread.

    It neither duplicates nor reopens the descriptor, which stays the caller's and must outlive the engine. SG_IO on
    /dev/sgN can be interrupted by a signal, so the calling thread should have all of them blocked.
    """

    def __init__(self, fd: int, *, label: str | None = None) -> None: ...
