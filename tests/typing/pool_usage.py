"""How pools type: checked by mypy and pyright, never run. See `handle_usage`."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import assert_type

from outcome import Outcome

import creche
from creche.supervisors.pools.handle import PoolStatistics
from creche.supervisors.pools.pool import PoolSpec


class Renderer(creche.Actor):
    def __init__(self, quality: int) -> None:
        self.quality = quality

    async def render(self, name: str, width: int = 100) -> bytes:
        return name.encode() * width

    async def forget(self) -> None: ...


def key_of(name: str, *rest: object) -> str:
    return name


def specs() -> None:
    """A pool is typed by its worker."""
    assert_type(creche.pool("p", creche.child(Renderer, 1), size=3), PoolSpec[Renderer])
    assert_type(creche.pool("p", creche.child(Renderer, 1)).options(drain=1), PoolSpec[Renderer])
    creche.pool("p", creche.child(Renderer, 1), routing="least_loaded")
    creche.pool("p", creche.child(Renderer, 1), routing=creche.by_key(key_of))
    creche.pool("p", creche.child(Renderer, 1), routing="random")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    creche.pool("p", Renderer)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def uses(runtime: creche.Runtime) -> None:
    """Its handle has the messages of the worker."""
    pool = await runtime.start(creche.pool("p", creche.child(Renderer, 1)))
    assert_type(pool, creche.Pool[Renderer])
    as_handle: creche.Handle[Renderer] = pool
    assert_type(as_handle.ask, Renderer)
    assert_type(await pool.ask.render("x"), bytes)
    assert_type(await pool.call(Renderer.render, "x", width=3), bytes)
    assert_type(await pool.within(1).call(Renderer.render, "x"), bytes)
    assert_type(await pool.call_many(Renderer.forget, [(), ()]), list[Outcome[None]])
    assert_type(await pool.broadcast(Renderer.render, "x", 3), list[Outcome[bytes]])
    assert_type(pool.statistics(), PoolStatistics)
    assert_type(pool.size, int)
    await pool.resize(3)
    await pool.broadcast(Renderer.render, 3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await pool.ask.render(3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
