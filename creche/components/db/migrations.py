"""Migrations: the schema's history as numbered SQL files, applied at the start.

The history that the database remembers must be a beginning of the history that the program brings: same numbers, same
names, same text. Then what is new is applied, in one transaction together, under the write lock; so two processes that
start at once do not both apply it, and a failure leaves the file as it was. If the histories differ nobody can say what
the schema is, so the start is refused (`MigrationsDiffer`).
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import MigrationFailed, MigrationInvalid, MigrationsDiffer

if TYPE_CHECKING:
    from .faults import Faults

_NAME = re.compile(r"(\d+)[_-](\w[\w-]*)")
_SCHEMA = """CREATE TABLE IF NOT EXISTS creche_migrations (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    checksum TEXT NOT NULL,
    applied_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)
)"""  # applied_at: seconds since the epoch, by the database's clock
_INSERT = "INSERT INTO creche_migrations (version, name, checksum) VALUES (?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema's history.

    `sql` is one or several statements, without BEGIN and COMMIT. Raises `MigrationInvalid`.
    """

    version: int
    name: str
    sql: str

    def __post_init__(self) -> None:
        if not any(self.statements()):
            raise MigrationInvalid(f"migration {self.version} ({self.name}) has no statement")

    @property
    def checksum(self) -> str:
        """SHA-256 of its text; how lines end does not count."""
        return hashlib.sha256("\n".join(self.sql.splitlines()).encode()).hexdigest()

    def statements(self) -> Iterator[str]:
        """Its statements one by one, as SQLite itself tells them apart."""
        text = ""
        for piece in re.split(r"(;)", self.sql):
            text += piece
            if piece == ";" and sqlite3.complete_statement(text):
                yield text
                text = ""
        if _without_comments(text).strip():
            yield text


MigrationSource = str | PathLike[str] | Sequence[Migration]


def load(source: MigrationSource) -> tuple[Migration, ...]:
    """The migrations of a folder (``0001_create_users.sql`` ...), or those given, in their order.

    Raises `MigrationInvalid`.
    """
    found = _of_folder(Path(source)) if isinstance(source, (str, PathLike)) else source
    ordered = tuple(sorted(found, key=lambda migration: migration.version))
    for one, following in pairwise(ordered):
        if one.version == following.version:
            raise MigrationInvalid(f"two migrations have the number {one.version}: {one.name}, {following.name}")
    return ordered


def _of_folder(folder: Path) -> Iterator[Migration]:
    if not folder.is_dir():
        raise MigrationInvalid(f"{str(folder)!r} is no folder: name the one with the migrations")
    for file in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(file.stem)
        if match is None:
            raise MigrationInvalid(f"{str(file)!r}: call migrations 0001_what_they_do.sql")
        yield Migration(int(match[1]), match[2], file.read_text(encoding="utf-8"))


def _without_comments(sql: str) -> str:
    return re.sub(r"--[^\n]*|/\*.*?\*/", "", sql, flags=re.DOTALL)


def migrate(raw: sqlite3.Connection, migrations: Sequence[Migration], faults: Faults) -> None:
    """Apply what is missing, in the transaction that is open.

    Raises `MigrationsDiffer` or `MigrationFailed`; the caller rolls back.
    """
    raw.execute(_SCHEMA)
    applied = raw.execute("SELECT version, name, checksum FROM creche_migrations ORDER BY version").fetchall()
    check_history(applied, migrations)
    for migration in migrations[len(applied) :]:
        _apply(raw, migration, faults)


def check_history(applied: Sequence[tuple[int, str, str]], migrations: Sequence[Migration]) -> None:
    """Raise `MigrationsDiffer` unless what was applied is a beginning of these migrations."""
    known = {migration.version: migration for migration in migrations}
    for version, name, checksum in applied:
        migration = known.get(version)
        if migration is None:
            raise MigrationsDiffer(version, f"was applied as {name!r} and is not there any more")
        if (migration.name, migration.checksum) != (name, checksum):
            raise MigrationsDiffer(version, f"was applied as {name!r} with another text")
    for migration, (version, _, _) in zip(migrations, applied, strict=False):
        if migration.version != version:
            raise MigrationsDiffer(migration.version, f"{migration.name!r} is new, but {version} was applied before it")


def _apply(raw: sqlite3.Connection, migration: Migration, faults: Faults) -> None:
    for statement in migration.statements():
        try:
            raw.execute(statement)
        except sqlite3.Error as error:
            reason = str(faults.translated(error))
            raise MigrationFailed(migration.version, migration.name, reason) from error
        if not raw.in_transaction:
            raise MigrationFailed(migration.version, migration.name, "it ends the transaction it is applied in")
    raw.execute(_INSERT, (migration.version, migration.name, migration.checksum))
