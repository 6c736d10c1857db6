"""Durable state in one SQLite file: write-ahead log, every commit synced to the disk before it returns."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from pyproxy.store.base import (
    Intent,
    Journal,
    JournalStep,
    LentCommand,
    MigrationRow,
    NexusRecord,
    StaleEpochError,
    StoreCorruptError,
    StoreError,
    StoreVersionError,
)
from pyproxy.store.commits import GroupCommits, roll_back
from pyproxy.tally import Spread, Tally

APPLICATION_ID: Final = 0x50795072
"""Marks a file as pyproxy's in the SQLite header, so that another program's database is not taken for ours."""

SCHEMA_VERSION: Final = 2
BUSY_TIMEOUT_S: Final = 10.0
_BUSY_PAUSE_S: Final = 0.01
CLOSED_INTENTS_KEPT: Final = 1000
"""How many closed intents of one guest and unit stay readable."""

MIGRATIONS_KEPT: Final = 100
"""How many migrations of one guest stay readable once they are over."""

_PRUNE_EVERY: Final = 64

_MIGRATIONS: Final = {
    1: """
        CREATE TABLE nexus (
            guest TEXT NOT NULL, unit TEXT NOT NULL,
            state BLOB NOT NULL, attentions BLOB NOT NULL DEFAULT x'', epoch INTEGER NOT NULL DEFAULT 0,
            updated TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
            PRIMARY KEY (guest, unit)
        ) WITHOUT ROWID;
        CREATE TABLE intent (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            guest TEXT NOT NULL, unit TEXT NOT NULL, epoch INTEGER NOT NULL,
            cdb BLOB NOT NULL, parameter_list BLOB NOT NULL, before BLOB NOT NULL,
            result BLOB, outcome TEXT,
            started TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
        );
        CREATE INDEX intent_of_nexus ON intent (guest, unit, id);
        CREATE INDEX intent_open ON intent (guest, unit, id) WHERE outcome IS NULL;
        CREATE TABLE takeover (
            takeover_id TEXT PRIMARY KEY,
            guest TEXT NOT NULL, unit TEXT NOT NULL,
            document BLOB NOT NULL, plan TEXT NOT NULL, nonce TEXT NOT NULL, outcome TEXT,
            started TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
        );
        CREATE TABLE takeover_step (
            takeover_id TEXT NOT NULL REFERENCES takeover (takeover_id),
            seq INTEGER NOT NULL, step BLOB NOT NULL, result BLOB,
            PRIMARY KEY (takeover_id, seq)
        ) WITHOUT ROWID;
    """,
    2: """
        CREATE TABLE migration (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            migration TEXT NOT NULL, role TEXT NOT NULL, guest TEXT NOT NULL,
            document BLOB NOT NULL, over INTEGER NOT NULL,
            UNIQUE (migration, role)
        );
        CREATE TABLE lent (
            migration TEXT NOT NULL, lun INTEGER NOT NULL, sequence INTEGER NOT NULL,
            request BLOB NOT NULL, answer BLOB,
            PRIMARY KEY (migration, lun, sequence)
        ) WITHOUT ROWID;
    """,
}
"""For each schema version the statements that make it from the one before (0: an empty file)."""


class SqliteStore:
    """The default Store. Threads take turns on one connection and share commits; other processes may open the file.

    Opening creates the file (mode 0600) in a directory that must exist. Raises StoreVersionError for a file of
    a newer version or of another program, StoreCorruptError for a damaged one, StoreError otherwise.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        self._commits = GroupCommits(self._open)
        self._closed_since_prune = 0
        self.failures = Tally()
        """What could not be done: opened, read, written."""
        created = self._create_file()
        with self._errors("opened"):
            connection = sqlite3.connect(
                self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        try:
            with self._errors("opened"):
                self._prepare(connection)
            if created:
                _sync_directory(self.path.parent)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def commits(self) -> Spread:
        """How long commits took since the store was opened."""
        return self._commits.commits.read()

    @property
    def last_commit(self) -> float:
        """When the last commit ended, in seconds since 1970; 0 where there was none yet."""
        return self._commits.last

    def close(self) -> None:
        """Release the file; safe to repeat."""
        with self._commits.alone():
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def load_nexus(self, guest: str, unit: str) -> NexusRecord | None:
        """See Store."""
        rows = self._query(
            "SELECT guest, unit, state, attentions, epoch, updated FROM nexus WHERE guest = ? AND unit = ?",
            (guest, unit),
        )
        return NexusRecord(*rows[0]) if rows else None

    def nexuses(self) -> list[NexusRecord]:
        """See Store."""
        rows = self._query("SELECT guest, unit, state, attentions, epoch, updated FROM nexus ORDER BY guest, unit")
        return [NexusRecord(*row) for row in rows]

    def save_nexus(
        self,
        guest: str,
        unit: str,
        state: bytes,
        *,
        epoch: int,
        attentions: bytes | None = None,
        resolve: Sequence[int] = (),
        resolution: str = "resolved-by-reading",
    ) -> None:
        """See Store."""
        with self._transaction() as run:
            self._check_epoch(run, guest, unit, epoch)
            _write_nexus(run, guest, unit, state, attentions, epoch)
            for intent in resolve:
                run.execute("UPDATE intent SET outcome = ? WHERE id = ? AND outcome IS NULL", (resolution, intent))
                self._prune(run, guest, unit)

    def forget_nexus(self, guest: str, unit: str) -> None:
        """See Store."""
        with self._transaction() as run:
            run.execute("DELETE FROM nexus WHERE guest = ? AND unit = ?", (guest, unit))
            run.execute("DELETE FROM intent WHERE guest = ? AND unit = ?", (guest, unit))

    def raise_epoch(self, guest: str, unit: str) -> int:
        """See Store."""
        with self._transaction() as run:
            row = run.execute(
                """INSERT INTO nexus (guest, unit, state, epoch) VALUES (?, ?, x'', 1)
                   ON CONFLICT (guest, unit) DO UPDATE SET epoch = epoch + 1, updated = CURRENT_TIMESTAMP
                   RETURNING epoch""",
                (guest, unit),
            ).fetchone()
            return int(row[0])

    def begin_intent(
        self, guest: str, unit: str, *, epoch: int, cdb: bytes, parameter_list: bytes, before: bytes
    ) -> int:
        """See Store."""
        with self._transaction() as run:
            self._check_epoch(run, guest, unit, epoch)
            cursor = run.execute(
                "INSERT INTO intent (guest, unit, epoch, cdb, parameter_list, before) VALUES (?, ?, ?, ?, ?, ?)",
                (guest, unit, epoch, cdb, parameter_list, before),
            )
            return int(cursor.lastrowid or 0)

    def complete_intent(self, intent: int, result: bytes, state: bytes, attentions: bytes | None = None) -> None:
        """See Store."""
        with self._transaction() as run:
            row = run.execute(
                "UPDATE intent SET result = ?, outcome = 'completed' WHERE id = ? AND outcome IS NULL "
                "RETURNING guest, unit, epoch",
                (result, intent),
            ).fetchone()
            if row is None:
                raise self._no_open_intent(intent)
            guest, unit, epoch = row
            self._check_epoch(run, guest, unit, epoch)
            _write_nexus(run, guest, unit, state, attentions, epoch)
            self._prune(run, guest, unit)

    def abandon_intent(self, intent: int, reason: str) -> None:
        """See Store."""
        with self._transaction() as run:
            row = run.execute(
                "UPDATE intent SET outcome = ? WHERE id = ? AND outcome IS NULL RETURNING guest, unit", (reason, intent)
            ).fetchone()
            if row is None:
                raise self._no_open_intent(intent)
            self._prune(run, *row)

    def open_intents(self, guest: str | None = None, unit: str | None = None) -> list[Intent]:
        """See Store."""
        return self._intents(True, guest, unit)

    def intents(self, guest: str | None = None, unit: str | None = None) -> list[Intent]:
        """See Store."""
        return self._intents(False, guest, unit)

    def journal_open(
        self, takeover_id: str, document: bytes, plan: str, nonce: int, *, guest: str = "", unit: str = ""
    ) -> None:
        """See Store."""
        with self._transaction() as run:
            cursor = run.execute(
                "INSERT OR IGNORE INTO takeover (takeover_id, guest, unit, document, plan, nonce) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (takeover_id, guest, unit, document, plan, f"{nonce:016x}"),
            )
            if cursor.rowcount != 1:
                raise StoreError(f"{self.path}: takeover {takeover_id} was begun before; load and continue it")

    def journal_step(self, takeover_id: str, seq: int, step: bytes) -> None:
        """See Store."""
        with self._transaction() as run:
            cursor = run.execute(
                "INSERT OR IGNORE INTO takeover_step (takeover_id, seq, step) "
                "SELECT takeover_id, ?, ? FROM takeover WHERE takeover_id = ? AND outcome IS NULL",
                (seq, step, takeover_id),
            )
            if cursor.rowcount != 1:
                raise StoreError(
                    f"{self.path}: step {seq} of takeover {takeover_id} cannot be recorded: the takeover is not "
                    "open, or it has that step already; load it and continue after its last step"
                )

    def journal_result(self, takeover_id: str, seq: int, result: bytes) -> None:
        """See Store."""
        with self._transaction() as run:
            cursor = run.execute(
                "UPDATE takeover_step SET result = ? WHERE takeover_id = ? AND seq = ?", (result, takeover_id, seq)
            )
            if cursor.rowcount != 1:
                raise StoreError(f"{self.path}: takeover {takeover_id} has no step {seq} to record a result for")

    def journal_load(self, takeover_id: str) -> Journal | None:
        """See Store."""
        with self._transaction() as run:
            row = run.execute(
                """SELECT takeover_id, guest, unit, document, plan, nonce, outcome, started FROM takeover
                   WHERE takeover_id = ?""",
                (takeover_id,),
            ).fetchone()
            return None if row is None else _journal(run, row)

    def journal_close(self, takeover_id: str, outcome: str) -> None:
        """See Store."""
        with self._transaction() as run:
            cursor = run.execute("UPDATE takeover SET outcome = ? WHERE takeover_id = ?", (outcome, takeover_id))
            if cursor.rowcount != 1:
                raise StoreError(f"{self.path}: there is no takeover {takeover_id} to close")

    def journals(self, *, only_open: bool = True) -> list[Journal]:
        """See Store."""
        with self._transaction() as run:
            rows = run.execute(
                """SELECT takeover_id, guest, unit, document, plan, nonce, outcome, started FROM takeover
                   WHERE outcome IS NULL OR NOT ? ORDER BY rowid""",
                (only_open,),
            ).fetchall()
            return [_journal(run, row) for row in rows]

    def migration_save(self, row: MigrationRow) -> None:
        """See Store."""
        with self._transaction() as run:
            run.execute(
                """INSERT INTO migration (migration, role, guest, document, over) VALUES (?1, ?2, ?3, ?4, ?5)
                   ON CONFLICT (migration, role) DO UPDATE SET document = ?4, over = ?5""",
                (row.migration, row.role, row.guest, row.document, row.over),
            )
            if row.over:
                run.execute("DELETE FROM lent WHERE migration = ?", (row.migration,))
                run.execute(
                    """DELETE FROM migration WHERE guest = ?1 AND over AND id <= (
                           SELECT id FROM migration WHERE guest = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)""",
                    (row.guest, MIGRATIONS_KEPT),
                )

    def migrations(self) -> list[MigrationRow]:
        """See Store."""
        rows = self._query("SELECT migration, role, guest, document, over FROM migration ORDER BY id")
        return [
            MigrationRow(migration, role, guest, document, bool(over))
            for migration, role, guest, document, over in rows
        ]

    def lent_begin(self, migration: str, lun: int, sequence: int, request: bytes) -> LentCommand | None:
        """See Store."""
        with self._transaction() as run:
            cursor = run.execute(
                "INSERT OR IGNORE INTO lent (migration, lun, sequence, request) VALUES (?, ?, ?, ?)",
                (migration, lun, sequence, request),
            )
            if cursor.rowcount == 1:
                return None
            row = run.execute(
                "SELECT request, answer FROM lent WHERE migration = ? AND lun = ? AND sequence = ?",
                (migration, lun, sequence),
            ).fetchone()
            return LentCommand(*row)

    def lent_answer(self, migration: str, lun: int, sequence: int, answer: bytes) -> None:
        """See Store."""
        with self._transaction() as run:
            cursor = run.execute(
                "UPDATE lent SET answer = ? WHERE migration = ? AND lun = ? AND sequence = ?",
                (answer, migration, lun, sequence),
            )
            if cursor.rowcount != 1:
                raise StoreError(
                    f"{self.path}: migration {migration} has no command {sequence} of LUN {lun} to record an answer for"
                )

    def lent_last(self, migration: str, lun: int) -> int:
        """See Store."""
        rows = self._query("SELECT max(sequence) FROM lent WHERE migration = ? AND lun = ?", (migration, lun))
        return -1 if rows[0][0] is None else int(rows[0][0])

    def lent_requests(self, migration: str, lun: int) -> list[bytes]:
        """See Store."""
        rows = self._query(
            "SELECT request FROM lent WHERE migration = ? AND lun = ? ORDER BY sequence", (migration, lun)
        )
        return [request for (request,) in rows]

    def _create_file(self) -> bool:
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        except FileExistsError:
            return False
        except OSError as error:
            raise StoreError(
                f"{self.path}: the store cannot be created: {error.strerror}; its directory must exist and be writable"
            ) from error
        return True

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        # One snapshot: another process that makes the schema between two of the reads would look like a foreign file.
        connection.execute("BEGIN")
        try:
            self._check_version(connection)
        finally:
            roll_back(connection)
        damage = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if damage != "ok":
            damage = " ".join(damage.split())
            raise StoreCorruptError(f"{self.path}: the store is damaged ({damage}); {_RESTORE_ADVICE}")
        mode = _write_ahead(connection)
        if mode != "wal":
            raise StoreError(
                f"{self.path}: write-ahead logging is not possible here (journal mode {mode}); "
                "put the store on a local file system"
            )
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Read again: another process may have made the schema since.
            for version in range(self._check_version(connection) + 1, SCHEMA_VERSION + 1):
                for statement in _MIGRATIONS[version].split(";\n"):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version}")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise

    def _check_version(self, connection: sqlite3.Connection) -> int:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        application = int(connection.execute("PRAGMA application_id").fetchone()[0])
        empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if application != APPLICATION_ID and not (empty and version == 0):
            raise StoreVersionError(
                f"{self.path}: this is a database of another program (application id {application:#x}); "
                "name another file for the store"
            )
        if version > SCHEMA_VERSION:
            raise StoreVersionError(
                f"{self.path}: the store was written by a newer pyproxy (schema {version}, this one knows up to "
                f"{SCHEMA_VERSION}); start that version, or name another file for the store"
            )
        if not empty and version < min(_MIGRATIONS):
            raise StoreVersionError(
                f"{self.path}: the store has schema {version}, which no released pyproxy wrote (the oldest is "
                f"{min(_MIGRATIONS)}); name another file for the store"
            )
        return version

    def _check_epoch(self, run: sqlite3.Connection, guest: str, unit: str, epoch: int) -> None:
        row = run.execute("SELECT epoch FROM nexus WHERE guest = ? AND unit = ?", (guest, unit)).fetchone()
        if row is not None and row[0] > epoch:
            raise StaleEpochError(
                f"{self.path}: guest {guest} on unit {unit} was taken over (epoch {row[0]}) since this process "
                f"loaded it (epoch {epoch}); nothing was written: stop serving the guest here, or load its state again"
            )

    def _prune(self, run: sqlite3.Connection, guest: str, unit: str) -> None:
        self._closed_since_prune += 1
        if self._closed_since_prune < _PRUNE_EVERY:
            return
        self._closed_since_prune = 0
        run.execute(
            """DELETE FROM intent WHERE guest = ?1 AND unit = ?2 AND outcome IS NOT NULL AND id <= (
                   SELECT id FROM intent WHERE guest = ?1 AND unit = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)""",
            (guest, unit, CLOSED_INTENTS_KEPT),
        )

    def _intents(self, only_open: bool, guest: str | None, unit: str | None) -> list[Intent]:
        rows = self._query(
            """SELECT id, guest, unit, epoch, cdb, parameter_list, before, result, outcome, started FROM intent
               WHERE (outcome IS NULL OR NOT ?1) AND (?2 IS NULL OR guest = ?2) AND (?3 IS NULL OR unit = ?3)
               ORDER BY id""",
            (only_open, guest, unit),
        )
        return [Intent(*row) for row in rows]

    def _no_open_intent(self, intent: int) -> StoreError:
        return StoreError(f"{self.path}: there is no open intent {intent} to close")

    def _query(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with self._commits.alone(), self._errors("read"):
            return self._open().execute(statement, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._errors("written"), self._commits.transaction() as connection:
            yield connection

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"{self.path}: the store is closed")
        return self._connection

    @contextmanager
    def _errors(self, verb: str) -> Iterator[None]:
        """Turn SQLite's errors into sentences; the one place that does."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            self.failures.add(verb)
            if isinstance(error, sqlite3.OperationalError):
                raise StoreError(f"{self.path}: the store cannot be {verb}: {error}; {_advice(error)}") from error
            raise StoreCorruptError(
                f"{self.path}: the store is damaged or not a database ({error}); {_RESTORE_ADVICE}"
            ) from error


_RESTORE_ADVICE: Final = "move it away and start again: registrations stay on the devices and are adopted from there"

_ADVICE: Final = {
    "SQLITE_FULL": "make room on its file system",
    "SQLITE_READONLY": "make the file and its directory writable",
    "SQLITE_CANTOPEN": "check that its directory exists and is writable",
    "SQLITE_BUSY": "another process keeps it locked: end that process",
    "SQLITE_IOERR": "check its disk",
}


def _advice(error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "")
    return next((advice for code, advice in _ADVICE.items() if name.startswith(code)), "check its file system")


def _write_ahead(connection: sqlite3.Connection) -> str:
    """Switch to write-ahead logging and return the mode in force.

    SQLite does not wait for the lock this needs, however long its timeout: processes that open a new file together
    would fail each other.
    """
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_BUSY_PAUSE_S)


def _write_nexus(
    run: sqlite3.Connection, guest: str, unit: str, state: bytes, attentions: bytes | None, epoch: int
) -> None:
    run.execute(
        """INSERT INTO nexus (guest, unit, state, attentions, epoch) VALUES (?1, ?2, ?3, coalesce(?4, x''), ?5)
            ON CONFLICT (guest, unit) DO UPDATE
            SET state = ?3, attentions = coalesce(?4, attentions), epoch = ?5, updated = CURRENT_TIMESTAMP""",
        (guest, unit, state, attentions, epoch),
    )


def _journal(run: sqlite3.Connection, row: Sequence[Any]) -> Journal:
    takeover_id, guest, unit, document, plan, nonce, outcome, started = row
    steps = run.execute(
        "SELECT seq, step, result FROM takeover_step WHERE takeover_id = ? ORDER BY seq", (takeover_id,)
    ).fetchall()
    return Journal(
        takeover_id=takeover_id,
        guest=guest,
        unit=unit,
        document=document,
        plan=plan,
        nonce=int(nonce, 16),
        outcome=outcome,
        steps=tuple(JournalStep(*step) for step in steps),
        started=started,
    )


def _sync_directory(path: Path) -> None:
    """Make a new file's name durable, which SQLite does for its log but not for the database."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
