"""The tables of the log in SQLite, and transactions on them. Plain blocking code."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from ...runtime.errors import ConfigInvalid
from ..wal import use_wal
from .config import Synchronous
from .errors import CommitFailed

_VERSION = 2
_SCHEMA = """
CREATE TABLE topics (
    topic TEXT NOT NULL, partition INTEGER NOT NULL,
    begin_offset INTEGER NOT NULL, next_offset INTEGER NOT NULL, bytes INTEGER NOT NULL, last_time REAL NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE retention (topic TEXT PRIMARY KEY, time REAL, bytes INTEGER) WITHOUT ROWID;
CREATE TABLE records (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    key BLOB, value BLOB NOT NULL, headers TEXT, time REAL NOT NULL, dedup TEXT, bytes INTEGER NOT NULL,
    PRIMARY KEY (topic, partition, "offset")
) WITHOUT ROWID;
CREATE UNIQUE INDEX records_dedup ON records (topic, dedup) WHERE dedup IS NOT NULL;
CREATE TABLE commits (
    "group" TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    PRIMARY KEY ("group", topic, partition)
) WITHOUT ROWID;
CREATE TABLE members (
    "group" TEXT NOT NULL, member TEXT NOT NULL, session TEXT NOT NULL, topics TEXT NOT NULL, expires REAL NOT NULL,
    PRIMARY KEY ("group", member)
) WITHOUT ROWID;
CREATE TABLE owners (
    "group" TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL,
    member TEXT NOT NULL, token INTEGER NOT NULL, release_by REAL,
    PRIMARY KEY ("group", topic, partition)
) WITHOUT ROWID;
CREATE TABLE tokens (last INTEGER NOT NULL);
INSERT INTO tokens VALUES (0);
"""


def open_database(path: str, synchronous: Synchronous, busy_timeout: float) -> sqlite3.Connection:
    """Open or create the file. Raises `sqlite3.Error`, or `ConfigInvalid` for the tables of another version."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    try:
        use_wal(db, busy_timeout)
        db.execute(f"PRAGMA synchronous = {synchronous}")
        _create_tables(db, path)
    except BaseException:
        db.close()
        raise
    return db


@contextmanager
def transaction(db: sqlite3.Connection) -> Generator[None]:
    """One that begins with the write lock. Raises `CommitFailed` when nobody knows whether it was made."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        _commit(db)
    except BaseException:
        if db.in_transaction:  # a full disk makes SQLite roll back by itself
            db.execute("ROLLBACK")
        raise


def _commit(db: sqlite3.Connection) -> None:
    """Raises `sqlite3.Error` when the transaction was not made, `CommitFailed` when that is unknown."""
    try:
        db.execute("COMMIT")
    except sqlite3.Error as error:
        # One that is still open has not been committed (another process reads a file without a WAL).
        # On a full disk what is missing is the commit record itself: it comes last, and counts only as a whole.
        if db.in_transaction or error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_FULL:
            raise
        # The commit record may have reached the disk: only the next opening can tell.
        raise CommitFailed(str(error)) from error


def _create_tables(db: sqlite3.Connection, path: str) -> None:
    with transaction(db):
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.execute(f"PRAGMA user_version = {_VERSION}")
        elif version != _VERSION:
            raise ConfigInvalid("$.path", path, f"its tables have version {version}, this creche reads {_VERSION}")
