"""How the types of the handle come out. Never run: `mypy --strict` and pyright check every `assert_type`."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import assert_type

import creche
from creche.components import cache as c


class Profile:
    """A value of the user's own."""


async def profile(user: int, name: str = "") -> Profile:
    raise NotImplementedError


async def profile_or_none(user: int) -> Profile | None:
    raise NotImplementedError


async def raw() -> bytes:
    raise NotImplementedError


async def raw_or_none() -> bytes | None:
    raise NotImplementedError


async def values(cache: c.Cache) -> None:
    assert_type(await cache.get("k"), bytes | None)
    assert_type(await cache.get("k", type=Profile), Profile | None)
    assert_type(await cache.get("k", type=list[int]), list[int] | None)
    assert_type(await cache.get_many(["k"]), dict[str, bytes])
    assert_type(await cache.get_many(["k"], type=int), dict[str, int])
    assert_type(await cache.get_and_set("k", 1, type=int), int | None)
    assert_type(await cache.ttl("k"), float | None)
    assert_type(cache.statistics(), c.Statistics | None)
    async for key in cache.scan():
        assert_type(key, str)


async def loads(cache: c.Cache) -> None:
    assert_type(await cache.get_or_load("k", profile, 1, "x", type=Profile, ttl=60), Profile)
    assert_type(await cache.get_or_load("k", profile_or_none, 1, type=Profile, negative_ttl=5), Profile | None)
    assert_type(await cache.get_or_load("k", raw), bytes)
    assert_type(await cache.get_or_load("k", raw_or_none), bytes | None)


async def calls_that_do_not_fit(cache: c.Cache) -> None:
    await cache.get_or_load("k", profile, "one", type=Profile)  # type: ignore[arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await cache.get_or_load("k", profile)  # type: ignore[call-arg, arg-type]  # pyright: ignore[reportCallIssue, reportArgumentType]
    await cache.set("k", 1, 60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    await cache.expire("k", 60)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


async def collections(cache: c.Cache) -> None:
    assert_type(await cache.hashes.get("h", "f", type=int), int | None)
    assert_type(await cache.hashes.get_all("h"), dict[str, bytes])
    assert_type(await cache.hashes.get_all("h", type=str), dict[str, str])
    assert_type(await cache.sets.members("s", type=str), set[str])
    assert_type(await cache.sorted_sets.range("z"), list[tuple[bytes, float]])
    assert_type(await cache.sorted_sets.range_by_score("z", type=str), list[tuple[str, float]])
    assert_type(await cache.sorted_sets.score("z", "m"), float | None)


async def locks(cache: c.Cache) -> None:
    manager: AbstractAsyncContextManager[c.Lock] = cache.lock("l", ttl=1, wait=False, max_hold=60)
    async with manager as lock:
        assert_type(lock.token, int)
        assert_type(lock.held, bool)


def handles(app: creche.App) -> None:
    assert_type(app.use(c.component()), c.Cache)
