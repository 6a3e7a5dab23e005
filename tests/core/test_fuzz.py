"""Callers, actors, crashes, kills, cancels, small mailboxes and stops at random: what must hold whatever happens.

Seeded, in virtual time. The workload is a function of the seed; Trio's own order of tasks is not, so a failure may take
several runs of its seed to come back.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.node import State
from creche.supervisors.strategies import Strategy
from creche.supervisors.supervisor import supervisor
from tests.core.support import Boom, cell_of, reach

CALLERS, ROUNDS, ACTORS = 14, 12, 4
NEVER_RAN = (creche.NotDelivered, creche.ActorStopped)


class Ledger:
    """What happened to each message, by its number."""

    def __init__(self) -> None:
        self.next = 0
        self.begun: Counter[int] = Counter()
        self.finished: set[int] = set()
        self.outcomes: dict[int, str] = {}
        self.must_not_run: set[int] = set()  # known not to have run, and not to run later
        self.order: dict[tuple[int, str], list[int]] = defaultdict(
            list
        )  # (sender, path) -> numbers in order of handling

    def number(self) -> int:
        self.next += 1
        return self.next

    def settle(self, number: int, outcome: str, *, ran: bool | None) -> None:
        assert number not in self.outcomes, "two outcomes"
        self.outcomes[number] = outcome
        if ran is False:
            assert not self.begun[number], f"{outcome}, but it ran"
            self.must_not_run.add(number)
        elif ran is True:
            assert number in self.finished, f"{outcome}, but it did not finish"

    def check(self) -> None:
        assert max(self.begun.values(), default=0) <= 1, "something ran twice"
        assert not self.must_not_run & self.begun.keys(), "something revoked ran"
        for numbers in self.order.values():
            assert numbers == sorted(numbers), "a sender's messages were reordered"


class Worker(creche.Actor):
    """Does what each message says, with a plan out of the caller's dice."""

    def __init__(self, ledger: Ledger, seed: int) -> None:
        self.ledger = ledger
        self.dice = random.Random(seed)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            yield
            nursery.cancel_scope.cancel()
        if self.dice.random() < 0.1:
            raise Boom("while leaving")

    async def work(self, number: int, sender: int, plan: str, next_up: creche.Handle[Worker] | None) -> int:
        return await self._work(number, sender, plan, next_up)

    @creche.message(on_caller_gone="cancel", raises=KeyError)
    async def work_for_caller(self, number: int, sender: int, plan: str, next_up: creche.Handle[Worker] | None) -> int:
        return await self._work(number, sender, plan, next_up)

    async def _work(self, number: int, sender: int, plan: str, next_up: creche.Handle[Worker] | None) -> int:
        self.ledger.begun[number] += 1
        self.ledger.order[sender, self.context.path].append(number)
        match plan:
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
            case "exit":
                self.context.exit()
            case "answer":
                self.ledger.finished.add(number)
                raise KeyError(number)
            case "pass on" if next_up is not None:
                inner = self.ledger.number()
                await next_up.ask.work(inner, -1, "sleep", None)
        self.ledger.finished.add(number)
        return number

    async def _crash(self) -> None:
        await trio.sleep(0.1)
        raise Boom("in the background")


PLANS = ("return", "step", "sleep", "nest", "shield", "pass on", "answer")
ROUGH = ("crash", "crash in cleanup", "crash in background", "exit")


async def caller(me: int, dice: random.Random, handles: list[creche.Handle[Worker]], ledger: Ledger) -> None:
    for _ in range(ROUNDS):
        place = dice.randrange(len(handles))
        next_up = handles[place + 1] if place + 1 < len(handles) else None
        plan = dice.choice(PLANS) if dice.random() < 0.8 else dice.choice(ROUGH)
        how = dice.choice(("call", "call", "within", "cast", "cast_nowait"))
        method = dice.choice((Worker.work, Worker.work_for_caller))
        number = ledger.number()
        timeout = dice.choice((0, 0.01, 0.3, 1, 50))
        with trio.move_on_after(timeout) as scope:
            await send(how, handles[place], method, (number, me, plan, next_up), dice, ledger)
        if scope.cancelled_caught:
            ledger.settle(number, "cancelled", ran=None if ledger.begun[number] else False)
        await trio.sleep(dice.choice((0, 0, 0.1)))


async def send(
    how: str,
    handle: creche.Handle[Worker],
    method: Callable[..., Awaitable[int]],
    message: tuple[int, int, str, creche.Handle[Worker] | None],
    dice: random.Random,
    ledger: Ledger,
) -> None:
    number = message[0]
    try:
        if how in ("call", "within"):
            limited = handle.within(dice.choice((0, 0.5, 5))) if how == "within" else handle
            value = await limited.call(method, *message)
            assert value == number, f"{value!r} came back for {message}"
            ledger.settle(number, "value", ran=True)
        elif how == "cast":
            await handle.cast(method, *message)
        else:
            handle.cast_nowait(method, *message)
    except KeyError:
        ledger.settle(number, "answer", ran=True)
    except creche.DeadlineExceeded as error:
        ledger.settle(number, "late", ran=None if error.delivered else False)
    except NEVER_RAN as error:
        ledger.settle(number, type(error).__name__, ran=False)
    except (creche.OutcomeUnknown, creche.PeerFailed) as error:
        ledger.settle(number, type(error).__name__, ran=None)


async def chaos(runtime: creche.Runtime, dice: random.Random, paths: list[str]) -> None:
    while True:
        await trio.sleep(dice.random())
        runtime.kill(dice.choice(paths), "chaos")


async def scenario(seed: int) -> None:
    dice, ledger = random.Random(seed), Ledger()
    strategy: Strategy = dice.choice(("one_for_one", "rest_for_one"))
    children = []
    for index in range(ACTORS):
        backoff = creche.Backoff(first=dice.choice((0, 0.1, 1)), free=1, cap=1)
        spec = creche.child(Worker, ledger, seed + index)
        children.append(
            spec.options(
                name=f"w{index}",
                backoff=backoff,
                mailbox=dice.choice((1, 2, 64)),
                overflow=dice.choice(("wait", "wait", "reject", "drop_oldest", "drop_newest")),
                while_down=dice.choice(("wait", "wait", "reject")),
                restart=dice.choice(("permanent", "permanent", "transient")),
                drain=dice.choice((0, 1, 10)),
                down_wait=dice.choice((0.5, 5)),
                unwind_grace=dice.choice((0.5, 5)),
            )
        )
    sub = supervisor("sub", *children, strategy=strategy, intensity=creche.Intensity(dice.choice((5, 1000)), 1))
    root = supervisor("root", sub, intensity=creche.Intensity(1000, 1))
    paths = ["root/sub", *(f"root/sub/w{index}" for index in range(ACTORS))]
    async with trio.open_nursery() as callers:
        async with creche.open_runtime("fuzz", root=root, seed=seed, stop_within=60) as runtime:
            handles = [reach(runtime, path, Worker) for path in paths[1:]]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chaos, runtime, dice, paths)
                with trio.fail_after(2000):
                    async with trio.open_nursery() as busy:
                        for me in range(CALLERS):
                            target = busy if me % 4 else callers  # some are still calling while the tree stops
                            target.start_soon(caller, me, random.Random(seed * 100 + me), handles, ledger)
                nursery.cancel_scope.cancel()
        callers.cancel_scope.deadline = trio.current_time() + 2000
    assert not callers.cancel_scope.cancelled_caught, "somebody waits for ever"
    ledger.check()
    for handle in handles:
        cell = cell_of(handle)
        assert (cell.state, cell.queued, list(cell.waits_for())) == (State.STOPPED, 0, [])
        assert cell.task is None
        assert cell._companion is None


@pytest.mark.parametrize("seed", range(80))
def test_fuzz(seed: int) -> None:
    """Each call has one outcome, nothing runs twice, nothing revoked runs, senders' order holds, nothing is
    left behind."""
    trio.run(scenario, seed, clock=MockClock(autojump_threshold=0))
