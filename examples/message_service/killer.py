"""A seeded killer: crashes every actor of the tree, again and again, in an order drawn from its seed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random

import trio

import creche


class Killer(creche.Actor):
    """Kills one actor every `interval` seconds, round after round, each round in a new random order. Spares itself."""

    def __init__(self, seed: int, interval: float) -> None:
        self._random = Random(f"{seed}:{self.context.incarnation}")
        self._seed = seed
        self._interval = interval

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        self.context.spawn(self._kill_on)
        yield

    async def _kill_on(self) -> None:
        while True:
            for path in self._random.sample(self._victims(), len(self._victims())):
                await trio.sleep(self._interval * self._random.uniform(0.5, 1.5))
                self.context.runtime.kill(path, f"killer with seed {self._seed}")

    def _victims(self) -> list[str]:
        return [
            node.path for node in self.context.runtime.tree() if not node.children and node.path != self.context.path
        ]
