"""SQLite files with a write-ahead log (WAL)."""

from __future__ import annotations

import sqlite3
import time

_TURN = 0.005  # seconds until the next attempt


def use_wal(db: sqlite3.Connection, busy_timeout: float) -> bool:
    """Make the file one with a WAL: False if its file system cannot have one. Blocks; raises `sqlite3.Error`.

    To make a new one so takes a lock that SQLite lets nobody wait for: of several processes at once it refuses all but
    one, whatever their timeout. So this waits, for so many seconds.
    """
    until = time.monotonic() + busy_timeout
    while True:
        try:
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(_TURN)
        else:
            return bool(mode == "wal")
