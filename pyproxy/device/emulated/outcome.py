"""How a command's execution ends other than with GOOD, and what keeps a unit from opening."""

from __future__ import annotations

from pyproxy.scsi.constants import Status
from pyproxy.scsi.sense import Sense


class EmulatedUnitError(OSError):
    """The unit cannot be opened or kept: its file is in use, damaged, or does not fit. The message says what to do."""


class Refused(Exception):  # noqa: N818 - an answer of the device server, not an error of the program
    """The command ends with ``status`` and, for CHECK CONDITION, ``sense``."""

    def __init__(self, status: Status, sense: Sense | None = None) -> None:
        super().__init__(f"{status.name}{f': {sense}' if sense else ''}")
        self.status = status
        self.sense = sense


class Aborted(Exception):  # noqa: N818 - see Refused
    """The command was aborted before it ended; ``queued`` if before it began (SAM-5 5.6)."""

    def __init__(self, *, queued: bool = False) -> None:
        super().__init__("aborted")
        self.queued = queued


def check_condition(sense: Sense) -> Refused:
    """CHECK CONDITION with this sense."""
    return Refused(Status.CHECK_CONDITION, sense)


def conflict() -> Refused:
    """RESERVATION CONFLICT, which carries no sense data (SAM-5 5.3.1)."""
    return Refused(Status.RESERVATION_CONFLICT)
