"""Scenarios that tests explore: a counter that is right, and the same with faults in it."""

from __future__ import annotations

import trio

import creche
from creche import chaos

CLIENTS = 8


class Store:
    """What is left when an actor dies."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.total = 0


class Counter(creche.Actor):
    """Counts each key once, in one step."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def add(self, key: int) -> int:
        await trio.sleep(0.01)
        if key not in self.store.seen:
            self.store.seen.add(key)
            self.store.total += 1
        return self.store.total


class Torn(Counter):
    """Counts, and notes the key in a second step."""

    async def add(self, key: int) -> int:
        if key not in self.store.seen:
            self.store.total += 1
            await trio.sleep(0.3)
            self.store.seen.add(key)
        return self.store.total


class Forgetful(Counter):
    """Swallows each third answer for good: a handler that never ends after a crash."""

    async def add(self, key: int) -> int:
        if self.context.incarnation >= 3:
            await trio.sleep_forever()
        return await super().add(key)


async def counting(world: chaos.World, cls: type[Counter] = Counter) -> None:
    store = Store()
    counter = creche.child(cls, store).options(name="counter", backoff=creche.Backoff(first=0.01, cap=0.1))
    root = creche.supervisor("root", counter, intensity=creche.Intensity(1000, 1))
    world.always("no more than there are keys", lambda: store.total <= CLIENTS)
    async with creche.open_runtime("shop", root=root) as runtime:
        handle = runtime.handle("root/counter", Counter)

        async def client(key: int) -> None:
            while True:
                try:
                    await handle.ask.add(key)
                except creche.CallFailed:
                    await trio.sleep(0.1)
                else:
                    return

        async with world.unleashed(runtime), trio.open_nursery() as nursery:
            for key in range(CLIENTS):
                nursery.start_soon(client, key)
                await trio.sleep(world.random.random())
        await world.eventually("each counted once", lambda: store.total == CLIENTS, within=1)


async def torn(world: chaos.World) -> None:
    await counting(world, Torn)


async def forgetful(world: chaos.World) -> None:
    await counting(world, Forgetful)
