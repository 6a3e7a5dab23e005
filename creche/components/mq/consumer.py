"""The actor that reads a group's records and hands them to a handler, at least once and in order.

Theory of operation
-------------------
Background tasks of one incarnation, all in one nursery:

* The *fetcher* asks the log for records of every partition that has no worker, and starts a worker for each partition
  it got some of. When there is nothing it sleeps until stirred: by an append (through the log's lease), by a worker
  that is through, by a resume or a seek; and looks again every `poll_interval`, since other processes may write to the
  log without waking it. What it fetches is bounded: never more than `max_batch` records in memory (at least one per
  partition).
* A *worker* handles the records of one fetch of one partition, one after another. A record that fails is tried again
  after a backoff, and its partition waits with it: order is kept. The others go on, for a slot of `concurrency` is held
  only while a handler runs.
* The *committer* tells the log how far each partition is done, after so many records or so much time, and at a stop.

Done is contiguous by construction: a worker passes to the next record only when the one before is done (handled,
dropped, or acknowledged by the dead-letter topic). So a commit never covers a record that is not done, and whatever
dies, at any moment, what is not committed is delivered again.

Whatever the log's failure is, it is weather to the consumer: it asks again, with backoff, and neither crashes nor gives
up.

Order between partitions is nobody's. A seam for more (keys in parallel within a partition, as in parallel-consumer):
workers per key, and `Progress` with the set of offsets done beyond the contiguous ones.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from itertools import groupby
from typing import ParamSpec, TypeVar

import msgspec
import trio

from ...runtime.actor import Actor, message
from ...runtime.backoff import Backoff
from ...runtime.context import carrying
from ...runtime.errors import CallFailed, SpecInvalid
from ...runtime.node import one_line, unwrap
from ...runtime.spec import ActorSpec, child
from .errors import OffsetInvalid, PartitionUnknown, Unavailable
from .events import RecordFailed
from .handle import Mq, checked_group, checked_topic
from .log import TopicPartition
from .message import OUTBOX_HEADER, TRACE_HEADER, Message, Received
from .progress import Latch, Progress
from .retry import Action, RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[[Received], Awaitable[None]]

DEAD_LETTER_SUFFIX = ".dead_letter"
_ASK_AGAIN = Backoff(first=0.05, cap=5.0, free=0)
_LAST_COMMIT_WITHIN = 1.0  # seconds, even if the time to stop is over
_FOR_EVER = float("inf")


def consumer(
    mq: Mq,
    group: str,
    topics: str | Sequence[str],
    handler: Handler,
    *,
    name: str | None = None,
    concurrency: int = 1,
    retry: RetryPolicy | None = None,
) -> ActorSpec[Consumer]:
    """The spec of a consumer: a child for an app, a supervisor or a runtime.

    ``async def handler(message: Received) -> None``: to return is to be done with the record, to raise an Exception is
    to have it tried again as `retry` says, and at last put into the topic's dead-letter topic. It runs with the
    sender's trace id in its baggage. A record is delivered at least once, and again after a crash: make the handler's
    effect idempotent.

    Parameters
    ----------
    group
        Where the group has come to is kept in the log under this name. Run one consumer per group: two would each get
        every record.
    topics
        Created if they do not exist.
    name
        Of the child; default: ``consumer-`` and the group's name.
    concurrency
        Handlers at a time. Those of one partition never overlap, so more than there are partitions is of no use.

    Raises
    ------
    SpecInvalid, TopicInvalid, GroupInvalid
        Before anything starts.
    """
    names = (topics,) if isinstance(topics, str) else tuple(topics)
    if not names or concurrency < 1:
        raise SpecInvalid("consumer", (names, concurrency), "at least one topic, and a concurrency of at least 1")
    for topic in names:
        checked_topic(topic)
    actor = child(Consumer, mq, checked_group(group), names, handler, concurrency, retry or RetryPolicy())
    return actor.options(name=name or "consumer-" + re.sub(r"[^\w.\-]", "-", group))


class Consumer(Actor):
    """The actor behind `consumer`: its messages steer it."""

    def __init__(
        self, mq: Mq, group: str, topics: Sequence[str], handler: Handler, concurrency: int, retry: RetryPolicy
    ) -> None:
        self._mq = mq
        self._group = group
        self._handler = handler
        self._retry = retry
        self._member = mq.membership(group, topics)
        self._slots = trio.Semaphore(concurrency)
        self._partitions: dict[TopicPartition, Progress] = {}
        self._joined = trio.Event()
        self._paused = self._draining = False
        self._buffered = 0  # records in the hands of workers
        self._stir = Latch()  # the fetcher should look again
        self._undone = Latch()  # something is done and not committed
        self._enough = Latch()  # so much that it should be committed now
        self._uncommitted = 0  # records, since the last commit
        self._committing = trio.Lock()
        self._worker_ended = trio.lowlevel.ParkingLot()

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Reads from the start on. At a stop: handlers that run may end, and what is done is committed."""
        self.context.spawn(self._consume)
        yield
        await self._drain()

    # --- messages -----------------------------------------------------------------------------------------------------

    async def pause(self) -> None:
        """Begin no further record. Handlers that run go on; records waiting for a retry wait until `resume`."""
        self._paused = True

    async def resume(self) -> None:
        """Go on after `pause`. A restart of the actor resumes too."""
        self._paused = False
        self._stir.set()

    @message(raises=(PartitionUnknown, OffsetInvalid, Unavailable))
    async def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on from `offset`, forwards or backwards, once the handler that runs there has ended.

        Returns when it is committed.
        """
        await self._joined.wait()
        progress = self._partitions.get((topic, partition))
        if progress is None:
            raise PartitionUnknown(topic, partition, tuple(self._partitions))
        if not 0 <= offset < 2**63:
            raise OffsetInvalid(offset)
        progress.seek(offset)
        self._stir.set()
        await self._commit()

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def lag(self) -> dict[TopicPartition, int]:
        """How many records of each partition are not done. Commits first."""
        await self._joined.wait()
        await self._commit()
        return await self._member.lag()

    # --- fetcher ------------------------------------------------------------------------------------------------------

    async def _consume(self) -> None:
        try:
            committed = await self._until_answered(self._member.join)
            self._partitions = {place: Progress(place, offset) for place, offset in committed.items()}
            self._joined.set()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._commit_now_and_then)
                await self._fetch(nursery)
        finally:
            self._member.close(self._stir.set)

    async def _fetch(self, nursery: trio.Nursery) -> None:
        while True:
            # Cleared before looking: what comes after that stirs again, so no append is missed.
            self._stir.clear()
            ready = self._ready()
            epochs = {progress.place: progress.epoch for progress in ready}
            records = await self._fetch_for(ready) if ready else []
            for place, found in groupby(records, key=_place_of):
                self._start_worker(nursery, self._partitions[place], epochs[place], list(found))
            if not records and not self._member.listen(self._stir.set):
                await self._stir.wait(self._member.config.poll_interval if ready else _FOR_EVER)

    def _ready(self) -> list[Progress]:
        """The partitions to fetch for; none while paused or stopping."""
        if self._paused or self._draining:
            return []
        return [progress for progress in self._partitions.values() if not progress.busy]

    async def _fetch_for(self, ready: Sequence[Progress]) -> list[Received]:
        positions = {progress.place: progress.done for progress in ready}
        room = self._member.config.max_batch - self._buffered
        return await self._until_answered(self._member.fetch, positions, max(1, room // len(ready)))

    # --- workers ------------------------------------------------------------------------------------------------------

    def _start_worker(self, nursery: trio.Nursery, progress: Progress, epoch: int, records: list[Received]) -> None:
        progress.busy = True
        self._buffered += len(records)
        nursery.start_soon(self._work, progress, epoch, records)

    async def _work(self, progress: Progress, epoch: int, records: list[Received]) -> None:
        for record in records:
            if not await self._see_through(progress, epoch, record):
                break
            self._note_done(progress.advance(epoch, record.offset))
        progress.busy = False
        self._buffered -= len(records)
        self._stir.set()
        self._worker_ended.unpark_all()

    async def _see_through(self, progress: Progress, epoch: int, record: Received) -> bool:
        """Return True when the record is done, False when the partition has to be left before that."""
        while True:
            async with self._slots:
                if self._paused or self._draining or progress.epoch != epoch:
                    return False
                error = await self._try(record, progress.failures + 1)
            if error is None:
                return True
            if progress.epoch != epoch:
                return False  # sought away while the handler ran: the failure is nobody's any more
            if await self._settle_failure(progress, record, error):
                return True

    async def _try(self, record: Received, attempt: int) -> Exception | None:
        if attempt != record.attempt:
            record = msgspec.structs.replace(record, attempt=attempt)
        trace_id = record.headers.get(TRACE_HEADER)
        with nullcontext() if trace_id is None else carrying(trace_id=trace_id):
            try:
                await self._handler(record)
            except Exception as error:
                return unwrap(error)
        return None

    async def _settle_failure(self, progress: Progress, record: Received, error: Exception) -> bool:
        """Do what the policy says. True: the record is done with. False: it is to be tried again, now."""
        attempt = progress.failures + 1
        progress.failed(self._retry.counts(error))
        action = self._retry.action(error, progress.failures)
        delay = self._retry.delay(error, progress.tries, self.context.runtime.random) if action == "retry" else 0.0
        self._tell(record, attempt, error, action, delay)
        if action == "retry":
            await progress.back_off(delay)
        elif action == "dead_letter":
            letter = dead_letter(record, self._group, error, progress.failures)
            await self._until_answered(self._mq.send_sync, letter)
        return action != "retry"

    def _tell(self, record: Received, attempt: int, error: Exception, action: Action, delay: float) -> None:
        events, me = self.context.runtime.events, self.context
        if events.on:
            where = (self._group, record.topic, record.partition, record.offset)
            about = (attempt, one_line(error), action, delay)
            events.emit(RecordFailed(trio.current_time(), me.path, me.incarnation, *where, *about))

    # --- committer ----------------------------------------------------------------------------------------------------

    def _note_done(self, records: int) -> None:
        self._uncommitted += records
        self._undone.set()
        if self._uncommitted >= self._member.config.commit_every:
            self._enough.set()

    async def _commit_now_and_then(self) -> None:
        while True:
            await self._undone.wait(_FOR_EVER)
            await self._enough.wait(self._member.config.commit_interval)
            await self._until_answered(self._commit)

    async def _commit(self) -> None:
        async with self._committing:  # an older commit must not land after a newer one: a seek may have gone back
            self._undone.clear()
            self._enough.clear()
            self._uncommitted = 0
            due = {progress.place: progress.done for progress in self._partitions.values() if progress.is_due()}
            if due:
                await self._commit_these(due)

    async def _commit_these(self, offsets: dict[TopicPartition, int]) -> None:
        try:
            await self._member.commit(offsets)
        except BaseException:
            self._undone.set()
            raise
        for place, offset in offsets.items():
            self._partitions[place].committed = offset

    # --- stop ---------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._draining = True
        for progress in self._partitions.values():
            progress.interrupt()
        try:
            while any(progress.busy for progress in self._partitions.values()):
                await self._worker_ended.park()
        finally:
            # Also when the time is over: every record that is told done now need not be handled again.
            with trio.move_on_after(_LAST_COMMIT_WITHIN, shield=True):
                await self._commit_if_possible()

    async def _commit_if_possible(self) -> None:
        try:
            await self._commit()
        except (CallFailed, Unavailable):
            pass  # the records will be delivered again

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _until_answered(self, ask: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """The answer of the log, however long it is down or unable."""
        tries = 0
        while True:
            try:
                return await ask(*args, **kwargs)
            except (CallFailed, Unavailable):
                tries += 1
                await trio.sleep(_ASK_AGAIN.delay(tries, self.context.runtime.random))


def dead_letter(record: Received, group: str, error: Exception, attempts: int) -> Message:
    """The record as it goes to the dead-letter topic: as it was, with what became of it in the headers.

    Its id makes it idempotent: a group that dead-letters the same record again, after a crash, adds nothing.
    """
    origin = f"{record.topic}/{record.partition}/{record.offset}"
    headers = {
        **record.headers,
        OUTBOX_HEADER: f"dead_letter:{group}:{origin}",
        "creche-group": group,
        "creche-original-topic": record.topic,
        "creche-original-partition": str(record.partition),
        "creche-original-offset": str(record.offset),
        "creche-error-type": f"{type(error).__module__}.{type(error).__qualname__}",
        "creche-error": str(error),
        "creche-attempts": str(attempts),
    }
    return Message(record.topic + DEAD_LETTER_SUFFIX, record.value, record.key, headers)


def _place_of(record: Received) -> TopicPartition:
    return record.topic, record.partition
