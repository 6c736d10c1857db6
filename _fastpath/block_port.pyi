"""The commands of the emulated unit that run in a worker thread, without the GIL."""

from typing import final

from _fastpath.gate import NexusGate
from _fastpath.medium import Medium

@final
class BlockPort:
    """One I_T nexus of an emulated unit, for Controller.attach.

    READ and WRITE (6), (10), (12) and (16), TEST UNIT READY and SYNCHRONIZE CACHE that end with GOOD are executed by
    the worker; the rest is left to the handler.
    """

    def __init__(self, medium: Medium, gate: NexusGate) -> None: ...
