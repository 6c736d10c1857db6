"""One guest's virtio-scsi controller: workers that serve its queues, commanded by a front end."""

from types import TracebackType
from typing import Final, Protocol, Self, final

from _fastpath.block_port import BlockPort
from _fastpath.guest_memory import DirtyLog, GuestMemory
from _fastpath.port import Port
from _fastpath.verdict import Verdicts

F_HOTPLUG: Final[int]
F_CHANGE: Final[int]
F_T10_PI: Final[int]
F_LOG_ALL: Final[int]
F_ANY_LAYOUT: Final[int]
F_INDIRECT_DESC: Final[int]
F_EVENT_IDX: Final[int]
F_VERSION_1: Final[int]
FEATURES: Final[int]
"""The virtio features a controller has, without those of the transport."""
EVENTS_MISSED: Final[int]
DEFAULT_POLL_US: Final[int]

class Handler(Protocol):
    """What a controller calls from its own Python thread, one call at a time, never from a worker.

    It must not wait for a thread that is inside one of the controller's methods: those may wait for the handler.
    """

    def execute(
        self, target: int, lun: int, cdb: bytes, data_out: bytes, data_in: int
    ) -> tuple[int, int, bytes, bytes, int]:
        """Run a command: (virtio response, SAM status, sense, data, residual in bytes).

        Comes here: every command of a unit without a port; PERSISTENT RESERVE and whatever the unit's verdicts do not
        let go straight; every command while a unit attention waits; of an emulated unit whatever does not simply end
        with GOOD; commands for a LUN that is not attached on a target that has others. ``cdb`` is cut to its length.
        """

    def control(self, request: bytes) -> bytes:
        """Answer a request of the control queue: 1 byte for task management, 5 for asynchronous notification.

        ``request`` is at most 24 bytes, as long as the guest sent it. With task management every command that the
        guest sent before was taken, and those of the logical unit (or with I_T NEXUS RESET the target) that went to a
        port or to ``execute`` have ended.
        """

    def inspect(self, target: int, lun: int, cdb: bytes, kind: int, asc: int, ascq: int) -> None:
        """Take note of how a port's command ended, where that concerns reservations.

        ``kind`` is an EVENT_* of _fastpath.lanes.

        EVENT_OVERFLOW, with target and LUN -1, says that such events were lost.
        """

    def queue_broken(self, index: int, reason: str) -> None:
        """Take note that a queue was stopped for good because the guest violated the ring's structure."""

@final
class Controller:
    """One guest's controller: queue 0 control, 1 event, 2 and up request queues, ``queues`` in all.

    ``poll_us`` is how long a worker without work looks on before it sleeps, at most; ``workers`` how many threads share
    the request queues. All methods may be called from any thread but a handler's call. Those that wait for requests to
    end (set_memory, stop_queue, detach, close) raise RuntimeError there.
    """

    queue_count: int
    closed: bool

    def __init__(self, handler: Handler, queues: int, *, poll_us: int = ..., workers: int = 1) -> None: ...
    def set_memory(self, memory: GuestMemory | None) -> None:
        """Replace the guest's memory; requests in flight end before, rings that run go on in the new memory.

        Raises ValueError, after the change, where a started ring is not in the new memory; it is then broken.
        """

    def set_log(self, log: DirtyLog | None) -> None:
        """Replace the dirty log; when this returns no worker uses the old one."""

    def set_features(self, features: int) -> None:
        """Set the negotiated features; with F_LOG_ALL and a log every write is noted when this returns."""

    def get_inflight(self, queues: int, queue_size: int) -> tuple[int, int, int]:
        """Make a new inflight region: (descriptor, offset, size). The descriptor is the caller's to close."""

    def set_inflight(self, descriptor: int, offset: int, size: int, queues: int, queue_size: int) -> None:
        """Use this inflight region for queues started from now on; the descriptor stays the caller's."""

    def drop_inflight(self) -> None:
        """Start queues without an inflight region from now on; ValueError while any queue is started."""

    def start_queue(
        self,
        index: int,
        *,
        size: int,
        descriptor_address: int,
        available_address: int,
        used_address: int,
        used_log_address: int | None = None,
        base: int = 0,
        kick: int = -1,
        call: int = -1,
        error: int = -1,
    ) -> None:
        """Start a queue whose rings are at these front end addresses; it takes requests once it is enabled.

        ``kick``, ``call`` and ``error`` are eventfds that become the controller's, or -1; without a kick the ring is
        looked at every millisecond. With an inflight region ``base`` is overridden by what it tells, and what was in
        flight is executed first. Raises ValueError, and takes nothing, where the rings are misaligned or not in memory.
        """

    def stop_queue(self, index: int) -> int:
        """Stop a queue when everything it took is answered; returns the available index to resume at."""

    def set_call(self, index: int, descriptor: int) -> None:
        """Replace a started queue's call descriptor, which becomes the controller's, and signal it once."""

    def set_error(self, index: int, descriptor: int) -> None:
        """Replace a started queue's error descriptor, which becomes the controller's."""

    def set_used_log(self, index: int, address: int | None) -> None:
        """Log a started queue's used ring at this guest address, or not."""

    def set_enabled(self, index: int, enabled: bool) -> None:
        """Let a queue, started or not yet, take requests or not; at first none may."""

    def send_event(self, event: bytes) -> bool:
        """Put a 16-byte virtio_scsi_event on queue 1; False where there is no buffer (the next one says so)."""

    def attach(
        self,
        target: int,
        lun: int,
        port: Port | BlockPort | None = None,
        *,
        verdicts: Verdicts | None = None,
        waiting: bytearray | None = None,
        timeout_ms: int = 60_000,
    ) -> None:
        """Make a logical unit reachable; without a port every command is for the handler.

        ``waiting`` is the one byte that is set while a unit attention waits; its size must never change. Without
        ``verdicts`` all goes straight but PERSISTENT RESERVE. ``timeout_ms`` is what a port's commands are given.
        Raises ValueError where the address is taken.
        """

    def detach(self, target: int, lun: int) -> None:
        """Take a unit away when the commands its port has are answered."""

    def shut_gate(self) -> None:
        """Take no request of any queue any more, started or started later; what was taken goes on. Safe to repeat."""

    def drain_gate(self, seconds: float) -> bool:
        """Wait, with the gate shut, until what was taken is answered and published; False where some is not."""

    def open_gate(self) -> None:
        """Take requests again, those that waited first; safe to repeat."""

    def hold(self) -> None:
        """Make every worker stand still until ``release``, which the same thread must call; for tests and measuring."""

    def step(self, number: int = 0) -> int:
        """Run one pass of a held worker in this thread; returns how much there was to do."""

    def release(self) -> None:
        """Let the workers run again after ``hold``."""

    def counts(self) -> dict[str, int]:
        """Counters since the beginning, by name."""

    def traffic(self) -> list[tuple[int, int, int, int, tuple[int, ...]]]:
        """Target, LUN, commands in flight, nanoseconds since one ended, and counters of each unit.

        For ``pyproxy.frontend.virtio_scsi.traffic``. The nanoseconds are since the port got work where it had none, and
        0 where it has none now. A unit's counters begin at 0 when it is attached.
        """

    def broken(self, index: int) -> bool:
        """Whether a started queue was stopped for good."""

    def close(self) -> None:
        """Stop all queues, end the threads, let go of memory; safe to repeat."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
