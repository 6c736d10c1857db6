"""A guest's socket as its table in the configuration describes it: where it is, whose, and who may connect."""

from __future__ import annotations

import grp
import pwd
import socket

from pyproxy.config import Config, GuestSection, SocketSection, socket_path
from pyproxy.connected import PeerPolicy
from pyproxy.frontend.listener import Listener, ListenError


class SocketError(Exception):
    """A guest's socket cannot be had; the text says why and what to do."""


def listen(
    config: Config, guest: GuestSection, section: SocketSection, given: socket.socket | None = None
) -> tuple[Listener, PeerPolicy]:
    """Listen on a guest's socket, or on the one the service manager has ``given``; raises SocketError.

    Returns who may connect, too.
    """
    peers = peers_of(section)
    group = next(iter(peers.gids), None)
    try:
        if given is not None:
            listener = Listener.adopt(given)
        else:
            listener = Listener.bind(socket_path(config, guest, section), group=group)
    except ListenError as error:
        raise SocketError(str(error.strerror)) from error
    return listener, peers


def peers_of(section: SocketSection) -> PeerPolicy:
    """Return who may be at the other end; raises SocketError."""
    group = frozenset() if section.group is None else frozenset({_group(section.group)})
    return PeerPolicy(PeerPolicy.own().uids | {_user(user) for user in section.users}, group)


def _group(account: str | int) -> int:
    if isinstance(account, int):
        return account
    try:
        return grp.getgrnam(account).gr_gid
    except KeyError:
        raise SocketError(f"there is no group {account}; make it, or correct the socket's group") from None


def _user(account: str | int) -> int:
    if isinstance(account, int):
        return account
    try:
        return pwd.getpwnam(account).pw_uid
    except KeyError:
        raise SocketError(f"there is no user {account}; make it, or correct the socket's users") from None
