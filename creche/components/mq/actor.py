"""The actor that owns the log.

Theory of operation
-------------------
One SQLite connection per incarnation, used through `run_blocking` under a limiter of one, so that statements of two
transactions never mix. Records reach it through the `Accumulator` that it lends to its handles; the message `append`
is for when there is no room, or no log at the moment. One task, the writer, writes what has accumulated. It stands in
the lifespan, which is left when it has ended. The other messages use the connection in their handlers, between two
transactions of the writer.

Retention is a timer: it deletes in small transactions, so that nobody waits long behind it; the look at lags is another
one. The groups (see `groups`) work on the same connection; who else should look because of a change is woken through
the `Tail`s of the lease.

At a graceful stop everything accepted is written first. At a crash or a kill the transaction in hand ends all the
same, for a thread cannot be abandoned, and its records are acknowledged; those still accumulated are told that they
were not sent. Then the file is closed.

SQLite being unable (locked by another process, disk full, I/O error) is weather: the calls end in `Unavailable`,
nothing of them is written, and the actor lives. All sends that have accumulated behind such a transaction end so too,
for nothing shall overtake what is then sent again. A COMMIT that fails is a crash, for nobody knows what it did, unless
SQLite itself says that it did nothing, as on a full disk (see `schema`). A damaged file is a crash, too.
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
from .errors import GroupActive, MessageTooLarge, TopicExists, TopicUnknown, Unavailable
from .events import GroupLags, MembersExpelled, RecordsExpired
from .groups import End, GroupInfo, Groups, Share
from .log import Fetched, Log
from .message import Ack, Message, TopicPartition
from .sessions import Session
from .topic import Retention, TopicInfo

R = TypeVar("R")
Clock = Callable[[], float]

# SQLite's primary result codes for what passes: BUSY, LOCKED, NOMEM, READONLY, IOERR, FULL, CANTOPEN.
_WEATHER = frozenset({5, 6, 7, 8, 10, 13, 14})
_RETRY_AFTER = 1.0  # seconds
_EXPIRED_AT_ONCE = 500  # records of a partition


class Tail:
    """Tells consumers of appends to their topics, or of changes in their groups, so that they need not poll."""

    def __init__(self) -> None:
        self._listeners: list[tuple[frozenset[str], Callable[[], None], str]] = []

    def __len__(self) -> int:
        """Listeners."""
        return len(self._listeners)

    def listen(self, names: frozenset[str], wake: Callable[[], None], listener: str = "") -> None:
        """Call `wake` after each change of what has one of the names, and when the log's incarnation ends."""
        self._listeners.append((names, wake, listener))

    def forget(self, wake: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners = [item for item in self._listeners if item[1] != wake]

    def changed(self, names: set[str], by: str | None = None) -> None:
        """There is something new about these. The listener that it is `by` knows already."""
        for wanted, wake, listener in self._listeners:
            if listener != by and not wanted.isdisjoint(names):
                wake()

    def wake_all(self) -> None:
        """There is something new about everything; at the end: another tail to listen to, or none."""
        for _, wake, _ in self._listeners:
            wake()


class LogLease:
    """What an incarnation of the log lends to its handles."""

    def __init__(self, path: str, config: Config) -> None:
        self.accumulator: Final = Accumulator(config.max_buffered, config.max_buffered_bytes, config.max_message_bytes)
        self.tail: Final = Tail()  # of topics: appends
        self.groups: Final = Tail()
        self.not_sent: Final = partial(NotDelivered, path, "not_sent")

    def revoke(self) -> None:
        """See `Lease`. Idempotent."""
        self.accumulator.close(self.not_sent)
        self.tail.wake_all()
        self.groups.wake_all()


class LogActor(Actor):
    """See above."""

    def __init__(self, config: Config, clock: Clock | None = None) -> None:
        self._config = config
        self._clock = clock or self.context.runtime.wall_clock
        self._thread = trio.CapacityLimiter(1)
        self._lease = LogLease(self.context.path, config)
        self._log: Log
        self._groups: Groups

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """The file, and the writer on it."""
        # It outlives incarnations: the process lives, whatever becomes of this actor.
        session = self.context.keep("session", self._new_session, Session.close)
        await self.context.runtime.run_blocking(self._open, session, limiter=self._thread)
        self.context.grant(self._lease)
        self.context.every(self._config.retention_interval, self._expire)
        if self._config.lag_warning is not None:
            self.context.every(self._config.lag_interval, self._warn_of_lags, self._config.lag_warning)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                try:
                    yield
                    await self._lease.accumulator.drained()
                finally:
                    self._lease.revoke()  # at once, although the writer may be in the midst of a transaction
        finally:
            with trio.CancelScope(shield=True):
                await self.context.runtime.run_blocking(self._log.close, limiter=self._thread)

    # --- producers ----------------------------------------------------------------------------------------------------

    @message(on_caller_gone="cancel", raises=(NotDelivered, MessageTooLarge))
    async def append(self, messages: Sequence[Message], on_delivery: OnDelivery | None) -> list[Delivery]:
        """Wait for room and accept the messages. Cancel-atomic: it only waits before."""
        accumulator = self._lease.accumulator
        await accumulator.wait_for_room()
        deliveries = accumulator.accept(messages, on_delivery)
        if deliveries is None:
            raise self._lease.not_sent()
        return deliveries

    # --- topics -------------------------------------------------------------------------------------------------------

    @message(raises=(TopicExists, Unavailable))
    async def create_topic(self, topic: str, partitions: int | None, retention: Retention | None) -> int:
        """See `Log.create_topic`."""
        return await self._in_thread(self._log.create_topic, topic, partitions, retention)

    @message(raises=(TopicExists, TopicUnknown, Unavailable))
    async def create_partitions(self, topic: str, total: int) -> None:
        """See `Log.create_partitions`."""
        await self._in_thread(self._log.create_partitions, topic, total)
        self._lease.groups.wake_all()

    @message(raises=Unavailable)
    async def delete_topic(self, topic: str) -> bool:
        """See `Log.delete_topic`."""
        existed = await self._in_thread(self._log.delete_topic, topic)
        self._lease.groups.wake_all()
        return existed

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def topics(self) -> dict[str, int]:
        """See `Log.topics`."""
        return await self._in_thread(self._log.topics)

    @message(on_caller_gone="cancel", raises=(TopicUnknown, Unavailable))
    async def describe(self, topic: str) -> TopicInfo:
        """See `Log.describe`."""
        return await self._in_thread(self._log.describe, topic)

    # --- consumers ----------------------------------------------------------------------------------------------------

    @message(raises=Unavailable)
    async def sync(self, group: str, member: str, topics: Sequence[str]) -> tuple[Share, Config, Clock]:
        """See `Groups.sync`; and the rules by which the member is to read."""
        share = await self._in_thread(lambda: self._groups.sync(group, member, topics, self._clock()))
        if share.changed:
            self._lease.groups.changed({group}, by=member)
        events = self.context.runtime.events
        if share.expelled and events.on:
            me = self.context
            events.emit(MembersExpelled(trio.current_time(), me.path, me.incarnation, group, share.expelled))
        return share, self._config, self._clock

    @message(raises=Unavailable)
    async def release(self, group: str, offsets: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """See `Groups.release`."""
        await self._in_thread(self._groups.release, group, offsets)
        self._lease.groups.changed({group})

    @message(raises=Unavailable)
    async def leave(self, group: str, member: str, offsets: Mapping[TopicPartition, tuple[int, int]]) -> None:
        """See `Groups.leave`."""
        await self._in_thread(self._groups.leave, group, member, offsets)
        self._lease.groups.changed({group})

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def fetch(self, positions: Mapping[TopicPartition, int], limit: int, max_bytes: int | None = None) -> Fetched:
        """See `Log.fetch`."""
        return await self._in_thread(self._log.fetch, positions, limit, max_bytes)

    @message(raises=Unavailable)
    async def commit(self, group: str, offsets: Mapping[TopicPartition, tuple[int, int]]) -> list[TopicPartition]:
        """See `Groups.commit`."""
        return await self._in_thread(self._groups.commit, group, offsets)

    @message(on_caller_gone="cancel", raises=(TopicUnknown, Unavailable))
    async def offset_at(self, topic: str, partition: int, time: float) -> int:
        """See `Log.offset_at`."""
        return await self._in_thread(self._log.offset_at, topic, partition, time)

    @message(raises=Unavailable)
    async def begin(self, group: str, topic: str) -> dict[TopicPartition, tuple[int, int]]:
        """See `Groups.begin`."""
        return await self._in_thread(self._groups.begin, group, topic)

    @message(raises=Unavailable)
    async def commit_unowned(self, group: str, offsets: Mapping[TopicPartition, int]) -> None:
        """See `Groups.commit_unowned`."""
        await self._in_thread(self._groups.commit_unowned, group, offsets)

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def lag(self, group: str) -> dict[TopicPartition, int]:
        """See `Groups.lag`."""
        return await self._in_thread(self._groups.lag, group)

    # --- groups -------------------------------------------------------------------------------------------------------

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def group_names(self) -> list[str]:
        """See `Groups.names`."""
        return await self._in_thread(self._groups.names)

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def describe_group(self, group: str) -> GroupInfo:
        """See `Groups.describe`."""
        return await self._in_thread(self._groups.describe, group)

    @message(raises=(GroupActive, TopicUnknown, Unavailable))
    async def set_offsets(self, group: str, offsets: Mapping[TopicPartition, int | End]) -> None:
        """See `Groups.set_offsets`."""
        await self._in_thread(lambda: self._groups.set_offsets(group, offsets, self._clock()))

    @message(raises=(GroupActive, Unavailable))
    async def delete_group(self, group: str) -> bool:
        """See `Groups.delete`."""
        return await self._in_thread(lambda: self._groups.delete(group, self._clock()))

    # --- inside -------------------------------------------------------------------------------------------------------

    def _new_session(self) -> Session:
        return Session(self._config.path, f"{self.context.runtime.randbits(128):032x}")

    def _open(self, session: Session) -> None:
        config = self._config
        kept = Retention(config.retention_time, config.retention_bytes)
        session.open()
        self._log = Log(config.path, config.synchronous, config.busy_timeout, config.partitions, kept)
        self._groups = Groups(self._log, session, config)

    async def _expire(self) -> None:
        """Retention, a little at a time: between two transactions whoever waits has a turn."""
        try:
            expired = await self._in_thread(lambda: self._log.expire(self._clock(), _EXPIRED_AT_ONCE))
        except Unavailable:
            return  # the next time will do
        events, me = self.context.runtime.events, self.context
        if events.on:
            for (topic, partition), (records, begin) in expired.items():
                about = (topic, partition, records, begin)
                events.emit(RecordsExpired(trio.current_time(), me.path, me.incarnation, *about))
        if any(records == _EXPIRED_AT_ONCE for records, _ in expired.values()):
            me.after(0.0, self._expire)

    async def _warn_of_lags(self, limit: int) -> None:
        events, me = self.context.runtime.events, self.context
        if not events.on:
            return
        try:
            lags = await self._in_thread(self._groups.lags_above, limit)
        except Unavailable:
            return  # the next time will do
        for group, records in lags:
            events.emit(GroupLags(trio.current_time(), me.path, me.incarnation, group, records))

    async def _write(self) -> None:
        """The writer: everything accumulated, one transaction at a time."""
        try:
            while batch := await self._lease.accumulator.take(self._config.max_batch, self._config.linger):
                await self._write_batch(batch)
        finally:
            self._lease.revoke()

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
            self._lease.tail.changed({delivery.message.topic for delivery in batch})

    async def _in_thread(self, fn: Callable[..., R], *args: object) -> R:
        try:
            return await self.context.runtime.run_blocking(fn, *args, limiter=self._thread)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _WEATHER:
                raise
            raise Unavailable(self.context.path, str(error), _RETRY_AFTER) from error
