"""Worker ids, leased from a small SQLite file that all processes of a machine share.

Theory of operation
-------------------
One row per worker id that was ever leased: who owns it, until when, and the *mark*: the last millisecond its owner
may have used.

*Rule 1, the fence*: an owner uses no millisecond beyond the mark in the file, a write that moves the mark names the
owner, and whoever takes an id over starts after the mark. So two owners never issue the same id, however wrong the
clock or however late a process hears that it has been replaced: its next write finds another owner, and its old mark
was the end of its ids. Leases and quarantine only keep such changes rare; nothing rests on their timing. (A lease by
time alone needs the holder to notice its end in time, and a process that was suspended for a minute does not.)

*Rule 2*: an id is free for a service when its lease has run out or been given back, its quarantine is over (a service
that restarts need not wait for that with its own ids), and its mark is not further ahead of the clock than the
tolerance: after the clock was set back, a fresh id goes on at once where the old one would have to wait.

*Rule 3*: of a row that does not exist, nothing is known; perhaps the file was lost. Its ids begin after the present
millisecond.

Everything here blocks, for one thread at a time. The clock is passed in, in Unix milliseconds.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from ...runtime.errors import Unavailable
from ..wal import use_wal
from .config import Config
from .errors import NoWorkerIdFree, WorkerIdLost

_SCHEMA = """
CREATE TABLE IF NOT EXISTS worker_ids (
    id INTEGER PRIMARY KEY,
    owner TEXT NOT NULL,
    service TEXT NOT NULL,
    expires_ms INTEGER NOT NULL,
    mark INTEGER NOT NULL
)
"""
# The Unix millisecond from which an id may be leased (rule 2).
_FREE_FROM = "max(expires_ms + CASE WHEN service = :service THEN 0 ELSE :quarantine END, mark - :tolerance)"
_NOT_FREE = f"""
SELECT id, {_FREE_FROM} AS free_from FROM worker_ids WHERE id <= :most AND {_FREE_FROM} > :now ORDER BY id
"""
_TAKE = """
INSERT INTO worker_ids (id, owner, service, expires_ms, mark) VALUES (:id, :owner, :service, :expires, :now)
ON CONFLICT (id) DO
UPDATE SET owner = excluded.owner, service = excluded.service, expires_ms = excluded.expires_ms
RETURNING mark
"""
_RENEW = """
UPDATE worker_ids SET expires_ms = :expires, mark = max(mark, :mark) WHERE id = :id AND owner = :owner
RETURNING mark
"""
_RELEASE = "UPDATE worker_ids SET expires_ms = :now, owner = '', mark = :mark WHERE id = :id AND owner = :owner"

# How long a statement waits for other processes' writes, each of which takes milliseconds; and when to try again
# after a failure.
_BUSY_SECONDS = 2.0
_RETRY_SECONDS = 1.0


@final
@dataclass(frozen=True, slots=True)
class WorkerLease:
    """A worker id in our name. `owner` is the token that proves it, `mark` the last Unix ms promised to the file."""

    worker_id: int
    owner: str
    mark: int


@final
class WorkerIds:
    """The leases in one file. Times are in seconds.

    `service` names those who may have each other's ids back without quarantine; for the others see `Config`.
    """

    def __init__(self, service: str, config: Config) -> None:
        self._path = config.state_path
        self._most = config.max_worker_id
        self._ttl_ms = round(config.lease_ttl * 1000)
        self._rules = {
            "service": service,
            "quarantine": round(config.quarantine * 1000),
            "tolerance": round(config.tolerance * 1000),
            "most": self._most,
        }
        self._db: sqlite3.Connection | None = None

    def __repr__(self) -> str:
        return f"<WorkerIds of {self._rules['service']} in {self._path or 'memory'}>"

    def acquire(self, owner: str, now_ms: int) -> WorkerLease:
        """Lease the lowest free worker id to `owner`, a token that nobody else has.

        Raises `NoWorkerIdFree`, or `Unavailable` if the file does not work.
        """
        with self._transaction() as db:
            taken: list[tuple[int, int]] = db.execute(_NOT_FREE, {**self._rules, "now": now_ms}).fetchall()
            worker_id = lowest_gap(number for number, _ in taken)
            if worker_id > self._most:
                wait_ms = min(free_from for _, free_from in taken) - now_ms
                raise NoWorkerIdFree(self._most, retry_after=wait_ms / 1000)
            row = {"id": worker_id, "owner": owner, "expires": now_ms + self._ttl_ms, "now": now_ms}
            [(mark,)] = db.execute(_TAKE, {**self._rules, **row}).fetchall()
        return WorkerLease(worker_id, owner, mark)

    def renew(self, lease: WorkerLease, mark: int, now_ms: int) -> WorkerLease:
        """Hold `lease` for another `lease_ttl` and promise ids up to Unix millisecond `mark`: on disk on return.

        Returns the lease with its new mark. Raises `WorkerIdLost`, or `Unavailable` if the file does not work.
        """
        with self._transaction() as db:
            row = {"id": lease.worker_id, "owner": lease.owner, "expires": now_ms + self._ttl_ms, "mark": mark}
            marks: list[tuple[int]] = db.execute(_RENEW, row).fetchall()
        if not marks:
            raise WorkerIdLost(lease.worker_id)
        return replace(lease, mark=marks[0][0])

    def release(self, lease: WorkerLease, high_water: int, now_ms: int) -> None:
        """Give `lease` back, with the exact last millisecond used. Nothing happens if it was lost.

        Raises `Unavailable` if the file does not work.
        """
        with self._transaction() as db:
            db.execute(_RELEASE, {"id": lease.worker_id, "owner": lease.owner, "now": now_ms, "mark": high_water})

    def close(self) -> None:
        """Close the file; the next use opens it again. Idempotent."""
        db, self._db = self._db, None
        if db is not None:
            db.close()

    @contextmanager
    def _transaction(self) -> Generator[sqlite3.Connection]:
        try:
            db = self._opened()
            with db:  # commits, or rolls back
                db.execute("BEGIN IMMEDIATE")
                yield db
        except (sqlite3.Error, OSError) as error:
            reason = f"worker ids in {self._path or 'memory'}: {error}"
            raise Unavailable("uid", reason, retry_after=_RETRY_SECONDS) from error

    def _opened(self) -> sqlite3.Connection:
        if self._db is None:
            db = _connect(self._path)
            try:
                # WAL: one flush per write instead of several, and FULL makes it before the commit returns.
                use_wal(db, _BUSY_SECONDS)
                db.execute("PRAGMA synchronous = FULL")
                db.execute(_SCHEMA)
            except BaseException:
                db.close()
                raise
            self._db = db
        return self._db


def _connect(path: str | None) -> sqlite3.Connection:
    # Worker threads take turns with it, so it is bound to none.
    if path is not None:
        file = Path(path).expanduser().absolute()  # absolute: SQLite gives ":memory:" and "" meanings of their own
        file.parent.mkdir(parents=True, exist_ok=True)
        return sqlite3.connect(file, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    # A database by this name is shared by all connections of the process, and gone with the last.
    name = f"file:/creche-uid-{os.getpid()}?vfs=memdb"
    return sqlite3.connect(name, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def lowest_gap(taken: Iterable[int]) -> int:
    """The least number from 0 on that is not in `taken`, which ascends."""
    gap = 0
    for number in taken:
        if number != gap:
            break
        gap += 1
    return gap
