"""Pipelines: bounded, driven by demand, each item with exactly one outcome."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
import creche.testing
from tests.cancelling import Strike, everywhere, prove_idle
from tests.core.support import Boom, asking, settle

MANY = creche.Intensity(10_000, 1)
Body = Callable[[Any], Awaitable[Any]]


class Step(creche.Actor):
    """A stage whose work is given by the test."""

    def __init__(self, body: Body) -> None:
        self.body = body

    async def work(self, item: Any) -> Any:
        return await self.body(item)


class Again(Step):
    """The same, and it may be done twice."""

    @creche.message(idempotent=True)
    async def work(self, item: Any) -> Any:
        return await self.body(item)


class Follows(Step):
    """The same, and it is given up with whoever waits for it."""

    @creche.message(on_caller_gone="cancel")
    async def work(self, item: Any) -> Any:
        return await self.body(item)


def a_stage(name: str, body: Body, cls: type[Step] = Step, **options: Any) -> Any:
    worker = creche.child(cls, body).options(backoff=creche.Backoff(free=10_000))
    return creche.stage(worker, name=name, **options)


async def plus_one(item: int) -> int:
    return item + 1


async def takes_a_second(item: Any) -> Any:
    await trio.sleep(1)
    return item


async def times_two(item: int) -> int:
    return item * 2


async def test_items_go_through_all_stages() -> None:
    """In turn; a single one by submit, all of a source by run, in order."""
    async with creche.open_runtime("t") as runtime:
        line = await runtime.start(creche.pipeline("line", a_stage("add", plus_one, size=3), a_stage("two", times_two)))
        outcome = await line.submit(3)
        assert (outcome.item, outcome.results, outcome.error, outcome.stage) == (3, (8,), None, "")
        outcomes = await line.run(range(5))
        assert [one.unwrap() for one in outcomes] == [(2,), (4,), (6,), (8,), (10,)]
        now = line.statistics()
        assert (now.path, now.in_flight, now.done, now.failed) == ("root/line", 0, 6, 0)
        assert [(one.name, one.entered, one.passed, one.inside, one.room) for one in now.stages] == [
            ("add", 6, 6, 0, 3),
            ("two", 6, 6, 0, 1),
        ]


async def test_an_item_may_become_several_or_none(autojump_clock: MockClock) -> None:
    """None drops it; what a stage with many=True makes goes on one by one, and comes together again, in order."""

    async def odd(item: int) -> int | None:
        return item if item % 2 else None

    async def letters(item: int) -> list[str]:
        return [f"{item}{letter}" for letter in "abcdef"[:item]]

    async def slow_first(item: str) -> str | None:
        await trio.sleep(10 if item.endswith("a") else 1)
        return None if item.endswith("c") else item

    stages = a_stage("odd", odd), a_stage("many", letters, many=True), a_stage("slow", slow_first, size=3)
    async with creche.open_runtime("t") as runtime:
        line = await runtime.start(creche.pipeline("line", *stages))
        outcomes = await line.run([0, 1, 2, 3])
        assert [one.results for one in outcomes] == [(), ("1a",), (), ("3a", "3b")]
        dropped = [(one.name, one.entered, one.passed, one.dropped) for one in line.statistics().stages]
        assert dropped == [("odd", 4, 2, 2), ("many", 2, 2, 0), ("slow", 4, 3, 1)]


async def test_the_source_is_asked_for_no_more_than_there_is_room_for(autojump_clock: MockClock) -> None:
    """However slow the last stage is; and what nobody takes holds it up, too."""
    asked = 0

    async def source() -> AsyncIterator[int]:
        nonlocal asked
        while True:
            asked += 1
            yield asked

    async def never(item: int) -> None:
        await trio.sleep_forever()

    async with creche.open_runtime("t") as runtime:
        stages = a_stage("one", plus_one, size=2), a_stage("two", never, Follows, size=2, buffer=3)
        line = await runtime.start(creche.pipeline("line", *stages))
        async with line.process(source()):
            await trio.sleep(100)
            assert asked == 2 + 2 + 3
            assert [(one.inside, one.room) for one in line.statistics().stages] == [(2, 0), (5, 0)]
        await settle()
        assert line.statistics().in_flight == 0

        quick = await runtime.start(creche.pipeline("quick", a_stage("one", plus_one, size=2, buffer=1)))
        asked = 0
        async with quick.process(source()) as outcomes:
            await trio.sleep(100)
            assert asked == 3
            async for outcome in outcomes:
                if outcome.item == 50:
                    break
        assert asked <= 50 + 3


@pytest.mark.parametrize("ordered", [True, False])
async def test_outcomes_come_in_order_where_that_is_wanted(ordered: bool, autojump_clock: MockClock) -> None:
    """Else as they are ready. A slow item holds up those behind it, and in the end the source."""

    async def slow_first(item: int) -> int:
        await trio.sleep(100 if item == 0 else 1)
        return item

    async with creche.open_runtime("t") as runtime:
        line = await runtime.start(creche.pipeline("line", a_stage("slow", slow_first, size=4)))
        async with line.process(range(9), ordered=ordered) as outcomes:
            items = [outcome.item async for outcome in outcomes]
        assert items == list(range(9)) if ordered else items[-1] == 0
        assert sorted(items) == list(range(9))


async def test_a_failed_item_is_an_outcome_like_any_other() -> None:
    """With the error and the stage where it failed; the others go on."""

    class No(creche.DomainError):
        """An answer."""

    async def picky(item: int) -> int:
        if item == 1:
            raise No(1, "not this one")
        if item == 2:
            raise Boom
        return item

    async with creche.open_runtime("t") as runtime:
        line = await runtime.start(creche.pipeline("line", a_stage("add", plus_one), a_stage("picky", picky)))
        outcomes = await line.run(range(4))
        assert [type(one.error).__name__ for one in outcomes] == ["No", "OutcomeUnknown", "NoneType", "NoneType"]
        assert [one.stage for one in outcomes] == ["picky", "picky", "", ""]
        with pytest.raises(No):
            outcomes[0].unwrap()
        assert isinstance(outcomes[1].error and outcomes[1].error.__cause__, Boom)
        assert (line.statistics().done, line.statistics().failed) == (2, 2)


async def test_an_item_of_an_idempotent_stage_is_tried_again() -> None:
    """A crash of its worker loses the attempt, and nothing else."""
    attempts = Counter[int]()

    async def dies_once(item: int) -> int:
        attempts[item] += 1
        if attempts[item] == 1 or item == 3:
            raise Boom
        return item

    async with creche.open_runtime("t") as runtime:
        spec = creche.pipeline("line", a_stage("once", dies_once, Again, size=2))
        line = await runtime.start(spec)
        outcomes = await line.run(range(3))
        assert [one.unwrap() for one in outcomes] == [(0,), (1,), (2,)]
        assert attempts == {0: 2, 1: 2, 2: 2}


async def test_what_the_source_raises_comes_after_its_items(autojump_clock: MockClock) -> None:
    """All items before it have their outcomes first; a source that cannot even begin is told at once."""

    async def source() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise Boom("source")

    async with creche.open_runtime("t") as runtime:
        line = await runtime.start(creche.pipeline("line", a_stage("slow", takes_a_second)))
        seen: list[int] = []
        with pytest.raises(Boom, match="source"):
            async with line.process(source()) as outcomes:
                async for outcome in outcomes:
                    seen.append(outcome.item)  # noqa: PERF401  # what came before the error counts
        assert seen == [1, 2]
        with pytest.raises(Boom, match="body"):
            async with line.process(range(9)):
                raise Boom("body")
        assert await line.run([]) == []


async def test_leaving_the_block_stops_the_source(autojump_clock: MockClock) -> None:
    """It is closed, and what is on its way is cancelled: by a break, an error or a cancel alike."""
    log: list[str] = []

    async def source() -> AsyncIterator[int]:
        try:
            for number in range(99):
                yield number
        finally:
            log.append("closed")

    async def follows(item: int) -> int:
        try:
            await trio.sleep(10)
        except trio.Cancelled:
            log.append("cancelled")
            raise
        return item

    async with creche.open_runtime("t") as runtime:
        line = await runtime.start(creche.pipeline("line", a_stage("slow", follows, Follows, size=2)))
        async with line.process(source()):
            await trio.sleep(1)
        assert sorted(log) == ["cancelled", "cancelled", "closed"]
        log.clear()
        with trio.move_on_after(15):
            await line.run(source())
        assert sorted(log) == ["cancelled", "cancelled", "closed"]
        assert line.statistics().in_flight == 0
        assert [one.room for one in line.statistics().stages] == [2]

        send, receive = trio.open_memory_channel[int](9)
        send.send_nowait(1)
        async with line.process(receive) as outcomes:
            assert (await anext(outcomes)).item == 1
        with pytest.raises(trio.BrokenResourceError):
            send.send_nowait(2)


@pytest.mark.parametrize("how", ["drain", "stop", "runtime"])
async def test_a_drain_brings_items_to_their_end(how: str, autojump_clock: MockClock) -> None:
    """What is on its way passes all stages; the source is asked no more, and the iteration says so."""
    outcomes: list[creche.ItemOutcome] = []
    closed = trio.Event()

    async def consume(line: creche.Pipeline) -> None:
        with pytest.raises(creche.NotDelivered, match="closed"):
            async with line.process(range(99)) as stream:
                async for outcome in stream:
                    outcomes.append(outcome)  # noqa: PERF401  # what came before the error counts
        closed.set()

    async with trio.open_nursery() as nursery:
        async with creche.open_runtime("t") as runtime:
            stages = a_stage("one", takes_a_second, size=2), a_stage("two", takes_a_second, buffer=2)
            line = await runtime.start(creche.pipeline("line", *stages).options(drain=60))
            nursery.start_soon(consume, line)
            await trio.sleep(2.5)
            if how == "drain":
                await line.drain()
            elif how == "stop":
                await runtime.stop(line)
        await closed.wait()
        whats = [(one.item, type(one.error).__name__) for one in outcomes]
        done = sorted(item for item, what in whats if what == "NoneType")
        assert len(done) >= 4
        assert done == list(range(len(done)))
        assert {what for _, what in whats} <= {"NoneType", "NotDelivered"}
        late = await line.submit(1)
        assert isinstance(late.error, creche.NotDelivered)


async def test_a_drain_does_not_wait_for_ever(autojump_clock: MockClock) -> None:
    """After the drain time of the pipeline, its stages are stopped; what was on its way is told."""

    async def never(item: int) -> None:
        await trio.sleep_forever()

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        line = await runtime.start(creche.pipeline("line", a_stage("one", never)).options(drain=2))
        reply = asking(nursery, line.submit, 1)
        await settle()
        await line.drain()
        assert await reply.settled() == "value"
        assert isinstance(reply.value.error, creche.OutcomeUnknown)
        assert trio.current_time() < 20


async def test_wrong_pipelines_are_refused() -> None:
    """When they are made, before anything has started."""

    class Two(Step):
        async def other(self, item: Any) -> None: ...

    good = creche.child(Step, plus_one)
    for fix, make in (
        ("creche.child", lambda: creche.stage(Step)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ("1 or more", lambda: creche.stage(good, size=0)),
        ("0 or more", lambda: creche.stage(good, buffer=-1)),
        ("True or False", lambda: creche.stage(good, many=1)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ("say which", lambda: creche.stage(creche.child(Two, plus_one))),
        ("that is a message", lambda: creche.stage(good, Two.other)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ("letters", lambda: creche.stage(good, name="a/b")),
        ("give it a stage", lambda: creche.pipeline("line")),
        ("creche.stage", lambda: creche.pipeline("line", good)),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        ("different names", lambda: creche.pipeline("line", creche.stage(good), creche.stage(good))),
    ):
        with pytest.raises(creche.SpecInvalid) as told:
            make()
        assert fix in str(told.value), (fix, str(told.value))
    assert creche.stage(creche.child(Two, plus_one), Two.other).message == "other"
    line = creche.pipeline("line", creche.stage(good)).new_handle()
    with pytest.raises(creche.NotStarted):
        await line.submit(1)
    async with creche.open_runtime("t") as runtime:
        await runtime.start(good)
        with pytest.raises(creche.SpecInvalid, match="no pipeline"):
            runtime.handle("root/step", creche.pipeline("line", creche.stage(good)))


async def test_a_pipeline_survives_the_restart_of_its_stages(autojump_clock: MockClock) -> None:
    """A stage that gives up is restarted by the pipeline; items wait, or are told, and the room stays right."""
    left = 10

    async def dies(item: int) -> int:
        nonlocal left
        left -= 1
        if left > 0:
            raise Boom
        return item

    async with creche.open_runtime("t", intensity=MANY) as runtime:
        spec = creche.pipeline("line", a_stage("one", plus_one), a_stage("dies", dies), intensity=MANY)
        line = await runtime.start(spec)
        outcomes = await line.run(range(12))
        assert len(outcomes) == 12
        assert outcomes[-1].results == (12,)
        assert {type(one.error).__name__ for one in outcomes} == {"OutcomeUnknown", "NoneType"}
        assert [one.room for one in line.statistics().stages] == [1, 1]
        pools = [child.restarts for child in runtime.node_of("root/line").children()]
        assert sum(pools) >= 1


def test_a_pipeline_is_cancelled_everywhere() -> None:
    """Submitting, and taking outcomes: no room is lost, and nothing is left behind."""

    async def pair(item: int) -> list[int]:
        await trio.lowlevel.checkpoint()
        return [item, item]

    async def submitting(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            stages = a_stage("pair", pair, Follows, many=True), a_stage("add", plus_one, Again)
            line = await runtime.start(creche.pipeline("line", *stages))
            end = await strike.cancel(line.submit, 1)
            assert end.what == "cancelled" or end.value.results == (2, 2)
            await _prove_whole(line)
            await prove_idle(runtime)

    async def running(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            line = await runtime.start(creche.pipeline("line", a_stage("add", plus_one), a_stage("two", times_two)))
            end = await strike.cancel(line.run, [1, 2])
            assert end.what == "cancelled" or [one.results for one in end.value] == [(4,), (6,)]
            await _prove_whole(line)
            await prove_idle(runtime)

    everywhere(submitting)
    everywhere(running)


async def _prove_whole(line: creche.Pipeline) -> None:
    await settle()
    now = line.statistics()
    assert now.in_flight == 0
    assert [one.inside for one in now.stages] == [0] * len(now.stages)


def test_a_pipeline_under_kills_at_random() -> None:
    """Every item that was taken from a source has one outcome, and it says what happened."""
    for seed in range(40):
        creche.testing.run(_at_random, seed, seed=seed)


async def _at_random(seed: int) -> None:
    dice = random.Random(seed)
    began, ended = Counter[int](), Counter[int]()

    async def first(item: int) -> list[int] | None:
        await trio.sleep(dice.choice((0, 0.1, 1)))
        return None if item % 7 == 0 else [item] * (item % 3 + 1)

    async def last(item: int) -> int:
        began[item] += 1
        await trio.sleep(dice.choice((0, 0.1, 1)))
        if dice.random() < 0.1:
            raise Boom
        ended[item] += 1
        return item

    stages = (
        a_stage("first", first, Again, size=dice.randrange(1, 4), buffer=dice.randrange(3), many=True),
        a_stage("last", last, dice.choice((Step, Again)), size=dice.randrange(1, 4), buffer=dice.randrange(3)),
    )
    async with creche.open_runtime("t", intensity=MANY) as runtime:
        line = await runtime.start(creche.pipeline("line", *stages, intensity=MANY))
        taken = 0
        outcomes: list[creche.ItemOutcome] = []

        async def source() -> AsyncIterator[int]:
            nonlocal taken
            for number in range(1, 41):
                taken = number
                yield number
                await trio.sleep(dice.choice((0, 0.1)))

        async def trouble() -> None:
            while True:
                await trio.sleep(dice.uniform(0, 1))
                pools = runtime.node_of("root/line").children()
                workers = dice.choice(pools).children()
                if workers:
                    runtime.kill(dice.choice(workers), "chaos")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trouble)
            async with line.process(source(), ordered=seed % 2 == 0) as stream:
                async for outcome in stream:
                    outcomes.append(outcome)
                    await trio.sleep(dice.choice((0, 0, 0.5)))
            nursery.cancel_scope.cancel()
        assert taken == 40
        assert sorted(one.item for one in outcomes) == list(range(1, 41))
        if seed % 2 == 0:
            assert [one.item for one in outcomes] == list(range(1, 41))
        for one in outcomes:
            _see_that_it_is_told_right(one, began[one.item], ended[one.item])
        await _prove_whole(line)


def _see_that_it_is_told_right(one: creche.ItemOutcome, began: int, ended: int) -> None:
    parts = one.item % 3 + 1
    if one.error is None:
        assert one.results == (() if one.item % 7 == 0 else (one.item,) * parts)
        assert ended >= len(one.results)
    else:
        assert one.stage in ("first", "last")
        assert len(one.results) < parts
        if one.stage == "first":
            assert began == 0
