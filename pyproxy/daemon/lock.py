"""The exclusive lock on a state directory: one process at a time answers for the reservations kept there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from pathlib import Path
from typing import Final, Self

LOCK_FILE: Final = "lock"


class StateLockedError(OSError):
    """Another process holds the state directory."""


class DirectoryError(OSError):
    """A directory cannot be used; the text says why and what to do."""


class StateLock:
    """Holds ``directory`` from construction to ``release``; the kernel releases it when the process dies.

    Raises StateLockedError, or DirectoryError when the directory cannot be made or used.
    """

    def __init__(self, directory: Path) -> None:
        ensure_private(directory, "state directory")
        self._path = directory / LOCK_FILE
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            told = f" (process {holder})" if holder else ""
            raise StateLockedError(
                error.errno, f"another pyproxy{told} holds this state directory; wait for it or stop it", str(directory)
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Give the directory up; safe to repeat."""
        if self._descriptor >= 0:
            os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def ensure_private(directory: Path, what: str) -> None:
    """Make ``directory`` with mode 0700, or check that an existing one is ours and closed to others.

    ``what`` is what messages call it. Raises DirectoryError.
    """
    with contextlib.suppress(FileExistsError):
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
        except FileExistsError:
            raise
        except OSError as error:
            raise DirectoryError(
                error.errno,
                f"the {what} cannot be made: {error.strerror}; choose another in the configuration",
                str(directory),
            ) from error
    try:
        found = directory.stat()
    except OSError as error:
        raise DirectoryError(error.errno, f"the {what} cannot be read: {error.strerror}", str(directory)) from error
    if not stat.S_ISDIR(found.st_mode):
        raise DirectoryError(0, f"the {what} is not a directory; remove it or choose another", str(directory))
    if found.st_uid != os.geteuid():
        raise DirectoryError(0, f"the {what} belongs to user {found.st_uid}, not to us; choose another", str(directory))
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        raise DirectoryError(
            0, f"the {what} is open to others (mode {mode:04o}); type: chmod 700 {directory}", str(directory)
        )
