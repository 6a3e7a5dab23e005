"""The handlers of a consumer: which record is next, how many run at a time, and what follows a failure.

Theory of operation
-------------------
Entries that may be handled stand in one queue, oldest first; up to `concurrency` workers, started when they are needed,
take from it. Windows (see `progress`) see to it that no two entries of one lane are out at a time, so the workers need
not care for order.

    READY ──worker──▶ RUNNING ──ok, dropped──▶ done, the next of its lane is READY
      ▲                  ├──retry──▶ BACKING OFF ──delay is over──▶ READY
      │                  └──dead letter, retry topic──▶ BEING SENT ──acknowledged──▶ done
      └── PAUSED ◀── the worker finds its partition paused

A worker is busy only while a handler runs: backing off and sending are tasks of their own, in the nursery. An entry
whose partition was sought away or lost is dropped wherever it stands; where the partition is given away, what was
passed over is finished first (see `Partition`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextlib import nullcontext
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Final

import msgspec
import trio
from trio.lowlevel import ParkingLot

from ...runtime.context import ActorContext, carrying
from ...runtime.node import one_line, unwrap
from .events import RecordFailed
from .letters import attempts_before, dead_letter, for_retry, is_for, not_before
from .message import Message, Received, trace_of
from .progress import Entry, Partition
from .retry import Action, RetryPolicy

Handler = Callable[[Received], Awaitable[None]]
_LONGEST_SLEEP = 60.0  # seconds, on the way to a wall-clock time: that clock may be set


@dataclass(frozen=True)
class Plan:
    """What a consumer does with records."""

    group: str
    handler: Handler
    concurrency: int
    retry: RetryPolicy
    by_key: bool
    retry_topics: dict[str, tuple[str, int]]  # {retry topic: (topic, stage)}
    retry_topic_of: dict[tuple[str, int], str]  # the same, the other way round
    dead_letter_topics: dict[str, str]  # {topic: where its letters go}


class ConsumerStatistics(msgspec.Struct, frozen=True):
    """Of one incarnation of a consumer, so far. `running` and `held` are as of now; `held` are records in memory.

    `average_handling` is how long a call of the handler takes, in seconds, failed ones included.
    """

    done: int
    done_bytes: int
    failures: int
    retried: int
    moved_to_retry: int
    dead_lettered: int
    dropped: int
    commits: int
    commit_failures: int
    running: int
    held: int
    partitions: int
    average_handling: float


class Counters:
    """What `ConsumerStatistics` counts."""

    def __init__(self) -> None:
        self.done = self.done_bytes = self.failures = self.commits = self.commit_failures = 0
        self.handled, self.handling = 0, 0.0  # calls of the handler that have ended; seconds in them
        self.actions: dict[Action, int] = {"retry": 0, "retry_topic": 0, "dead_letter": 0, "drop": 0}


class Processor:
    """The workers of one incarnation of a consumer. The actor calls, and is called back on."""

    def __init__(
        self,
        plan: Plan,
        context: ActorContext,
        *,
        now: Callable[[], float],
        send: Callable[[Message], Awaitable[object]],
        on_done: Callable[[Partition], object],
    ) -> None:
        """`now` gives seconds since the epoch; `send` returns when the log has the message, however long it takes."""
        self.counters: Final = Counters()
        self._plan = plan
        self._context = context
        self._now = now
        self._send = send
        self._on_done = on_done
        self._ready: deque[tuple[Partition, Entry]] = deque()
        self._workers = 0
        self._idle = ParkingLot()
        self._nursery: trio.Nursery
        self._workers_context: Context

    def work_in(self, nursery: trio.Nursery) -> None:
        """Work until the nursery is cancelled. To be called once, before anything is offered."""
        self._nursery, self._workers_context = nursery, copy_context()

    def offer(self, partition: Partition, entries: Iterable[Entry]) -> None:
        """These may be handled now, behind those that wait already."""
        before = len(self._ready)
        self._ready.extend([(partition, entry) for entry in entries])
        self._want_workers(len(self._ready) - before)

    def resume(self, partitions: Iterable[Partition]) -> None:
        """These are paused no more."""
        for partition in partitions:
            held, partition.held = partition.held, []
            self.offer(partition, held)

    # --- workers ------------------------------------------------------------------------------------------------------

    def _want_workers(self, count: int) -> None:
        woken = len(self._idle.unpark(count=count))
        for _ in range(min(count - woken, self._plan.concurrency - self._workers)):
            self._workers += 1
            # Else a worker would keep, for good, the trace id of whichever call or record it was started for.
            self._workers_context.run(self._nursery.start_soon, self._work)

    async def _work(self) -> None:
        while True:
            partition, entry = await self._next()
            await self._handle(partition, entry)

    async def _next(self) -> tuple[Partition, Entry]:
        while True:
            while not self._ready:
                await self._idle.park()
            partition, entry = self._ready.popleft()
            if not partition.may_begin(entry):
                continue
            if partition.paused:
                partition.hold(entry)
            elif not is_for(entry.record, self._plan.group):
                self._done(partition, entry)
            elif not self._is_due(partition, entry):
                continue
            else:
                return partition, entry

    def _is_due(self, partition: Partition, entry: Entry) -> bool:
        due = not_before(entry.record)
        delay = due - self._now() if due and not entry.tries else 0.0
        if delay > 0:
            self._put_off(partition, entry, min(delay, _LONGEST_SLEEP))
        return delay <= 0

    async def _handle(self, partition: Partition, entry: Entry) -> None:
        error: Exception | None = None
        began = trio.current_time()
        scope = partition.scopes[entry] = trio.CancelScope()
        try:
            with scope:
                await self._try(entry)
        except Exception as raised:  # around the scope: a group may hold the scope's Cancelled beside an error
            error = unwrap(raised)
        finally:
            del partition.scopes[entry]
            partition.tell_if_idle()
        self.counters.handled += 1
        self.counters.handling += trio.current_time() - began
        if scope.cancelled_caught or not partition.counts(entry):
            self._on_done(partition)  # sought away or lost meanwhile: what became of it is nobody's business any more
        elif error is None:
            self._done(partition, entry)
        else:
            self._settle(partition, entry, error)

    async def _try(self, entry: Entry) -> None:
        record = entry.record
        attempt = attempts_before(record) + entry.failures + 1
        if attempt != record.attempt:
            record = msgspec.structs.replace(record, attempt=attempt)
        trace_id = trace_of(record) if record.headers else None
        with nullcontext() if trace_id is None else carrying(trace_id=trace_id):
            await self._plan.handler(record)

    # --- what follows -------------------------------------------------------------------------------------------------

    def _done(self, partition: Partition, entry: Entry) -> None:
        self.counters.done += 1
        self.counters.done_bytes += entry.size
        following = entry.window.finish(entry)
        if following is not None:
            self.offer(partition, (following,))
        partition.tell_if_idle()
        self._on_done(partition)

    def _settle(self, partition: Partition, entry: Entry, error: Exception) -> None:
        """Do what the policy says."""
        retry, record = self._plan.retry, entry.record
        attempt = attempts_before(record) + entry.failures + 1
        entry.tries += 1
        entry.failures += retry.counts(error)
        stage = self._plan.retry_topics.get(record.topic, ("", 0))[1]
        action = retry.action(error, entry.failures, stage)
        delay = self._delay(entry, error, action, stage)
        self.counters.failures += 1
        self.counters.actions[action] += 1
        self._tell(record, attempt, error, action, delay)
        if action == "retry":
            self._put_off(partition, entry, delay)
        elif action == "drop":
            self._done(partition, entry)
        else:
            partition.aside.append(entry)
            letter = self._letter(entry, error, action, stage, delay)
            self._nursery.start_soon(self._put_aside, partition, entry, letter)

    def _delay(self, entry: Entry, error: Exception, action: Action, stage: int) -> float:
        if action == "retry":
            return self._plan.retry.delay(error, entry.tries, self._context.runtime.random)
        return self._plan.retry.topics[stage] if action == "retry_topic" else 0.0

    def _letter(self, entry: Entry, error: Exception, action: Action, stage: int, delay: float) -> Message:
        plan, record = self._plan, entry.record
        topic = plan.retry_topics.get(record.topic, (record.topic, 0))[0]
        attempts = attempts_before(record) + entry.failures
        if action == "retry_topic":
            target = plan.retry_topic_of[topic, stage + 1]
            return for_retry(record, target, plan.group, error, attempts, self._now() + delay)
        return dead_letter(record, plan.dead_letter_topics[topic], plan.group, error, attempts)

    def _put_off(self, partition: Partition, entry: Entry, delay: float) -> None:
        if partition.leaving:
            partition.end_before(entry)
        else:
            entry.waits = True
            self._nursery.start_soon(self._come_back, partition, entry, delay)

    async def _come_back(self, partition: Partition, entry: Entry, delay: float) -> None:
        with trio.move_on_after(delay):
            await entry.window.closed.wait()
        entry.waits = False
        self._ready.appendleft((partition, entry))  # it is older than what waits
        self._want_workers(1)

    async def _put_aside(self, partition: Partition, entry: Entry, letter: Message) -> None:
        await self._send(letter)
        partition.aside.remove(entry)
        partition.tell_if_idle()
        if partition.counts(entry):
            self._done(partition, entry)

    def _tell(self, record: Received, attempt: int, error: Exception, action: Action, delay: float) -> None:
        events, me = self._context.runtime.events, self._context
        if events.on:
            where = (self._plan.group, record.topic, record.partition, record.offset)
            about = (attempt, one_line(error), action, delay)
            events.emit(RecordFailed(trio.current_time(), me.path, me.incarnation, *where, *about))
