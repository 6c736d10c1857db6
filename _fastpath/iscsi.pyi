"""A logical unit behind one iSCSI session of libiscsi; configuration and errors are in pyproxy.device.iscsi."""

from typing import Final

from _fastpath.port import Port
from _fastpath.sgio import Batch, Engine

MAX_DEPTH: Final[int]

LOST_CLOSED: Final[int]
"""The target, or what is between, closed or reset the connection."""
LOST_SILENT: Final[int]
"""The target did not answer NOP-Out in time."""
LOST_UNABORTED: Final[int]
"""A command did not end in time, and ABORT TASK was not answered or was refused."""
LOST_FAILED: Final[int]
"""Protocol error, a request to log out, or no memory; ``last_words`` are the library's."""

def has_data_digest() -> bool:
    """Whether the libiscsi that is installed can protect data with CRC32C, not headers alone (newer than 1.19)."""

class IscsiEngine(Engine):
    """Up to ``depth`` commands in flight on one session, from any number of threads and at most one port.

    A session is made by ``connect`` and, once lost, is not made again but by another call of it, always as the same I_T
    nexus. Meanwhile commands wait for it, at most ``patience_ms``, then they end with EHOSTUNREACH at once.
    Commands that were in flight when it was lost end with ECONNRESET and an unknown fate. A command that
    runs out of time is aborted; where that is not answered within ``abort_ms`` the session is taken down.

    A target that is silent for ``nop_interval_ms`` is sent NOP-Out, and taken for dead ``nop_timeout_ms`` later; 0 for
    never. Somebody has to call ``tend`` every second or so for that, and for the target's own NOP-In, to be heeded
    while no command is running.
    """

    def __init__(
        self,
        target: str,
        initiator: str,
        isid: bytes,
        lun: int,
        *,
        label: str,
        depth: int = 32,
        header_digest: bool = False,
        data_digest: bool = False,
        nop_interval_ms: int = 5000,
        nop_timeout_ms: int = 10000,
        abort_ms: int = 5000,
        patience_ms: int = 30000,
    ) -> None: ...
    def connect(
        self,
        portal: str,
        timeout_ms: int,
        *,
        user: bytes | None = None,
        secret: bytes | None = None,
        target_user: bytes | None = None,
        target_secret: bytes | None = None,
    ) -> tuple[int, str] | None:
        """Connect and log in; None when that is done or there was a session already.

        Otherwise how far it came (1: no connection, 2: refused by the target, 3: not in time, 4: not possible here, 5:
        no answer to INQUIRY, 6: another logical unit than the first time) and the library's words. No unit attention
        is eaten. A host name is resolved by the system, which may take its time.
        """

    def tend(self, timeout_ms: int) -> tuple[bool, bool, int | None]:
        """Wait up to ``timeout_ms``, then do what is due: (connected, closed, LOST_* or None for no loss to report).

        Each loss is reported once.
        """

    def disconnect(self) -> None:
        """Drop the connection without logging out; what is in flight ends with an unknown fate."""

    def port(self) -> IscsiPort:
        """Return the port for a worker; RuntimeError where there is one already."""

    @property
    def identity_page(self) -> bytes:
        """VPD page 83h as the unit answered it at the first connection, up to 4096 bytes; empty where it has none."""

    @property
    def last_words(self) -> str:
        """What the library said when the session failed the last time."""

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """(sessions made, sessions lost, commands aborted, commands in flight)."""

class IscsiPort(Port):
    """The asynchronous side of an IscsiEngine. Its descriptor stays the same through lost sessions.

    While there is no session nothing is taken; once commands are no longer kept waiting ``start`` says that it is dead.
    """

    def run(self, batch: Batch) -> None:
        """Execute a batch through the port from this thread, as a worker does. Raises as ``Engine.run``."""
