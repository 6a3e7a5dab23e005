"""How messages beyond the plain ones type: checked by mypy and pyright, never run. See `handle_usage`."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar, assert_type

import outcome
import trio

import creche
from creche.runtime.agenda import Alarm
from creche.runtime.handle import Sender, Statistics

K = TypeVar("K")
V = TypeVar("V")


class Table(creche.Actor, Generic[K, V]):
    """A generic actor with messages of all kinds."""

    def __init__(self, rows: dict[K, V]) -> None:
        self.rows = rows
        self.waiting: list[tuple[K, creche.ReplySlot[V]]] = []

    @creche.batched(limit=100, on_caller_gone="cancel", raises=KeyError)
    async def get(self, items: Sequence[creche.BatchItem[K, V]]) -> None:
        for item in items:
            assert_type(item.value, K)
            assert_type(item.begin(), bool)
            item.reply(self.rows[item.value])
            item.reply(item.value)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    async def wait_for(self, key: K) -> V:
        slot: creche.ReplySlot[V] = self.context.defer()
        self.waiting.append((key, slot))
        return slot.later()

    async def put(self, key: K, value: V, times: int = 1) -> None:
        for waiting, slot in self.waiting:
            if waiting == key:
                slot.reply(value)
        assert_type(self.context.after(1.0, self._tick, "once"), Alarm)
        self.context.every(1.0, self._tick, 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    @creche.message(concurrency=8, key=str)
    async def load(self, key: K) -> V:
        return self.rows[key]

    async def _tick(self, word: str) -> None: ...


async def batches(table: creche.Handle[Table[str, int]]) -> None:
    """Callers of a batched message see one argument and one reply."""
    assert_type(await table.ask.get("key"), int)
    assert_type(await table.call(Table[str, int].get, "key"), int)
    await table.ask.get(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await table.ask.get()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await table.ask.get("a", "b")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def others(table: creche.Handle[Table[str, int]]) -> None:
    """Deferred and concurrent messages look like any other."""
    assert_type(await table.ask.wait_for("key"), int)
    assert_type(await table.ask.load("key"), int)
    await table.ask.load(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def many(table: creche.Handle[Table[str, int]]) -> None:
    """`call_many` checks the arguments of each call and knows what comes back."""
    assert_type(await table.call_many(Table[str, int].load, [("a",), ("b",)]), list[outcome.Outcome[int]])
    assert_type(await table.within(1).call_many(Table[str, int].get, [("a",)]), list[outcome.Outcome[int]])
    await table.call_many(Table[str, int].load, [(1,)])  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await table.call_many(Table[str, int].load, ["a"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]


async def senders(table: creche.Handle[Table[str, int]]) -> None:
    """A sender is Trio's channel of the message's argument."""
    sender = table.sender(Table[str, int].load)
    assert_type(sender, Sender[str])
    channel: trio.abc.SendChannel[str] = sender
    await channel.send("key")
    await sender.send(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    table.sender(Table[str, int].put)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    assert_type(table.statistics(), Statistics)


class Refused(creche.Actor):
    """What the decorators must refuse."""

    @creche.batched(limit=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def one_by_one(self, value: int) -> int:
        return value

    @creche.message(concurrency="many")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    async def crowd(self) -> None: ...

    @creche.batched()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue, reportUntypedFunctionDecorator]
    async def unlimited(self, items: Sequence[creche.BatchItem[int, int]]) -> None: ...
