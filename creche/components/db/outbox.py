"""The outbox: messages that are stored in the transaction that causes them, and sent afterwards.

Theory of operation
-------------------
Writing to the database and to a message log in turn has a gap: a crash between the two leaves one without the other.
So a message is first a row of the same transaction (pattern "transactional outbox"), and an `OutboxRelay` moves rows
to the log. One writer at a time makes the ids ascend in the order of the commits, and AUTOINCREMENT never gives an id
twice, not even after its row is gone.

The relay sends before it deletes. A crash between the two sends again, which the log recognises by the header
``creche-outbox-id``: the database's own id, made once with the file, the row's, and when the row was made. So each
message is in the log once, in order per database, however often the relay, the database or the log die.

The time is for a power loss. Where that takes the last commits (`Config.synchronous`), it takes their rows with them,
although the log may have those messages already: the next row that gets such an id is another message.

A message that cannot be sent holds up those behind it, for their order is part of the promise. The relay tries it again
with growing delays, honours `retry_after`, and reports each failure as an `OutboxStalled` event.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Protocol

import trio

from ...runtime.actor import Actor
from ...runtime.backoff import Backoff
from ...runtime.context import baggage
from ...runtime.errors import CrecheError
from ...runtime.node import one_line
from ..mq.errors import MessageTooLarge
from ..mq.message import MAX_MESSAGE_BYTES, OUTBOX_HEADER, TRACE_HEADER, Letter, Message, NotSent, is_topic, size_of
from .events import OutboxStalled
from .work import OutboxRow

if TYPE_CHECKING:
    from .handle import Db

SCHEMA = (
    """CREATE TABLE IF NOT EXISTS creche_meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS creche_outbox (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        topic TEXT NOT NULL,
        "key" BLOB,
        value BLOB NOT NULL,
        headers TEXT NOT NULL,
        created_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0)
    )""",  # created_at: seconds since the epoch, by the database's clock
)
SET_DATABASE_ID = "INSERT OR IGNORE INTO creche_meta (name, value) VALUES ('database_id', ?)"
INSERT = """INSERT INTO creche_outbox (topic, "key", value, headers) VALUES (?, ?, ?, ?)"""

_GET_DATABASE_ID = "SELECT value FROM creche_meta WHERE name = 'database_id'"
_NEXT = """SELECT id, topic, "key", value, headers, created_at FROM creche_outbox ORDER BY id LIMIT :batch"""
_DELETE = "DELETE FROM creche_outbox WHERE id <= :sent"

RETRY = Backoff(first=0.05, factor=2.0, cap=10.0, jitter=0.2, free=0)


class Publishable(Protocol):
    """What `Transaction.publish` takes: a `creche.components.mq.Message`, or anything of that shape."""

    @property
    def topic(self) -> str: ...

    @property
    def key(self) -> bytes | None: ...

    @property
    def value(self) -> bytes: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


class MessageLog(Protocol):
    """The part of `creche.components.mq.Mq` that the relay uses."""

    async def send_batch(self, messages: Sequence[Message], /) -> Sequence[object]:
        """Send in order; one result for each, a `NotSent` for one that was not."""
        ...


def row_of(message: Any) -> OutboxRow:
    """The row of a `Publishable`. Refuses what the log would refuse later, when nobody could be told any more.

    A `trace_id` in the caller's baggage goes along as a header, as it does when a message is sent directly.
    """
    if not is_topic(message.topic):
        raise ValueError(f"topic {message.topic!r}: use 1 to 249 letters, digits, '.', '_' or '-'")
    if not isinstance(message.value, bytes) or not isinstance(message.key, bytes | None):
        raise TypeError("value and key of a message are bytes: use msgspec.json.encode(...) or 'text'.encode()")
    headers = dict(message.headers)
    trace_id = baggage().get("trace_id")
    if trace_id is not None:
        headers.setdefault(TRACE_HEADER, str(trace_id))
    if not all(isinstance(item, str) for pair in headers.items() for item in pair):
        raise TypeError("headers of a message are text by name")
    "".join(itertools.chain(*headers.items())).encode()  # raises for lone surrogates
    size = size_of(message.key, message.value, headers)
    if size > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(message.topic, size, MAX_MESSAGE_BYTES, "publish a reference to it")
    return (message.topic, message.key, message.value, json.dumps(headers))


class _Statements:
    """Built once for many executions: SQLAlchemy takes longer to build one than to execute it."""

    def __init__(self, batch: int) -> None:
        import sqlalchemy as sa

        self.database_id = sa.text(_GET_DATABASE_ID)
        self.following = sa.text(_NEXT).bindparams(batch=batch)
        self.delete = sa.text(_DELETE)


class OutboxRelay(Actor):
    """Moves messages from a database's outbox to a log. See the theory of operation above. One per database."""

    def __init__(self, db: Db, log: MessageLog, poll: float, batch: int) -> None:
        self._db = db
        self._log = log
        self._poll = poll
        self._batch = batch
        self._statements: _Statements | None = None
        self._database_id: str | None = None

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Relays in the background; the actor has no messages."""
        self.context.spawn(self._run)
        yield

    async def _run(self) -> None:
        while True:
            changed = await self._empty()
            with trio.move_on_after(self._poll):
                await changed.wait()

    async def _empty(self) -> trio.Event:
        """Relay until nothing is left, through all failures. Returns what is set when there is something again."""
        sent = failures = 0
        while True:
            try:
                changed = await self._db.outbox_changed()  # before looking, so that no commit falls in between
                rows = await self._next(sent)
                if not rows:
                    return changed
                sent, refusal = await self._send(rows, sent)
            except CrecheError as error:
                refusal = error
            failures = failures + 1 if refusal is not None else 0
            if refusal is not None:
                await self._wait(refusal, failures)

    async def _next(self, sent: int) -> Sequence[Any]:
        """Delete what has been sent and read what comes next: one visit to the database."""
        statements = self._statements = self._statements or _Statements(self._batch)
        if self._database_id is None:
            self._database_id = await self._db.scalar(statements.database_id)
        if not sent:
            return await self._db.all(statements.following)
        _, result = await self._db.execute_many(statements.delete.bindparams(sent=sent), statements.following)
        return result.rows

    async def _send(self, rows: Sequence[Any], sent: int) -> tuple[int, BaseException | None]:
        """Send a batch. Returns the id up to which everything is in the log, and what refused the one after it."""
        results = await self._log.send_batch([self._message(row) for row in rows])
        for row, result in zip(rows, results, strict=True):
            if isinstance(result, NotSent):
                return sent, result.reason
            sent = row.id
        return sent, None

    def _message(self, row: Any) -> Message:
        outbox_id = f"{self._database_id}:{row.id}:{row.created_at:.3f}"
        headers = {**json.loads(row.headers), OUTBOX_HEADER: outbox_id}
        # Whatever the log's limit: refused, it would be in the way.
        return Letter(row.topic, row.value, row.key, headers)

    async def _wait(self, error: BaseException, failures: int) -> None:
        runtime = self.context.runtime
        delay = max(RETRY.delay(failures, runtime.random), getattr(error, "retry_after", None) or 0.0)
        if runtime.events.on:
            now = runtime.now()
            runtime.events.emit(OutboxStalled(now, self.context.path, self.context.incarnation, one_line(error), delay))
        await trio.sleep(delay)
