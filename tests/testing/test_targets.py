"""Whom the plugin's faults strike, and when; and what they refuse to aim at."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
import trio

import creche
from creche import testing
from creche.runtime.interposition import interposed
from creche.testing.plugin import Faults


class Till(creche.Actor):
    async def sell(self, order: int) -> int:
        return order

    @creche.batched(limit=10)
    async def book(self, items: Sequence[creche.BatchItem[int, None]]) -> None:
        for item in items:
            item.reply(None)


class Bank(creche.Actor):
    async def deposit(self, amount: int) -> None: ...


@asynccontextmanager
async def a_runtime() -> AsyncGenerator[tuple[creche.Runtime, Faults]]:
    injector = testing.Injector()
    with interposed(injector):
        opening = creche.open_runtime("r")
    async with opening as runtime:
        yield runtime, Faults(injector, runtime)


async def struck(calls: Sequence[Callable[[], Any]]) -> list[bool]:
    """Make the calls at once, and tell which of them were struck."""
    results = [False] * len(calls)

    async def make(number: int) -> None:
        try:
            await calls[number]()
        except creche.OutcomeUnknown as error:
            results[number] = isinstance(error.__cause__, testing.FaultInjected)

    async with trio.open_nursery() as nursery:
        for number in range(len(calls)):
            nursery.start_soon(make, number)
    return results


@pytest.mark.parametrize("message", [Till.book, None])
async def test_each_item_of_a_batch_is_a_message(message: Any) -> None:
    async with a_runtime() as (runtime, faults):
        till = await runtime.start(creche.child(Till))
        faults.crash_at(till, 3, message)
        assert await struck([lambda: till.ask.book(1)] * 2) == [False] * 2
        assert await struck([lambda: till.ask.book(1)] * 5) == [True] * 5  # it has the third one
        assert await struck([lambda: till.ask.book(1)] * 5) == [False] * 5


async def test_a_pools_messages_are_counted_whoever_handles_them() -> None:
    async with a_runtime() as (runtime, faults):
        pool = await runtime.start(creche.pool("pool", creche.child(Till), size=3, routing="round_robin"))
        faults.crash_at(pool, 5, Till.sell)
        outcomes = [(await struck([lambda: pool.ask.sell(1)]))[0] for _ in range(20)]
        assert [number for number, was_struck in enumerate(outcomes, 1) if was_struck] == [5]
        faults.crash_at("root/pool/worker-2", 1)
        assert sum(await struck([lambda: pool.ask.sell(1)] * 9)) == 1


async def test_what_can_never_be_struck_is_refused() -> None:
    async with a_runtime() as (runtime, faults), creche.open_runtime("other") as other:
        till = await runtime.start(creche.child(Till))
        stranger = await other.start(creche.child(Till))
        group = await runtime.start(creche.supervisor("group", creche.child(Bank)))
        gone = await runtime.start(creche.child(Till).options(name="gone"))
        await runtime.stop(gone)
        refused: Sequence[tuple[object, Any, str]] = [
            (stranger, None, "target = <Handle.*it is of another runtime, 'other'"),
            (group, None, "a supervisor handles no messages: name an actor below it, as in 'root/group/bank'"),
            ("root/group", None, "target = 'root/group': a supervisor handles no messages"),
            ("root/nobody", None, "target = 'root/nobody': nothing is there.*start it first"),
            (gone, None, "it has stopped for good"),
            (3, None, "target = 3: the handle of an actor, or its path"),
            (till, "sel", "message = 'sel': a message of root/till, of which there are: book, sell"),
            (till, Bank.deposit, "message = 'deposit': a message of root/till"),
            (till, cast("Any", 3), "message = 3: a message, as in Till.sell"),
        ]
        for target, message, match in refused:
            with pytest.raises(creche.SpecInvalid, match=match):
                faults.crash_at(target, 1, message)
        assert await struck([lambda: till.ask.sell(1)]) == [False]


async def test_a_start_is_refused_to_actors_only() -> None:
    async with a_runtime() as (runtime, faults), creche.open_runtime("other") as other:
        stranger = await other.start(creche.child(Till))
        pool = await runtime.start(creche.pool("pool", creche.child(Till), size=2))
        refused: Sequence[tuple[object, str]] = [
            (pool, "a pool is not refused a start, but an actor below it, as in 'root/pool/worker-1' may be"),
            ("root", "a supervisor is not refused a start"),
            ("rot/till", "nothing is there .paths begin with 'root/'."),
            (stranger, "it is of another runtime"),
        ]
        for target, match in refused:
            with pytest.raises(creche.SpecInvalid, match=match):
                faults.refuse_start(target)
        faults.refuse_start("root/till")
        with pytest.raises(creche.StartFailed):
            await runtime.start(creche.child(Till))
