"""The component as a whole: its config, its names, its prefix, its statistics."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

import creche
from creche import components
from creche.components import cache as c
from creche.runtime.config import from_builtins, validated

from .support import STEADY, Boom, Embedded, Source, lease_of, store_of

BACKEND = Embedded()


# --- configuration ----------------------------------------------------------------------------------------------------


def test_the_defaults_of_an_environment() -> None:
    """Both pass their own gate; production is bounded by bytes and keeps a reserve for failing loads."""
    development, production = c.default_config("development"), c.default_config("production")
    assert validated(development) == development
    assert validated(production) == production
    assert development.key_prefix == "dev:"
    assert (development.max_entries, development.default_ttl) == (10_000, 86_400)
    assert production.key_prefix is None
    assert production.max_bytes == 256 * 2**20
    assert production.loading.stale_for == 3600


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"backend": "memcached"}, "$.backend"),
        ({"key_prefix": 5}, "$.key_prefix"),
        ({"default_ttl": 0}, "$.default_ttl"),
        ({"default_ttl": -1}, "$.default_ttl"),
        ({"max_entries": 0}, "$.max_entries"),
        ({"max_bytes": 10}, "$.max_bytes"),
        ({"codec": "pickle"}, "$.codec"),
        ({"loading": {"jitter": 1}}, "$.loading.jitter"),
        ({"loading": {"hard_timeout": 0}}, "$.loading.hard_timeout"),
        ({"loading": {"soft_timeout": 31}}, "$.loading"),
        ({"loading": {"stale": 1}}, "$.loading.stale"),
        ({"pool_size": 1}, "$.pool_size"),
    ],
)
def test_a_wrong_value_is_refused_with_its_path(values: dict[str, Any], path: str) -> None:
    """Before anything starts."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        from_builtins(values, c.Config)
    assert caught.value.path == path


def test_a_config_made_in_python_passes_the_same_gate() -> None:
    """`component` refuses it at once."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        c.component(c.Config(max_entries=0))
    assert caught.value.path == "$.max_entries"


def test_times_in_a_config_may_be_texts() -> None:
    """As people write them in files."""
    config = from_builtins({"default_ttl": "24h", "loading": {"stale_for": "1m30s"}}, c.Config)
    assert config.default_ttl == 86_400
    assert config.loading.stale_for == 90


async def test_in_an_app() -> None:
    """`app.use` hands out the typed handle, and the app's name is the prefix in production."""
    app = creche.App("shop", env="production")
    cache: c.Cache = app.use(components.cache.component())
    async with app.open():
        await cache.set("k", 1)
        assert list(store_of(cache).records) == ["shop:k"]


async def test_it_may_be_renamed() -> None:
    """Two caches of one app have different names."""
    async with creche.open_runtime("test") as runtime:
        sessions = await runtime.start(c.component(c.Config(), name="sessions"))
        assert sessions.path == "root/sessions"
        assert repr(sessions) == "<Cache root/sessions>"


# --- the prefix -------------------------------------------------------------------------------------------------------


async def _locked(cache: c.Cache) -> None:
    async with cache.lock("k"):
        table: Any = lease_of(cache).locks
        assert all(key.startswith("p:") for key in table._table._grants)


WRITES: dict[str, Callable[[c.Cache], Awaitable[object]]] = {
    "set": lambda cache: cache.set("k", 1),
    "set_if_absent": lambda cache: cache.set_if_absent("k", 1),
    "get_and_set": lambda cache: cache.get_and_set("k", 1),
    "set_many": lambda cache: cache.set_many({"k": 1}),
    "increment": lambda cache: cache.increment("k"),
    "decrement": lambda cache: cache.decrement("k"),
    "get_or_load": lambda cache: cache.get_or_load("k", Source().load),
    "hashes.set": lambda cache: cache.hashes.set("k", "f", 1),
    "hashes.set_many": lambda cache: cache.hashes.set_many("k", {"f": 1}),
    "hashes.increment": lambda cache: cache.hashes.increment("k", "f"),
    "sets.add": lambda cache: cache.sets.add("k", "m"),
    "sorted_sets.add": lambda cache: cache.sorted_sets.add("k", {"m": 1}),
    "sorted_sets.increment": lambda cache: cache.sorted_sets.increment("k", "m"),
    "blooms.add": lambda cache: cache.blooms.add("k", "m"),
    "blooms.reserve": lambda cache: cache.blooms.reserve("k", error_rate=0.1, capacity=10),
    "lock": _locked,
}


@pytest.mark.parametrize("name", WRITES)
async def test_every_key_has_the_prefix(name: str) -> None:
    """Whatever it is written by."""
    async with BACKEND.opened(key_prefix="p:") as opened:
        await WRITES[name](opened.cache)
        assert list(store_of(opened.cache).records) == ([] if name == "lock" else ["p:k"])
        assert await opened.cache.keys() == ([] if name == "lock" else ["k"])


READS = {
    *("get", "get_many", "delete", "exists", "expire", "persist", "ttl", "keys", "scan", "statistics"),
    *("invalidate_tags", "path"),
    *("hashes.get", "hashes.get_many", "hashes.get_all", "hashes.delete", "hashes.exists", "hashes.length"),
    *("sets.remove", "sets.members", "sets.contains", "sets.length"),
    *("sorted_sets.remove", "sorted_sets.remove_by_rank", "sorted_sets.range", "sorted_sets.range_by_score"),
    *("sorted_sets.length", "sorted_sets.count", "sorted_sets.score", "blooms.contains", "blooms.contains_many"),
}


def test_no_method_has_been_forgotten() -> None:
    """Every public method is one of those above, and has a docstring."""
    handle = c.Cache("cache", c.Config())
    names = {"": handle, "hashes.": handle.hashes, "sets.": handle.sets}
    names |= {"sorted_sets.": handle.sorted_sets, "blooms.": handle.blooms}
    found = {
        f"{prefix}{name}": member
        for prefix, owner in names.items()
        for name, member in inspect.getmembers(type(owner))
        if not name.startswith("_")
    }
    assert set(found) == READS | set(WRITES)
    assert all(member.__doc__ for member in found.values())


# --- being looked at --------------------------------------------------------------------------------------------------


async def test_statistics() -> None:
    """They tell reads, loads and entries since the incarnation began."""
    async with BACKEND.opened() as opened:
        cache = opened.cache
        await cache.set("k", 1)
        await cache.get_many(["k", "x"])
        await cache.get_or_load("l", Source().load)
        await cache.get_or_load("l", Source().load)
        with pytest.raises(Boom):
            await cache.get_or_load("bad", Source(error=Boom()).load)
        told = cache.statistics()
        assert told is not None
        assert (told.entries, told.bytes) == (2, 0)
        assert (told.hits, told.misses, told.hit_ratio) == (2, 3, 0.4)
        assert (told.loads, told.load_failures, told.stale) == (2, 1, 0)


async def test_nobody_need_listen() -> None:
    """Without a subscriber no event is made, and all goes on."""
    async with BACKEND.opened(loading=c.LoadPolicy(stale_for=10)) as opened:
        cache = opened.cache
        await cache.set("k", "text")
        assert await cache.get_or_load("k", Source(5).load, type=int) == 5
        with pytest.raises(Boom):
            await cache.get_or_load("bad", Source(error=Boom()).load)


async def test_the_same_seed_gives_the_same_jitter() -> None:
    """Chance comes from the runtime."""

    async def times() -> list[float | None]:
        async with BACKEND.opened(loading=c.LoadPolicy(jitter=0.5)) as opened:
            for number in range(5):
                await opened.cache.get_or_load(f"k{number}", Source().load, ttl=100)
            left = [await opened.cache.ttl(f"k{number}") for number in range(5)]
        return left

    runs = [await trio_run(times) for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 5


async def trio_run(fn: Callable[[], Awaitable[list[float | None]]]) -> list[float | None]:
    """In a run of its own, under a clock that stands still."""
    clock = trio.testing.MockClock()
    return await trio.to_thread.run_sync(lambda: trio.run(fn, clock=clock))


async def test_an_entry_without_chance_lives_exactly_as_long_as_asked() -> None:
    """The policy of these tests has none."""
    assert (STEADY.jitter, STEADY.early) == (0, 0)
