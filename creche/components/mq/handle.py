"""The handle to the log: producers, topics, and what consumers are made of."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Concatenate, Final, ParamSpec, TypeVar, cast, final

import msgspec
import trio

from ...runtime.component import ComponentHandle
from ...runtime.context import baggage
from ...runtime.errors import CallFailed
from ...runtime.handle import Handle
from .actor import LogActor, LogLease
from .config import MOST_PARTITIONS
from .delivery import Delivery, OnDelivery, Statistics
from .errors import GroupInvalid, OffsetInvalid, TopicInvalid, TopicUnknown, Unavailable
from .groups import End, GroupInfo
from .letters import DEAD_LETTER_SUFFIX, GROUP, replayed
from .membership import Membership
from .message import TRACE_HEADER, Ack, Message, NotSent, Received, TopicPartition, is_topic
from .topic import Retention, TopicInfo

P = ParamSpec("P")
R = TypeVar("R")

Letters = list[Received]
_Ahead = dict[TopicPartition, tuple[int, int]]  # of letters not replayed yet: from which offset on, to before which

_LETTERS_AT_ONCE: Final = 100  # of each partition


class Mq(ComponentHandle):
    """A durable log. Every method may raise the outcomes of a call (`creche.CallFailed`) and `Unavailable`.

    A message that is sent while the baggage has a ``trace_id`` carries it in the header ``X-Trace-ID``, unless it has
    that header already.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.topics = Topics(self._log)
        self.groups = ConsumerGroups(self._log)
        self.dead_letters = DeadLetters(self)

    async def send(self, message: Message, on_delivery: OnDelivery | None = None) -> Delivery:
        """Accept a message for delivery; wait for room where too many are under way already.

        An accepted message is in memory: it is delivered when its `Delivery` says so. `on_delivery` is called then,
        synchronously, with the `Ack` or the error; what it raises goes to `sys.unraisablehook`. Messages are written
        in the order in which they were accepted. If cancelled, nothing was accepted.

        Raises `TopicInvalid`, `MessageTooLarge`, TypeError for a value or key that is not bytes or headers that are not
        text, and UnicodeError for headers that UTF-8 cannot encode.
        """
        (delivery,) = await self._accept([_prepared(message)], on_delivery)
        return delivery

    async def send_sync(self, message: Message) -> Ack:
        """Send a message and wait until the log has it.

        If cancelled, the message is taken back unless it is being written already. Raises what `send` and
        `Delivery.wait` raise.
        """
        prepared = [_prepared(message)]
        deliveries = self._accept_nowait(prepared)
        if deliveries is None:
            deliveries = await self._log().call(LogActor.append, prepared, None)
        try:
            return await deliveries[0].wait()
        except trio.Cancelled:
            self._revoke(deliveries)
            raise

    async def send_batch(self, messages: Sequence[Message]) -> list[Ack | NotSent]:
        """Send many messages and wait for all: one result for each, in order.

        They are written in order, in as few transactions as `Config.max_batch` allows; not all or none. What comes
        behind one that could not be written is not written either, so sending the rest again keeps the order. If
        cancelled, those that are not being written yet are taken back. Raises as `send` does, when none of them was
        accepted.
        """
        deliveries = await self._accept([_prepared(message) for message in messages], None)
        try:
            for delivery in deliveries:
                await delivery.settlement()
        except trio.Cancelled:
            self._revoke(deliveries)
            raise
        return [_result(delivery, message) for delivery, message in zip(deliveries, messages, strict=True)]

    async def flush(self) -> None:
        """Wait until all that the log has accepted so far is written or has failed."""
        await trio.lowlevel.checkpoint()
        lease = self._lease()
        if lease is not None:
            await lease.accumulator.flushed()

    async def lag(self, group: str) -> dict[TopicPartition, int]:
        """How many records the group has not committed yet, of each partition that a consumer of it has ever read."""
        return await self._log().call(LogActor.lag, checked_group(group))

    def statistics(self) -> Statistics | None:
        """What the log's present incarnation has written; None if there is none. Raises `NotStarted`."""
        lease = self._lease()
        return None if lease is None else lease.accumulator.statistics()

    def membership(self, group: str, member: str, topics: Sequence[str]) -> Membership:
        """What a consumer needs of the log. For `consumer`, not for users."""
        return Membership(self._log(), self._lease, group, member, topics)

    def leave_nowait(self, group: str, member: str) -> None:
        """Tell the log that a consumer has gone for good, if it can be told. For `consumer`, not for users."""
        try:
            self._log().cast_nowait(LogActor.leave, group, member, {})
        except (CallFailed, trio.WouldBlock):
            pass  # its session will run out

    async def call(
        self, method: Callable[Concatenate[LogActor, P], Awaitable[R]], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """Call the log's actor. For this package, not for users."""
        return await self._log().call(method, *args, **kwargs)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _accept(self, messages: list[Message], on_delivery: OnDelivery | None) -> list[Delivery]:
        await trio.lowlevel.checkpoint()
        accepted = self._accept_nowait(messages, on_delivery)
        if accepted is None:
            accepted = await self._log().call(LogActor.append, messages, on_delivery)
        return accepted

    def _accept_nowait(self, messages: list[Message], on_delivery: OnDelivery | None = None) -> list[Delivery] | None:
        lease = self._lease()
        return None if lease is None else lease.accumulator.accept(messages, on_delivery)

    def _revoke(self, deliveries: Sequence[Delivery]) -> None:
        lease = self._lease()
        if lease is not None:  # else everything has been settled
            for delivery in deliveries:
                lease.accumulator.revoke(delivery)

    def _log(self) -> Handle[LogActor]:
        return self._handle(LogActor)

    def _lease(self) -> LogLease | None:
        return cast("LogLease | None", self._cell().granted)


@final
class Topics:
    """The topics of a log: `Mq.topics`."""

    def __init__(self, log: Callable[[], Handle[LogActor]]) -> None:
        self._log = log

    async def create(self, topic: str, partitions: int | None = None, *, retention: Retention | None = None) -> int:
        """Create a topic unless it exists, and return how many partitions it has.

        A topic that is not created is created by its first use, with `Config.partitions`. `retention` is set in any
        case; a topic that was never given one has that of the config.

        Raises `TopicInvalid`, ValueError for a number out of range, and `TopicExists` if it exists with another
        number of partitions than was asked for.
        """
        if partitions is not None:
            checked_partitions(partitions)
        return await self._log().call(LogActor.create_topic, checked_topic(topic), partitions, retention)

    async def create_partitions(self, topic: str, total: int) -> None:
        """Give a topic more partitions: `total` in the end. Its consumers read the new ones from their beginning.

        Records of most keys go to another partition from then on than before, so for the records sent meanwhile the
        order of a key is not kept. Raises `TopicInvalid`, `TopicUnknown`, ValueError, and `TopicExists` if it has more
        already.
        """
        await self._log().call(LogActor.create_partitions, checked_topic(topic), checked_partitions(total))

    async def delete(self, topic: str) -> bool:
        """Delete a topic, its records, and all that groups know about it. Whether it was there.

        Its next use creates it anew, empty; a consumer that still reads it is such a use. Raises `TopicInvalid`.
        """
        return await self._log().call(LogActor.delete_topic, checked_topic(topic))

    async def describe(self, topic: str) -> TopicInfo:
        """What a topic is like now. Raises `TopicInvalid` and `TopicUnknown`."""
        return await self._log().call(LogActor.describe, checked_topic(topic))

    async def list(self) -> dict[str, int]:
        """All topics by name, and how many partitions each has."""
        return await self._log().call(LogActor.topics)


@final
class ConsumerGroups:
    """The consumer groups of a log: `Mq.groups`. Every method but `list` raises `GroupInvalid`."""

    def __init__(self, log: Callable[[], Handle[LogActor]]) -> None:
        self._log = log

    async def list(self) -> list[str]:
        """All groups that have consumers or have ever had some."""
        return await self._log().call(LogActor.group_names)

    async def describe(self, group: str) -> GroupInfo:
        """What a group is like now; one that there never was has nothing."""
        return await self._log().call(LogActor.describe_group, checked_group(group))

    async def set_offsets(self, group: str, offsets: Mapping[TopicPartition, int | End]) -> None:
        """Have a group without consumers go on from these offsets, ``"beginning"`` or ``"end"``, all or none of them.

        Raises `GroupActive` if it has consumers, `OffsetInvalid`, and `TopicUnknown` for a partition that is not there.
        """
        for (topic, partition), offset in offsets.items():
            if not (is_topic(topic) and 0 <= partition < MOST_PARTITIONS):
                raise TopicUnknown(f"{topic}/{partition}")
            if offset not in ("beginning", "end"):
                checked_offset(offset)
        await self._log().call(LogActor.set_offsets, checked_group(group), offsets)

    async def delete(self, group: str) -> bool:
        """Forget where a group has come to: its next consumer begins anew. Whether there was one.

        Raises `GroupActive` if it has consumers.
        """
        return await self._log().call(LogActor.delete_group, checked_group(group))


@final
class DeadLetters:
    """The dead letters of a log: `Mq.dead_letters`.

    What has been replayed is kept in the log as the offsets of a group of its own, ``<group>.replay``.
    """

    def __init__(self, mq: Mq) -> None:
        self._mq = mq

    async def list(self, topic: str, group: str, *, limit: int = 100) -> Letters:
        """Letters of `topic` that `group` has put aside and that were not replayed yet.

        `topic` is the dead-letter topic, or the topic that the records were sent to if their letters are where they
        are by default. The oldest of each partition first, at most `limit` of them; none without such a topic. Raises
        `TopicInvalid` and `GroupInvalid`.
        """
        ahead = await self._ahead(topic, group)
        mine: Letters = []
        while len(mine) < limit and (letters := await self._read(ahead)):
            mine += _put_aside_by(group, letters)
            _pass_over(letters, ahead)
        return mine[:limit]

    async def replay(self, topic: str, group: str, *, limit: int | None = None) -> int:
        """Send the letters back to the topics that they came from, for the consumers of `group` only.

        They go to the end, so the order of their keys is not kept, and are tried there as if they were new. At most
        `limit`, if it is given, and none that comes meanwhile, such as those of them that fail again. Returns how many.
        May be repeated, also after it failed or was cancelled: no letter is sent twice. Raises as `list` and
        `Mq.send_batch`.
        """
        ahead = await self._ahead(topic, group)
        sent = 0
        while (limit is None or sent < limit) and (letters := await self._read(ahead)):
            mine = _put_aside_by(group, letters)
            batch = mine if limit is None else mine[: limit - sent]
            await self._send([replayed(letter) for letter in batch])
            cut = mine[len(batch)] if len(batch) < len(mine) else None  # the first that is left for another time
            _pass_over(letters[: len(letters) if cut is None else letters.index(cut)], ahead)
            offsets = {place: offset for place, (offset, _) in ahead.items()}
            await self._mq.call(LogActor.commit_unowned, _replay_group(group), offsets)
            sent += len(batch)
        return sent

    async def _ahead(self, topic: str, group: str) -> _Ahead:
        """The topic is given as that with the letters or as the one that the records were sent to."""
        by_default = checked_topic(topic) + DEAD_LETTER_SUFFIX
        name, is_one = _replay_group(checked_group(group)), topic.endswith(DEAD_LETTER_SUFFIX)
        where = by_default if not is_one and by_default in await self._mq.topics.list() else topic
        return await self._mq.call(LogActor.begin, name, where)

    async def _read(self, ahead: _Ahead) -> Letters:
        """Some of the letters, of whatever groups; none: those were all."""
        positions = {place: offset for place, (offset, end) in ahead.items() if offset < end}
        fetched = await self._mq.call(LogActor.fetch, positions, _LETTERS_AT_ONCE)
        return [letter for letter in fetched.records if letter.offset < ahead[letter.place][1]]

    async def _send(self, letters: Sequence[Message]) -> None:
        for result in await self._mq.send_batch(letters):
            if isinstance(result, NotSent):
                raise result.reason


def _replay_group(group: str) -> str:
    return group + ".replay"


def _put_aside_by(group: str, letters: Letters) -> Letters:
    return [letter for letter in letters if letter.headers.get(GROUP) == group]


def _pass_over(letters: Letters, ahead: _Ahead) -> None:
    for letter in letters:
        ahead[letter.place] = (letter.offset + 1, ahead[letter.place][1])


def checked_partitions(partitions: int) -> int:
    """The same number; raises ValueError if no topic may have so many partitions."""
    if not 1 <= partitions <= MOST_PARTITIONS:
        raise ValueError(f"partitions = {partitions}: from 1 to {MOST_PARTITIONS}")
    return partitions


def checked_offset(offset: object) -> int:
    """The same number; raises `OffsetInvalid` if no record can have it."""
    if not isinstance(offset, int) or isinstance(offset, bool) or not 0 <= offset < 2**63:
        raise OffsetInvalid(offset)
    return offset


def checked_topic(topic: str) -> str:
    """The same name; raises `TopicInvalid` if it cannot be a topic's."""
    if not is_topic(topic):
        raise TopicInvalid(topic)
    return topic


def checked_group(group: str) -> str:
    """The same name; raises `GroupInvalid` if it cannot be a group's."""
    if not group or not group.isprintable():
        raise GroupInvalid(group)
    return group


def _prepared(message: Message) -> Message:
    """The message as it will be in the log.

    Checked here, for one that SQLite refused would take down the writer and everybody else's records with it; msgspec
    checks types only when it decodes. With headers of its own: what the sender does to his, once it is accepted, is no
    matter.
    """
    checked_topic(message.topic)
    if not _are(bytes, message.value, b"" if message.key is None else message.key):
        raise TypeError("value and key of a message are bytes: use msgspec.json.encode(...) or 'text'.encode()")
    headers, trace_id = dict(message.headers), baggage().get("trace_id")
    if trace_id is not None:
        headers.setdefault(TRACE_HEADER, str(trace_id))
    if not _are(str, *headers, *headers.values()):
        raise TypeError("names and values of headers are text")
    for name, text in headers.items():
        (name + text).encode()  # raises for lone surrogates
    return msgspec.structs.replace(message, headers=headers)


def _are(kind: type, *values: object) -> bool:
    return all(isinstance(value, kind) for value in values)


def _result(delivery: Delivery, message: Message) -> Ack | NotSent:
    try:
        return delivery.result()
    except (CallFailed, Unavailable) as error:
        return NotSent(message, error)
