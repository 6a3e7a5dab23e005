"""How actors in processes type: checked by mypy and pyright, never run. See `handle_usage`."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

import creche
from creche.runtime.spec import ActorSpec
from creche.supervisors.pools.pool import PoolSpec


class Resize(creche.Actor):
    def __init__(self, quality: int) -> None:
        self.quality = quality

    async def render(self, path: str, size: int = 100) -> bytes:
        return path.encode() * size


def power(base: float, exponent: int) -> float:
    return base**exponent


def specs() -> None:
    """As those of `child`."""
    assert_type(creche.process_child(Resize, 1), ActorSpec[Resize])
    assert_type(creche.process_child(Resize, quality=1).options(unwind_grace=1), ActorSpec[Resize])
    assert_type(creche.pool("p", creche.process_child(Resize, 1), size=3), PoolSpec[Resize])
    creche.process_child(Resize, "x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    creche.process_child(power, 1.0, 2)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]


async def uses(runtime: creche.Runtime) -> None:
    """A handle is that of the class, and functions keep their types."""
    handle = await runtime.start(creche.process_child(Resize, 1))
    assert_type(handle, creche.Handle[Resize])
    assert_type(await handle.ask.render("x"), bytes)
    pool = await runtime.start(creche.pool("p", creche.process_child(creche.ProcessWorker)))
    assert_type(await pool.ask.run(power, 2.0, 3), float)
    await pool.ask.run(power, "x", 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
