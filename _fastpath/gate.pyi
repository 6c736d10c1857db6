"""What one I_T nexus of the emulated unit may do at this moment, and the count of its commands."""

from typing import Final

GATE_RESERVED: Final[int]
GATE_PRIVILEGED: Final[int]
GATE_EXCLUSIVE_ACCESS: Final[int]
GATE_ATTENTION: Final[int]
GATE_SPC2_CONFLICT: Final[int]
GATE_NOT_READY: Final[int]
GATE_WRITE_PROTECTED: Final[int]
GATE_WRITE_THROUGH: Final[int]
GATE_TASK_ABORTED: Final[int]

ACCESS_ALWAYS: Final[int]
ACCESS_READ: Final[int]
ACCESS_WRITE: Final[int]

ADMIT_GO: Final[int]
ADMIT_ATTENTION: Final[int]
ADMIT_CONFLICT: Final[int]
ADMIT_NOT_READY: Final[int]

class NexusGate:
    """What one I_T nexus may do at this moment, readable without the GIL, and the count of its commands.

    A command enters, looks at the flags, works, leaves. ``abort`` makes those inside stop at their next
    look and returns when the last has left.
    """

    flags: int
    @property
    def generation(self) -> int:
        """How often this nexus' commands were aborted, modulo 2**32."""

    @property
    def in_flight(self) -> int:
        """Commands inside the gate."""

    def enter(self) -> int:
        """Count one command in; the token names the generation it belongs to."""

    def leave(self, token: int) -> None:
        """Count the command out again."""

    def aborted(self, token: int) -> bool:
        """Whether the nexus' commands were aborted since ``token`` was drawn."""

    def admit(self, access: int) -> int:
        """ADMIT_GO, or why a command of this access class is stopped: attention, then conflict, then not ready."""

    def abort(self) -> int:
        """Abort all commands inside and wait, without the GIL, until they have left; returns how many there were."""
