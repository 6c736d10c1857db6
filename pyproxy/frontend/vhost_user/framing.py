"""Puts messages together from what a socket delivers, in pieces of any size. Touches no socket, closes nothing."""

from __future__ import annotations

from collections.abc import Sequence

from pyproxy.frontend.vhost_user.message import (
    HEADER_SIZE,
    MAX_DESCRIPTORS,
    Header,
    Message,
    MessageError,
    name_of,
)


class Assembler:
    """One direction of a connection. Descriptors belong to whoever takes them out: in a message or with ``drop``."""

    def __init__(self, *, replies: bool = False) -> None:
        self._replies = replies
        self._header: Header | None = None
        self._buffer = bytearray()
        self._descriptors: tuple[int, ...] = ()

    @property
    def wanted(self) -> int:
        """How many bytes may be read now; reading more would take descriptors of the next message."""
        size = HEADER_SIZE if self._header is None else self._header.size
        return size - len(self._buffer)

    @property
    def begun(self) -> bool:
        """Whether part of a message has come."""
        return self._header is not None or bool(self._buffer) or bool(self._descriptors)

    def receive(self, data: bytes, descriptors: Sequence[int] = ()) -> Message | None:
        """Take bytes and the descriptors that came with them; a message when one is whole.

        Raises MessageError where this cannot become a message, ValueError for more than ``wanted`` bytes.
        """
        self._descriptors += tuple(descriptors)
        if len(data) > self.wanted:
            raise ValueError(f"{len(data)} bytes were read where {self.wanted} are wanted")
        self._buffer += data
        if len(self._descriptors) > MAX_DESCRIPTORS:
            raise MessageError(f"more than {MAX_DESCRIPTORS} descriptors with one message")
        if self.wanted:
            return None
        if self._header is None:
            header = Header.decode(bytes(self._buffer))
            if header.is_reply is not self._replies:
                what = "an answer that nobody asked for" if header.is_reply else "a request, expected an answer"
                raise MessageError(f"{name_of(header.request)}: {what}")
            self._buffer.clear()
            self._header = header
            if header.size:
                return None
        header, payload = self._header, bytes(self._buffer)
        self._header = None
        self._buffer.clear()
        return Message(header.request, payload, self.drop(), header.needs_reply)

    def drop(self) -> tuple[int, ...]:
        """Give up the descriptors that are held."""
        held, self._descriptors = self._descriptors, ()
        return held
