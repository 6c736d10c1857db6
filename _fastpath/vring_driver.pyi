"""The driver side of virtio-scsi virtqueues in memory shared with a controller: for tests and measurements."""

from typing import final

from _fastpath.controller import Controller
from _fastpath.guest_memory import Region

@final
class DriverMemory:
    """``size`` bytes of a memory file, seen by the guest at address ``guest`` and by the front end at ``user``."""

    size: int
    guest: int
    user: int
    descriptor: int

    def __init__(self, size: int, *, guest: int = ..., user: int = ...) -> None: ...
    def region(self) -> Region:
        """Return what GuestMemory takes."""

    def user_address(self, address: int) -> int:
        """Return the front end's address of a guest address."""

    def view(self) -> memoryview:
        """Return the whole memory, writable."""

@final
class DriverQueue:
    """A ring of ``size`` descriptors with as many command slots as fit, each with ``data_size`` bytes of data.

    ``descriptors``, ``available``, ``used``, ``areas`` (256 bytes per slot: indirect table, header at 64, response at
    128) and ``data`` are guest addresses; ``kick`` and ``call`` eventfds that stay the queue's.
    """

    memory: DriverMemory
    size: int
    slots: int
    descriptors: int
    available: int
    used: int
    areas: int
    data: int
    data_size: int
    kick: int
    call: int
    event_index: bool
    indirect: bool
    kicks: int

    def __init__(
        self,
        memory: DriverMemory,
        size: int = 128,
        *,
        data_size: int = 4096,
        event_index: bool = False,
        indirect: bool = True,
    ) -> None: ...
    def silent(self, yes: bool) -> None:
        """Whether the driver polls and wants no call."""

    def start_arguments(self) -> dict[str, int]:
        """Return what Controller.start_queue takes; the descriptors are copies that become the controller's."""

    def free_slot(self) -> int:
        """Find a slot that is not in use; IndexError where all are."""

    def submit(
        self,
        cdb: bytes,
        *,
        data_out: bytes = b"",
        data_in: int = 0,
        target: int = 0,
        lun: int = 0,
        tag: int = 0,
        slot: int | None = None,
        publish: bool = True,
    ) -> int:
        """Send a command; returns its slot."""

    def show(self) -> bool:
        """Publish what was submitted with publish=False; returns whether the device was kicked."""

    def control(self, request: bytes, answer: int, *, slot: int | None = None) -> int:
        """Send a request of the control queue that wants ``answer`` bytes; returns its slot."""

    def event_buffer(self, length: int = 16) -> int:
        """Give the device a buffer for an event; returns its slot."""

    def data_of(self, slot: int, length: int, start: int = 0) -> bytes:
        """Bytes of a slot's data buffer; a control answer is at 64."""

    def response(self, slot: int) -> tuple[int, int, bytes, int, bytes]:
        """(response, SAM status, sense, residual, all 108 bytes) of a slot."""

    def used_element(self) -> tuple[int, int] | None:
        """(slot, length) of the next completion; ValueError where the device used what it was not given."""

    def wait(self, timeout: float = 60.0) -> tuple[int, int]:
        """Wait for the next completion; TimeoutError after so many seconds."""

    def run(
        self,
        commands: int,
        *,
        depth: int = 1,
        opcode: int = 0,
        blocks: int = 1,
        block_size: int = 512,
        span: int = 1,
        sequential: bool = False,
        verify: bool = False,
        stepped: Controller | None = None,
    ) -> int:
        """Run commands of one kind and return the nanoseconds it took.

        ``opcode`` is TEST UNIT READY (00h), READ or WRITE (10) or (16); ``span`` the blocks of the medium that are
        used; ``verify`` writes each command's address and expects it when reading. ``stepped`` is a held controller
        whose first worker runs in this thread, pass by pass, instead of in its own. Raises OSError where a command
        does not end with GOOD or none ends any more.
        """
