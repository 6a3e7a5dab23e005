"""To make a new SQLite file one with a WAL takes a lock that SQLite lets nobody wait for."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from creche.components.wal import use_wal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new.db"


@pytest.fixture
def other(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process, which is making the file."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def test_who_makes_a_file_at_the_same_time_is_waited_for(path: Path, other: sqlite3.Connection) -> None:
    end = threading.Timer(0.1, other.execute, ["ROLLBACK"])
    end.start()
    try:
        mine = sqlite3.connect(path, isolation_level=None)
        assert use_wal(mine, 5.0)
        mine.close()
    finally:
        end.join()


def test_not_for_ever(path: Path, other: sqlite3.Connection) -> None:
    mine = sqlite3.connect(path, timeout=0, isolation_level=None)
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        use_wal(mine, 0.02)
    mine.close()
