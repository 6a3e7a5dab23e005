"""Found by reading: work spawned just when the nursery of an incarnation's background work had closed met Trio's
RuntimeError "Nursery is closed to new arrivals"."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.lowlevel import cancel_shielded_checkpoint

import creche
import creche.testing
from tests.core.support import Probe


class Spawning(Probe):
    """While its background work ends, a task of its lifespan spawns more, in a certain pass of the loop."""

    def __init__(self, log: list[str], passes: int) -> None:
        super().__init__(log)
        self.passes = passes
        self.ending = trio.Event()
        self.context.spawn(self._tell_of_the_end)

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._spawn_on)
            yield

    async def _tell_of_the_end(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self.ending.set()

    async def _spawn_on(self) -> None:
        await self.ending.wait()
        for _ in range(self.passes):
            await cancel_shielded_checkpoint()
        self.context.spawn(self._work)

    async def _work(self) -> None:
        self.log.append("begun")
        try:
            await trio.sleep_forever()
        finally:
            self.log.append("ended")


async def scenario(passes: int) -> None:
    log: list[str] = []
    async with creche.open_runtime("t") as runtime:
        spawning = await runtime.start(creche.child(Spawning, log, passes))
        await runtime.stop(spawning)
        assert log == ["begun", "ended"]


@pytest.mark.parametrize("passes", range(4))
@pytest.mark.parametrize("seed", range(10))  # decides who runs first in a pass
def test_background_work_spawned_while_it_ends(passes: int, seed: int) -> None:
    """Work that the lifespan spawns is run, and joined."""
    creche.testing.run(scenario, passes, seed=seed)
