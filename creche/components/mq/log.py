"""The log in SQLite: topics, records and commits. Plain blocking code, which knows neither Trio nor actors.

Every write is one transaction that begins with the write lock (`BEGIN IMMEDIATE`) and reads the next offsets inside it,
so offsets are dense even when several processes write. Nothing is cached between transactions: a rollback leaves
nothing to be undone.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ...runtime.errors import ConfigInvalid
from .config import Synchronous
from .errors import CommitFailed, TopicExists
from .message import OUTBOX_HEADER, Ack, Message, Received

TopicPartition = tuple[str, int]
_Row = tuple[str, int, int, bytes | None, bytes, str | None, float, str | None]  # of `records`

_VERSION = 1
_SCHEMA = """
CREATE TABLE topics (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
) WITHOUT ROWID;
CREATE TABLE records (
    topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    key BLOB, value BLOB NOT NULL, headers TEXT, time REAL NOT NULL, dedup TEXT,
    PRIMARY KEY (topic, partition, "offset")
) WITHOUT ROWID;
CREATE UNIQUE INDEX records_dedup ON records (topic, dedup) WHERE dedup IS NOT NULL;
CREATE TABLE commits (
    "group" TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, "offset" INTEGER NOT NULL,
    PRIMARY KEY ("group", topic, partition)
) WITHOUT ROWID;
"""
_INSERT_RECORD = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_NEXT_OFFSETS = "SELECT next_offset FROM topics WHERE topic = ? ORDER BY partition"
_SET_NEXT_OFFSET = "UPDATE topics SET next_offset = ? WHERE topic = ? AND partition = ?"
_FETCH = """
SELECT "offset", key, value, headers, time FROM records
WHERE topic = ? AND partition = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?
"""
_COMMIT = 'INSERT OR REPLACE INTO commits ("group", topic, partition, "offset") VALUES (?, ?, ?, ?)'
_JOIN = "INSERT OR IGNORE INTO commits SELECT ?, topic, partition, 0 FROM topics WHERE topic = ?"
_COMMITTED = 'SELECT partition, "offset" FROM commits WHERE "group" = ? AND topic = ?'
_LAG = """
SELECT topic, partition, max(0, next_offset - "offset") FROM commits JOIN topics USING (topic, partition)
WHERE "group" = ? ORDER BY topic, partition
"""

_headers_decoder = msgspec.json.Decoder(dict[str, str])


class Log:
    """One connection to the file. Use it from one thread at a time; any thread will do."""

    def __init__(self, path: str, synchronous: Synchronous, busy_timeout: float, partitions: int) -> None:
        """Open or create the file.

        Raises `sqlite3.Error`, or `ConfigInvalid` if the file has the tables of another version.
        """
        self._default_partitions = partitions
        self._turn: dict[str, int] = defaultdict(int)  # {topic: how many records without a key}
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
        try:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute(f"PRAGMA synchronous = {synchronous}")
            self._create_tables(path)
        except BaseException:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._db.close()

    # --- producers ----------------------------------------------------------------------------------------------------

    def append(self, messages: Sequence[Message], now: float) -> list[Ack]:
        """Append all of them in one transaction, in order, or none.

        `now` is in seconds since the epoch. Raises `sqlite3.Error` when nothing was written, `CommitFailed` when that
        is unknown.
        """
        with self._transaction():
            batch = _Batch(self, now)
            acks = [batch.add(message) for message in messages]
            batch.store()
        return acks

    def create_topic(self, topic: str, partitions: int | None = None) -> int:
        """Create the topic unless it exists, and return how many partitions it has.

        Raises `TopicExists` if `partitions` is given and it has another number.
        """
        with self._transaction():
            count = len(self.next_offsets(topic, partitions))
        if partitions not in (None, count):
            raise TopicExists(topic, count)
        return count

    def topics(self) -> dict[str, int]:
        """All topics by name, and how many partitions each has."""
        return dict(self._db.execute("SELECT topic, count(*) FROM topics GROUP BY topic ORDER BY topic"))

    # --- consumers ----------------------------------------------------------------------------------------------------

    def join(self, group: str, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """Where the group goes on in each partition of the topics, from 0 where it has never been. Creates topics."""
        with self._transaction():
            for topic in topics:
                self.next_offsets(topic)
                self._db.execute(_JOIN, (group, topic))
        return {
            (topic, partition): offset
            for topic in topics
            for partition, offset in self._db.execute(_COMMITTED, (group, topic))
        }

    def fetch(self, positions: Mapping[TopicPartition, int], limit: int) -> list[Received]:
        """Records from each position on, in order, at most `limit` of each partition."""
        return [
            record
            for (topic, partition), offset in positions.items()
            for record in self._fetch_one(topic, partition, offset, limit)
        ]

    def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """Set, in one transaction, the offset from which the group will go on in each partition."""
        with self._transaction():
            self._db.executemany(_COMMIT, [(group, *place, offset) for place, offset in offsets.items()])

    def lag(self, group: str) -> dict[TopicPartition, int]:
        """How many records the group has not committed, of each partition that it has joined."""
        return {(topic, partition): lag for topic, partition, lag in self._db.execute(_LAG, (group,))}

    # --- inside -------------------------------------------------------------------------------------------------------

    def next_offsets(self, topic: str, partitions: int | None = None) -> list[int]:
        """The next offset of each partition of a topic, which is created if need be. Requires a transaction."""
        offsets = [offset for (offset,) in self._db.execute(_NEXT_OFFSETS, (topic,))]
        if offsets:
            return offsets
        count = partitions or self._default_partitions
        self._db.executemany("INSERT INTO topics VALUES (?, ?, 0)", [(topic, number) for number in range(count)])
        return [0] * count

    def take_turn(self, topic: str) -> int:
        """Records without a key go to the partitions in turn, which is all that this number is for."""
        self._turn[topic] += 1
        return self._turn[topic] - 1

    def find_duplicate(self, topic: str, dedup: str) -> Ack | None:
        """The place of the record that has this id already."""
        row = self._db.execute(
            'SELECT partition, "offset", time FROM records WHERE topic = ? AND dedup = ?', (topic, dedup)
        ).fetchone()
        return None if row is None else Ack(topic, *row)

    def store(self, rows: list[_Row], next_offsets: list[tuple[int, str, int]]) -> None:
        """Write a batch of records. Requires a transaction."""
        self._db.executemany(_INSERT_RECORD, rows)
        self._db.executemany(_SET_NEXT_OFFSET, next_offsets)

    def _fetch_one(self, topic: str, partition: int, offset: int, limit: int) -> Iterator[Received]:
        for number, key, value, headers, time in self._db.execute(_FETCH, (topic, partition, offset, limit)):
            decoded = {} if headers is None else _headers_decoder.decode(headers)
            yield Received(topic, value, key, decoded, partition=partition, offset=number, time=time)

    @contextmanager
    def _transaction(self) -> Generator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk makes SQLite roll back by itself
                self._db.execute("ROLLBACK")
            raise
        try:
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            # The commit record may have reached the disk: only the next opening can tell.
            raise CommitFailed(str(error)) from error

    def _create_tables(self, path: str) -> None:
        with self._transaction():
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise ConfigInvalid("$.path", path, f"its tables have version {version}, this creche reads {_VERSION}")


class _Batch:
    """Records on their way into one transaction."""

    def __init__(self, log: Log, now: float) -> None:
        self._log = log
        self._now = now
        self._ends: dict[str, list[int]] = {}  # {topic: next offset of each partition}
        self._moved: dict[TopicPartition, int] = {}  # what of it has changed
        self._rows: list[_Row] = []
        self._seen: dict[tuple[str, str], Ack] = {}  # {(topic, outbox id): where it stands}, of this batch

    def add(self, message: Message) -> Ack:
        """Give the message its place."""
        dedup = message.headers.get(OUTBOX_HEADER)
        if dedup is None:
            return self._append(message, None)
        name = (message.topic, dedup)
        ack = self._seen.get(name) or self._log.find_duplicate(*name) or self._append(message, dedup)
        self._seen[name] = ack
        return ack

    def store(self) -> None:
        """Hand everything to SQLite."""
        self._log.store(self._rows, [(end, *place) for place, end in self._moved.items()])

    def _append(self, message: Message, dedup: str | None) -> Ack:
        topic, value, key = message.topic, message.value, message.key
        ends = self._ends.get(topic)
        if ends is None:
            ends = self._ends[topic] = self._log.next_offsets(topic)
        partition = (self._log.take_turn(topic) if key is None else partition_hash(key)) % len(ends)
        offset = ends[partition]
        ends[partition] = self._moved[topic, partition] = offset + 1
        headers = msgspec.json.encode(message.headers).decode() if message.headers else None
        self._rows.append((topic, partition, offset, key, value, headers, self._now, dedup))
        return Ack(topic, partition, offset, self._now)


def partition_hash(key: bytes) -> int:
    """CRC-32, as librdkafka's ``consistent`` partitioner; the Java client's murmur2 would be a loop in Python."""
    return zlib.crc32(key)
