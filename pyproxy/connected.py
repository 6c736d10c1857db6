"""Who is at the other end of a Unix socket, and who may be."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import Final, Self

_CREDENTIALS: Final = struct.Struct("=iII")
_SO_PEERGROUPS: Final = 59
"""Not in Python's socket module (Linux 4.13)."""
_GROUPS_SIZE: Final = 1024
"""Python's limit: 256 supplementary groups."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A process as the kernel saw it when it connected.

    ``groups`` are its supplementary groups; one that has more than 256 counts as having none.
    """

    pid: int
    uid: int
    gid: int
    groups: frozenset[int] = frozenset()

    def __str__(self) -> str:
        return f"process {self.pid} of user {self.uid}, group {self.gid}"


@dataclass(frozen=True, slots=True)
class PeerPolicy:
    """Which users and groups may connect, whatever the socket's permissions let through."""

    uids: frozenset[int]
    gids: frozenset[int] = frozenset()

    @classmethod
    def own(cls) -> Self:
        """Root and the user this process runs as."""
        return cls(frozenset({0, os.geteuid()}))

    def allows(self, peer: Peer) -> bool:
        """Whether the peer's user or one of its groups is listed."""
        return peer.uid in self.uids or peer.gid in self.gids or bool(self.gids & peer.groups)

    def __str__(self) -> str:
        users = f"users {', '.join(map(str, sorted(self.uids)))}" if self.uids else "no user"
        groups = f", groups {', '.join(map(str, sorted(self.gids)))}" if self.gids else ""
        return users + groups


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected (SO_PEERCRED, SO_PEERGROUPS); raises OSError."""
    pid, uid, gid = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    try:
        groups = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_SIZE)
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        groups = b""
    return Peer(pid, uid, gid, frozenset(number for (number,) in struct.iter_unpack("=I", groups)))
