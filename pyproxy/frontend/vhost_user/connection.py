"""One front end's connection, served by a thread of its own from its first message to its end."""

from __future__ import annotations

import array
import contextlib
import logging
import select
import signal
import socket
from typing import Final

from pyproxy.connected import Peer
from pyproxy.frontend.complaints import Complaints
from pyproxy.frontend.vhost_user.data_plane import DataPlane
from pyproxy.frontend.vhost_user.framing import Assembler
from pyproxy.frontend.vhost_user.message import MAX_DESCRIPTORS, Message, MessageError
from pyproxy.frontend.vhost_user.performer import Performer, PerformError, close_all
from pyproxy.frontend.vhost_user.ring_events import RingListener
from pyproxy.frontend.vhost_user.session import Close, CloseReason, Session, Step

log = logging.getLogger(__name__)

_CONTROL_SIZE: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
_SEND_SECONDS: Final = 60.0
"""A front end waits for the answers it asked for; one that does not take them is stuck for good."""


class Connection:
    """Serves one front end of the controller called ``name``. ``run`` is the thread's body.

    When ``run`` returns no ring is served, no descriptor is held and no memory is mapped any more.
    """

    def __init__(
        self,
        connected: socket.socket,
        peer: Peer,
        name: str,
        rings: int,
        plane: DataPlane,
        complaints: Complaints,
        listener: RingListener | None = None,
    ) -> None:
        self.peer = peer
        self._socket = connected
        self._name = name
        self._complaints = complaints
        self._session = Session(rings)
        self._assembler = Assembler()
        self._performer = Performer(plane, listener)
        self._stopping = False
        self._condemned: Close | None = None

    @property
    def hung_up(self) -> bool:
        """Whether the front end is gone already, whatever is still being done for it."""
        try:
            poll = select.poll()
            poll.register(self._socket, select.POLLRDHUP)
            return bool(poll.poll(0))
        except (OSError, ValueError):
            return True

    @property
    def features(self) -> int:
        """The virtio features that were negotiated; 0 before."""
        return self._session.state.features or 0

    def run(self) -> CloseReason:
        """Serve until the connection ends, undo everything, and return why it ended."""
        # A signal that this thread received would interrupt a command it waits for.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        reason = CloseReason.FAILED
        try:
            close = self._serve()
            reason = close.reason
            if not reason.ordinary:
                self._complain(reason, "the connection of %s is closed: %s", self.peer, close.sentence)
        except OSError as error:
            log.debug("%s: connection of %s: %s", self._name, self.peer, error)
            reason = CloseReason.STOPPING if self._stopping else CloseReason.END_OF_STREAM
        except Exception:
            log.exception("%s: the connection of %s failed inside pyproxy", self._name, self.peer)
        finally:
            self._undo()
            self._socket.close()
        return reason

    def stop(self) -> None:
        """End the connection once what is being done for it is done; from any thread, safe to repeat."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def condemn(self, close: Close) -> None:
        """End the connection as ``stop`` does, for that reason."""
        self._condemned = close
        self.stop()

    def _serve(self) -> Close:
        self._socket.settimeout(None)
        while True:
            try:
                message = self._receive()
            except MessageError as error:
                return Close(CloseReason.MALFORMED, str(error))
            if message is None:
                return self._ended()
            step = self._act(self._session.receive(message))
            close_all(step.discard)
            if step.ignored:
                self._complain(step.ignored, "%s asked for what is not done: %s", self.peer, step.ignored)
            if step.close is not None:
                return step.close
            if step.reply is not None:
                self._send(step.reply)

    def _act(self, step: Step) -> Step:
        """Carry out the actions of a step; returns what follows from them."""
        if not step.actions:
            return step
        try:
            value = self._performer.perform(step.actions)
        except PerformError as error:
            return self._session.failed(str(error), error.performed)
        return self._session.done(value)

    def _receive(self) -> Message | None:
        """Read until a message is whole; None at the end of the stream."""
        assembler = self._assembler
        while True:
            data, ancillary, flags, _ = self._socket.recvmsg(assembler.wanted, _CONTROL_SIZE, socket.MSG_CMSG_CLOEXEC)
            descriptors = array.array("i")
            for level, kind, content in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    descriptors.frombytes(content[: len(content) - len(content) % descriptors.itemsize])
            message = assembler.receive(data, descriptors)
            if flags & socket.MSG_CTRUNC:
                if message is not None:
                    close_all(message.descriptors)
                raise MessageError(f"more than {MAX_DESCRIPTORS} descriptors, or more than there is room for here")
            if message is not None or not data:
                return message

    def _ended(self) -> Close:
        if self._condemned is not None:
            return self._condemned
        if self._stopping:
            return Close(CloseReason.STOPPING, "the socket is being closed")
        if self._assembler.begun:
            return Close(CloseReason.TRUNCATED, "it ended in the middle of a message")
        return Close(CloseReason.END_OF_STREAM, "the front end closed the connection")

    def _send(self, reply: Message) -> None:
        data = reply.encode_reply()
        self._socket.settimeout(_SEND_SECONDS)
        try:
            sent = 0
            if reply.descriptors:
                sent = socket.send_fds(self._socket, [data], reply.descriptors)
            self._socket.sendall(data[sent:])
        finally:
            self._socket.settimeout(None)
            close_all(reply.descriptors)

    def _undo(self) -> None:
        close_all(self._assembler.drop())
        step = self._session.stop()
        for error in self._performer.undo(step.actions):
            log.error("%s: what %s had set up could not be taken down: %s", self._name, self.peer, error)
        close_all(step.discard)
        if not self._stopping:
            self._performer.left()

    def _complain(self, about: str, message: str, *arguments: object) -> None:
        self._complaints.once((self.peer.uid, self.peer.pid, about), "%s: " + message, self._name, *arguments)
