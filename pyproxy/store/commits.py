"""Transactions of several threads on one SQLite connection, which one commit makes durable.

A commit waits for the disk; what other threads have to write meanwhile waits for it, and shares the next one. A thread
alone waits for nobody.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from pyproxy.tally import Durations

_LARGEST_GROUP: Final = 256
_JOIN_SECONDS: Final = 0.002
"""How long the first of a group waits for one more that wants to join, should its thread not get to run."""


class _Group:
    """One commit's transactions. ``error`` is why nothing of them is durable."""

    def __init__(self) -> None:
        self.members = 1
        self.ended = threading.Event()
        self.error: BaseException | None = None


class GroupCommits:
    """Runs transactions and reads one at a time on the connection that ``connection`` returns.

    What a transaction wrote is seen by no read before it is durable. Methods may be called from any thread, but not
    inside a transaction.
    """

    def __init__(self, connection: Callable[[], sqlite3.Connection]) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._joined = threading.Condition(self._lock)
        self._settled = threading.Condition(self._lock)
        self._group: _Group | None = None
        self._counting = threading.Lock()
        self._wanting = 0
        self.commits = Durations()
        """How long commits of what was written took."""
        self.last = 0.0
        """When the last of them ended, in seconds since 1970; 0 where there was none."""

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run while nothing is half written."""
        with self._lock:
            while self._group is not None:
                self._settled.wait()
            yield

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Write what the body writes, or nothing where it or the commit raises; durable when it is left."""
        with self._counting:
            self._wanting += 1
        try:
            self._lock.acquire()
        finally:
            with self._counting:
                self._wanting -= 1
        try:
            while self._group is not None and self._group.error is not None:
                self._settled.wait()
            connection = self._connection()
            group = self._group
            if group is None:
                yield from self._lead(connection)
                return
            yield from self._join(connection, group)
        finally:
            self._lock.release()
        group.ended.wait()
        if group.error is not None:
            raise _again(group.error)

    def _lead(self, connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        """Begin a group, let others join it, commit."""
        connection.execute("BEGIN IMMEDIATE")
        group = self._group = _Group()
        try:
            yield connection
            while self._wanting and group.error is None and group.members < _LARGEST_GROUP:
                if not self._joined.wait(_JOIN_SECONDS):
                    break
            if group.error is None:
                self._commit(connection)
        except BaseException as error:
            group.error = error
            raise
        finally:
            roll_back(connection)
            self._group = None
            group.ended.set()
            self._settled.notify_all()
        if group.error is not None:
            raise _again(group.error)

    def _commit(self, connection: sqlite3.Connection) -> None:
        began = time.monotonic()
        connection.execute("COMMIT")
        self.commits.add(time.monotonic() - began)
        self.last = time.time()

    def _join(self, connection: sqlite3.Connection, group: _Group) -> Iterator[sqlite3.Connection]:
        """Write as a part of a group that can be undone by itself."""
        connection.execute("SAVEPOINT member")
        try:
            yield connection
            connection.execute("RELEASE member")
            group.members += 1
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK TO member")
                connection.execute("RELEASE member")
            else:
                # SQLite has undone all of it after some errors (a full disk), the others' part too.
                group.error = error
            raise
        finally:
            self._joined.notify()


def roll_back(connection: sqlite3.Connection) -> None:
    """End a failed transaction; SQLite has done so already after some errors."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _again(error: BaseException) -> Exception:
    """Return an error for another thread than the one that met it."""
    if isinstance(error, sqlite3.Error):
        told = type(error)(*error.args)
        for name in ("sqlite_errorcode", "sqlite_errorname"):
            if hasattr(error, name):
                setattr(told, name, getattr(error, name))
        return told
    return sqlite3.OperationalError(f"the commit was broken off: {error!r}")
