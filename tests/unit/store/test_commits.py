"""Threads share commits: what was left is durable, what failed left nothing, nobody sees what is not durable."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyproxy.store.commits import GroupCommits


class Slow(sqlite3.Connection):
    """A connection whose commits take their time, as on a disk, and can fail."""

    commits = 0
    seconds = 0.02
    fails: BaseException | None = None

    def execute(self, statement: str, *parameters: object) -> sqlite3.Cursor:  # type: ignore[override]
        if statement == "COMMIT":
            time.sleep(self.seconds)
            if self.fails is not None:
                raise self.fails
            self.commits += 1
        return super().execute(statement, *parameters)  # type: ignore[arg-type]


def _raise(error: BaseException | None) -> None:
    if error is not None:
        raise error


class Rig:
    """A table of numbers; ``other`` is another connection to it, which sees what is durable."""

    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, factory=Slow)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("CREATE TABLE number (value INTEGER PRIMARY KEY)")
        self.other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self.commits = GroupCommits(lambda: self.connection)
        self.lock = threading.Lock()
        self.failed: list[tuple[int, BaseException]] = []

    def durable(self) -> list[int]:
        with self.lock:
            return [value for (value,) in self.other.execute("SELECT value FROM number ORDER BY value")]

    def write(self, value: int, *, then: BaseException | None = None) -> None:
        """Write a number; it is durable when this returns."""
        try:
            with self.commits.transaction() as run:
                run.execute("INSERT INTO number VALUES (?)", (value,))
                _raise(then)
        except BaseException as error:
            self.failed.append((value, error))
        else:
            assert value in self.durable()

    def at_once(self, *calls: threading.Thread) -> None:
        for call in calls:
            call.start()
        for call in calls:
            call.join(30)
            assert not call.is_alive()

    def writer(self, value: int, then: BaseException | None = None) -> threading.Thread:
        return threading.Thread(target=self.write, args=(value,), kwargs={"then": then})


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "numbers.db")
    yield made
    made.connection.close()
    made.other.close()


def test_threads_share_commits(rig: Rig) -> None:
    rig.at_once(*(rig.writer(value) for value in range(64)))
    assert rig.durable() == list(range(64))
    assert not rig.failed
    assert rig.connection.commits < 16


def test_one_thread_commits_each_time_and_waits_for_nobody(rig: Rig) -> None:
    rig.connection.seconds = 0.0
    began = time.monotonic()
    for value in range(100):
        rig.write(value)
    assert rig.connection.commits == 100
    assert time.monotonic() - began < 5


def test_what_raises_leaves_nothing_and_the_others_are_kept(rig: Rig) -> None:
    odd = [rig.writer(value, ValueError(str(value)) if value % 2 else None) for value in range(32)]
    rig.at_once(*odd)
    assert rig.durable() == list(range(0, 32, 2))
    assert sorted(value for value, _ in rig.failed) == list(range(1, 32, 2))
    assert all(isinstance(error, ValueError) for _, error in rig.failed)


def test_a_statement_that_fails_is_its_own_threads(rig: Rig) -> None:
    rig.write(7)
    rig.at_once(*(rig.writer(value) for value in (7, 7, 8, 9)))
    assert rig.durable() == [7, 8, 9]
    assert [(value, type(error)) for value, error in rig.failed] == [(7, sqlite3.IntegrityError)] * 2


@pytest.mark.parametrize("error", [sqlite3.OperationalError("disk I/O error"), KeyboardInterrupt()])
def test_a_commit_that_fails_is_told_to_everybody_in_it(rig: Rig, error: BaseException) -> None:
    rig.connection.fails = error
    rig.at_once(*(rig.writer(value) for value in range(16)))
    assert rig.durable() == []
    assert sorted(value for value, _ in rig.failed) == list(range(16))
    assert {type(told) for _, told in rig.failed} <= {type(error), sqlite3.OperationalError}
    rig.connection.fails = None
    rig.write(99)
    assert rig.durable() == [99], "the next commit has nothing of it"


def test_an_error_with_which_sqlite_undoes_everything(rig: Rig) -> None:
    """As a full disk: whoever was in the transaction learns of it, and the next one begins anew."""
    first_in, go_on = threading.Event(), threading.Event()

    def leads() -> None:
        try:
            with rig.commits.transaction() as run:
                run.execute("INSERT INTO number VALUES (1)")
                first_in.set()
                go_on.wait(30)
        except sqlite3.Error as error:
            rig.failed.append((1, error))

    def ruins() -> None:
        try:
            with rig.commits.transaction() as run:
                run.execute("ROLLBACK")
                raise sqlite3.OperationalError("database or disk is full")
        except sqlite3.Error as error:
            rig.failed.append((2, error))

    leader, ruin = threading.Thread(target=leads), threading.Thread(target=ruins)
    leader.start()
    assert first_in.wait(30)
    ruin.start()
    deadline = time.monotonic() + 30
    while not rig.commits._wanting:  # until it waits for its turn, however late its thread begins
        assert time.monotonic() < deadline
        time.sleep(0.001)
    go_on.set()
    leader.join(30)
    ruin.join(30)
    assert sorted(value for value, _ in rig.failed) == [1, 2]
    assert rig.durable() == []
    rig.write(3)
    assert rig.durable() == [3]


def test_nobody_reads_what_is_not_durable(rig: Rig) -> None:
    seen: list[int] = []
    stop = threading.Event()

    def reads() -> None:
        while not stop.is_set():
            with rig.commits.alone():
                found = [value for (value,) in rig.connection.execute("SELECT value FROM number")]
            assert set(found) <= set(rig.durable())
            seen.append(len(found))

    reader = threading.Thread(target=reads)
    reader.start()
    for first in range(0, 40, 8):
        rig.at_once(*(rig.writer(first + number) for number in range(8)))
    stop.set()
    reader.join(30)
    assert {0, 40} < set(seen)
    assert not rig.failed
