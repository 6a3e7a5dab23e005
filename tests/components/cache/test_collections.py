"""The contract of hashes, sets, sorted sets and Bloom filters, on every backend."""

from __future__ import annotations

import math

import pytest
import trio

from creche.components import cache as c

from .support import Backend

Clock = trio.abc.Clock | None
INF = math.inf


# --- hashes -----------------------------------------------------------------------------------------------------------


async def test_hashes(cache: c.Cache) -> None:
    """Fields are stored, read alone, among others and all, counted and deleted."""
    hashes = cache.hashes
    assert await hashes.set("h", "name", "Ada") is True
    assert await hashes.set("h", "name", "Grace") is False
    assert await hashes.set_many("h", {"age": 36, "name": "Ada"}) == 1
    assert await hashes.get("h", "name") == b"Ada"
    assert await hashes.get("h", "age", type=int) == 36
    assert await hashes.get("h", "x", type=int) is None
    assert await hashes.get_many("h", ["age", "x"], type=int) == {"age": 36}
    assert await hashes.get_all("h", type=str) == {"name": "Ada", "age": "36"}
    assert await hashes.exists("h", "age") is True
    assert await hashes.exists("h", "x") is False
    assert await hashes.length("h") == 2
    assert await hashes.delete("h", "age", "x", "age") == 1
    assert await hashes.length("h") == 1


async def test_fields_can_be_counted(cache: c.Cache) -> None:
    """As strings can."""
    assert await cache.hashes.increment("h", "n") == 1
    assert await cache.hashes.increment("h", "n", -3) == -2
    await cache.hashes.set("h", "t", "text")
    with pytest.raises(c.NotANumber, match="h"):
        await cache.hashes.increment("h", "t")
    assert await cache.hashes.get("h", "t", type=str) == "text"


async def test_what_is_read_of_a_hash_is_nobody_elses(cache: c.Cache) -> None:
    """To change it changes nothing in the cache."""
    await cache.hashes.set("h", "a", 1)
    found = await cache.hashes.get_all("h")
    found["b"] = b"2"
    assert await cache.hashes.get_all("h") == {"a": b"1"}


# --- sets -------------------------------------------------------------------------------------------------------------


async def test_sets(cache: c.Cache) -> None:
    """Members are there once, and are told by their bytes."""
    sets = cache.sets
    assert await sets.add("s", "a", "b", b"a", 1) == 3
    assert await sets.add("s", "a") == 0
    assert await sets.members("s") == {b"a", b"b", b"1"}
    assert await sets.members("s", type=str) == {"a", "b", "1"}
    assert await sets.contains("s", "a") is True
    assert await sets.contains("s", "x") is False
    assert await sets.length("s") == 3
    assert await sets.remove("s", "a", "a", "x") == 1
    assert await sets.members("s") == {b"b", b"1"}
    assert await sets.add("s") == 0
    assert await sets.remove("s") == 0


# --- sorted sets ------------------------------------------------------------------------------------------------------


async def test_sorted_sets(cache: c.Cache) -> None:
    """Members come in the order of their scores with them, from either end."""
    z = cache.sorted_sets
    assert await z.add("z", {"c": 3, "a": 1, "b": 2.5}) == 3
    assert await z.add("z", {"a": 4, "d": -INF}) == 1
    assert await z.range("z", type=str) == [("d", -INF), ("b", 2.5), ("c", 3.0), ("a", 4.0)]
    assert await z.range("z", 0, 1, reverse=True, type=str) == [("a", 4.0), ("c", 3.0)]
    assert await z.range_by_score("z", 2.5, 3, type=str) == [("b", 2.5), ("c", 3.0)]
    assert await z.range_by_score("z", reverse=True, limit=2, type=str) == [("a", 4.0), ("c", 3.0)]
    assert await z.range_by_score("z", 3, 2) == []
    assert await z.range_by_score("z", limit=0) == []
    assert await z.length("z") == 4
    assert await z.count("z") == 4
    assert await z.count("z", 2.5, 3) == 2
    assert await z.count("z", 3, 2) == 0
    assert await z.score("z", "b") == 2.5
    assert await z.score("z", "x") is None
    assert await z.increment("z", "b", 0.25) == 2.75
    assert await z.increment("z", "new") == 1.0
    assert await z.remove("z", "a", "x") == 1
    assert await z.range("z", type=str) == [("d", -INF), ("new", 1.0), ("b", 2.75), ("c", 3.0)]


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, -1, "abcde"),
        (1, 3, "bcd"),
        (-2, -1, "de"),
        (-100, 1, "ab"),
        (3, 100, "de"),
        (5, 9, ""),
        (3, 1, ""),
        (0, -6, ""),
        (-1, -2, ""),
    ],
)
async def test_ranks_include_both_ends(cache: c.Cache, start: int, stop: int, expected: str) -> None:
    """And negative ones count from the end, in both directions, for reading and for removing."""
    z = cache.sorted_sets
    await z.add("z", {letter: place for place, letter in enumerate("abcde")})
    found = await z.range("z", start, stop, type=str)
    assert "".join(member for member, _ in found) == expected
    mirrored = await z.range("z", start, stop, reverse=True, type=str)
    assert "".join(member for member, _ in mirrored) == expected.translate(str.maketrans("abcde", "edcba"))
    assert await z.remove_by_rank("z", start, stop) == len(expected)
    assert "".join(member for member, _ in await z.range("z", type=str)) == "".join(
        sorted(set("abcde") - set(expected))
    )


async def test_equal_scores_are_ordered_by_member(cache: c.Cache) -> None:
    """Byte by byte."""
    await cache.sorted_sets.add("z", {"b": 1, "a": 1, "B": 1, "ab": 1})
    assert [member for member, _ in await cache.sorted_sets.range("z")] == [b"B", b"a", b"ab", b"b"]


async def test_a_score_is_a_number(cache: c.Cache) -> None:
    """NaN has no place in an order; nothing is changed."""
    with pytest.raises(ValueError, match="NaN"):
        await cache.sorted_sets.add("z", {"a": 1, "b": math.nan})
    assert await cache.sorted_sets.length("z") == 0


async def test_a_score_does_not_become_none_by_counting(cache: c.Cache) -> None:
    """Infinities may be scores, but not their sum: the order would be lost, and members with it."""
    await cache.sorted_sets.add("z", {"a": 1, "m": math.inf, "z": 3})
    with pytest.raises(c.NotANumber, match="'z'"):
        await cache.sorted_sets.increment("z", "m", -math.inf)
    assert await cache.sorted_sets.score("z", "m") == math.inf
    assert await cache.sorted_sets.remove("z", "m") == 1
    assert await cache.sorted_sets.range("z") == [(b"a", 1.0), (b"z", 3.0)]


async def test_scores_keep_all_their_digits(cache: c.Cache) -> None:
    """They are doubles, not six digits after the point."""
    score = 1234567.123456789
    await cache.sorted_sets.add("z", {"m": score})
    assert await cache.sorted_sets.score("z", "m") == score
    assert await cache.sorted_sets.range("z") == [(b"m", score)]


async def test_the_latest_fifty(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """The seeds' list of a session's messages: by time, at most fifty, gone when nobody writes."""
    for number in range(60):
        await cache.sorted_sets.add("session:1", {f"message:{number}": number})
        await cache.sorted_sets.remove_by_rank("session:1", 0, -51)
        await cache.expire("session:1", ttl=7200 * backend.second)
    latest = await cache.sorted_sets.range("session:1", 0, 1, reverse=True, type=str)
    assert latest == [("message:59", 59.0), ("message:58", 58.0)]
    assert await cache.sorted_sets.length("session:1") == 50
    await backend.elapse(7201)
    assert await cache.sorted_sets.length("session:1") == 0


# --- all of them ------------------------------------------------------------------------------------------------------


async def test_an_empty_collection_is_none(cache: c.Cache) -> None:
    """One that loses its last member is not there any more, and reading makes none."""
    await cache.hashes.set("h", "f", 1)
    await cache.hashes.delete("h", "f")
    await cache.sets.add("s", 1)
    await cache.sets.remove("s", 1)
    await cache.sorted_sets.add("z", {"m": 1})
    await cache.sorted_sets.remove_by_rank("z", 0, -1)
    assert await cache.hashes.get_all("nothing") == {}
    assert await cache.hashes.set_many("nothing", {}) == 0
    assert await cache.sets.members("nothing") == set()
    assert await cache.sorted_sets.add("nothing", {}) == 0
    assert await cache.sorted_sets.range("nothing") == []
    assert await cache.hashes.length("nothing") == await cache.sets.length("nothing") == 0
    assert await cache.sorted_sets.length("nothing") == 0
    assert await cache.exists("h", "s", "z", "nothing") == 0


async def test_a_collection_has_no_end_of_its_own_but_keeps_one(cache: c.Cache) -> None:
    """Writing to it does not change its time."""
    await cache.sets.add("s", 1)
    assert await cache.ttl("s") == INF
    await cache.expire("s", ttl=100)
    await cache.sets.add("s", 2)
    left = await cache.ttl("s")
    assert left is not None
    assert left <= 100


# --- Bloom filters ----------------------------------------------------------------------------------------------------


async def test_bloom_filters(cache: c.Cache) -> None:
    """No wrong no; few wrong yeses; one that nobody reserved is made, one that is not there says no."""
    blooms = cache.blooms
    assert await blooms.reserve("b", error_rate=0.01, capacity=1000) is True
    assert await blooms.reserve("b", error_rate=0.5, capacity=1) is False
    known = [f"known:{number}" for number in range(1000)]
    assert 980 <= await blooms.add("b", *known) <= 1000
    assert all(await blooms.contains_many("b", known))
    strangers = await blooms.contains_many("b", [f"stranger:{number}" for number in range(10_000)])
    assert sum(strangers) < 150
    assert await blooms.add("b", "known:1") == 0
    assert await blooms.contains("b", "known:1") is True
    assert await blooms.contains("nothing", "x") is False
    assert await blooms.add("made", "x") == 1
    assert await blooms.contains("made", "x") is True


async def test_a_bloom_filter_keeps_its_rate_when_it_grows(cache: c.Cache) -> None:
    """Ten times as many items as it was reserved for."""
    await cache.blooms.reserve("b", error_rate=0.01, capacity=200)
    items = [f"known:{number}" for number in range(2000)]
    await cache.blooms.add("b", *items)
    assert all(await cache.blooms.contains_many("b", items))
    strangers = await cache.blooms.contains_many("b", [f"stranger:{number}" for number in range(10_000)])
    assert sum(strangers) < 150


@pytest.mark.parametrize(
    ("error_rate", "capacity"), [(0, 100), (1, 100), (-1, 100), (math.nan, 100), (0.01, 0), (0.001, 10**9)]
)
async def test_a_bloom_filter_that_makes_no_sense_is_refused(cache: c.Cache, error_rate: float, capacity: int) -> None:
    """A rate that is none, no room, and more room than any server has."""
    with pytest.raises(ValueError, match=r"error_rate|capacity"):
        await cache.blooms.reserve("b", error_rate=error_rate, capacity=capacity)
    assert await cache.exists("b") == 0
