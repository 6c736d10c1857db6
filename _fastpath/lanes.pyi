"""The three lanes of the fast path: fast and inspect commands run without the GIL, PR commands are left to Python."""

from typing import Final

from _fastpath.sgio import Batch, Engine

EVENT_SUPPORTED_OPCODES: Final[int]
"""REPORT SUPPORTED OPERATION CODES ended GOOD: its data may name commands that must be hidden."""
EVENT_UNIT_ATTENTION: Final[int]
"""A command was answered with a unit attention; the event carries its ASC and ASCQ."""
EVENT_CONFLICT: Final[int]
"""A command was answered with RESERVATION CONFLICT."""
EVENT_SPC2_RESERVED: Final[int]
"""RESERVE(6) or (10) ended GOOD."""
EVENT_SPC2_RELEASED: Final[int]
"""RELEASE(6) or (10) ended GOOD."""
EVENT_SPC2_UNKNOWN: Final[int]
"""Whether the device executed a RESERVE or RELEASE cannot be known."""
EVENT_INFORMATION_LOST: Final[int]
"""The device lost its persistent reservation data (07/44/01)."""
EVENT_OVERFLOW: Final[int]
"""Events were lost because the ring was full: everything tracked is suspect. Its index is -1."""

class LaneRunner:
    """Runs batches through one engine, lane by lane. One thread at a time uses a runner.

    At most ``event_capacity`` events are kept per batch; how many did not fit is counted in ``overflows``.
    """

    engine: Engine
    overflows: int

    def __init__(self, engine: Engine, event_capacity: int = 256) -> None: ...
    def run(self, batch: Batch) -> tuple[list[int], list[tuple[int, int, int, int]]]:
        """Execute all but the PR lane's commands to their end, in one pass without the GIL.

        Returns the numbers in the batch of the PERSISTENT RESERVE IN and OUT commands, which were not executed, and
        the events: (number of the command, EVENT_*, ASC, ASCQ), at most one per command, in the order of the batch
        except that EVENT_OVERFLOW comes first.

        A CDB shorter than its operation code demands never reaches the device: its result is CHECK CONDITION,
        INVALID FIELD IN CDB. Raises as ``Engine.run`` does where the engine cannot take commands, RuntimeError where
        runner or batch are in use by another thread.
        """
