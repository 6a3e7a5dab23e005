"""Loads and what is written or invalidated meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio

from creche.components import cache as c
from tests.core.support import asking

from .support import Backend, Boom, Gate, Source, settle
from .test_loading import STALE, Clock, in_seconds

# --- what is written meanwhile ----------------------------------------------------------------------------------------

Change = Callable[[c.Cache], Awaitable[object]]


@pytest.mark.parametrize(
    "change",
    [
        lambda cache: cache.delete("k"),
        lambda cache: cache.set("k", b"newer"),
        lambda cache: cache.invalidate_tags("t"),
        lambda cache: cache.hashes.set("k", "f", 1),
    ],
    ids=["delete", "set", "tag", "hash"],
)
async def test_what_was_read_before_a_write_is_not_stored_after_it(cache: c.Cache, change: Change) -> None:
    """A load that was under way when its key was written keeps its callers, but stores nothing."""
    gate, source = Gate(), Source(b"outdated")
    source.before = gate.hold
    async with trio.open_nursery() as nursery:
        reply = asking(nursery, partial(cache.get_or_load, "k", source.load, tags=["t"]))
        await gate.entered.wait()
        await change(cache)
        gate.open()
        await settle()
        assert reply.value == b"outdated"
        found = await cache.hashes.get_all("k") if await cache.exists("k") and not await _is_text(cache) else None
    if found is None:
        assert await cache.get("k") in (None, b"newer")
    else:
        assert found == {"f": b"1"}


async def _is_text(cache: c.Cache) -> bool:
    try:
        await cache.get("k")
    except c.WrongKind:
        return False
    return True


@pytest.mark.parametrize("first_to_end", [0, 1])
@pytest.mark.parametrize(
    "change", [lambda cache: cache.delete("k"), lambda cache: cache.invalidate_tags("t")], ids=["delete", "tag"]
)
async def test_who_asks_after_a_write_gets_a_load_that_began_after_it(
    cache: c.Cache, change: Change, first_to_end: int
) -> None:
    """The write, then delete or invalidate, of a repository: nobody who comes later gets what was read before it.

    Whichever of the two loads ends first, the later one is kept.
    """
    gates = [Gate(), Gate()]
    values = [b"before", b"after"]
    calls: list[int] = []

    async def load() -> bytes:
        number = len(calls)
        calls.append(number)
        await gates[number].hold()
        return values[number]

    async with trio.open_nursery() as nursery:
        early = asking(nursery, partial(cache.get_or_load, "k", load, tags=["t"]))
        await gates[0].entered.wait()
        await change(cache)
        late = asking(nursery, partial(cache.get_or_load, "k", load, tags=["t"]))
        await gates[1].entered.wait()
        gates[first_to_end].open()
        await settle()
        gates[1 - first_to_end].open()
    assert (early.value, late.value) == (b"before", b"after")
    assert await cache.get("k") == b"after"


# --- tags -------------------------------------------------------------------------------------------------------------


async def test_a_tag_ends_all_that_carries_it(cache: c.Cache) -> None:
    """Whatever it was stored by; what comes later lives, and so does what does not carry it."""
    await cache.set("a", 1, tags=["user:1", "list"])
    await cache.set_many({"b": 1, "c": 1}, tags=["user:2", "list"])
    await cache.get_or_load("d", Source().load, tags=["user:1"])
    await cache.set("plain", 1)
    await cache.invalidate_tags("user:1")
    assert sorted(await cache.keys()) == ["b", "c", "plain"]
    assert await cache.get("a") is None
    assert await cache.exists("d") == 0
    await cache.set("a", 2, tags=["user:1"])
    assert await cache.get("a", type=int) == 2
    await cache.invalidate_tags("list", "unknown")
    assert sorted(await cache.keys()) == ["a", "plain"]
    await cache.invalidate_tags()


async def test_an_invalidated_value_is_never_served_as_stale(backend: Backend, clock: Clock) -> None:
    """It is known to be wrong, not only old."""
    async with backend.opened(loading=in_seconds(backend, STALE)) as opened:
        source = Source()
        await opened.cache.get_or_load("k", source.load, tags=["t"])
        await opened.cache.invalidate_tags("t")
        source.error = Boom()
        with pytest.raises(Boom):
            await opened.cache.get_or_load("k", source.load, tags=["t"])


async def test_a_value_without_its_tag_any_more_is_safe_from_it(cache: c.Cache) -> None:
    """Only the tags of the last write count."""
    await cache.set("k", 1, tags=["t"])
    await cache.set("k", 2)
    await cache.invalidate_tags("t")
    assert await cache.get("k", type=int) == 2


async def test_counting_up_keeps_tags(cache: c.Cache) -> None:
    """A tagged number can still be ended by its tag."""
    await cache.set("n", 1, tags=["t"])
    assert await cache.increment("n") == 2
    await cache.invalidate_tags("t")
    assert await cache.get("n") is None
