"""Pools under callers, crashes, kills, cancels, resizes and stops at random: what must hold whatever happens.

Seeded, in virtual time, Trio's order of tasks included: a seed that fails fails again. The actors, the
callers, and what is known of each message, are those of `tests/core/test_fuzz.py`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import creche
import creche.testing
from creche.runtime.deadlines import Timer
from creche.runtime.spec import Spec
from creche.supervisors.pools.pool import PoolNode, PoolSpec
from creche.supervisors.spec import SupervisorSpec
from tests.core.fuzz_actors import Message, PlainWorker, Worker
from tests.core.fuzz_callers import Caller
from tests.core.fuzz_ledger import Ledger

CALLERS = 12
METHODS: Sequence[Callable[..., Awaitable[int]]] = (
    Worker.work,
    Worker.work,
    Worker.work_for_caller,
    Worker.together,
    Worker.beside,
    Worker.later,
)


class OfAPool(Ledger):
    """A pool's workers take a sender's messages in order, whoever of them takes one."""

    def taken(self, number: int, sender: int, path: str) -> None:
        """See `Ledger`."""
        super().taken(number, sender, path.rpartition("/")[0])


class ToPools(Caller):
    """A caller of pools, each of which calls any: circles among them, and in one of them, included."""

    methods = METHODS

    def _next_up(self, place: int) -> creche.Handle[Worker]:
        return self.dice.choice(self.handles)


def sender_of(message: Message) -> int:
    """The key of a message."""
    return message.sender


def rank_of(message: Message) -> int:
    """Its priority."""
    return message.number % 3


def a_pool(dice: random.Random, ledger: Ledger, name: str, seed: int) -> PoolSpec[Worker]:
    """With rules at random."""
    rules: dict[str, Any] = {
        "backoff": creche.Backoff(first=dice.choice((0, 0.1, 1)), free=1, cap=1),
        "while_down": dice.choice(("wait", "wait", "reject")),
        "restart": dice.choice(("permanent", "permanent", "permanent", "transient")),
        "down_wait": dice.choice((0.5, 5)),
        "unwind_grace": dice.choice((0.5, 5)),
    }
    worker: Any = creche.child(dice.choice((Worker, PlainWorker)), ledger, seed).options(**rules)
    return creche.pool(
        name,
        worker,
        size=dice.choice((1, 2, 3, 5)),
        routing=dice.choice(
            ("shared", "round_robin", "least_loaded", creche.by_key(sender_of), creche.sticky(sender_of))
        ),
        priority=dice.choice((None, None, creche.by_priority(rank_of))),
        admission=dice.choice((None, creche.Admission(), creche.Admission(target=0.05, interval=0.2))),
        autoscale=dice.choice((None, creche.Autoscale(1, 5, grow_at=0, shrink_after=1, every=0.3))),
        intensity=creche.Intensity(dice.choice((5, 1000)), 1),
    ).options(
        mailbox=dice.choice((1, 2, 64)),
        overflow=dice.choice(("wait", "wait", "reject", "drop_oldest", "drop_newest")),
        drain=dice.choice((0, 1, 10)),
    )


def is_ordered(pool: PoolSpec[Worker]) -> bool:
    """Whether the messages of one sender are taken in the order in which they were sent."""
    return pool.priority is None and pool.routing not in ("round_robin", "least_loaded")


async def chaos(runtime: creche.Runtime, dice: random.Random, pools: Sequence[creche.Pool[Worker]]) -> None:
    pace = dice.choice((1, 10, 100))
    while True:
        await trio.sleep(dice.random() * pace)
        pool = dice.choice(pools)
        nodes = [runtime.node_of(pool), *runtime.node_of(pool).children(), runtime.node_of("root/sub")]
        if dice.random() < 0.02:
            await runtime.stop(dice.choice(nodes[:-1]))
        elif dice.random() < 0.3:
            with trio.move_on_after(dice.choice((0, 0.1, 100))):
                await resize(pool, dice.randint(1, 5))
        else:
            runtime.kill(dice.choice(nodes), "chaos")


async def resize(pool: creche.Pool[Worker], size: int) -> None:
    try:
        await pool.resize(size)
    except (creche.ActorStopped, creche.StartFailed):
        pass


@asynccontextmanager
async def opened(root: SupervisorSpec, seed: int) -> AsyncIterator[tuple[creche.Runtime, list[creche.Pool[Worker]]]]:
    async with creche.open_runtime("fuzz", root=root, seed=seed, stop_within=60) as runtime:
        pools: list[creche.Pool[Worker]] = []
        for node in runtime.node_of("root/sub").children():
            assert isinstance(node, PoolNode)
            pool: creche.Pool[Worker] = creche.Pool(node.name)
            pool._bind(node)
            pools.append(pool)
        yield runtime, pools


async def scenario(seed: int) -> None:
    dice, ledger = random.Random(seed), OfAPool()
    specs = [a_pool(dice, ledger, f"p{index}", seed + index) for index in range(2)]
    pools: list[creche.Pool[Worker]] = []
    with trio.move_on_after(2000) as forever:
        async with trio.open_nursery() as callers:
            with trio.move_on_after(dice.choice((3, 2000, 2000))):  # at times it is cancelled from outside
                children: list[Spec[Any]] = [*specs]
                sub = creche.supervisor("sub", *children, intensity=creche.Intensity(1000, 1))
                root = creche.supervisor("root", sub, intensity=creche.Intensity(1000, 1))
                async with opened(root, seed) as (runtime, found), trio.open_nursery() as nursery:
                    pools += found
                    nursery.start_soon(chaos, runtime, dice, pools)
                    async with trio.open_nursery() as busy:
                        for me in range(CALLERS):  # some are still calling while the tree stops
                            (busy if me % 4 else callers).start_soon(ToPools(me, seed, pools, ledger).run)
                    nursery.cancel_scope.cancel()
    assert not forever.cancelled_caught, "somebody waits for ever"
    ledger.check({f"root/sub/{spec.name}" for spec in specs if not is_ordered(spec)})
    for pool in pools:
        nothing_left(pool)


def nothing_left(pool: creche.Pool[Worker]) -> None:
    """A pool that has stopped holds nothing."""
    front: Any = pool._running().front
    backlog = front.backlog
    assert (front.queued, len(backlog), list(backlog), not front._mailbox.spill) == (0, 0, [], True)
    assert (front.workers, backlog.seats) == ([], [])
    assert (backlog._idle, backlog._woken, backlog._blocked) == ({}, {}, {})
    for name in ("_bound", "_unbound", "_held"):
        assert not getattr(backlog, name, None), name
    left = [entry for _, _, entry in front.deadlines._heap if entry.live()]
    assert all(isinstance(entry, Timer) for entry in left), left


@pytest.mark.parametrize("seed", range(120))
def test_fuzz(seed: int) -> None:
    """Each call has one outcome, nothing runs twice, nothing revoked runs, keys keep their order, nothing is left."""
    creche.testing.run(scenario, seed, seed=seed)
