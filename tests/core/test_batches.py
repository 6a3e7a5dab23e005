"""Batched messages: what waits together is handled together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.context import baggage, carrying
from tests.core.support import Boom, Gate, Reply, asking, kinds, recorded, settle

Items = Sequence[creche.BatchItem[int, int]]


class Bulk(creche.Actor):
    """Doubles numbers, in batches of at most four. A gate holds it up so that batches can form."""

    def __init__(self, gate: Gate | None = None) -> None:
        self.sizes: list[int] = []
        self.log: list[int | str] = []
        self.kept: list[creche.BatchItem[int, int]] = []
        self.gate = gate

    async def hold(self, gate: Gate) -> None:
        await gate.hold()

    async def mark(self, word: str) -> None:
        self.log.append(word)

    async def seen(self) -> list[int | str]:
        return self.log

    async def batches(self) -> list[int]:
        return self.sizes

    @creche.batched(limit=4)
    async def double(self, items: Items) -> None:
        self._note(items)
        for item in items:
            item.reply(item.value * 2)

    @creche.batched(limit=4)
    async def keep(self, items: Items) -> None:
        self._note(items)
        self.kept.extend(items)

    async def release(self) -> None:
        for item in self.kept:
            item.reply(-item.value)

    @creche.batched(limit=4, raises=KeyError)
    async def answer_some(self, items: Items) -> None:
        items[0].reply(items[0].value)
        raise KeyError("the rest")

    @creche.batched(limit=4)
    async def crash_after_one(self, items: Items) -> None:
        items[0].reply(items[0].value)
        raise Boom("batch")

    @creche.batched(limit=4, on_caller_gone="cancel")
    async def slow_for_callers(self, items: Items) -> None:
        self._note(items)
        assert self.gate is not None
        await self.gate.hold()
        self.log.append("not cancelled")
        for item in items:
            item.reply(item.value)

    @creche.batched(limit=4, on_caller_gone="cancel", raises=KeyError)
    async def answer_while_unwinding(self, items: Items) -> None:
        assert self.gate is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.gate.hold)
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("cleaned up")

    @creche.batched(limit=4)
    async def slow(self, items: Items) -> None:
        self._note(items)
        assert self.gate is not None
        await self.gate.hold()
        self.log.append("finished")
        for item in items:
            item.reply(item.value)

    @creche.batched(limit=4)
    async def context_of(self, items: Items) -> None:
        self.log.append(f"{dict(baggage())} {[dict(item.baggage) for item in items]}")
        for item in items:
            item.reply(int(creche.current_deadline()) if creche.current_deadline() < 1e9 else -1)

    def _note(self, items: Items) -> None:
        self.sizes.append(len(items))
        self.log.extend(item.value for item in items)


class Single(Bulk):
    """Overrides a batched message by a plain one."""

    async def double(self, value: int) -> int:
        return value * 20


Send = Callable[[creche.Handle[Bulk], trio.Nursery], list[Reply]]


async def queued_up(runtime: creche.Runtime, nursery: trio.Nursery, bulk: creche.Handle[Bulk], send: Send) -> list[Any]:
    """Let calls queue up behind a held message, then let it go. Returns their replies, in the order of sending."""
    gate = Gate()
    asking(nursery, bulk.ask.hold, gate)
    await gate.entered.wait()
    replies = send(bulk, nursery)
    await settle()
    gate.opened.set()
    return replies


async def test_a_batch_takes_what_waits(autojump_clock: MockClock) -> None:
    """All that waits, up to the limit, in order; alone if nothing else waits."""
    async with creche.open_runtime("test") as runtime:
        bulk = await runtime.start(creche.child(Bulk))
        results = await bulk.call_many(Bulk.double, [(number,) for number in range(10)])
        assert [result.unwrap() for result in results] == [number * 2 for number in range(10)]
        assert await bulk.ask.double(7) == 14
        assert await bulk.ask.batches() == [4, 4, 2, 1]
        assert await bulk.ask.seen() == [*range(10), 7]
        assert bulk.statistics().handled == 11 + 2


async def test_a_batch_keeps_the_order(autojump_clock: MockClock) -> None:
    """It never takes a message from behind one of another kind."""
    async with creche.open_runtime("test") as runtime:
        bulk = await runtime.start(creche.child(Bulk))
        for number in (1, 2):
            bulk.cast_nowait(Bulk.double, number)
        bulk.cast_nowait(Bulk.mark, "between")
        for number in (3, 4):
            bulk.cast_nowait(Bulk.double, number)
        assert await bulk.ask.seen() == [1, 2, "between", 3, 4]
        assert await bulk.ask.batches() == [2, 2]


async def test_items_may_be_answered_later(autojump_clock: MockClock) -> None:
    """An item that is kept is a deferred reply; one that is forgotten is given up."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        bulk = await runtime.start(creche.child(Bulk))
        reply = asking(nursery, bulk.ask.keep, 5)
        await settle()
        assert (reply.what, bulk.statistics().in_flight) == ("pending", 1)
        await bulk.ask.release()
        assert (await reply.settled(), reply.value) == ("value", -5)

        class Forgetful(creche.Actor):
            @creche.batched(limit=2)
            async def ask(self, items: Items) -> None:
                pass

        forgetful = await runtime.start(creche.child(Forgetful))
        with pytest.raises(creche.OutcomeUnknown, match="forgotten"):
            await forgetful.call(Forgetful.ask, 1)


async def test_an_answer_of_a_batch_is_for_all_that_have_none(autojump_clock: MockClock) -> None:
    """A declared error goes, in copies, to the items not answered yet; the actor lives."""
    async with creche.open_runtime("test") as runtime:
        bulk = await runtime.start(creche.child(Bulk))
        results = await bulk.call_many(Bulk.answer_some, [(1,), (2,), (3,)])
        assert results[0].unwrap() == 1
        errors = []
        for result in results[1:]:
            with pytest.raises(KeyError) as caught:
                result.unwrap()
            errors.append(caught.value)
        assert errors[0] is not errors[1]
        assert bulk.statistics().incarnation == 1


async def test_a_crash_of_a_batch(autojump_clock: MockClock) -> None:
    """Who has an answer keeps it, the others get OutcomeUnknown; what was not in the batch waits for the successor."""
    async with creche.open_runtime("test") as runtime:
        bulk = await runtime.start(creche.child(Bulk))
        results = await bulk.call_many(Bulk.crash_after_one, [(number,) for number in range(6)])
        kinds_of = [type(getattr(result, "error", None)).__name__ for result in results]
        assert kinds_of == ["NoneType", *["OutcomeUnknown"] * 3, "NoneType", "OutcomeUnknown"]
        assert bulk.statistics().restarts == 2


async def test_callers_of_a_batch_leave_at_once(autojump_clock: MockClock) -> None:
    """And the batch goes on for the others, whatever it declares."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        gate = Gate()
        bulk = await runtime.start(creche.child(Bulk, gate))
        replies = await queued_up(
            runtime, nursery, bulk, lambda b, n: [asking(n, b.ask.slow_for_callers, number) for number in (1, 2)]
        )
        await gate.entered.wait()
        replies[0].scope.cancel()
        assert await replies[0].settled() == "cancelled"
        gate.opened.set()
        assert await replies[1].settled() == "value"
        assert (await bulk.ask.seen())[-1] == "not cancelled"


@pytest.mark.parametrize("casts", [0, 1])
async def test_a_batch_is_cancelled_when_nobody_is_left(autojump_clock: MockClock, casts: int) -> None:
    """If it declares "cancel" and all of its callers have gone. A cast never goes."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        gate = Gate()
        bulk = await runtime.start(creche.child(Bulk, gate))

        def send(bulk: creche.Handle[Bulk], nursery: trio.Nursery) -> list[Reply]:
            for _ in range(casts):
                bulk.cast_nowait(Bulk.slow_for_callers, 0)
            return [asking(nursery, bulk.ask.slow_for_callers, number) for number in (1, 2)]

        replies = await queued_up(runtime, nursery, bulk, send)
        await gate.entered.wait()
        for reply in replies:
            reply.scope.cancel()
            assert await reply.settled() == "cancelled"
        gate.opened.set()
        assert ("not cancelled" in await bulk.ask.seen()) == bool(casts)
        assert (bulk.statistics().incarnation, bulk.statistics().in_flight) == (1, 0)


async def test_a_batch_that_declares_finish_finishes(autojump_clock: MockClock) -> None:
    """Though nobody waits for it any more."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        gate = Gate()
        bulk = await runtime.start(creche.child(Bulk, gate))
        reply = asking(nursery, bulk.ask.slow, 1)
        await gate.entered.wait()
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        gate.opened.set()
        assert await bulk.ask.seen() == [1, "finished"]


async def test_an_answer_while_a_batch_unwinds_is_no_crash(autojump_clock: MockClock) -> None:
    """A declared error in the cleanup of a cancelled batch, alone or together with the cancellation."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        gate = Gate()
        bulk = await runtime.start(creche.child(Bulk, gate))
        reply = asking(nursery, bulk.ask.answer_while_unwinding, 1)
        await gate.entered.wait()
        reply.scope.cancel()
        assert await reply.settled() == "cancelled"
        await settle()
        assert await bulk.ask.seen() == []
        assert (bulk.statistics().incarnation, bulk.statistics().in_flight) == (1, 0)


async def test_a_batch_leaves_out_the_revoked_and_the_expired(autojump_clock: MockClock) -> None:
    """Neither runs, and neither counts for the limit."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        bulk = await runtime.start(creche.child(Bulk))
        seen = recorded(runtime)

        def send(bulk: creche.Handle[Bulk], nursery: trio.Nursery) -> list[Reply]:
            bulk.within(expires=0).cast_nowait(Bulk.double, 100)
            replies = [asking(nursery, bulk.call_many, Bulk.double, [(1,), (2,)])]
            bulk.within(expires=0).cast_nowait(Bulk.double, 101)
            return replies

        replies = await queued_up(runtime, nursery, bulk, send)
        assert await replies[0].settled() == "value"
        revoked = await queued_up(runtime, nursery, bulk, lambda b, n: [asking(n, b.ask.double, 50)])
        revoked[0].scope.cancel()
        assert await revoked[0].settled() in ("cancelled", "value")
        numbers = [number for number in await bulk.ask.seen() if number != 50]
        assert numbers == [1, 2]
        assert kinds(seen, bulk.path) == ["DeadLetter", "DeadLetter"]


async def test_batched_messages_take_one_argument(autojump_clock: MockClock) -> None:
    """Anything else is a TypeError for its caller alone, or a dead letter."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        bulk = await runtime.start(creche.child(Bulk))
        seen = recorded(runtime)
        wrong: Any = bulk.ask
        replies = await queued_up(
            runtime, nursery, bulk, lambda b, n: [asking(n, b.ask.double, 1), asking(n, wrong.double, 1, 2)]
        )
        assert {await reply.settled() for reply in replies} == {"value", "TypeError"}
        bulk.cast_nowait(Bulk.double, *([1, 2, 3]))
        await settle()
        assert kinds(seen, bulk.path) == ["DeadLetter"]
        assert bulk.statistics().incarnation == 1


async def test_what_travels_with_the_items_of_a_batch(autojump_clock: MockClock) -> None:
    """Each item has its sender's baggage, the handler has none; its deadline is the latest of its items'."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        bulk = await runtime.start(creche.child(Bulk))
        now = trio.current_time()

        async def ask(word: str, seconds: float) -> int:
            with carrying(word=word):
                return await bulk.within(seconds).ask.context_of(0)

        gate = Gate()
        asking(nursery, bulk.ask.hold, gate)
        await gate.entered.wait()
        first = asking(nursery, ask, "a", 10)
        await settle()
        second = asking(nursery, ask, "b", 20)
        await settle()
        gate.opened.set()
        assert (await first.settled(), await second.settled()) == ("value", "value")
        assert first.value == second.value == int(now + 20)
        assert await bulk.ask.seen() == ["{} [{'word': 'a'}, {'word': 'b'}]"]
        assert await ask("c", float("inf")) == -1


async def test_an_override_of_a_batched_message_takes_one_at_a_time(autojump_clock: MockClock) -> None:
    """Unless it says itself that it is batched."""
    async with creche.open_runtime("test") as runtime:
        single = await runtime.start(creche.child(Single))
        assert [result.unwrap() for result in await single.call_many(Single.double, [(1,), (2,)])] == [20, 40]


def test_wrong_options_of_batched_are_refused() -> None:
    """When the class is written."""
    for options in ({"limit": 0}, {"limit": True}, {"limit": 2, "on_caller_gone": "stop"}, {"limit": 2, "raises": 1}):
        wrong: Any = options
        with pytest.raises(creche.SpecInvalid):
            creche.batched(**wrong)
