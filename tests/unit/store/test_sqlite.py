"""The SQLite store: what it keeps, what it refuses, and what it says about files it cannot use."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyproxy.store.base import (
    JournalStep,
    StaleEpochError,
    Store,
    StoreCorruptError,
    StoreError,
    StoreVersionError,
)
from pyproxy.store.sqlite import SqliteStore

LUN = "naa.6001405aaaaaaaaaaaaaaaaaaaaaaaaa"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(path) as opened:
        yield opened


def begin(store: Store, guest: str = "g", unit: str = LUN, epoch: int = 0) -> int:
    return store.begin_intent(guest, unit, epoch=epoch, cdb=b"\x5f\0", parameter_list=b"list", before=b"before")


def test_is_a_store(store: SqliteStore) -> None:
    typed: Store = store
    assert typed.load_nexus("g", LUN) is None


def test_state_survives_reopening(path: Path) -> None:
    with SqliteStore(path) as store:
        store.save_nexus("g", LUN, b"one", epoch=0, attentions=b"[]")
        store.save_nexus("g", LUN, b"two", epoch=0)
        store.save_nexus("a", LUN, b"other", epoch=3)
    with SqliteStore(path) as store:
        record = store.load_nexus("g", LUN)
        assert record is not None
        assert (record.state, record.attentions, record.epoch) == (b"two", b"[]", 0)
        assert [(one.guest, one.epoch) for one in store.nexuses()] == [("a", 3), ("g", 0)]


def test_intent_is_open_until_its_result_is_recorded(store: SqliteStore) -> None:
    number = begin(store)
    (intent,) = store.open_intents()
    assert (intent.id, intent.guest, intent.unit) == (number, "g", LUN)
    assert (intent.cdb, intent.parameter_list, intent.before) == (b"\x5f\0", b"list", b"before")
    assert intent.open
    store.complete_intent(number, b"result", b"after", b"[1]")
    assert store.open_intents() == []
    (closed,) = store.intents("g", LUN)
    assert (closed.result, closed.outcome, closed.open) == (b"result", "completed", False)
    record = store.load_nexus("g", LUN)
    assert record is not None
    assert (record.state, record.attentions) == (b"after", b"[1]")


def test_intent_is_closed_once(store: SqliteStore) -> None:
    number = begin(store)
    store.complete_intent(number, b"", b"after")
    with pytest.raises(StoreError, match=f"no open intent {number}"):
        store.complete_intent(number, b"", b"again")
    with pytest.raises(StoreError, match="no open intent"):
        store.abandon_intent(number, "not-sent")
    with pytest.raises(StoreError, match="no open intent"):
        store.abandon_intent(999, "not-sent")


def test_abandoned_intent_changes_no_state(store: SqliteStore) -> None:
    store.abandon_intent(begin(store), "not-sent")
    assert store.open_intents() == []
    assert store.intents()[0].outcome == "not-sent"
    assert store.load_nexus("g", LUN) is None


def test_reading_resolves_intents_with_the_state_in_one_go(store: SqliteStore) -> None:
    first, second, other = begin(store), begin(store), begin(store, guest="h")
    store.save_nexus("g", LUN, b"read", epoch=0, resolve=[first, second])
    assert [intent.id for intent in store.open_intents()] == [other]
    assert {intent.outcome for intent in store.intents("g")} == {"resolved-by-reading"}
    assert [intent.id for intent in store.open_intents("h", LUN)] == [other]
    assert store.open_intents("h", "naa.other") == []


def test_epoch_shuts_out_who_was_taken_over(store: SqliteStore) -> None:
    open_before = begin(store)
    assert store.raise_epoch("g", LUN) == 1
    assert store.raise_epoch("g", LUN) == 2
    record = store.load_nexus("g", LUN)
    assert record is not None
    assert (record.state, record.epoch) == (b"", 2)
    with pytest.raises(StaleEpochError, match=r"guest g on unit naa\.6001405.*taken over \(epoch 2\).*\(epoch 0\)"):
        begin(store)
    with pytest.raises(StaleEpochError):
        store.save_nexus("g", LUN, b"late", epoch=1)
    with pytest.raises(StaleEpochError):
        store.complete_intent(open_before, b"", b"late")
    assert [intent.id for intent in store.open_intents()] == [open_before]
    store.save_nexus("g", LUN, b"new", epoch=2)
    assert begin(store, epoch=2) > open_before


def test_forgetting_a_guest(store: SqliteStore) -> None:
    begin(store)
    store.save_nexus("g", LUN, b"state", epoch=0)
    store.forget_nexus("g", LUN)
    store.forget_nexus("g", LUN)
    assert store.nexuses() == []
    assert store.intents() == []


def test_closed_intents_are_pruned_and_open_ones_never(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyproxy.store.sqlite.CLOSED_INTENTS_KEPT", 5)
    monkeypatch.setattr("pyproxy.store.sqlite._PRUNE_EVERY", 4)
    kept_open = begin(store)
    for _ in range(16):
        store.complete_intent(begin(store), b"", b"state")
    numbers = [intent.id for intent in store.intents("g", LUN)]
    assert numbers[0] == kept_open
    assert len(numbers) == 6
    assert numbers[-1] == kept_open + 16


def test_intents_closed_without_a_result_are_pruned_as_well(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that goes on against a device that is gone must not fill the disk."""
    monkeypatch.setattr("pyproxy.store.sqlite.CLOSED_INTENTS_KEPT", 5)
    monkeypatch.setattr("pyproxy.store.sqlite._PRUNE_EVERY", 4)
    for _ in range(16):
        store.abandon_intent(begin(store), "not-sent")
    assert len(store.intents("g", LUN)) == 5
    for _ in range(16):
        store.save_nexus("g", LUN, b"state", epoch=0, resolve=[begin(store)])
    assert len(store.intents("g", LUN)) == 5


def test_takeover_journal(path: Path) -> None:
    with SqliteStore(path) as store:
        store.journal_open("t1", b"checkpoint", "P1", 2**64 - 1, guest="g", unit=LUN)
        store.journal_step("t1", 0, b"step 0")
        store.journal_result("t1", 0, b"result 0")
        store.journal_step("t1", 1, b"step 1")
    with SqliteStore(path) as store:
        journal = store.journal_load("t1")
        assert journal is not None
        assert (journal.document, journal.plan, journal.nonce) == (b"checkpoint", "P1", 2**64 - 1)
        assert (journal.guest, journal.unit, journal.outcome) == ("g", LUN, None)
        assert journal.steps == (JournalStep(0, b"step 0", b"result 0"), JournalStep(1, b"step 1", None))
        assert store.journals() == [journal]
        store.journal_close("t1", "committed")
        assert store.journals() == []
        assert [one.outcome for one in store.journals(only_open=False)] == ["committed"]
        assert store.journal_load("t2") is None


def test_takeover_journal_refuses_what_would_blur_it(store: SqliteStore) -> None:
    store.journal_open("t1", b"", "P3", 0)
    with pytest.raises(StoreError, match="t1 was begun before"):
        store.journal_open("t1", b"", "P3", 0)
    store.journal_step("t1", 0, b"")
    with pytest.raises(StoreError, match="step 0 of takeover t1"):
        store.journal_step("t1", 0, b"")
    with pytest.raises(StoreError, match="no step 7"):
        store.journal_result("t1", 7, b"")
    with pytest.raises(StoreError, match="no takeover t2"):
        store.journal_close("t2", "done")
    store.journal_close("t1", "done")
    with pytest.raises(StoreError, match="not open"):
        store.journal_step("t1", 1, b"")


def test_every_commit_is_synced(store: SqliteStore) -> None:
    connection = store._connection
    assert connection is not None
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_file_is_private_and_closing_twice_is_fine(path: Path) -> None:
    store = SqliteStore(path)
    assert path.stat().st_mode & 0o777 == 0o600
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.nexuses()


def newer(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 7")
    connection.close()


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE something (x)")
    connection.close()


def older(path: Path) -> None:
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 0")
    connection.close()


def text(path: Path) -> None:
    path.write_text("this is a configuration file, not a store\n" * 200)


def damaged(path: Path) -> None:
    with SqliteStore(path) as store:
        for number in range(300):
            store.save_nexus(f"guest{number}", LUN, bytes(200), epoch=0)
    raw = bytearray(path.read_bytes())
    raw[4096:20480] = b"\xa5" * 16384
    path.write_bytes(raw)


def directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "error", "says"),
    [
        (newer, StoreVersionError, r"newer pyproxy \(schema 7, this one knows up to 2\); start that version"),
        (foreign, StoreVersionError, "another program.*name another file"),
        (older, StoreVersionError, "schema 0.*name another file"),
        (text, StoreCorruptError, "damaged or not a database.*move it away"),
        (damaged, StoreCorruptError, "damaged.*move it away"),
        (directory, StoreError, "cannot be opened.*directory exists and is writable"),
    ],
)
def test_file_that_cannot_be_used(
    path: Path, spoil: Callable[[Path], None], error: type[StoreError], says: str
) -> None:
    spoil(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(error, match=says) as caught:
        SqliteStore(path)
    assert str(path) in str(caught.value)
    if path.is_file():
        assert path.read_bytes() == before


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="its directory must exist"):
        SqliteStore(tmp_path / "missing" / "state.db")


def test_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()
    with SqliteStore(path) as store:
        assert begin(store) == 1


def test_two_openers_at_once_make_one_schema(path: Path) -> None:
    stores: list[SqliteStore] = []
    threads = [threading.Thread(target=lambda: stores.append(SqliteStore(path))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores) == 8
    for number, store in enumerate(stores):
        begin(store, guest=f"g{number}")
    assert len(stores[0].open_intents()) == 8
    for store in stores:
        store.close()


def test_many_threads(store: SqliteStore) -> None:
    def work(guest: str) -> None:
        for number in range(10):
            store.complete_intent(begin(store, guest=guest), b"", str(number).encode())

    threads = [threading.Thread(target=work, args=(f"g{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {record.state for record in store.nexuses()} == {b"9"}
    assert store.open_intents() == []


WRITER = """
import sys
from pyproxy.store.sqlite import SqliteStore
with SqliteStore(sys.argv[1]) as store:
    for number in range(20):
        intent = store.begin_intent(sys.argv[2], "u", epoch=0, cdb=b"", parameter_list=b"", before=b"")
        store.complete_intent(intent, b"", str(number).encode())
"""


def test_several_processes(path: Path) -> None:
    SqliteStore(path).close()
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), f"g{number}"]) for number in range(3)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    with SqliteStore(path) as store:
        assert [record.state for record in store.nexuses()] == [b"19"] * 3
        assert len(store.intents()) == 60


def test_lock_of_another_process_is_waited_for_and_then_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyproxy.store.sqlite.BUSY_TIMEOUT_S", 0.1)
    with SqliteStore(path) as store:
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked; another process keeps it locked"):
            begin(store)
        blocker.execute("ROLLBACK")
        blocker.close()
        assert begin(store) == 1


FULL_DISK = """
import resource, signal, sys
from pyproxy.store.base import StoreError
from pyproxy.store.sqlite import SqliteStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SqliteStore(sys.argv[1])
store.save_nexus("g", "u", b"before", epoch=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
try:
    store.begin_intent("g", "u", epoch=0, cdb=b"", parameter_list=b"", before=b"x" * 20000)
except StoreError as error:
    print(error)
else:
    sys.exit("the write went through")
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert store.open_intents() == [], "a failed write must not be visible"
intent = store.begin_intent("g", "u", epoch=0, cdb=b"", parameter_list=b"", before=b"")
store.complete_intent(intent, b"", b"after")
assert store.load_nexus("g", "u").state == b"after"
"""


def test_write_the_kernel_refuses_fails_clearly_and_later_ones_work(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "cannot be written" in done.stdout
    assert str(path) in done.stdout


def test_killed_in_the_middle_of_writing_leaves_a_whole_store(path: Path) -> None:
    endless = WRITER.replace("range(20)", "range(10**9)").replace("str(number)", "str(number).zfill(4000)")
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", endless, str(path), "g"])
        while not (path.exists() and path.with_name(path.name + "-wal").exists()):
            assert writer.poll() is None
        signal.sigtimedwait([], 0.15)
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        with SqliteStore(path) as store:
            assert len(store.open_intents()) <= 1
            for intent in store.open_intents():
                store.abandon_intent(intent.id, "resolved-by-reading")
