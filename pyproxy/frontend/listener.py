"""The listening sockets: one path for each guest that stays the same across restarts, or systemd's activation."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

MODE: Final = 0o660
LONGEST_PATH: Final = 103
"""Bytes of a socket's path: what the kernel takes, less what the name has while the socket is being made."""

_BACKLOG: Final = 128
_FIRST_ACTIVATED: Final = 3
_BEING_MADE: Final = ".new"
_LOCK: Final = ".lock"


class ListenError(OSError):
    """The socket cannot be had; the text names it, the cause and the remedy."""


class Listener:
    """A listening Unix socket. ``close`` gives it up; use ``bind`` or ``adopt``."""

    def __init__(self, listening: socket.socket, path: Path | None, lock: int = -1) -> None:
        self.socket = listening
        self.path = path
        self.address: str = os.fsdecode(listening.getsockname()) if path is None else str(path)
        self._lock = lock
        self._inode = os.stat(path).st_ino if path is not None else 0  # noqa: PTH116 -- follows nothing: we made it

    @classmethod
    def bind(cls, path: Path, *, group: int | None = None) -> Listener:
        """Listen on ``path`` with mode 0660, in place of a socket that a process which died left there.

        Clients that connect meanwhile find the old socket or the new one, never nothing and never one that is open to
        others. ``group`` is the owning group. Raises ListenError.
        """
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise ListenError(errno.ENAMETOOLONG, f"{path}: is longer than {LONGEST_PATH} bytes; choose a shorter path")
        lock = _take_lock(path)
        try:
            _check_free(path)
            return cls(_make(path, group), path, lock)
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def adopt(cls, listening: socket.socket) -> Listener:
        """Take over a socket that already listens; its path stays whose it is. Raises ListenError."""
        kind = listening.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        listens = listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        if listening.family != socket.AF_UNIX or kind != socket.SOCK_STREAM or not listens:
            raise ListenError(
                errno.EINVAL,
                f"descriptor {listening.fileno()} is no listening Unix stream socket; use ListenStream= with a path",
            )
        return cls(listening, None)

    def close(self) -> None:
        """Stop listening and remove the path if it is still this socket's; safe to repeat."""
        self.socket.close()
        if self.path is not None and self._lock >= 0:
            with contextlib.suppress(OSError):
                if self.path.lstat().st_ino == self._inode:
                    self.path.unlink()
        if self._lock >= 0:
            # The lock file stays: removing it would let two processes lock different files of that name.
            os.close(self._lock)
            self._lock = -1


def activated(environment: MutableMapping[str, str] = os.environ) -> list[tuple[str, socket.socket]]:
    """Take the sockets systemd passed to this process, each with its name (sd_listen_fds(3)); none is fine.

    The variables are removed, so that children do not believe they are meant. Raises ListenError.
    """
    pid = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "")
    names = environment.pop("LISTEN_FDNAMES", "")
    if pid != str(os.getpid()):
        return []
    if not count.isdecimal() or int(count) > 1024:
        raise ListenError(errno.EINVAL, f"LISTEN_FDS is {count!r}, not a number of descriptors; start this by systemd")
    told = names.split(":") if names else []
    found = []
    for index in range(int(count)):
        descriptor = _FIRST_ACTIVATED + index
        try:
            os.set_inheritable(descriptor, False)
            listening = socket.socket(fileno=descriptor)
        except OSError as error:
            raise ListenError(
                error.errno, f"descriptor {descriptor} of systemd is no socket: {error.strerror}"
            ) from None
        listening.setblocking(True)
        found.append((told[index] if index < len(told) else "unknown", listening))
    return found


def _take_lock(path: Path) -> int:
    lock = path.with_name(path.name + _LOCK)
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise ListenError(
            error.errno,
            f"{path}: its lock {lock} cannot be opened: {error.strerror}; make the directory writable to us",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ListenError(
            errno.EADDRINUSE, f"{path}: another pyproxy listens there; stop it or choose another path"
        ) from error
    return descriptor


def _check_free(path: Path) -> None:
    """Make sure that what is at ``path`` may be replaced: nothing, or a socket nobody answers on."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(errno.EEXIST, f"{path}: is there already and is no socket; remove it or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError as error:
            if error.errno != errno.EAGAIN:
                raise ListenError(error.errno, f"{path}: cannot be looked at: {error.strerror}") from error
    raise ListenError(errno.EADDRINUSE, f"{path}: another process answers there; stop it first")


def _make(path: Path, group: int | None) -> socket.socket:
    making = path.with_name(path.name + _BEING_MADE)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            making.unlink()
        listening.bind(os.fspath(making))
        # Nobody can connect before listen, so the mode that the umask gave it is never used.
        making.chmod(MODE)
        if group is not None:
            os.chown(making, -1, group)
        listening.listen(_BACKLOG)
        making.rename(path)
    except OSError as error:
        listening.close()
        with contextlib.suppress(OSError):
            making.unlink()
        raise ListenError(error.errno, f"{path}: the socket cannot be made: {error.strerror}") from error
    return listening
