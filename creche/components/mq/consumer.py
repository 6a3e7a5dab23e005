"""The actor that reads a group's records and hands them to a handler, at least once and in order.

Theory of operation
-------------------
Tasks of one incarnation, all in one nursery of its lifespan, for they go on while it drains:

* The *member* syncs with the group: at first, every `heartbeat_interval`, and when woken because the group has changed.
  It takes up what is assigned, gives up what is to be released (each in a task of its own, which waits for the handlers
  that run there and for what they passed over), and ends what is lost. It shares a lock with those tasks, so that they
  see its changes in order.
* The *fetcher* asks the log for records of every partition that has room, and offers them to the processor. When there
  is nothing it sleeps until stirred: by an append (through the log's lease), by a record that is done, by a resume, a
  seek or an assignment; and looks again every `poll_interval`, since other processes may write to the log without
  waking it. Handlers that are slow are backpressure: a partition that holds its share of `max_fetched` is not fetched.
* The *processor* (see `processing`) runs the handlers.
* The *committer* tells the log how far each partition is done, after so many records or so much time, and at a stop.
  At a crash what is done is told by a cast, which outlives its sender: it is in the log's mailbox before the next
  incarnation asks where to go on.

Only what is contiguously done is ever committed (see `progress`), so whatever dies, at any moment, what is not done is
delivered again.

Whatever the log's failure is, it is weather to the consumer: it asks again, with backoff, and neither crashes nor gives
up.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import groupby
from typing import Literal, ParamSpec, TypeVar, cast, final

import trio

from ...runtime.actor import Actor, message
from ...runtime.backoff import Backoff
from ...runtime.component import ComponentHandle, ComponentSpec
from ...runtime.errors import CallFailed, SpecInvalid
from ...runtime.spec import child
from .errors import OffsetInvalid, PartitionUnknown, TopicUnknown, Unavailable
from .events import PartitionsAssigned, PartitionsRevoked, RecordsMissed
from .groups import End
from .handle import Mq, checked_group, checked_offset, checked_topic
from .letters import dead_letter_topic, retry_topic
from .log import Fetched
from .membership import Changes
from .message import Message, Received, TopicPartition
from .processing import ConsumerStatistics, Counters, Handler, Plan, Processor
from .progress import Latch, Partition
from .retry import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
Order = Literal["key", "partition"]
Where = int | End

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
    order: Order = "key",
    retry: RetryPolicy | None = None,
    dead_letter: str | None = None,
) -> ComponentSpec[Consumer]:
    """The spec of a consumer: a child for an app, a supervisor or a runtime.

    ``async def handler(message: Received) -> None``: to return is to be done with the record, to raise an Exception is
    to have it tried again as `retry` says, and at last put into the dead-letter topic. It runs with the sender's trace
    id in its baggage. A record is delivered at least once, and again after a crash: make the handler's effect
    idempotent.

    Parameters
    ----------
    group
        Where the group has come to is kept in the log under this name. Consumers of one group share the partitions;
        in one process, in several, or both.
    topics
        Created if they do not exist.
    name
        Of the child; default: ``consumer-`` and the group's name, and a number if that is taken.
    concurrency
        Handlers at a time.
    order
        What is handled one after another: the records of one ``"key"`` (those without a key have no order), or those of
        one ``"partition"`` (then more handlers than partitions are of no use).
    dead_letter
        The topic for dead letters; default: each topic's name and ``.dead_letter``.

    Raises
    ------
    SpecInvalid, TopicInvalid, GroupInvalid
        Before anything starts. A topic's name must leave room for the names of its retry and dead-letter topics.
    """
    names = (topics,) if isinstance(topics, str) else tuple(topics)
    if not names or concurrency < 1 or order not in ("key", "partition"):
        fix = "at least one topic, a concurrency of at least 1, and the order 'key' or 'partition'"
        raise SpecInvalid("consumer", (names, concurrency, order), fix)
    policy = retry or RetryPolicy()
    stages = {(checked_topic(topic), n): retry_topic(topic, n) for topic in names for n in _stages(policy)}
    plan = Plan(
        group=checked_group(group),
        handler=handler,
        concurrency=concurrency,
        retry=policy,
        by_key=order == "key",
        retry_topics={target: origin for origin, target in stages.items()},
        retry_topic_of=stages,
        dead_letter_topics={
            checked_topic(topic): dead_letter_topic(topic) if dead_letter is None else checked_topic(dead_letter)
            for topic in names
        },
    )
    actor = child(ConsumerActor, mq, (*names, *stages.values()), plan)
    default = "consumer-" + re.sub(r"[^\w.\-]", "-", group)
    spec = ComponentSpec(default, actor, Consumer, layer="service", needs=(mq,))
    return spec if name is None else spec.options(name=name)


def _stages(policy: RetryPolicy) -> range:
    return range(1, len(policy.topics) + 1)


@final
class Consumer(ComponentHandle):
    """Steers a consumer. Every method may raise the outcomes of a call (`creche.CallFailed`) and `Unavailable`."""

    async def pause(self, topic: str | None = None, partition: int | None = None) -> None:
        """Begin no further record: of anything, of one topic, or of one partition.

        Handlers that run go on; records waiting for a retry wait until `resume`; nothing that was fetched is lost. A
        pause of everything holds for partitions that are assigned later, too; one of a partition ends when that is
        given away. Raises `PartitionUnknown`.
        """
        await self._handle(ConsumerActor).call(ConsumerActor.pause, topic, partition)

    async def resume(self, topic: str | None = None, partition: int | None = None) -> None:
        """Go on after `pause`: with everything, however it was paused, or with one topic or partition.

        A restart of the consumer resumes too. Raises `PartitionUnknown`.
        """
        await self._handle(ConsumerActor).call(ConsumerActor.resume, topic, partition)

    async def seek(self, topic: str, partition: int, offset: Where) -> None:
        """Go on from an offset, or from the ``"beginning"`` or the ``"end"``, once the handlers that run there ended.

        Returns when it is committed. Raises `OffsetInvalid`, and `PartitionUnknown`, also if the partition is given
        away or lost before that.
        """
        await self._handle(ConsumerActor).call(ConsumerActor.seek, topic, partition, offset)

    async def seek_to_time(self, topic: str, partition: int, time: float) -> None:
        """The same, to the first record that the log took at `time`, in seconds since the epoch, or after it."""
        await self._handle(ConsumerActor).call(ConsumerActor.seek_to_time, topic, partition, time)

    async def lag(self) -> dict[TopicPartition, int]:
        """How many records are not done, of each partition that this consumer reads. Commits first."""
        return await self._handle(ConsumerActor).call(ConsumerActor.lag)

    def statistics(self) -> ConsumerStatistics | None:
        """What the present incarnation has done; None if there is none. Raises `NotStarted`."""
        lease = cast("_Counted | None", self._cell().granted)
        return None if lease is None else lease.statistics()


class _Seat:
    """A member's place in its group, through all incarnations. `taken`: it may have it still."""

    def __init__(self, mq: Mq, group: str, member: str) -> None:
        self._leave = partial(mq.leave_nowait, group, member)
        self.taken = False

    def give_up(self) -> None:
        """For whoever is stopped while it is down, or gives up, and cannot leave by itself."""
        if self.taken:
            self._leave()


class ConsumerActor(Actor):
    """The actor behind `Consumer`; see the messages there."""

    def __init__(self, mq: Mq, topics: Sequence[str], plan: Plan) -> None:
        self._mq = mq
        self._plan = plan
        # The path outlives incarnations: the next one is the same member and gets the same partitions again.
        member = self.context.path
        self._member = mq.membership(plan.group, member, topics)
        self._seat = self.context.keep("member", partial(_Seat, mq, plan.group, member), _Seat.give_up)
        self._partitions: dict[TopicPartition, Partition] = {}
        self._processor = Processor(
            plan, self.context, now=lambda: self._member.clock(), send=self._send_letter, on_done=self._note_done
        )
        self._joined = trio.Event()
        self._grouping = trio.Lock()  # one change of the partitions at a time
        self._regroup = Latch()  # the member should sync
        self._stir = Latch()  # the fetcher should look again
        self._undone = Latch()  # something is done and not committed
        self._enough = Latch()  # so much that it should be committed now
        self._draining = False
        self._pausing = False  # what is assigned from now on is paused
        self._uncommitted = 0  # records, since the last commit
        self._committing = trio.Lock()
        self._appends = 0  # heard of
        self._looked = 0.0  # when the ends of all partitions were looked at last, in Trio's time
        self._membership = trio.CancelScope()  # around what syncs and releases
        self._releases: trio.Nursery

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        """Reads from the start on. At a stop: handlers that run may end, and what is done is committed."""
        self.context.grant(_Counted(self._processor.counters, self._partitions))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._consume)
                yield
                await self._drain()
                nursery.cancel_scope.cancel()
        finally:
            self._commit_at_last()

    # --- messages -----------------------------------------------------------------------------------------------------

    @message(raises=PartitionUnknown)
    async def pause(self, topic: str | None, partition: int | None) -> None:
        """See `Consumer.pause`."""
        for chosen in self._chosen(topic, partition):
            chosen.paused = True
        if topic is None:
            self._pausing = True

    @message(raises=PartitionUnknown)
    async def resume(self, topic: str | None, partition: int | None) -> None:
        """See `Consumer.resume`."""
        chosen = self._chosen(topic, partition)
        for each in chosen:
            each.paused = False
        if topic is None:
            self._pausing = False
        self._processor.resume(chosen)
        self._stir.set()

    @message(raises=(PartitionUnknown, OffsetInvalid, TopicUnknown, Unavailable))
    async def seek(self, topic: str, partition: int, offset: object) -> None:
        """See `Consumer.seek`."""
        await self._joined.wait()
        self._chosen(topic, partition)
        if offset in ("beginning", "end"):
            limit = 0.0 if offset == "beginning" else _FOR_EVER
            await self._seek_to((topic, partition), await self._member.offset_at((topic, partition), limit))
        else:
            await self._seek_to((topic, partition), checked_offset(offset))

    @message(raises=(PartitionUnknown, TopicUnknown, Unavailable))
    async def seek_to_time(self, topic: str, partition: int, time: float) -> None:
        """See `Consumer.seek_to_time`."""
        await self._joined.wait()
        self._chosen(topic, partition)
        await self._seek_to((topic, partition), await self._member.offset_at((topic, partition), time))

    @message(on_caller_gone="cancel", raises=Unavailable)
    async def lag(self) -> dict[TopicPartition, int]:
        """See `Consumer.lag`."""
        await self._joined.wait()
        await self._commit()
        return await self._member.lag()

    def _chosen(self, topic: str | None, partition: int | None) -> list[Partition]:
        chosen = [
            each
            for (name, number), each in self._partitions.items()
            if topic in (None, name) and partition in (None, number)
        ]
        if not chosen and topic is not None:
            raise PartitionUnknown(topic, partition, tuple(self._partitions))
        return chosen

    async def _seek_to(self, place: TopicPartition, offset: int) -> None:
        (partition,) = self._chosen(*place)  # it may have been lost meanwhile
        partition.seek(offset)
        self._stir.set()
        await self._commit()
        if partition.lost or self._partitions.get(place) is not partition:  # given away without it, or taken
            raise PartitionUnknown(*place, tuple(self._partitions))

    # --- member -------------------------------------------------------------------------------------------------------

    async def _consume(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._be_member)
                await self._joined.wait()
                self._processor.work_in(nursery)
                nursery.start_soon(self._commit_now_and_then)
                await self._fetch()
        finally:
            self._member.close(self._note_append, self._regroup.set)

    async def _be_member(self) -> None:
        with self._membership:
            self._seat.taken = True
            async with trio.open_nursery() as self._releases:
                while True:
                    self._regroup.clear()
                    await self._sync()
                    self._joined.set()
                    await self._regroup.wait(self._member.config.heartbeat_interval)

    async def _sync(self) -> None:
        async with self._grouping:
            self._listen()  # before: what changes after the sync is told
            changes = await self._until_answered(self._member.sync)
            self._drop(changes.lost)
            self._take_up(changes)
            for place in changes.release:
                if not self._partitions[place].leaving:
                    self._partitions[place].leave()
                    self._releases.start_soon(self._give_up, self._partitions[place])

    def _take_up(self, changes: Changes) -> None:
        for place, offset in changes.assigned.items():
            self._partitions[place] = Partition(place, offset, by_key=self._plan.by_key)
            self._partitions[place].paused = self._pausing
        if changes.assigned:
            self._stir.set()
            events, me = self.context.runtime.events, self.context
            if events.on:
                places = tuple(changes.assigned)
                events.emit(PartitionsAssigned(trio.current_time(), me.path, me.incarnation, self._plan.group, places))

    def _drop(self, lost: Sequence[TopicPartition]) -> None:
        for place in lost:
            self._partitions.pop(place).lose()
        self._tell_revoked(lost, lost=True)

    async def _give_up(self, partition: Partition) -> None:
        """Release the partition as soon as nobody works for it."""
        await _left(partition, self._member.config.rebalance_timeout / 2)
        async with self._grouping, self._committing:
            if partition.lost:
                return
            await self._until_answered(self._member.release, {partition.place: partition.window.done})
            del self._partitions[partition.place]
        self._tell_revoked((partition.place,), lost=False)

    def _tell_revoked(self, places: Iterable[TopicPartition], *, lost: bool) -> None:
        events, me, gone = self.context.runtime.events, self.context, tuple(places)
        if gone and events.on:
            events.emit(PartitionsRevoked(trio.current_time(), me.path, me.incarnation, self._plan.group, gone, lost))

    # --- fetcher ------------------------------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        while True:
            # Cleared before looking: what comes after that stirs again, so nothing is missed.
            self._stir.clear()
            if trio.current_time() >= self._looked + self._member.config.poll_interval:
                self._look_again()
            hungry = self._hungry()
            if hungry:
                await self._feed(hungry)
            elif self._listen():
                self._regroup.set()  # what the group did meanwhile nobody has told
            else:
                await self._stir.wait(self._looked + self._member.config.poll_interval - trio.current_time())

    async def _feed(self, hungry: Sequence[Partition]) -> None:
        appends = self._appends
        windows = {partition.place: partition.window for partition in hungry}
        fetched = await self._fetch_for(hungry)
        found = {place: list(of_place) for place, of_place in groupby(fetched.records, key=_place_of)}
        for partition in hungry:
            if partition.window is windows[partition.place] and not partition.lost:  # else it was sought away or lost
                partition.at_end = partition.place in fetched.ended and appends == self._appends
                self._take(partition, found.get(partition.place, []))

    def _listen(self) -> bool:
        """Whether there is a log that it did not listen to yet: something may have come before."""
        is_new = self._member.listen(self._note_append, self._regroup.set)
        if is_new:
            self._note_append()
        return is_new

    def _note_append(self) -> None:
        self._appends += 1
        self._look_again()
        self._stir.set()

    def _look_again(self) -> None:
        self._looked = trio.current_time()
        for partition in self._partitions.values():
            partition.at_end = False

    def _hungry(self) -> list[Partition]:
        """The partitions to fetch for: those that hold half of their share at most; none while paused or stopping."""
        return self._hungry_of(self._partitions.values())

    def _hungry_of(self, partitions: Iterable[Partition]) -> list[Partition]:
        if self._draining:
            return []
        records, size = self._share()
        return [partition for partition in partitions if partition.is_hungry(records // 2, size // 2)]

    async def _fetch_for(self, hungry: Sequence[Partition]) -> Fetched:
        positions = {partition.place: partition.window.position for partition in hungry}
        records, size = self._share()
        return await self._until_answered(self._member.fetch, positions, records - records // 2, size - size // 2)

    def _share(self) -> tuple[int, int]:
        """How many records and bytes each partition may hold."""
        config, count = self._member.config, max(1, len(self._partitions))
        return max(1, config.max_fetched // count), max(1, config.max_fetched_bytes // count)

    def _take(self, partition: Partition, records: list[Received]) -> None:
        position, events, me = partition.window.position, self.context.runtime.events, self.context
        if records and records[0].offset > position and events.on:
            missed = (self._plan.group, *partition.place, position, records[0].offset)
            events.emit(RecordsMissed(trio.current_time(), me.path, me.incarnation, *missed))
        self._processor.offer(partition, partition.window.add(records))

    # --- committer ----------------------------------------------------------------------------------------------------

    def _note_done(self, partition: Partition) -> None:
        if self._hungry_of((partition,)):
            self._stir.set()
        self._uncommitted += 1
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
            due = self._due()
            if due:
                await self._commit_these(due)

    def _due(self) -> dict[TopicPartition, int]:
        return {place: partition.window.done for place, partition in self._partitions.items() if partition.is_due()}

    async def _commit_these(self, offsets: dict[TopicPartition, int]) -> None:
        counters, partitions = self._processor.counters, dict(self._partitions)
        try:
            refused = await self._member.commit(offsets)
        except BaseException:
            counters.commit_failures += 1
            self._undone.set()
            raise
        counters.commits += 1
        _note_committed(partitions, offsets)  # of what was refused nothing more will be committed either
        for place in refused:
            partitions[place].lose()
            self._regroup.set()

    # --- stop ---------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        self._draining = True
        partitions = tuple(self._partitions.values())
        for partition in partitions:
            if not partition.leaving:
                partition.leave()
            if partition.is_idle():
                partition.leave_at_once()
        busy = [partition for partition in partitions if not partition.is_idle()]
        try:
            if busy:
                await _all_left(busy, max(0.0, trio.current_effective_deadline() - trio.current_time()) / 2)
        finally:
            # Also when the time is over: every record that is told done now need not be handled again.
            with trio.move_on_after(_LAST_COMMIT_WITHIN, shield=True):
                await self._leave()

    async def _leave(self) -> None:
        self._membership.cancel()  # a sync that comes later would make it a member again
        try:
            async with self._grouping, self._committing:
                due = {place: partition.window.done for place, partition in self._partitions.items()}
                await self._member.leave(due)
                self._seat.taken = False
                _note_committed(self._partitions, due)
        except (CallFailed, Unavailable):
            pass  # the session will run out

    def _commit_at_last(self) -> None:
        """At a crash, or when the log did not answer at the stop: leave word of what is done.

        Commits that waited at the log were taken back when those who had sent them were cancelled. Without this one,
        a consumer that dies sooner each time than the log gets round to its commits would never come any further.
        """
        due = self._due()
        if due:
            self._member.commit_nowait(due)  # before the next incarnation can ask where to go on

    # --- asking -------------------------------------------------------------------------------------------------------

    async def _send_letter(self, letter: Message) -> None:
        await self._until_answered(self._mq.send_sync, letter)

    async def _until_answered(self, ask: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        """The answer of the log, however long it is down or unable."""
        tries = 0
        while True:
            try:
                return await ask(*args, **kwargs)
            except (CallFailed, Unavailable):
                tries += 1
                await trio.sleep(_ASK_AGAIN.delay(tries, self.context.runtime.random))


class _Counted:
    """What an incarnation of a consumer lends to its handles: a look at its numbers."""

    def __init__(self, counters: Counters, partitions: dict[TopicPartition, Partition]) -> None:
        self._counters = counters
        self._partitions = partitions

    def statistics(self) -> ConsumerStatistics:
        """As of now."""
        counted, actions, partitions = self._counters, self._counters.actions, self._partitions.values()
        return ConsumerStatistics(
            done=counted.done,
            done_bytes=counted.done_bytes,
            failures=counted.failures,
            retried=actions["retry"],
            moved_to_retry=actions["retry_topic"],
            dead_lettered=actions["dead_letter"],
            dropped=actions["drop"],
            commits=counted.commits,
            commit_failures=counted.commit_failures,
            running=sum(len(partition.scopes) for partition in partitions),
            held=sum(len(partition.window) for partition in partitions),
            partitions=len(partitions),
            average_handling=counted.handling / counted.handled if counted.handled else 0.0,
        )

    def revoke(self) -> None:
        """See `Lease`. The numbers are as they are."""


async def _all_left(partitions: Iterable[Partition], passed_over_within: float) -> None:
    async with trio.open_nursery() as nursery:
        for partition in partitions:
            nursery.start_soon(_left, partition, passed_over_within)


async def _left(partition: Partition, passed_over_within: float) -> None:
    """Return when nobody works for a partition that is being left.

    What was passed over has not begun after so many seconds is done by the next owner: time enough must be left for
    what runs.
    """
    with trio.move_on_after(passed_over_within):
        await partition.wait_idle()
    partition.leave_at_once()
    await partition.wait_idle()


def _note_committed(partitions: Mapping[TopicPartition, Partition], offsets: Mapping[TopicPartition, int]) -> None:
    for place, offset in offsets.items():
        partitions[place].committed = offset


def _place_of(record: Received) -> TopicPartition:
    return record.topic, record.partition
