"""What a pool costs, measured: ``python -m benchmarks.pool``.

Eight workers and 64 callers, as in the table of goals; against one actor, against a memory channel that eight tasks
share, and against a nursery without any pool. `probes` and `ROWS` are for whoever measures supervision as a whole.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

import creche
from creche.supervisors.pools.routing import Routing

from . import _harness as harness
from . import _rivals as rivals
from ._harness import Probe, Row

WORKERS, CALLERS = 8, 64
NAP = 0.0005  # seconds


class Echo(creche.Actor):
    """Answers, at once or after a while."""

    async def echo(self, value: int) -> int:
        return value

    async def step(self, value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value

    async def nap(self, value: int) -> int:
        await trio.sleep(NAP)
        return value


Method = Callable[[Echo, int], Awaitable[int]]


async def asking(handle: creche.Handle[Echo], method: Method, asks: int) -> None:
    for number in range(asks):
        await handle.call(method, number)


async def by_actor(method: Method, each: int) -> float:
    """One actor."""
    async with creche.open_runtime("benchmark") as runtime:
        handle = await runtime.start(creche.child(Echo))
        return await rivals.trio_crowd(CALLERS, each, partial(asking, handle, method))


async def by_pool(method: Method, each: int, routing: Routing) -> float:
    """A pool."""
    async with creche.open_runtime("benchmark") as runtime:
        handle = await runtime.start(creche.pool("echo", creche.child(Echo), size=WORKERS, routing=routing))
        return await rivals.trio_crowd(CALLERS, each, partial(asking, handle, method))


async def by_channel(method: Method, each: int) -> float:
    """A memory channel that so many tasks share, and an event for each answer: what one writes without a pool."""
    send, receive = trio.open_memory_channel[tuple[int, list[int], trio.Event]](1024)
    echo = Echo()

    async def work() -> None:
        async for value, slot, done in receive:
            slot.append(await method(echo, value))
            done.set()

    async def ask_in_turn(asks: int) -> None:
        for number in range(asks):
            slot: list[int] = []
            done = trio.Event()
            await send.send((number, slot, done))
            await done.wait()

    async with trio.open_nursery() as nursery:
        for _ in range(WORKERS):
            nursery.start_soon(work)
        elapsed = await rivals.trio_crowd(CALLERS, each, ask_in_turn)
        nursery.cancel_scope.cancel()
    return elapsed


async def by_nursery(method: Method, each: int) -> float:
    """No pool at all: a limiter, and the method itself, in the caller's task."""
    limiter, echo = trio.CapacityLimiter(WORKERS), Echo()

    async def ask_in_turn(asks: int) -> None:
        for number in range(asks):
            async with limiter:
                await method(echo, number)

    return await rivals.trio_crowd(CALLERS, each, ask_in_turn)


def probe(figure: str, measure: Callable[..., Awaitable[float]], method: Method, *arguments: object) -> Probe:
    """Microseconds per call."""
    return Probe(
        (figure,), lambda size: [trio.run(measure, method, max(size.operations // CALLERS, size.asks_each), *arguments)]
    )


def probes() -> list[Probe]:
    """All of this page."""
    return [
        probe("actor", by_actor, Echo.echo),
        probe("pool", by_pool, Echo.echo, "shared"),
        probe("pool_round_robin", by_pool, Echo.echo, "round_robin"),
        probe("pool_least_loaded", by_pool, Echo.echo, "least_loaded"),
        probe("pool_by_key", by_pool, Echo.echo, creche.by_key()),
        probe("pool_sticky", by_pool, Echo.echo, creche.sticky()),
        probe("channel", by_channel, Echo.echo),
        probe("nursery", by_nursery, Echo.echo),
        probe("actor_step", by_actor, Echo.step),
        probe("pool_step", by_pool, Echo.step, "shared"),
        probe("channel_step", by_channel, Echo.step),
    ]


ROWS = [
    Row("pool", "pool", "actor", 1.1, "pool of 8 vs one actor, 64 callers"),
    Row("pool_channel", "pool", "channel", 0.5, "pool vs a memory channel shared by 8 tasks, an event for each answer"),
    Row("pool_nursery", "pool", "nursery", None, "pool vs no pool: a limiter, in the caller's task"),
    Row("pool_round_robin", "pool_round_robin", "pool", None, "round robin vs shared"),
    Row("pool_least_loaded", "pool_least_loaded", "pool", None, "least loaded vs shared"),
    Row("pool_by_key", "pool_by_key", "pool", None, "by key vs shared"),
    Row("pool_sticky", "pool_sticky", "pool", None, "sticky vs shared"),
    Row("pool_step", "pool_step", "actor_step", 1.0, "the handler has a checkpoint: pool vs one actor"),
    Row("pool_step_channel", "pool_step", "channel_step", 0.6, "the same vs the memory channel"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    logging.getLogger("creche").disabled = True
    harness.command("pool", "what a pool costs", ROWS, partial(harness.evaluate, probes()), arguments)


if __name__ == "__main__":
    main()
