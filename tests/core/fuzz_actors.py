"""The actor of the fuzz: it takes messages of every kind, and does what each of them says."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

import creche
from tests.core.fuzz_ledger import Ledger
from tests.core.support import Boom

PLANS = (
    *("return", "step", "sleep", "nest", "shield", "short shield", "pass on", "pass many on", "answer"),
    *("timer", "keyed timer", "stash", "stash", "come back"),
)
ROUGH = ("crash", "crash in cleanup", "crash in background", "crash in a timer", "exit")


class Declared(Exception):
    """An answer. A class of its own, so that an error of creche's is not taken for it."""


@dataclass(frozen=True)
class Message:
    """What a caller sends: who, what, and whom to call on the way."""

    number: int
    sender: int
    plan: str
    next_up: creche.Handle[Worker] | None


class Worker(creche.Actor):
    """Has a lifespan that may fail at its end."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger = ledger
        self.dice = random.Random(seed)
        self.kept: list[tuple[creche.ReplySlot[int], Message]] = []

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()
        if self.dice.random() < 0.1:
            raise Boom("while leaving")

    # --- messages, one of each kind ---------------------------------------------------------------

    @creche.message(raises=Declared, key=lambda message: message.sender)
    async def work(self, message: Message) -> int:
        return await self._in_turn(message)

    @creche.message(on_caller_gone="cancel", raises=Declared)
    async def work_for_caller(self, message: Message) -> int:
        return await self._in_turn(message)

    @creche.message(concurrency=2, raises=Declared)
    async def beside(self, message: Message) -> int:
        self._put_aside(message)
        return await self._work(message)

    @creche.message(concurrency=1, on_caller_gone="cancel", raises=Declared)
    async def beside_for_caller(self, message: Message) -> int:
        return await self._work(message)

    @creche.message(reentrant=True, raises=Declared)
    async def again(self, message: Message) -> int:
        return await self._work(message)

    @creche.batched(limit=3, raises=Declared)
    async def together(self, items: Sequence[creche.BatchItem[Message, int]]) -> None:
        await self._batch(items)

    @creche.batched(limit=2, on_caller_gone="cancel", raises=Declared)
    async def together_for_caller(self, items: Sequence[creche.BatchItem[Message, int]]) -> None:
        await self._batch(items)

    @creche.message(raises=Declared)
    async def later(self, message: Message) -> int:
        slot: creche.ReplySlot[int] = self.context.defer()
        self.ledger.taken(message.number, message.sender, self.context.path)
        if message.plan == "step":
            slot.unsent()
        else:
            self.ledger.begins(message.number)
        if message.plan != "nest":  # else it is forgotten
            self.kept.append((slot, message))
            self.context.after(self.dice.random(), self._answer_one)
        return slot.later()

    # --- what they do -----------------------------------------------------------------------------

    async def _in_turn(self, message: Message) -> int:
        self._put_aside(message)
        self.ledger.taken(message.number, message.sender, self.context.path)
        try:
            return await self._work(message)
        except trio.Cancelled:
            if not self.context._cell.ends:
                self.ledger.interrupted(message.number, trio.current_time())
            raise

    async def _work(self, message: Message) -> int:
        self.ledger.begins(message.number)
        await self._follow(message)
        self.ledger.finishes(message.number)
        if message.plan == "answer":
            raise Declared(message.number)
        return message.number

    def _put_aside(self, message: Message) -> None:
        if message.plan == "stash" and self.dice.random() < 0.6:
            self.ledger.stashed(message.number)
            self.context.timers.start("unstash", self.dice.random(), self._unstash)
            self.context.stash()

    async def _unstash(self) -> None:
        self.context.unstash_all()

    async def _batch(self, items: Sequence[creche.BatchItem[Message, int]]) -> None:
        for item in items:
            self.ledger.taken(item.value.number, item.value.sender, self.context.path)
            self.ledger.begins(item.value.number)
        await self._follow(items[0].value)
        for item in items:
            if item.value.plan == "timer":
                self.kept.append((item, item.value))
                self.context.after(self.dice.random(), self._answer_one)
            else:
                self.ledger.finishes(item.value.number)
                item.reply(item.value.number)
        if items[-1].value.plan == "answer":
            for item in items:
                self.ledger.finishes(item.value.number)
            raise Declared("for those that are kept")

    async def _answer_one(self) -> None:
        if not self.kept:
            return
        slot, message = self.kept.pop(self.dice.randrange(len(self.kept)))
        if message.plan == "step":
            if not slot.begin():
                return
            self.ledger.begins(message.number)
        await trio.lowlevel.checkpoint()
        self.ledger.finishes(message.number)
        slot.reply(message.number)
        if self.dice.random() < 0.2:
            slot.reply(-1)  # a second answer changes nothing

    async def _follow(self, message: Message) -> None:
        match message.plan:
            case "step":
                await trio.lowlevel.checkpoint()
            case "sleep":
                await trio.sleep(self.dice.random())
            case "nest":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(trio.sleep, self.dice.random())
            case "shield":
                with trio.CancelScope(shield=True):
                    await trio.sleep(self.dice.random() * 3)
            case "short shield":
                with trio.CancelScope(shield=True):
                    await trio.sleep(0.02)
            case "timer":
                self.context.after(self.dice.random(), trio.sleep, 0.01)
            case "keyed timer":
                self.context.timers.start(message.sender, self.dice.random(), trio.sleep, 0.01)
            case "come back":
                me: creche.Handle[Worker] = self.context.handle
                await me.ask.again(self._inner(message, self.dice.choice(("sleep", "shield", "crash", "come back"))))
            case "pass on" if message.next_up is not None:
                await message.next_up.ask.work(self._inner(message, "sleep"))
            case "pass many on" if message.next_up is not None:
                inner = [(self._inner(message, plan),) for plan in ("return", "step", "crash")]
                await message.next_up.call_many(Worker.beside, inner)
            case _:
                await self._misbehave(message.plan)

    def _inner(self, message: Message, plan: str) -> Message:
        return Message(self.ledger.number(), -message.number, plan, message.next_up)

    async def _misbehave(self, plan: str) -> None:
        match plan:
            case "crash":
                raise Boom("on purpose")
            case "crash in cleanup":
                try:
                    await trio.sleep(1)
                finally:
                    raise Boom("in cleanup")
            case "crash in background":
                self.context.spawn(self._crash)
                await trio.sleep(self.dice.random())
            case "crash in a timer":
                self.context.after(0.1, self._crash)
            case "exit":
                self.context.exit()

    async def _crash(self) -> None:
        await trio.sleep(0.1)
        raise Boom("in the background")


class PlainWorker(Worker):
    """Without a lifespan: its crashes are judged where they happen, and idle it is ended by its supervisor."""

    lifespan = creche.Actor.lifespan
