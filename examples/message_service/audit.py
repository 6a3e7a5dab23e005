"""The audit: what was accepted, held against what is stored, published, counted and delivered. Reads the files from
outside, with plain sqlite3.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from .client import Receipt
from .crowd import SESSIONS, inbox_rows, session_of
from .model import TOPIC

Rows = list[tuple[Any, ...]]

INBOX_ROWS = "SELECT user_id, message_id FROM inbox UNION ALL SELECT '', message_id FROM world_inbox"


@dataclass(frozen=True)
class Findings:
    """Numbers of messages. `problems` names the first few of whatever is wrong."""

    accepted: int
    stored: int
    published: int
    counted: int
    duplicates: int
    lost: int
    problems: tuple[str, ...]

    @property
    def holds(self) -> bool:
        """Every message that was answered 2xx is stored once, published once, counted once, and
        delivered to whom it is for; and nothing else is.
        """
        return not self.problems and self.accepted == self.stored == self.published == self.counted


def receipts_in(file: Path) -> list[Receipt]:
    """What the client has written down so far."""
    lines = file.read_bytes().splitlines() if file.exists() else []
    return [msgspec.json.decode(line, type=Receipt) for line in lines]


def rows(database: Path, query: str) -> Rows:
    """The rows of a query; none while the database does not exist yet."""
    (found,) = at_one_moment(database, query)
    return found


def at_one_moment(database: Path, *queries: str) -> list[Rows]:
    """The rows of each query; none while the database does not exist yet."""
    if not database.exists():
        return [[] for _ in queries]
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        connection.execute("BEGIN")
        return [connection.execute(query).fetchall() for query in queries]


def counted_so_far(data: Path) -> int:
    """How many messages the consumer has counted."""
    total = rows(data / "service.db", "SELECT coalesce(sum(messages), 0) FROM session_counters")
    return int(total[0][0]) if total else 0


def delivered_so_far(data: Path) -> int:
    """How many rows there are in all inboxes."""
    return int(rows(data / "service.db", f"SELECT count(*) FROM ({INBOX_ROWS})")[0][0])  # a constant


def deliveries_of(count: int) -> int:
    """How many rows the first `count` messages leave in the inboxes."""
    return sum(len(list(inbox_rows(session_of(number), number))) for number in range(count))


def audit(data: Path, receipts: list[Receipt]) -> Findings:
    """Compare. `data` is the service's folder; the service may have stopped or not."""
    stored, counters, delivered = at_one_moment(
        data / "service.db",
        "SELECT id, request_key, session_id, content FROM messages",
        "SELECT session_id, messages FROM session_counters",
        INBOX_ROWS,
    )
    records = rows(data / "mq.db", f"SELECT key FROM records WHERE topic = '{TOPIC}'")  # a constant
    published = [str(key, "ascii") for (key,) in records]
    per_session: dict[str, int] = dict(counters)
    by_key = {str(row[1]): row for row in stored}
    losses = [*_not_stored(receipts, by_key), *_missing("published", receipts, published)]
    doubles = [*_twice("published", published), *_twice("stored", (str(row[1]) for row in stored))]
    wrong_counts = list(_wrong_counts(receipts, per_session))
    misplaced = list(wrong_inboxes(receipts, delivered))
    return Findings(
        accepted=len(receipts),
        stored=len(stored),
        published=len(set(published)),
        counted=sum(per_session.values()),
        duplicates=len(doubles),
        lost=len(losses),
        problems=tuple([*losses, *doubles, *wrong_counts, *misplaced][:10]),
    )


def _not_stored(receipts: Iterable[Receipt], by_key: dict[str, tuple[Any, ...]]) -> Iterable[str]:
    for receipt in receipts:
        row = by_key.get(f"send_message:{receipt.key}")
        if row is None or (str(row[0]), row[2], row[3]) != (receipt.message_id, receipt.session_id, receipt.content):
            yield f"{receipt.key}: accepted as {receipt.message_id}, stored: {row}"


def _missing(what: str, receipts: Iterable[Receipt], ids: Iterable[str]) -> Iterable[str]:
    known = set(ids)
    return (f"{r.key}: accepted as {r.message_id}, never {what}" for r in receipts if r.message_id not in known)


def _twice(what: str, ids: Iterable[str]) -> Iterable[str]:
    return (f"{one}: {what} {count} times" for one, count in Counter(ids).items() if count > 1)


def _wrong_counts(receipts: Iterable[Receipt], per_session: dict[str, int]) -> Iterable[str]:
    accepted = Counter(receipt.session_id for receipt in receipts)
    for session, count in accepted.items():
        if per_session.get(session) != count:
            yield f"{session}: {count} accepted, {per_session.get(session)} counted"


def wrong_inboxes(receipts: Iterable[Receipt], delivered: Iterable[tuple[str, int]]) -> Iterable[str]:
    """What is missing in the inboxes, and what is there but should not be."""
    sessions = {session.session_id: session for session in SESSIONS}
    expected = {row for r in receipts for row in inbox_rows(sessions[r.session_id], int(r.message_id))}
    for user, message_id in expected.symmetric_difference(delivered):
        what = "not delivered to" if (user, message_id) in expected else "delivered by mistake to"
        yield f"{message_id}: {what} {user or 'everybody'}"
