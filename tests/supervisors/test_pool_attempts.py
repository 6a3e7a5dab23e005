"""Idempotent messages in pools: another worker may be the next to try."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
import creche.testing
from creche.supervisors.pools.pool import PoolSpec
from tests.core.support import Boom, asking, settle

MANY = creche.Intensity(10_000, 1)
AT_ONCE = creche.Backoff(free=10_000)
ROUTINGS: list[Any] = ["shared", "round_robin", "least_loaded", creche.by_key(), creche.sticky()]


class Log:
    """What the workers have done with each message."""

    def __init__(self) -> None:
        self.attempts = Counter[str]()
        self.done: list[str] = []
        self.crashes: dict[str, int] = {}
        self.by: dict[str, list[str]] = {}


class Worker(creche.Actor):
    def __init__(self, log: Log) -> None:
        self.log = log

    @creche.message(idempotent=True, attempts=3)
    async def work(self, word: str, seconds: float = 0.0) -> str:
        self.log.attempts[word] += 1
        self.log.by.setdefault(word, []).append(self.context.path)
        await trio.sleep(seconds)
        if self.log.attempts[word] <= self.log.crashes.get(word, 0):
            raise Boom(word)
        self.log.done.append(word)
        return word


def a_pool(log: Log, size: int = 3, **options: Any) -> PoolSpec[Worker]:
    worker = creche.child(Worker, log).options(backoff=AT_ONCE)
    return creche.pool("pool", worker, size=size, intensity=MANY, **options)


@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
async def test_a_pool_tries_an_idempotent_message_again(routing: Any, autojump_clock: MockClock) -> None:
    """Whatever the routing: calls, casts and parts of many; and the figures of the queue stay right."""
    log = Log()
    log.crashes = {"a": 1, "b": 2, "c": 9, "d": 1}
    async with creche.open_runtime("t") as runtime:
        letters = runtime.keep_dead_letters()
        pool = await runtime.start(a_pool(log, routing=routing))
        assert await pool.ask.work("a", 1) == "a"
        await pool.cast(Worker.work, "d", 1)
        outcomes = await pool.call_many(Worker.work, [("b", 1), ("c", 1), ("e", 1)])
        assert [outcome.unwrap() for outcome in (outcomes[0], outcomes[2])] == ["b", "e"]
        with pytest.raises(creche.OutcomeUnknown, match="after 3 attempts") as told:
            outcomes[1].unwrap()
        assert [str(cause) for cause in told.value.causes] == ["c", "c", "c"]
        await trio.sleep(10)
        assert log.attempts == {"a": 2, "b": 3, "c": 3, "d": 2, "e": 1}
        assert sorted(log.done) == ["a", "b", "d", "e"]
        assert [(letter.path, letter.reason, letter.args[0]) for letter in letters.list()] == [
            ("root/pool", "poison", "c")
        ]
        log.crashes.clear()
        assert letters.replay() == 1
        await trio.sleep(10)
        assert log.done[-1] == "c"
        now = pool.statistics()
        assert (now.queued, now.busy, now.handled) == (0, 0, 5)


async def test_another_worker_may_take_what_its_worker_died_of(autojump_clock: MockClock) -> None:
    """While the first one is down."""
    log = Log()
    log.crashes = {"a": 1}
    minute = creche.Backoff(first=60, cap=60, free=0, jitter=0)
    async with creche.open_runtime("t") as runtime:
        worker = creche.child(Worker, log).options(backoff=minute)
        pool = await runtime.start(creche.pool("pool", worker, size=2))
        await pool.ask.work("a")
        assert trio.current_time() < 60
        first, second = log.by["a"]
        assert first != second


async def test_the_next_attempt_is_first_in_a_pool_too(autojump_clock: MockClock) -> None:
    """For whoever is free first."""
    log = Log()
    log.crashes = {"a": 2}
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        pool = await runtime.start(a_pool(log, size=1))
        replies = [asking(nursery, pool.ask.work, "a", 1)]
        await settle()
        replies += [asking(nursery, pool.ask.work, word, 1) for word in "bc"]
        assert [await reply.settled() for reply in replies] == ["value"] * 3
        assert log.done[0] == "a"


@pytest.mark.parametrize("routing", ROUTINGS, ids=str)
async def test_the_next_attempt_comes_before_others_of_its_key(routing: Any, autojump_clock: MockClock) -> None:
    """One worker, one key: it is first again; a resize or a drain in the middle loses nothing."""
    for then in ("nothing", "shrink", "drain"):
        log = Log()
        log.crashes = {"a": 2}
        async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
            pool = await runtime.start(a_pool(log, size=2, routing=routing))
            replies = []
            for word in "aaaa":
                replies.append(asking(nursery, pool.ask.work, word, 1))
                await settle()
            if then == "shrink":
                nursery.start_soon(pool.resize, 1)
            elif then == "drain":
                nursery.start_soon(pool.drain)
            whats = [await reply.settled() for reply in replies]
            # A worker that dies in a drain does not come back: what it had tried is told so, the rest never ran.
            assert set(whats) <= {"value", *(("OutcomeUnknown", "NotDelivered") if then == "drain" else ())}
            assert len(log.done) == whats.count("value")


def test_attempts_at_random() -> None:
    """Every message has one outcome, no more attempts than it may have, and what is accepted is not lost.

    A cast is done, or it is a letter; a call is told which.
    """
    for seed in range(72):
        creche.testing.run(_at_random, seed, seed=seed)


async def _at_random(seed: int) -> None:
    dice = random.Random(seed)
    log = Log()
    outcomes: dict[str, str] = {}
    accepted: list[str] = []
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        letters = runtime.keep_dead_letters(10_000)
        routing = (*ROUTINGS, None)[seed % (len(ROUTINGS) + 1)]  # None: a single actor
        size = dice.randrange(1, 4)
        backoff = creche.Backoff(first=dice.choice((0.1, 3)), cap=3, free=dice.randrange(3))
        worker = creche.child(Worker, log).options(backoff=backoff, down_wait=dice.choice((0.5, 60)))
        pool: creche.Handle[Worker]
        if routing is None:
            pool = await runtime.start(worker.options(name="pool"))
        else:
            pool = await runtime.start(creche.pool("pool", worker, size=size, routing=routing, intensity=MANY))

        async def sender(me: int) -> None:
            for number in range(8):
                word = f"{me}.{number}"
                log.crashes[word] = dice.choice((0, 0, 1, 2, 9))
                try:
                    if dice.random() < 0.3:
                        await pool.cast(Worker.work, word, dice.choice((0, 0.1, 1)))
                        accepted.append(word)
                    else:
                        with trio.move_on_after(dice.choice((0.05, 2, 1000))) as scope:
                            await pool.within(dice.choice((0.5, 1000))).ask.work(word, dice.choice((0, 0.1, 1)))
                            outcomes[word] = "value"
                        if scope.cancelled_caught:
                            outcomes[word] = "cancelled"
                except creche.CallFailed as error:
                    outcomes[word] = type(error).__name__
                    _see_that_it_is_told_right(error, log.attempts[word])

        async def trouble() -> None:
            for _ in range(10):
                await trio.sleep(dice.uniform(0, 2))
                what = dice.randrange(3)
                if what == 0 and isinstance(pool, creche.Pool):
                    await pool.resize(dice.randrange(1, 4))
                else:
                    runtime.kill(dice.choice(list(runtime.node_of(pool).children()) or [pool]), "chaos")

        async with trio.open_nursery() as nursery:
            for me in range(5):
                nursery.start_soon(sender, me)
            nursery.start_soon(trouble)
        if dice.random() < 0.5:
            await trio.sleep(1000)
            now = pool.statistics()
            assert (now.queued, getattr(now, "busy", 0)) == (0, 0)
        await runtime.stop(pool)
        assert len(outcomes) + len(accepted) == 40
        assert max(log.attempts.values()) <= 3
        done = Counter(log.done)
        dead = Counter(letter.args[0] for letter in letters.list())
        assert max(done.values()) <= 3  # killed after the work was done, before its end: that is what idempotent is for
        for word in accepted:
            assert done[word] or dead[word] == 1, (word, log.attempts[word])
        for letter in letters.list():
            assert letter.attempts == log.attempts[letter.args[0]], letter
            assert letter.reason != "poison" or letter.attempts == 3


def _see_that_it_is_told_right(error: creche.CallFailed, attempts: int) -> None:
    if isinstance(error, creche.NotDelivered | creche.ActorStopped):
        assert attempts == 0
    elif isinstance(error, creche.OutcomeUnknown):
        assert len(error.causes) == attempts or (attempts == 1 and not error.causes)
    elif isinstance(error, creche.DeadlineExceeded):
        assert error.delivered == (attempts > 0)
