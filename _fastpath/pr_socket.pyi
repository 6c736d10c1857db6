"""The hot path of a persistent reservation helper's connection; the protocol's rules are in pyproxy.frontend.pr_helper.

PERSISTENT RESERVE IN for a logical unit that was admitted is received, executed and answered without the GIL.
Everything else is handed back as it was received.
"""

from typing import Final

from typing_extensions import Buffer

MAX_STRAIGHT_UNITS: Final[int]

class Switch:
    """What all connections of a server look at before each request."""

    def forget(self) -> None:
        """Make every connection forget the units it was told of, before its next request."""

    def stop(self) -> None:
        """Make every connection hand back whatever it receives from now on."""

class StraightPath:
    """One connection's loop. One thread uses it.

    ``socket`` is the connection's descriptor, in blocking mode; ``timeout_ms`` is what a command may take.
    """

    units: int
    answered: int

    def __init__(self, socket: int, switch: Switch, timeout_ms: int) -> None: ...
    def admit(self, number: int, is_block: bool, watch: int, waiting: Buffer, mask: bool, owner: object) -> None:
        """Let PERSISTENT RESERVE IN for a device pass straight through.

        ``number`` is its device number, ``watch`` a file that can be read while that device is attached and that
        ``owner`` holds open, ``waiting`` one byte that is not 0 while a unit attention waits for the guest. ``owner``
        and ``waiting`` are kept until the unit is forgotten.
        ``mask`` clears SIP_C and ATP_C in REPORT CAPABILITIES. When there is no room all units are forgotten first.
        """

    def forget(self) -> None:
        """Forget all units."""

    def serve(self) -> tuple[bytes, tuple[int, ...]] | tuple[object, bytes, tuple[int, bytes, int, int, int, int]]:
        """Serve requests until one needs more than a passage; must be called between two requests.

        Returns (bytes, descriptors) that were received and belong to the caller, with no bytes at the stream's end; or
        (owner, CDB, (status, sense, host_status, driver_status, residual, errno)) of a command that was executed, did
        not end with GOOD and was not answered. Raises OSError where the socket fails.
        """
