"""A verdict per operation code and service action, filled once from Python and read by workers for every command."""

from typing import Final, final

from _fastpath.cdb import ParsedCdb

VARIABLE_LENGTH: Final[int]

@final
class Verdicts:
    """Which commands of a guest go straight to the device; at first none, all are for Python."""

    def straight(self, opcode: int, service_action: int | None = None) -> None:
        """Let an operation code, or one service action of it, go straight. Raises ValueError out of range."""

    def passes(self, parsed: ParsedCdb) -> bool:
        """Whether a command goes straight; one whose CDB is cut short never does."""
