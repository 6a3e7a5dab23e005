"""The tables: places, duplicates, rollbacks. No Trio in here."""

from __future__ import annotations

import sqlite3
import threading
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creche.components.mq.errors import CommitFailed, TopicExists
from creche.components.mq.log import Log
from creche.components.mq.message import OUTBOX_HEADER, Ack, Message
from creche.runtime.errors import ConfigInvalid

from .support import broken_disk, full_disk, needs_linux, values_in


def open_log(path: Path, partitions: int = 3) -> Log:
    return Log(str(path), "normal", 0.0, partitions)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def log(path: Path) -> Iterator[Log]:
    log = open_log(path)
    yield log
    log.close()


def test_a_file_that_another_process_is_making_is_waited_for(path: Path) -> None:
    """SQLite lets nobody wait who makes a file one with a WAL."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    end = threading.Timer(0.1, other.execute, ["ROLLBACK"])
    end.start()
    try:
        Log(str(path), "normal", 5.0, 1).close()
    finally:
        end.join()
        other.close()


def test_offsets_are_dense_and_records_come_back(log: Log) -> None:
    """Each partition counts from 0; a fetch gives what was appended, headers and time included."""
    messages = [Message("t", b"%d" % n, key=b"k", headers={"n": str(n)}) for n in range(3)]
    acks = log.append(messages[:2], 1.5) + log.append(messages[2:], 2.5)
    partition = zlib.crc32(b"k") % 3
    assert acks == [Ack("t", partition, 0, 1.5), Ack("t", partition, 1, 1.5), Ack("t", partition, 2, 2.5)]
    found = log.fetch({("t", partition): 1}, 10).records
    assert [(r.offset, r.value, r.key, r.headers, r.time, r.attempt) for r in found] == [
        (1, b"1", b"k", {"n": "1"}, 1.5, 1),
        (2, b"2", b"k", {"n": "2"}, 2.5, 1),
    ]


def test_a_key_has_one_partition_and_records_without_take_turns(log: Log) -> None:
    """CRC-32 of the key decides; without a key the partitions are used evenly."""
    with_key = log.append([Message("t", b"", key=b"%d" % (n % 5)) for n in range(20)], 0.0)
    assert all(ack.partition == zlib.crc32(b"%d" % (n % 5)) % 3 for n, ack in enumerate(with_key))
    without = log.append([Message("u", b"") for _ in range(6)], 0.0)
    assert [ack.partition for ack in without] == [0, 1, 2, 0, 1, 2]


def test_a_fetch_is_bounded_for_each_partition(log: Log) -> None:
    """No more than the limit of each, from the position on, in order."""
    log.append([Message("t", b"%d" % n) for n in range(12)], 0.0)
    found = log.fetch({("t", 0): 1, ("t", 1): 0, ("t", 2): 99}, 2).records
    assert [(r.partition, r.offset) for r in found] == [(0, 1), (0, 2), (1, 0), (1, 1)]


def test_an_outbox_id_is_appended_once_in_a_topic(log: Log, path: Path) -> None:
    """Later ones get the first one's place: in the same batch, in another, after reopening; other topics are free."""
    message = Message("t", b"1", headers={OUTBOX_HEADER: "7"})
    first, second, other = log.append([message, message, Message("u", b"1", headers={OUTBOX_HEADER: "7"})], 1.0)
    assert first == second
    assert other.topic == "u"
    assert log.append([message], 2.0) == [first]
    log.close()
    again = open_log(path)
    assert again.append([message], 3.0) == [first]
    again.close()
    assert values_in(path) == [b"1"]


def test_a_batch_that_fails_leaves_nothing(log: Log, path: Path) -> None:
    """Neither records nor a topic nor offsets: the next batch begins where the failed one began."""
    log.append([Message("t", b"1", key=b"k")], 0.0)
    db = sqlite3.connect(path)
    db.execute("CREATE TRIGGER no BEFORE INSERT ON records WHEN new.value = x'21' BEGIN SELECT raise(ABORT, 'no'); END")
    db.close()
    with pytest.raises(sqlite3.IntegrityError):
        log.append([Message("t", b"2", key=b"k"), Message("new", b"3"), Message("t", b"!")], 0.0)
    assert log.topics() == {"t": 3}
    assert log.append([Message("t", b"4", key=b"k")], 0.0)[0].offset == 1
    assert values_in(path) == [b"1", b"4"]


def test_a_full_disk_leaves_nothing_and_passes(log: Log, path: Path) -> None:
    """SQLite rolls back by itself; the same connection works when there is room again."""
    log.append([Message("t", b"1", key=b"k")], 0.0)
    db = log.db  # the limit is the connection's own
    (pages,) = db.execute("PRAGMA page_count").fetchone()
    db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        log.append([Message("t", b"x" * 100_000, key=b"k")], 0.0)
    db.execute("PRAGMA max_page_count = 1000000")
    assert log.append([Message("t", b"2", key=b"k")], 0.0)[0].offset == 1
    assert values_in(path) == [b"1", b"2"]


@needs_linux
def test_a_disk_that_is_full_at_commit_leaves_nothing_and_passes(log: Log, path: Path) -> None:
    """A small transaction reaches the disk only there; that it was not made is known."""
    log.append([Message("t", b"1", key=b"k")], 0.0)
    with full_disk(path):
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError, match="full"):
                log.append([Message("t", b"x", key=b"k")], 0.0)
    assert log.append([Message("t", b"2", key=b"k")], 0.0)[0].offset == 1
    assert values_in(path) == [b"1", b"2"]


def test_a_commit_that_cannot_begin_leaves_nothing_and_passes(log: Log, path: Path) -> None:
    """As where the file system allows no WAL and another process reads: the transaction is not left open."""
    log.append([Message("t", b"1", key=b"k")], 0.0)
    log.db.execute("PRAGMA journal_mode = DELETE")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM topics").fetchone()
        for _ in range(2):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                log.append([Message("t", b"x", key=b"k")], 0.0)
    assert log.append([Message("t", b"2", key=b"k")], 0.0)[0].offset == 1
    assert values_in(path) == [b"1", b"2"]


@needs_linux
def test_a_failed_commit_is_no_answer(log: Log, path: Path) -> None:
    """Whether the transaction is durable is unknown after an I/O error, so it is told apart from a rollback."""
    log.append([Message("t", b"1")], 0.0)
    with broken_disk(path), pytest.raises(CommitFailed):
        log.append([Message("t", b"2")], 0.0)


def test_creating_a_topic_is_idempotent(log: Log) -> None:
    """The number of partitions is fixed at the creation; asking for another is refused."""
    assert log.create_topic("a") == 3
    assert log.create_topic("b", 5) == 5
    assert (log.create_topic("b"), log.create_topic("b", 5)) == (5, 5)
    with pytest.raises(TopicExists) as caught:
        log.create_topic("b", 4)
    assert caught.value.partitions == 5
    assert log.topics() == {"a": 3, "b": 5}


def test_two_processes_may_write(log: Log, path: Path) -> None:
    """Offsets stay dense when two connections take turns; one that finds the file locked appends nothing."""
    other = open_log(path)
    for n in range(4):
        (log, other)[n % 2].append([Message("t", b"%d" % n, key=b"k")], 0.0)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.append([Message("t", b"x", key=b"k")], 0.0)
    holder.close()
    other.close()
    assert values_in(path) == [b"0", b"1", b"2", b"3"]


def test_tables_of_another_version_are_refused(log: Log, path: Path) -> None:
    """Nothing is touched in a file that this version cannot read."""
    log.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(ConfigInvalid, match="version 99"):
        open_log(path)


@settings(deadline=None, max_examples=40)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from("ab"), st.none() | st.binary(max_size=2), st.none() | st.sampled_from("xyz"))
        )
    )
)
def test_any_batches_leave_dense_offsets_and_unique_ids(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[tuple[str, bytes | None, str | None]]]
) -> None:
    """Whatever is sent in whatever batches: every ack names the record it is for, and an id stands in a topic once."""
    path = tmp_path_factory.mktemp("log") / "log"
    log = open_log(path)
    first: dict[tuple[str, str], Ack] = {}
    fresh = 0
    for number, batch in enumerate(batches):
        messages = [
            Message(topic, b"%d" % index, key, {} if dedup is None else {OUTBOX_HEADER: dedup})
            for index, (topic, key, dedup) in enumerate(batch)
        ]
        for message, ack in zip(messages, log.append(messages, float(number)), strict=True):
            dedup = message.headers.get(OUTBOX_HEADER)
            if dedup is not None and (message.topic, dedup) in first:
                assert ack == first[message.topic, dedup]
                continue
            fresh += 1
            (record, *_) = log.fetch({(ack.topic, ack.partition): ack.offset}, 1).records
            assert (record.value, record.key, record.headers) == (message.value, message.key, message.headers)
            if dedup is not None:
                first[message.topic, dedup] = ack
    log.close()
    assert len(values_in(path, "a")) + len(values_in(path, "b")) == fresh
