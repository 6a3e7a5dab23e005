"""Mailboxes that keep the latest cast of each key."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import Gate, asking, cell_of, kinds, recorded, settle


class Prices(creche.Actor):
    """Takes prices by symbol."""

    def __init__(self) -> None:
        self.log: list[tuple[str, int]] = []

    @creche.message(key=lambda symbol, price: symbol)
    async def price(self, symbol: str, price: int) -> None:
        self.log.append((symbol, price))

    async def plain(self, word: str) -> None:
        self.log.append((word, 0))

    async def hold(self, gate: Gate) -> None:
        await gate.hold()

    async def seen(self) -> list[tuple[str, int]]:
        return self.log


async def test_latest_by_key(autojump_clock: MockClock) -> None:
    """A cast replaces the one that waits under the same key, in its place; the replaced one is a dead letter."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        seen = recorded(runtime)
        prices = await runtime.start(creche.child(Prices).options(mailbox=3, overflow="latest_by_key"))
        gate = Gate()
        asking(nursery, prices.ask.hold, gate)
        await gate.entered.wait()
        for number in range(6):
            prices.cast_nowait(Prices.price, "ab"[number % 2], number)
        prices.cast_nowait(Prices.plain, "plain")
        assert prices.statistics().queued == 3
        gate.opened.set()
        await settle()
        assert await prices.ask.seen() == [("a", 4), ("b", 5), ("plain", 0)]
        assert kinds(seen, prices.path).count("DeadLetter") == 4


async def test_latest_by_key_rejects_what_finds_no_room(autojump_clock: MockClock) -> None:
    """Another key, a message without one, and calls, which are never replaced."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        prices = await runtime.start(creche.child(Prices).options(mailbox=2, overflow="latest_by_key"))
        gate = Gate()
        asking(nursery, prices.ask.hold, gate)
        await gate.entered.wait()
        first = asking(nursery, prices.ask.price, "a", 1)
        await settle()
        prices.cast_nowait(Prices.price, "a", 2)
        with pytest.raises(creche.MailboxFull):
            prices.cast_nowait(Prices.price, "b", 3)
        with pytest.raises(creche.MailboxFull):
            prices.cast_nowait(Prices.plain, "plain")
        with pytest.raises(creche.MailboxFull):
            await prices.cast(Prices.price, "b", 3)
        with pytest.raises(creche.NotDelivered):
            await prices.ask.price("a", 4)
        await prices.cast(Prices.price, "a", 5)
        gate.opened.set()
        assert await first.settled() == "value"
        assert await prices.ask.seen() == [("a", 1), ("a", 5)]


async def test_a_key_is_free_again_when_its_cast_is_taken(autojump_clock: MockClock) -> None:
    """Nothing of a key is left behind by handling, a stop, or refusals while the actor is down."""
    async with creche.open_runtime("test") as runtime, trio.open_nursery() as nursery:
        spec = creche.child(Prices).options(mailbox=3, overflow="latest_by_key", drain=0)
        prices = await runtime.start(spec)
        for number in range(3):
            await prices.cast(Prices.price, "a", number)
            await settle()
        assert await prices.ask.seen() == [("a", 0), ("a", 1), ("a", 2)]
        gate = Gate()
        asking(nursery, prices.ask.hold, gate)
        await gate.entered.wait()
        await prices.cast(Prices.price, "a", 3)
        cell_of(prices)._refuse_calls("stuck", None)
        await prices.cast(Prices.price, "a", 4)
        assert prices.statistics().queued == 1
        mailbox: Any = cell_of(prices)._mailbox
        await runtime.stop(prices)
        assert (len(mailbox), mailbox._by_key) == (0, {})


async def test_a_key_that_cannot_be_made_is_the_senders_error(autojump_clock: MockClock) -> None:
    """Wrong arguments for the key function, or an unhashable key, raise before anything is sent."""
    async with creche.open_runtime("test") as runtime:
        prices = await runtime.start(creche.child(Prices).options(overflow="latest_by_key"))
        wrong: Any = (["unhashable"], 1)
        with pytest.raises(TypeError):
            prices.cast_nowait(Prices.price, *wrong)
        assert prices.statistics().queued == 0
        name: Any = "symbol"
        with pytest.raises(creche.SpecInvalid):
            creche.message(key=name)


class Slowly(Prices):
    @creche.message(key=lambda symbol, price, gate: symbol, concurrency=1)
    async def take(self, symbol: str, price: int, gate: Gate) -> None:
        await gate.hold()
        self.log.append((symbol, price))


async def test_what_waits_for_others_of_its_kind_can_be_replaced(autojump_clock: MockClock) -> None:
    """A concurrent message at its limit waits at the head of the mailbox: a later cast takes its place there, too."""
    async with creche.open_runtime("test") as runtime:
        prices, gate = await runtime.start(creche.child(Slowly).options(overflow="latest_by_key")), Gate()
        for number in range(5):
            prices.cast_nowait(Slowly.take, "a", number, gate)
            await settle()
        assert prices.statistics().queued == 1
        gate.opened.set()
        await settle()
        assert await prices.ask.seen() == [("a", 0), ("a", 4)]
