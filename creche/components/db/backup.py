"""Copies of a database: made while it is in use, checked before they count, and put back.

All of this blocks: `Db.backup` runs it in a thread; `check_backup` and `restore` are for programs of their own.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trio

from .errors import BackupDamaged

_PAGES_AT_ONCE = 1000  # between two looks for a cancel: some milliseconds


@dataclass(frozen=True, slots=True)
class Backup:
    """A copy that has been checked.

    `path` of its file, its size in `bytes`, the identity of the database that it was made of (empty for a file that has
    been restored and not been started since), the number of its last migration (None: none), and how many messages were
    in its outbox.
    """

    path: str
    bytes: int
    database_id: str
    migration: int | None
    unsent: int


def make_backup(source: str, target: str) -> Backup:
    """Copy what is committed now. The target has its name only when it is whole, checked and on disk.

    Raises FileExistsError if there is such a file already, OSError, and `BackupDamaged`.
    """
    if Path(target).exists():
        raise FileExistsError(f"{target!r} exists: name a file that does not, such as one with the time in its name")
    partial = Path(f"{target}.partial")
    try:
        _copy(source, partial)
        found = check_backup(partial)
        _flush(partial)
        partial.rename(target)
        _flush(partial.parent)
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return Backup(target, found.bytes, found.database_id, found.migration, found.unsent)


def _copy(source: str, target: Path) -> None:
    def look_for_cancel(_status: int, _remaining: int, _total: int) -> None:
        with suppress(RuntimeError):  # no Trio worker thread: a deterministic runtime runs blocking work inline
            trio.from_thread.check_cancelled()

    target.unlink(missing_ok=True)
    with closing(sqlite3.connect(source, isolation_level=None)) as live, closing(sqlite3.connect(target)) as copy:
        # One snapshot from the first page to the last: without it each commit would start the copy anew.
        live.execute("BEGIN")
        live.execute("SELECT count(*) FROM sqlite_master").fetchone()
        live.backup(copy, pages=_PAGES_AT_ONCE, progress=look_for_cancel)
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a WAL beside it


def check_backup(path: str | os.PathLike[str]) -> Backup:
    """Read all of a copy and say what it is. Blocks for as long as reading the file takes.

    Raises `BackupDamaged` if its pages, its indexes or its foreign keys are not sound, or it is not of this component;
    FileNotFoundError.
    """
    path = Path(path)
    size = path.stat().st_size
    try:
        with _read_only(path) as copy:
            problems = [str(row[0]) for row in copy.execute("PRAGMA integrity_check")]
            problems = [] if problems == ["ok"] else problems
            problems += [
                f"{row[0]} row {row[1]} refers to no {row[2]}" for row in copy.execute("PRAGMA foreign_key_check")
            ]
            if problems:
                raise BackupDamaged(str(path), tuple(problems))
            return _described(copy, path, size)
    except sqlite3.DatabaseError as error:
        raise BackupDamaged(str(path), (str(error),)) from error


def _described(copy: sqlite3.Connection, path: Path, size: int) -> Backup:
    identity = copy.execute("SELECT value FROM creche_meta WHERE name = 'database_id'").fetchone() or ("",)
    (unsent,) = copy.execute("SELECT count(*) FROM creche_outbox").fetchone()
    tables = {name for (name,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    last = None
    if "creche_migrations" in tables:
        (last,) = copy.execute("SELECT max(version) FROM creche_migrations").fetchone()
    return Backup(str(path), size, identity[0], last, unsent)


def restore(backup: str | os.PathLike[str], path: str | os.PathLike[str]) -> None:
    """Check a copy and put it in the place of a database that is not running. Blocks.

    It becomes a database of its own, with another identity: the ids of its outbox start again where the copy was made,
    and by both of them a message log knows messages again. What the copy still had in its outbox is sent again under
    new ids, so consumers may see it twice.

    Raises FileExistsError if there is a file at `path`: move it away first, it is the last you have. Else as
    `check_backup`.
    """
    path = Path(path)
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        if name.exists():
            raise FileExistsError(f"{str(name)!r} exists: stop the database and move its file away first")
    check_backup(backup)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(f"{path}.partial")
    partial.unlink(missing_ok=True)
    try:
        with _read_only(Path(backup)) as copy, closing(sqlite3.connect(partial)) as restored:
            copy.backup(restored)
            restored.execute("DELETE FROM creche_meta WHERE name = 'database_id'")  # the next start makes a new one
            restored.commit()
        _flush(partial)
        partial.rename(path)
        _flush(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _read_only(path: Path) -> Generator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
        yield connection


def _flush(path: Path) -> None:
    """What is written is on disk afterwards, as far as the disk does what it says."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
