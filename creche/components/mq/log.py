"""The log in SQLite: topics and their records. Plain blocking code, which knows neither Trio nor actors.

Every write is one transaction that begins with the write lock (`BEGIN IMMEDIATE`) and reads the next offsets inside it,
so offsets are dense even when several processes write. Nothing is cached between transactions: a rollback leaves
nothing to be undone.

Offsets are dense from the first record that retention has left, and times never go back within a partition, so the
record of a time is found by halving.
"""

from __future__ import annotations

import zlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from operator import sub

import msgspec

from .config import Synchronous
from .errors import TopicExists, TopicUnknown
from .message import OUTBOX_HEADER, Ack, Message, Received, TopicPartition
from .schema import open_database, transaction
from .topic import PartitionInfo, Retention, TopicInfo

_Row = tuple[str, int, int, bytes | None, bytes, str | None, float, str | None, int]  # of `records`
_End = list[float]  # of a partition: next offset, bytes, time of the last record

_INSERT_RECORD = "INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
_INSERT_PARTITION = "INSERT INTO topics VALUES (?, ?, 0, 0, 0, 0.0)"
_ENDS = "SELECT next_offset, bytes, last_time FROM topics WHERE topic = ? ORDER BY partition"
_SET_END = "UPDATE topics SET next_offset = ?, bytes = ?, last_time = ? WHERE topic = ? AND partition = ?"
_SET_BEGIN = "UPDATE topics SET begin_offset = ?, bytes = bytes - ? WHERE topic = ? AND partition = ?"
_PARTITIONS = "SELECT begin_offset, next_offset, bytes FROM topics WHERE topic = ? ORDER BY partition"
_FETCH = """
SELECT "offset", key, value, headers, time, bytes FROM records
WHERE topic = ? AND partition = ? AND "offset" >= ? ORDER BY "offset" LIMIT ?
"""
_TIME = 'SELECT time FROM records WHERE topic = ? AND partition = ? AND "offset" = ?'
_OLDEST = 'SELECT bytes FROM records WHERE topic = ? AND partition = ? AND "offset" < ? ORDER BY "offset" LIMIT ?'
_DELETE = 'DELETE FROM records WHERE topic = ? AND partition = ? AND "offset" < ?'
_SET_RETENTION = "INSERT OR REPLACE INTO retention VALUES (?, ?, ?)"
_OF_A_TOPIC = ("topics", "retention", "records", "commits", "owners")

_headers_decoder = msgspec.json.Decoder(dict[str, str])


class Fetched(msgspec.Struct, frozen=True):
    """What was read, and of which partitions there was nothing more."""

    records: list[Received]
    ended: set[TopicPartition]


class Log:
    """One connection to the file. Use it from one thread at a time; any thread will do."""

    def __init__(
        self,
        path: str,
        synchronous: Synchronous,
        busy_timeout: float,
        partitions: int,
        retention: Retention = Retention(),  # noqa: B008  # frozen
    ) -> None:
        """Open or create the file.

        Raises `sqlite3.Error`, or `ConfigInvalid` if the file has the tables of another version.
        """
        self._default_partitions = partitions
        self._default_retention = retention
        self._turn: dict[str, int] = defaultdict(int)  # {topic: how many records without a key}
        self.db = open_database(path, synchronous, busy_timeout)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self.db.close()

    # --- producers ----------------------------------------------------------------------------------------------------

    def append(self, messages: Sequence[Message], now: float) -> list[Ack]:
        """Append all of them in one transaction, in order, or none.

        `now` is in seconds since the epoch. Raises `sqlite3.Error` when nothing was written, `CommitFailed` when that
        is unknown.
        """
        with transaction(self.db):
            batch = _Batch(self, now)
            acks = [batch.add(message) for message in messages]
            batch.store()
        return acks

    # --- topics -------------------------------------------------------------------------------------------------------

    def create_topic(self, topic: str, partitions: int | None = None, retention: Retention | None = None) -> int:
        """Create the topic unless it exists, and return how many partitions it has. A `retention` is set in any case.

        Raises `TopicExists` if `partitions` is given and it has another number.
        """
        with transaction(self.db):
            count = len(self.ends(topic, partitions))
            if partitions not in (None, count):
                raise TopicExists(topic, count)
            if retention is not None:
                self.db.execute(_SET_RETENTION, (topic, retention.time, retention.bytes))
        return count

    def create_partitions(self, topic: str, total: int) -> None:
        """Give the topic more partitions. Raises `TopicUnknown`, and `TopicExists` if it has more already."""
        with transaction(self.db):
            count = self._count(topic)
            if total < count:
                raise TopicExists(topic, count)
            self.db.executemany(_INSERT_PARTITION, [(topic, number) for number in range(count, total)])

    def delete_topic(self, topic: str) -> bool:
        """Delete the topic with its records and all that groups know about it. Whether it was there."""
        with transaction(self.db):
            existed = bool(self.ends_of(topic))
            for table in _OF_A_TOPIC:
                self.db.execute(f"DELETE FROM {table} WHERE topic = ?", (topic,))
        return existed

    def topics(self) -> dict[str, int]:
        """All topics by name, and how many partitions each has."""
        return dict(self.db.execute("SELECT topic, count(*) FROM topics GROUP BY topic ORDER BY topic"))

    def describe(self, topic: str) -> TopicInfo:
        """What the topic is like. Raises `TopicUnknown`."""
        with transaction(self.db):
            self._count(topic)
            partitions = tuple(PartitionInfo(*row) for row in self.db.execute(_PARTITIONS, (topic,)))
            return TopicInfo(topic, partitions, self._retention_of(topic))

    # --- reading ------------------------------------------------------------------------------------------------------

    def fetch(self, positions: Mapping[TopicPartition, int], limit: int, max_bytes: int | None = None) -> Fetched:
        """Records from each position on, in order.

        At most `limit` of each partition, and not more than `max_bytes` of it, but at least one if there is one.
        """
        records: list[Received] = []
        ended = {
            place for place, offset in positions.items() if self._fetch_one(place, offset, limit, max_bytes, records)
        }
        return Fetched(records, ended)

    def offset_at(self, topic: str, partition: int, time: float) -> int:
        """The offset of the first record from `time` on, in seconds since the epoch; the next one if there is none."""
        with transaction(self.db):
            begin, end = self.bounds((topic, partition))
            return self._first_from((topic, partition), time, begin, end)

    def bounds(self, place: TopicPartition) -> tuple[int, int]:
        """The first offset of a partition and the next one. Raises `TopicUnknown`."""
        row = self.db.execute(_PARTITIONS + " LIMIT 1 OFFSET ?", place).fetchone()
        if row is None:
            raise TopicUnknown(f"{place[0]}/{place[1]}")
        return row[0], row[1]

    # --- retention ----------------------------------------------------------------------------------------------------

    def expire(self, now: float, limit: int) -> dict[TopicPartition, tuple[int, int]]:
        """Delete what retention says, at most `limit` records of each partition, in one transaction.

        Returns how many records were deleted and where the partition begins now, of those of which any were.
        """
        with transaction(self.db):
            return {
                (topic, partition): (records, begin + records)
                for topic in self.topics()
                for partition, (begin, end, size) in enumerate(self.db.execute(_PARTITIONS, (topic,)).fetchall())
                if (records := self._expire((topic, partition), PartitionInfo(begin, end, size), now, limit))
            }

    def _expire(self, place: TopicPartition, info: PartitionInfo, now: float, limit: int) -> int:
        retention, too_old, too_much = self._retention_of(place[0]), 0, 0
        if retention.time is not None:
            too_old = self._first_from(place, now - retention.time, info.begin, info.end) - info.begin
        if retention.bytes is not None and info.bytes > retention.bytes:
            oldest = (size for (size,) in self.db.execute(_OLDEST, (*place, info.end, limit)))
            left = accumulate(oldest, sub, initial=info.bytes)
            too_much = sum(1 for bytes_left in left if bytes_left > retention.bytes)
        records = min(max(too_old, too_much), limit)
        if records:
            self._delete_oldest(place, info.begin + records, records)
        return records

    def _delete_oldest(self, place: TopicPartition, begin: int, records: int) -> None:
        freed = sum(size for (size,) in self.db.execute(_OLDEST, (*place, begin, records)))
        self.db.execute(_DELETE, (*place, begin))
        self.db.execute(_SET_BEGIN, (begin, freed, *place))

    def _retention_of(self, topic: str) -> Retention:
        row = self.db.execute("SELECT time, bytes FROM retention WHERE topic = ?", (topic,)).fetchone()
        return self._default_retention if row is None else Retention(*row)

    def _first_from(self, place: TopicPartition, time: float, begin: int, end: int) -> int:
        while begin < end:
            middle = (begin + end) // 2
            (found,) = self.db.execute(_TIME, (*place, middle)).fetchone()
            begin, end = (middle + 1, end) if found < time else (begin, middle)
        return begin

    # --- inside -------------------------------------------------------------------------------------------------------

    def ends_of(self, topic: str) -> list[_End]:
        """Next offset, bytes and time of the last record, of each partition; none if there is no such topic."""
        return list(map(list, self.db.execute(_ENDS, (topic,))))

    def ends(self, topic: str, partitions: int | None = None) -> list[_End]:
        """The same of a topic that is created if need be. Requires a transaction."""
        ends = self.ends_of(topic)
        if ends:
            return ends
        count = partitions or self._default_partitions
        self.db.executemany(_INSERT_PARTITION, [(topic, number) for number in range(count)])
        return [[0, 0, 0.0] for _ in range(count)]

    def take_turn(self, topic: str) -> int:
        """Records without a key go to the partitions in turn, which is all that this number is for."""
        self._turn[topic] += 1
        return self._turn[topic] - 1

    def find_duplicate(self, topic: str, dedup: str) -> Ack | None:
        """The place of the record that has this id already."""
        row = self.db.execute(
            'SELECT partition, "offset", time FROM records WHERE topic = ? AND dedup = ?', (topic, dedup)
        ).fetchone()
        return None if row is None else Ack(topic, *row)

    def store(self, rows: list[_Row], ends: list[tuple[float | str, ...]]) -> None:
        """Write a batch of records. Requires a transaction."""
        self.db.executemany(_INSERT_RECORD, rows)
        self.db.executemany(_SET_END, ends)

    def _count(self, topic: str) -> int:
        count = len(self.ends_of(topic))
        if not count:
            raise TopicUnknown(topic)
        return count

    def _fetch_one(
        self, place: TopicPartition, offset: int, limit: int, max_bytes: int | None, records: list[Received]
    ) -> bool:
        """Whether there was nothing more."""
        topic, partition = place
        room, left = max_bytes, limit
        for number, key, value, headers, time, size in self.db.execute(_FETCH, (topic, partition, offset, limit)):
            if room is not None:
                if room < size and room is not max_bytes:
                    return False
                room -= size
            decoded = {} if headers is None else _headers_decoder.decode(headers)
            records.append(Received(topic, value, key, decoded, partition=partition, offset=number, time=time))
            left -= 1
        return left > 0


class _Batch:
    """Records on their way into one transaction."""

    def __init__(self, log: Log, now: float) -> None:
        self._log = log
        self._now = now
        self._ends: dict[str, list[_End]] = {}
        self._moved: dict[TopicPartition, _End] = {}  # what of it has changed
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
        self._log.store(self._rows, [(*end, *place) for place, end in self._moved.items()])

    def _append(self, message: Message, dedup: str | None) -> Ack:
        topic, value, key = message.topic, message.value, message.key
        ends = self._ends.get(topic)
        if ends is None:
            ends = self._ends[topic] = self._log.ends(topic)
        partition = (self._log.take_turn(topic) if key is None else partition_hash(key)) % len(ends)
        end = self._moved[topic, partition] = ends[partition]
        offset, size = int(end[0]), message.size
        time = max(self._now, end[2])
        end[:] = (offset + 1, end[1] + size, time)
        headers = msgspec.json.encode(message.headers).decode() if message.headers else None
        self._rows.append((topic, partition, offset, key, value, headers, time, dedup, size))
        return Ack(topic, partition, offset, time)


def partition_hash(key: bytes) -> int:
    """CRC-32, as librdkafka's ``consistent`` partitioner; the Java client's murmur2 would be a loop in Python."""
    return zlib.crc32(key)
