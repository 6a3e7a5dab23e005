"""The outbox and its relay: each message in the log once, in order, whoever dies in between."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
import trio

import creche
from creche import Runtime
from creche.components import db as component
from creche.components import mq
from creche.components.mq import MessageTooLarge
from creche.components.mq.message import OUTBOX_HEADER, TRACE_HEADER, Ack, Message, NotSent
from creche.runtime.context import carrying
from creche.runtime.errors import Unavailable
from creche.runtime.events import Crashed, Event

from .support import AT_ONCE, item, killed, lease_of, names, outcome_of, raw, running

NO_BYTES: Any = "text"
NO_TEXT: Any = 1
OUTBOX = sa.text("SELECT count(*) FROM creche_outbox")


class Disk:
    """What survives the log's crashes, and what the tests want to go wrong."""

    def __init__(self) -> None:
        self.records: list[Message] = []
        self.seen: set[str] = set()
        self.batches = 0
        self.changed = trio.Event()
        self.before: Callable[[], None] = lambda: None  # may raise
        self.after: Callable[[], None] = lambda: None  # may kill
        self.refuse: Callable[[Message], bool] = lambda message: False

    def append(self, message: Message) -> None:
        outbox_id = message.headers[OUTBOX_HEADER]
        if outbox_id not in self.seen:
            self.seen.add(outbox_id)
            self.records.append(message)

    def tell(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        while not condition():
            await self.changed.wait()

    @property
    def values(self) -> list[str]:
        return [record.value.decode() for record in self.records]


class Log(creche.Actor):
    """A small message log that recognises what it has taken already."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    @creche.message(raises=Unavailable)
    async def append(self, messages: Sequence[Message]) -> list[Ack | NotSent]:
        disk = self._disk
        disk.batches += 1
        try:
            disk.before()
            results: list[Ack | NotSent] = []
            for message in messages:
                if disk.refuse(message):
                    results.append(NotSent(message, Unavailable("log", "full")))
                else:
                    disk.append(message)
                    results.append(Ack(message.topic, 0, len(disk.records), 0.0))
            await trio.lowlevel.checkpoint()
            disk.after()
            await trio.lowlevel.checkpoint()
        finally:
            disk.tell()
        return results


class LogHandle:
    def __init__(self, handle: creche.Handle[Log]) -> None:
        self.handle = handle

    async def send_batch(self, messages: Sequence[Message], /) -> Sequence[object]:
        return await self.handle.ask.append(messages)


class Scene:
    """A database, a log, and the relay between them."""

    def __init__(self, runtime: Runtime, db: component.Db, disk: Disk, log: LogHandle) -> None:
        self.runtime = runtime
        self.db = db
        self.disk = disk
        self.log = log
        self.events: list[Event] = []
        runtime.events.subscribe(self.events.append)

    async def relay(self, *, poll: float = 3600.0, batch: int = 256) -> creche.Handle[component.OutboxRelay]:
        return await self.runtime.start(
            component.relay(self.db, self.log, poll=poll, batch=batch).options(backoff=AT_ONCE)
        )

    async def publish(self, *values: str) -> None:
        async with self.db.transaction() as tx:
            for value in values:
                await tx.publish(Message("topic", value.encode()))

    async def arrival(self, *values: str) -> None:
        await self.disk.wait_for(lambda: self.disk.values == list(values))

    async def idle(self) -> None:
        """Wait until the relay has nothing to do and waits to be woken."""
        while not lease_of(self.db).outbox_changed.statistics().tasks_waiting:
            await trio.lowlevel.checkpoint()

    async def emptied(self) -> None:
        while await self.db.scalar(OUTBOX):
            await trio.lowlevel.checkpoint()


@asynccontextmanager
async def scene(folder: Path) -> AsyncGenerator[Scene]:
    disk = Disk()
    async with running(folder) as (runtime, db):
        log = LogHandle(await runtime.start(creche.child(Log, disk).options(backoff=AT_ONCE)))
        it = Scene(runtime, db, disk, log)
        yield it
        crashes = [event.error for event in it.events if isinstance(event, Crashed)]
        assert [error for error in crashes if not error.startswith("Killed")] == []  # failures are states, not crashes


# --- publishing -------------------------------------------------------------------------------------------------------


async def test_a_message_is_sent_if_and_only_if_its_transaction_commits(tmp_path: Path) -> None:
    """Rolled back with the rest, or there with the rest; then it is sent and leaves the outbox."""
    async with scene(tmp_path) as it:
        with pytest.raises(RuntimeError):
            async with it.db.transaction() as tx:
                await tx.publish(Message("topic", b"never"))
                await tx.execute(item("a"))
                await tx.publish(Message("topic", b"never"))
                raise RuntimeError
        async with it.db.transaction() as tx:
            await tx.execute(item("b"))
            await tx.publish(Message("topic", b"value", b"key", {"a": "ä"}))
        assert await it.db.scalar(OUTBOX) == 1
        await it.relay()
        await it.arrival("value")
        await it.emptied()
        (record,) = it.disk.records
        assert (record.topic, record.key, record.value, record.headers["a"]) == ("topic", b"key", b"value", "ä")
        assert await names(it.db) == ["b"]


async def test_a_message_carries_the_trace_of_its_publisher(tmp_path: Path) -> None:
    """The relay has a context of its own, so the trace is stored with the message."""
    async with scene(tmp_path) as it:
        await it.relay()
        with carrying(trace_id="t-1"):
            await it.publish("traced")
        await it.publish("not traced")
        await it.disk.wait_for(lambda: len(it.disk.records) == 2)
        assert [record.headers.get(TRACE_HEADER) for record in it.disk.records] == ["t-1", None]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (Message("no topic", b""), ValueError),
        (Message("", b""), ValueError),
        (Message("topic", NO_BYTES), TypeError),
        (Message("topic", b"", NO_BYTES), TypeError),
        (Message("topic", b"", None, {"a": NO_TEXT}), TypeError),
        (Message("topic", b"", None, {"a": "\ud800"}), UnicodeError),
        (Message("topic", bytes(1_048_570), b"key", {"a": "text"}), MessageTooLarge),
    ],
)
async def test_what_no_log_would_take_is_refused_when_it_is_published(
    tmp_path: Path, message: Message, error: type[Exception]
) -> None:
    """Later it would hold up all that was published after it."""
    async with running(tmp_path) as (_, db):
        async with db.transaction() as tx:
            with pytest.raises(error):
                await tx.publish(message)
        assert await db.scalar(OUTBOX) == 0


async def test_what_was_published_reaches_a_log_that_takes_less(tmp_path: Path) -> None:
    """It was accepted and others wait behind it; its id, which the relay adds, may make it too large, too."""
    async with running(tmp_path) as (runtime, db):
        log = await runtime.start(mq.component(mq.Config(path=str(tmp_path / "log"), max_message_bytes=10)))
        async with db.transaction() as tx:
            await tx.publish(Message("topic", b"x" * 11))
            await tx.publish(Message("topic", b"behind"))
        await runtime.start(component.relay(db, log))
        while await db.scalar(OUTBOX):
            await trio.lowlevel.checkpoint()
        assert sum(partition.end for partition in (await log.topics.describe("topic")).partitions) == 2


async def test_the_same_file_gives_no_id_twice_and_another_file_has_another_identity(tmp_path: Path) -> None:
    """Else a log that recognises what it has would drop messages that it has not."""
    ids: list[str] = []
    for folder in ("one", "one", "two"):
        async with scene(tmp_path / folder) as it:
            await it.relay()
            await it.publish("x")
            await it.arrival("x")
            await it.emptied()
            ids.append(it.disk.records[0].headers[OUTBOX_HEADER])
    first, second, other = (text.split(":") for text in ids)
    assert first[0] == second[0] != other[0]
    assert first[1] == "1"
    assert second[1] == "2"  # though the outbox was empty again


# --- relaying ---------------------------------------------------------------------------------------------------------


async def test_the_relay_keeps_the_order_of_the_commits_over_many_batches(tmp_path: Path) -> None:
    """Messages of one transaction stay together and in their order."""
    async with scene(tmp_path) as it:
        await it.publish("a1", "a2", "a3")
        await it.publish("b1", "b2", "b3", "b4")
        await it.relay(batch=2)
        await it.arrival("a1", "a2", "a3", "b1", "b2", "b3", "b4")
        await it.emptied()
        assert it.disk.batches == 4


async def test_a_commit_wakes_the_relay(tmp_path: Path) -> None:
    """It does not wait for the next poll, which is an hour away."""
    async with scene(tmp_path) as it:
        await it.relay(poll=3600.0)
        await it.idle()
        await it.publish("a")
        await it.arrival("a")
        await it.idle()
        await it.publish("b")
        await it.arrival("a", "b")


async def test_what_another_process_publishes_is_found_by_polling(tmp_path: Path) -> None:
    """Nobody wakes the relay for it."""
    async with scene(tmp_path) as it:
        await it.relay(poll=0.01)
        with raw(tmp_path) as other:
            other.execute("INSERT INTO creche_outbox (topic, value, headers) VALUES ('topic', X'61', '{}')")
        await it.arrival("a")


async def test_a_batch_that_is_sent_but_not_deleted_is_sent_again_and_recognised(tmp_path: Path) -> None:
    """The relay dies between the two; the log sees the same ids again and stores nothing twice."""
    async with scene(tmp_path) as it:
        relay = await it.relay()
        kills = iter([True])

        def kill_once() -> None:
            if next(kills, False):
                it.runtime.kill(relay, "between send and delete")

        it.disk.after = kill_once
        await it.publish("a", "b")
        await it.disk.wait_for(lambda: it.disk.batches == 2)
        await it.emptied()
        assert it.disk.values == ["a", "b"]
        assert it.runtime.node_of(relay).incarnation == 2


async def test_a_log_that_is_down_is_tried_again_without_a_crash(tmp_path: Path) -> None:
    """Each failure is an event with the delay; nothing is lost, nothing restarts."""
    async with scene(tmp_path) as it:
        relay = await it.relay()
        left = iter(range(3))

        def fail() -> None:
            if next(left, None) is not None:
                raise Unavailable("log", "down", retry_after=0.001)

        it.disk.before = fail
        await it.publish("a")
        await it.arrival("a")
        stalled = [event for event in it.events if isinstance(event, component.OutboxStalled)]
        assert len(stalled) == 3
        assert "down" in stalled[0].error
        assert 0 < stalled[0].retry_in < stalled[2].retry_in
        assert it.runtime.node_of(relay).incarnation == 1


async def test_a_message_that_was_not_sent_stays_and_holds_up_those_behind_it(tmp_path: Path) -> None:
    """Those before it are done; it and those behind it are sent again, in order, until they are taken."""
    async with scene(tmp_path) as it:
        refused: list[bytes] = []

        def refuse(message: Message) -> bool:
            if len(refused) < 4 and message.value != b"a":
                refused.append(message.value)
                return True
            return False

        it.disk.refuse = refuse
        await it.publish("a", "b", "c")
        await it.relay()
        await it.arrival("a", "b", "c")
        await it.emptied()
        assert refused == [b"b", b"c", b"b", b"c"]
        assert it.disk.batches == 3


async def test_a_message_that_alone_was_refused_is_not_lost(tmp_path: Path) -> None:
    """Though the log took the one behind it, the relay deletes neither before it has taken both."""
    async with scene(tmp_path) as it:
        refusals = iter(range(2))
        it.disk.refuse = lambda message: message.value == b"b" and next(refusals, None) is not None
        await it.publish("a", "b", "c")
        await it.relay()
        await it.arrival("a", "c", "b")
        await it.emptied()


async def test_a_log_that_dies_over_a_batch_gets_it_again(tmp_path: Path) -> None:
    """An outcome that is unknown is safe to repeat here, because the log recognises the ids."""
    async with scene(tmp_path) as it:
        relay = await it.relay()
        kills = iter([True])

        def kill_once() -> None:
            if next(kills, False):
                it.runtime.kill(it.log.handle, "over a batch")

        it.disk.after = kill_once
        await it.publish("a", "b")
        await it.disk.wait_for(lambda: it.disk.batches == 2)
        await it.emptied()
        assert it.disk.values == ["a", "b"]
        assert it.runtime.node_of(relay).incarnation == 1


async def test_a_relay_outlives_the_database_s_crashes(tmp_path: Path) -> None:
    """It is woken by the end of the incarnation that it waited at, and finds the successor."""
    async with scene(tmp_path) as it:
        relay = await it.relay()
        for value in "abc":
            await it.publish(value)
            await it.arrival(*"abc"[: "abc".index(value) + 1])
            await it.idle()
            await killed(it.runtime, it.db)
        await it.publish("d")
        await it.arrival("a", "b", "c", "d")
        assert it.runtime.node_of(relay).incarnation == 1


WORKERS, MESSAGES = 5, 20


async def kill_all_around(it: Scene, relay: object, random: Random) -> None:
    for victim in itertools.cycle([it.db, relay, it.log.handle]):
        await trio.sleep(random.uniform(0, 0.003))
        it.runtime.kill(victim, "chaos")


@pytest.mark.parametrize("seed", range(3))
async def test_killed_at_random_each_committed_message_is_in_the_log_once_and_in_order(
    tmp_path: Path, seed: int
) -> None:
    """Relay, database and log die again and again: the log has exactly what was committed, as it was committed."""
    random = Random(seed)
    told: dict[str, str] = {}

    async def work(it: Scene, worker: int) -> None:
        for number in range(MESSAGES):
            value = f"{worker}.{number:02}"
            told[value] = await outcome_of(lambda value=value: it.publish(value))  # type: ignore[misc]

    async with scene(tmp_path) as it:
        relay = await it.relay(poll=0.01, batch=7)
        async with trio.open_nursery() as killing:
            killing.start_soon(kill_all_around, it, relay, random)
            async with trio.open_nursery() as nursery:
                for worker in range(WORKERS):
                    nursery.start_soon(work, it, worker)
            killing.cancel_scope.cancel()
        await it.emptied()
        values = it.disk.values
        assert {value for value, how in told.items() if how == "all"} <= set(values)
        assert set(values) <= {value for value, how in told.items() if how != "nothing"}
        assert len(values) == len(set(values))
        ids = [int(record.headers[OUTBOX_HEADER].split(":")[1]) for record in it.disk.records]
        assert ids == sorted(ids)
        for worker in range(WORKERS):
            own = [value for value in values if value.startswith(f"{worker}.")]
            assert own == sorted(own)
        assert it.runtime.node_of(it.db).incarnation > 1
