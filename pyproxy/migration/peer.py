"""The two ends of a conversation between daemons, without how it is carried."""

from __future__ import annotations

from typing import Final, Protocol

from pyproxy.migration.messages import Reply, Request

UNKNOWN_MIGRATION: Final = "unknown-migration"
"""The reason with which a daemon refuses to speak of a migration it knows nothing of."""


class PeerError(Exception):
    """A request got no answer; the message names the peer, what happened and what to do.

    ``sent`` is False where the peer certainly has not received it.
    """

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message)
        self.sent = sent


class PeerRefusedError(PeerError):
    """The peer answered, and refused; ``reason`` is a word for programs. Nothing was done."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Peer(Protocol):
    """Another daemon."""

    @property
    def name(self) -> str:
        """Its name in the configuration, which its certificate proves."""

    def call(self, request: Request) -> Reply:
        """Ask and wait for the answer; raises PeerError. May be called from any thread, but no event loop's."""


class Service(Protocol):
    """What a daemon answers to others."""

    def serve(self, peer: str, request: Request) -> Reply:
        """Answer a request of the peer of that proven name; raises PeerRefusedError. Called from any thread."""
