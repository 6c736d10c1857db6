"""One connection of the helper protocol as a state machine: bytes and descriptors in, requests and replies out.

It touches no socket and closes no descriptor: who drives it reads at most ``wanted`` bytes at a time, executes the
request it is handed and closes what it is told to.

    state        wants                next
    FEATURES     4 bytes              REQUEST, or closed when they ask for a feature
    REQUEST      16 bytes, 1 fd       EXECUTING (IN, or OUT without a list), PARAMETERS (OUT), or closed
    PARAMETERS   the parameter list   EXECUTING
    EXECUTING    nothing              REQUEST, by ``reply``
    CLOSED       nothing              -

End of stream closes in every state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum

from pyproxy.frontend.pr_helper.message import (
    CDB_SIZE,
    DATA_LIMIT,
    FEATURES,
    FEATURES_SIZE,
    Reply,
    Request,
    is_persistent_reserve,
    transfer_length,
)
from pyproxy.scsi.constants import PERSISTENT_RESERVE_OUT


class State(Enum):
    """What the session waits for."""

    FEATURES = "features"
    REQUEST = "request"
    PARAMETERS = "parameters"
    EXECUTING = "executing"
    CLOSED = "closed"


class CloseReason(StrEnum):
    """Why a connection ends without an answer."""

    END_OF_STREAM = "end-of-stream"
    TRUNCATED = "truncated-request"
    UNKNOWN_FEATURES = "unknown-features"
    NO_DESCRIPTOR = "no-descriptor"
    TOO_MANY_DESCRIPTORS = "too-many-descriptors"
    NOT_PERSISTENT_RESERVE = "not-persistent-reserve"
    TOO_LONG = "too-long"
    STOPPING = "stopping"

    @property
    def ordinary(self) -> bool:
        """Whether well-behaved clients end that way too."""
        return self in (CloseReason.END_OF_STREAM, CloseReason.STOPPING)

    @property
    def violation(self) -> bool:
        """Whether the client did what the protocol does not allow."""
        return not self.ordinary

    @property
    def sentence(self) -> str:
        """What happened and what the client's side can do, as an operator reads it."""
        return _SENTENCES[self]


_SENTENCES = {
    CloseReason.END_OF_STREAM: "the client closed the connection",
    CloseReason.TRUNCATED: "the client closed the connection in the middle of a request",
    CloseReason.UNKNOWN_FEATURES: "it asked for a feature of the protocol that does not exist; "
    "connect a persistent reservation client such as QEMU's pr-manager-helper",
    CloseReason.NO_DESCRIPTOR: "a request came without the descriptor of its device",
    CloseReason.TOO_MANY_DESCRIPTORS: "a request came with more than one descriptor",
    CloseReason.NOT_PERSISTENT_RESERVE: "a request was neither PERSISTENT RESERVE IN nor OUT, the only commands "
    "this socket carries",
    CloseReason.TOO_LONG: f"a request's transfer length is above {DATA_LIMIT} bytes",
    CloseReason.STOPPING: "the socket is being closed",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows from received bytes: a request to execute, a reason to close, descriptors to close; or nothing."""

    request: Request | None = None
    close: CloseReason | None = None
    discard: tuple[int, ...] = ()


class Session:
    """The helper's side of one connection; send ``greeting`` first."""

    greeting = FEATURES

    def __init__(self) -> None:
        self.state = State.FEATURES
        self._buffer = bytearray()
        self._cdb = b""
        self._descriptor: int | None = None
        self._size = FEATURES_SIZE

    @property
    def wanted(self) -> int:
        """How many bytes may be read now; reading more would take descriptors of the next request."""
        return self._size - len(self._buffer)

    @property
    def between_requests(self) -> bool:
        """Whether the next byte is the first of a request."""
        return self.state is State.REQUEST and not self._buffer and self._descriptor is None

    def receive(self, data: bytes, descriptors: Sequence[int] = ()) -> Outcome:
        """Take bytes of the stream, none for its end, and the descriptors that came with them.

        Raises ValueError for more than ``wanted`` bytes.
        """
        if len(data) > self.wanted:
            raise ValueError(f"{len(data)} bytes were read where the session wants {self.wanted}")
        discard: tuple[int, ...] = ()
        if self.state is not State.REQUEST:
            # Elsewhere they belong to nothing; the reference helper does not even receive them.
            discard = tuple(descriptors)
        elif descriptors:
            if self._descriptor is not None or len(descriptors) > 1:
                return self._close(CloseReason.TOO_MANY_DESCRIPTORS, tuple(descriptors))
            self._descriptor = descriptors[0]
        if not data:
            begun = self._buffer or self._descriptor is not None or self.state is State.PARAMETERS
            return self._close(CloseReason.TRUNCATED if begun else CloseReason.END_OF_STREAM, discard)
        self._buffer += data
        if self.wanted:
            return Outcome(discard=discard)
        whole = bytes(self._buffer)
        self._buffer.clear()
        return self._complete(whole, discard)

    def reply(self, request: Request, reply: Reply) -> bytes:
        """Return what to send for the request that was executed; the session then waits for the next one."""
        if self.state is not State.EXECUTING:
            raise ValueError(f"there is no request to reply to, the session is in state {self.state.value}")
        self._expect(State.REQUEST, CDB_SIZE)
        return reply.encode(request)

    def stop(self) -> Outcome:
        """End the session now; nothing of a request that has not come whole is executed."""
        return self._close(CloseReason.STOPPING)

    def _complete(self, whole: bytes, discard: tuple[int, ...]) -> Outcome:
        """Act on a whole feature word, CDB or parameter list."""
        if self.state is State.FEATURES:
            if whole != FEATURES:
                return self._close(CloseReason.UNKNOWN_FEATURES, discard)
            self._expect(State.REQUEST, CDB_SIZE)
            return Outcome(discard=discard)
        if self.state is State.PARAMETERS:
            return self._execute(whole, discard)
        self._cdb = whole
        refused = self._refuse(whole)
        if refused is not None:
            return self._close(refused)
        length = transfer_length(whole)
        if whole[0] == PERSISTENT_RESERVE_OUT and length:
            self._expect(State.PARAMETERS, length)
            return Outcome()
        return self._execute(b"", discard)

    def _refuse(self, cdb: bytes) -> CloseReason | None:
        if self._descriptor is None:
            return CloseReason.NO_DESCRIPTOR
        if not is_persistent_reserve(cdb):
            return CloseReason.NOT_PERSISTENT_RESERVE
        if transfer_length(cdb) > DATA_LIMIT:
            return CloseReason.TOO_LONG
        return None

    def _execute(self, parameter_list: bytes, discard: tuple[int, ...]) -> Outcome:
        assert self._descriptor is not None
        request = Request(self._cdb, self._descriptor, parameter_list)
        self._descriptor = None
        self._expect(State.EXECUTING, 0)
        return Outcome(request, discard=discard)

    def _expect(self, state: State, size: int) -> None:
        self.state = state
        self._size = size

    def _close(self, reason: CloseReason, discard: tuple[int, ...] = ()) -> Outcome:
        held = () if self._descriptor is None else (self._descriptor,)
        self._descriptor = None
        self._buffer.clear()
        self._expect(State.CLOSED, 0)
        return Outcome(close=reason, discard=held + discard)
