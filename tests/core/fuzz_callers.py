"""Who sends the messages of the fuzz, and tells the ledger what became of each."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import trio

import creche
from tests.core.fuzz_actors import PLANS, ROUGH, Declared, Message, Worker
from tests.core.fuzz_ledger import Ledger

ROUNDS = 12
NEVER_RAN = (creche.NotDelivered, creche.ActorStopped)
PATIENCE = (0, 0.01, 0.3, 1, 50, *[float("inf")] * 3)  # who waits for ever finds out what is lost
SENDS = ("call", "call", "within", "many", "cast", "cast_nowait")


class Caller:
    """One sender: a task that sends message after message to whom it chooses, with little patience.

    `methods` are what it sends. Whom the handler of a message calls in its turn is up to `_next_up`.
    """

    methods: Sequence[Callable[..., Awaitable[int]]] = ()

    def __init__(self, me: int, seed: int, handles: Sequence[creche.Handle[Worker]], ledger: Ledger) -> None:
        self.me = me
        self.dice = random.Random(f"{seed} {me}")
        self.handles = handles
        self.ledger = ledger

    async def run(self) -> None:
        for _ in range(ROUNDS):
            place = self.dice.randrange(len(self.handles))
            messages = [self._message(place) for _ in range(self.dice.choice((1, 1, 3)))]
            with trio.move_on_after(self.dice.choice(PATIENCE)) as scope:
                await self._send(self.handles[place], messages)
            if scope.cancelled_caught:
                for message in messages:
                    self.ledger.left(message.number, scope.deadline)
            await trio.sleep(self.dice.choice((0, 0, 0.1)))

    def _message(self, place: int) -> Message:
        plan = self.dice.choice(PLANS) if self.dice.random() < 0.85 else self.dice.choice(ROUGH)
        next_up = self._next_up(place)
        return Message(self.ledger.number(), self.me, plan, next_up)

    def _next_up(self, place: int) -> creche.Handle[Worker] | None:
        raise NotImplementedError

    def _for_many(self, handle: creche.Handle[Worker]) -> Any:
        """What many messages are sent to together."""
        return handle

    async def _send(self, handle: creche.Handle[Worker], messages: Sequence[Message]) -> None:
        method, how = self.dice.choice(self.methods), self.dice.choice(SENDS)
        if how == "many":
            results = await self._for_many(handle).call_many(method, [(message,) for message in messages])
            for message, result in zip(messages, results, strict=True):
                await self._note(message, result.unwrap)
            return
        for message in messages:
            await self._note(message, self._sending(handle, method, how, message))

    def _sending(
        self, handle: creche.Handle[Worker], method: Callable[..., Awaitable[int]], how: str, message: Message
    ) -> Callable[[], Any]:
        if how == "cast":
            return lambda: handle.cast(method, message)
        if how == "cast_nowait":
            return lambda: handle.cast_nowait(method, message)
        seconds = self.dice.choice((0, 0.5, 5)) if how == "within" else float("inf")
        return lambda: handle.within(seconds).call(method, message)

    async def _note(self, message: Message, send: Callable[[], Any]) -> None:
        number = message.number
        try:
            value = send()
            value = await value if isinstance(value, Awaitable) else value
            if value is None:
                self.ledger.accepted(number)
            else:
                assert value == number, f"{value!r} came back for {message}"
                self.ledger.settle(number, "value", ran=True)
        except Declared:
            self.ledger.settle(number, "answer", ran=True)
        except creche.DeadlineExceeded as error:
            self.ledger.settle(number, "late", ran=None if error.delivered else False)
        except NEVER_RAN as error:
            self.ledger.settle(number, type(error).__name__, ran=False)
        except (creche.OutcomeUnknown, creche.PeerFailed) as error:
            self.ledger.settle(number, type(error).__name__, ran=None)
