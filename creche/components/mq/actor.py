"""The actor that owns the log.

Theory of operation
-------------------
One SQLite connection per incarnation, used through `run_blocking` under a limiter of one, so that statements of two
transactions never mix. Records reach it through the `Accumulator` that it lends to its handles; the message `append`
is for when there is no room, or no log at the moment. One background task, the writer, writes what has accumulated.
The other messages use the connection in their handlers, between two transactions of the writer.

At a graceful stop everything accepted is written first. At a crash or a kill the transaction in hand ends all the
same, for a thread cannot be abandoned, and its records are acknowledged; those still accumulated are told that they
were not sent. Then the file is closed.

SQLite being unable (locked by another process, disk full, I/O error) is weather: the calls end in `Unavailable`,
nothing of them is written, and the actor lives. All sends that have accumulated behind such a transaction end so too,
for nothing shall overtake what is then sent again. A failing COMMIT is a crash, for nobody knows what it did; so is a
damaged file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import repeat
from typing import Final, TypeVar

import trio

from ...runtime.actor import Actor, message
from ...runtime.errors import NotDelivered, OutcomeUnknown
from .config import Config
from .delivery import Accumulator, Delivery, OnDelivery
from .errors import TopicExists, Unavailable
from .log import Log, TopicPartition
from .message import Ack, Message, Received

R = TypeVar("R")
Clock = Callable[[], float]

# SQLite's primary result codes for what passes: BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN.
_WEATHER = frozenset({5, 6, 7, 8, 10, 13, 14})
_RETRY_AFTER = 1.0  # seconds


class Tail:
    """Tells consumers of appends, so that they need not poll."""

    def __init__(self) -> None:
        self._listeners: list[tuple[frozenset[str], Callable[[], None]]] = []

    def __len__(self) -> int:
        """Listeners."""
        return len(self._listeners)

    def listen(self, topics: frozenset[str], wake: Callable[[], None]) -> None:
        """Call `wake` after each append to one of the topics, and when the log's incarnation ends."""
        self._listeners.append((topics, wake))

    def forget(self, wake: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners = [item for item in self._listeners if item[1] != wake]

    def appended(self, topics: set[str]) -> None:
        """Records of these topics can be fetched from now on."""
        for wanted, wake in self._listeners:
            if not wanted.isdisjoint(topics):
                wake()

    def close(self) -> None:
        """Wake everybody: there is another tail to listen to, or none."""
        for _, wake in self._listeners:
            wake()


class LogLease:
    """What an incarnation of the log lends to its handles."""

    def __init__(self, path: str, max_buffered: int) -> None:
        self.accumulator: Final = Accumulator(max_buffered)
        self.tail: Final = Tail()
        self.not_sent: Final = partial(NotDelivered, path, "not_sent")

    def revoke(self) -> None:
        """See `Lease`. Idempotent."""
        self.accumulator.close(self.not_sent)
        self.tail.close()


class LogActor(Actor):
    """See above."""

    def __init__(self, config: Config, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._thread = trio.CapacityLimiter(1)
        self._lease = LogLease(self.context.path, config.max_buffered)
        self._writer_over = trio.Event()
        self._log: Log

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """The file, and the writer on it."""
        config = self._config
        open_log = partial(Log, config.path, config.synchronous, config.busy_timeout, config.partitions)
        self._log = await self.context.runtime.run_blocking(open_log, limiter=self._thread)
        self.context.spawn(self._write)
        self.context.grant(self._lease)
        try:
            yield
            await self._lease.accumulator.flushed()
        finally:
            with trio.CancelScope(shield=True):
                self._lease.revoke()
                await self._writer_over.wait()
                await self.context.runtime.run_blocking(self._log.close, limiter=self._thread)

    # --- producers ----------------------------------------------------------------------------------------------------

    @message(on_caller_gone="cancel", raises=NotDelivered)
    async def append(self, messages: Sequence[Message], on_delivery: OnDelivery | None) -> list[Delivery]:
        """Wait for room and accept the messages. Cancel-atomic: it only waits before."""
        accumulator = self._lease.accumulator
        await accumulator.wait_for_room()
        deliveries = accumulator.accept(messages, on_delivery)
        if deliveries is None:
            raise self._lease.not_sent()
        return deliveries

    @message(raises=(TopicExists, Unavailable))
    async def create_topic(self, topic: str, partitions: int | None) -> int:
        """See `Log.create_topic`."""
        return await self._in_thread(self._log.create_topic, topic, partitions)

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def topics(self) -> dict[str, int]:
        """See `Log.topics`."""
        return await self._in_thread(self._log.topics)

    # --- consumers ----------------------------------------------------------------------------------------------------

    @message(raises=Unavailable)
    async def join(self, group: str, topics: Sequence[str]) -> tuple[dict[TopicPartition, int], Config]:
        """See `Log.join`; and the rules by which the consumer is to read."""
        return await self._in_thread(self._log.join, group, topics), self._config

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def fetch(self, positions: Mapping[TopicPartition, int], limit: int) -> list[Received]:
        """See `Log.fetch`."""
        return await self._in_thread(self._log.fetch, positions, limit)

    @message(raises=Unavailable)
    async def commit(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """See `Log.commit`."""
        await self._in_thread(self._log.commit, group, offsets)

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def lag(self, group: str) -> dict[TopicPartition, int]:
        """See `Log.lag`."""
        return await self._in_thread(self._log.lag, group)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """The writer: everything accumulated, one transaction at a time."""
        try:
            while batch := await self._lease.accumulator.take(self._config.max_batch):
                await self._write_batch(batch)
        finally:
            # Unless it is ending anyway, the actor must take no message any more: it would find the lease closed.
            self.context.exit()
            self._lease.revoke()
            self._writer_over.set()

    async def _write_batch(self, batch: Sequence[Delivery]) -> None:
        begun = False

        def append() -> list[Ack]:
            nonlocal begun
            begun = True
            return self._log.append([delivery.message for delivery in batch], self._clock())

        finish = self._lease.accumulator.finish
        try:
            acks = await self._in_thread(append)
        except Unavailable as error:
            refusal = partial(Unavailable, error.name, error.reason, error.retry_after)
            finish(batch, repeat(refusal))
            self._lease.accumulator.refuse_waiting(refusal)
        except BaseException:
            finish(batch, repeat(partial(OutcomeUnknown, self.context.path) if begun else self._lease.not_sent))
            raise
        else:
            finish(batch, acks)
            self._lease.tail.appended({delivery.message.topic for delivery in batch})

    async def _in_thread(self, fn: Callable[..., R], *args: object) -> R:
        try:
            return await self.context.runtime.run_blocking(fn, *args, limiter=self._thread)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _WEATHER:
                raise
            raise Unavailable(self.context.path, str(error), _RETRY_AFTER) from error
