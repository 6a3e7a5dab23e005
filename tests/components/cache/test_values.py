"""The contract of strings, counters, times and keys, on every backend."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import date
from typing import Any

import msgspec
import pytest
import trio

from creche.components import cache as c

from .support import Backend, Source

Clock = trio.abc.Clock | None


@dataclass
class Profile:
    name: str
    born: date


class Point(msgspec.Struct):
    x: int
    y: int


ADA = Profile("Ada", date(1815, 12, 10))


async def test_a_miss_is_none(cache: c.Cache) -> None:
    """What is not there is None, whatever type was asked for."""
    assert await cache.get("k") is None
    assert await cache.get("k", type=Profile) is None


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (b"\x00\xff", bytes),
        ("grüße", str),
        (-7, int),
        (2**63 - 1, int),
        (1.5, float),
        (True, bool),
        ([1, 2], list[int]),
        ({"a": [1]}, dict[str, list[int]]),
        (ADA, Profile),
        (Point(1, 2), Point),
        ("", str),
        (b"", bytes),
    ],
)
@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_values_come_back_as_the_type_that_is_asked_for(
    backend: Backend, codec: str, value: object, kind: type
) -> None:
    """What was stored comes back equal and of its type, with either codec, alone and among many."""
    async with backend.opened(codec=codec) as opened:
        await opened.cache.set("k", value)
        found = await opened.cache.get("k", type=kind)
        assert found == value
        assert type(found) is type(value)
        assert await opened.cache.get_many(["k"], type=kind) == {"k": value}


@pytest.mark.parametrize("codec", ["json", "msgpack"])
async def test_a_whole_number_is_itself_as_whatever_number_it_is_read(backend: Backend, codec: str) -> None:
    """Its digits are no MessagePack: b"5" would be 53."""
    async with backend.opened(codec=codec) as opened:
        for number in (5, -5, 1234):
            await opened.cache.set("k", number)
            for kind in (float, int | None, float | str):
                assert await opened.cache.get("k", type=kind) == number
            with pytest.raises(c.ValueInvalid, match="Expected"):
                await opened.cache.get("k", type=Profile)
        assert await opened.cache.get_or_load("loaded", Source(5).load, type=float) == 5.0


async def test_bytes_text_and_numbers_are_stored_as_they_are(cache: c.Cache) -> None:
    """So that other clients of the same server, and `increment`, can read them."""
    for value, raw in ((b"\x01", b"\x01"), ("é", b"\xc3\xa9"), (42, b"42"), ([1], b"[1]")):
        await cache.set("k", value)
        assert await cache.get("k") == raw


async def test_a_value_that_cannot_be_read_as_the_type_says_so(cache: c.Cache) -> None:
    """The error names the key and the type, and never the value; the value stays."""
    await cache.set("k", "s3cret")
    for kind in (int, Profile, list[int]):
        with pytest.raises(c.ValueInvalid) as caught:
            await cache.get("k", type=kind)
        told = repr(caught.value) + str(caught.value) + repr(caught.value.__cause__) + repr(caught.value.__context__)
        assert caught.value.key == "k"
        assert caught.value.type is kind
        assert "s3cret" not in told
    assert await cache.get("k") == b"s3cret"
    await cache.set("k", b"\xff")
    with pytest.raises(c.ValueInvalid, match="not UTF-8"):
        await cache.get("k", type=str)


async def test_what_comes_back_is_nobody_elses(cache: c.Cache) -> None:
    """To change a value that was stored, or that was read, changes nothing in the cache."""
    stored = {"a": [1]}
    await cache.set("k", stored)
    stored["a"].append(2)
    first = await cache.get("k", type=dict[str, list[int]])
    assert first is not None
    assert first == {"a": [1]}
    first["a"].append(3)
    assert await cache.get("k", type=dict[str, list[int]]) == {"a": [1]}


async def test_none_cannot_be_stored(cache: c.Cache) -> None:
    """It is what a miss looks like; the error says what to use instead."""
    with pytest.raises(ValueError, match="negative_ttl"):
        await cache.set("k", None)
    with pytest.raises(ValueError, match="negative_ttl"):
        await cache.set_many({"a": 1, "b": None})
    assert await cache.exists("k", "a", "b") == 0


async def test_what_cannot_be_encoded_is_refused(cache: c.Cache) -> None:
    """A value without an encoding is the caller's TypeError, and the cache goes on."""
    with pytest.raises(TypeError):
        await cache.set("k", object())
    assert await cache.get("k") is None


@pytest.mark.parametrize("bad", [0, -1, math.nan, -math.inf])
async def test_a_ttl_is_more_than_zero(cache: c.Cache, bad: float) -> None:
    """A time that has passed already is refused, with its value in the error."""
    with pytest.raises(ValueError, match="ttl"):
        await cache.set("k", 1, ttl=bad)
    with pytest.raises(ValueError, match="ttl"):
        await cache.expire("k", ttl=bad)
    with pytest.raises(ValueError, match="negative_ttl"):
        await cache.get_or_load("k", _nothing, negative_ttl=bad)
    with pytest.raises(ValueError, match="ttl"):
        async with cache.lock("k", ttl=bad):
            pass


async def _nothing() -> bytes | None:
    return None


async def test_an_empty_key_is_refused(cache: c.Cache) -> None:
    """It would be the prefix alone."""
    for attempt in (cache.get(""), cache.set("", 1), cache.hashes.get("", "f"), cache.delete("a", "")):
        with pytest.raises(ValueError, match="empty"):
            await attempt
    with pytest.raises(ValueError, match="empty"):
        async with cache.lock(""):
            pass
    with pytest.raises(ValueError, match="empty"):
        await cache.invalidate_tags("")


async def test_arguments_of_the_wrong_type_are_the_callers_and_harm_nobody(cache: c.Cache) -> None:
    """They are TypeErrors before anything is done."""
    await cache.set("k", "kept")
    bad: Any = 1.5
    for attempt in (
        cache.get(bad),
        cache.increment("n", bad),
        cache.hashes.set("h", bad, 1),
        cache.hashes.increment("h", "f", bad),
        cache.sorted_sets.range("z", bad, 1),
        cache.sorted_sets.range_by_score("z", limit=bad),
        cache.set("k", 1, tags="abc"),
        cache.blooms.reserve("b", error_rate=0.1, capacity=bad),
    ):
        with pytest.raises(TypeError):
            await attempt
    assert await cache.get("k", type=str) == "kept"


# --- writing ----------------------------------------------------------------------------------------------------------


async def test_set_replaces_the_value_and_its_end(cache: c.Cache) -> None:
    """The second `set` decides about both; and it may replace what is of another kind."""
    await cache.set("k", 1, ttl=10)
    await cache.set("k", 2, ttl=math.inf)
    assert await cache.get("k", type=int) == 2
    assert await cache.ttl("k") == math.inf
    await cache.sets.add("s", "m")
    await cache.set("s", "now a string")
    assert await cache.get("s", type=str) == "now a string"


async def test_set_if_absent(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """It stores if there is nothing of any kind, or nothing any more."""
    assert await cache.set_if_absent("k", 1, ttl=10 * backend.second) is True
    assert await cache.set_if_absent("k", 2) is False
    assert await cache.get("k", type=int) == 1
    await backend.elapse(11)
    assert await cache.set_if_absent("k", 3) is True
    await cache.sets.add("s", "m")
    assert await cache.set_if_absent("s", 1) is False


async def test_get_and_set(cache: c.Cache) -> None:
    """It returns what was there, and begins a new time."""
    assert await cache.get_and_set("k", 1, ttl=10) is None
    assert await cache.get_and_set("k", 2, type=int) == 1
    assert await cache.get("k", type=int) == 2
    left = await cache.ttl("k")
    assert left is not None
    assert left > 100
    await cache.sets.add("s", "m")
    with pytest.raises(c.WrongKind):
        await cache.get_and_set("s", 1)
    assert await cache.sets.members("s") == {b"m"}


async def test_many_at_once(cache: c.Cache) -> None:
    """Only what is there comes back, under the keys that were asked for; an empty batch is no work."""
    await cache.set_many({"a": 1, "b": 2}, ttl=10)
    assert await cache.get_many(["a", "x", "b", "a"], type=int) == {"a": 1, "b": 2}
    assert await cache.get_many([]) == {}
    await cache.set_many({})
    assert await cache.delete() == 0
    assert await cache.exists() == 0


async def test_delete_and_exists_count_what_is_there(cache: c.Cache) -> None:
    """Of every kind; a key that is named twice exists twice, and is deleted once."""
    await cache.set("a", 1)
    await cache.hashes.set("h", "f", 1)
    await cache.sorted_sets.add("z", {"m": 1})
    assert await cache.exists("a", "h", "z", "x", "a") == 4
    assert await cache.delete("a", "h", "x", "a") == 2
    assert await cache.exists("a", "h", "z") == 1


async def test_the_wrong_kind_is_told(cache: c.Cache) -> None:
    """A method on another kind raises, with the user's own key in the error, and changes nothing."""
    await cache.set("k", 1)
    await cache.sets.add("s", "m")
    for attempt, found, wanted in (
        (cache.get("s"), "set", "string"),
        (cache.increment("s"), "set", "string"),
        (cache.hashes.get("k", "f"), "string", "hash"),
        (cache.hashes.set("s", "f", 1), "set", "hash"),
        (cache.sets.add("k", "m"), "string", "set"),
        (cache.sorted_sets.add("s", {"m": 1}), "set", "sorted_set"),
        (cache.blooms.add("s", "m"), "set", "bloom"),
        (cache.get_or_load("s", _nothing), "set", "string"),
    ):
        with pytest.raises(c.WrongKind) as caught:
            await attempt
        assert caught.value.key in ("k", "s")
        assert caught.value.found == found
        assert caught.value.wanted == wanted
        assert repr(caught.value.key) in str(caught.value)
    assert await cache.get("k", type=int) == 1
    assert await cache.sets.members("s") == {b"m"}


# --- counters ---------------------------------------------------------------------------------------------------------


async def test_counters(cache: c.Cache) -> None:
    """They begin at 0 without an end, keep the end that they have, and go below 0."""
    assert await cache.increment("n") == 1
    assert await cache.increment("n", 41) == 42
    assert await cache.decrement("n", 50) == -8
    assert await cache.ttl("n") == math.inf
    await cache.set("m", 5, ttl=10)
    assert await cache.increment("m") == 6
    left = await cache.ttl("m")
    assert left is not None
    assert 0 < left <= 10
    assert await cache.get("m", type=int) == 6


@pytest.mark.parametrize("text", ["x", "1.5", "", " 1", "1_0", "+1", "007", "9" * 30, "½"])
async def test_what_is_no_number_cannot_be_counted(cache: c.Cache, text: str) -> None:
    """Only plain decimal numbers can; the value stays as it was."""
    await cache.set("k", text)
    with pytest.raises(c.NotANumber) as caught:
        await cache.increment("k")
    assert caught.value.key == "k"
    assert await cache.get("k", type=str) == text


async def test_a_counter_does_not_overflow(cache: c.Cache) -> None:
    """Beyond 64 bits it is refused, and the counter stays."""
    await cache.set("k", 2**63 - 1)
    with pytest.raises(c.NotANumber, match="64 bits"):
        await cache.increment("k")
    assert await cache.get("k", type=int) == 2**63 - 1


# --- time -------------------------------------------------------------------------------------------------------------


async def test_values_end(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """A value is there until its time is up, and not a moment longer, for every way of looking."""
    await cache.set("k", 1, ttl=10 * backend.second)
    await cache.set("forever", 1, ttl=math.inf)
    await backend.elapse(9)
    assert await cache.get("k", type=int) == 1
    await backend.elapse(1.5)
    assert await cache.get("k") is None
    assert await cache.get_many(["k"]) == {}
    assert await cache.exists("k") == 0
    assert await cache.ttl("k") is None
    assert await cache.delete("k") == 0
    assert await cache.keys() == ["forever"]


async def test_fractions_of_a_second_count(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """A ttl is not cut to whole seconds."""
    await cache.set("k", 1, ttl=2.5 * backend.second)
    await backend.elapse(2.25)
    assert await cache.get("k") == b"1"
    await backend.elapse(0.5)
    assert await cache.get("k") is None


async def test_expire_persist_and_ttl(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """The end of a key of any kind can be moved either way, taken off, and asked for."""
    await cache.set("k", 1, ttl=10 * backend.second)
    await cache.sets.add("s", "m")
    for key in ("k", "s"):
        assert await cache.expire(key, ttl=100 * backend.second) is True
        await backend.elapse(50)
        left = await cache.ttl(key)
        assert left is not None
        assert 49 <= left / backend.second <= 51
        assert await cache.persist(key) is True
        assert await cache.ttl(key) == math.inf
        assert await cache.expire(key, ttl=5 * backend.second) is True
        await backend.elapse(6)
        assert await cache.exists(key) == 0
    assert await cache.expire("gone", ttl=5) is False
    assert await cache.persist("gone") is False
    assert await cache.ttl("gone") is None


async def test_the_default_ttl(backend: Backend, clock: Clock) -> None:
    """It is for what is stored without a ttl of its own, but not for counters and collections."""
    second = backend.second
    async with backend.opened(default_ttl=10 * second) as opened:
        cache = opened.cache
        await cache.set("a", 1)
        await cache.set_if_absent("b", 1)
        await cache.get_and_set("c", 1)
        await cache.set_many({"d": 1})
        await cache.get_or_load("e", _one)
        await cache.set("own", 1, ttl=100 * second)
        await cache.increment("n")
        await cache.sets.add("s", "m")
        await backend.elapse(11)
        assert sorted(await cache.keys()) == ["n", "own", "s"]
    async with backend.opened(default_ttl=None) as opened:
        await opened.cache.set("a", 1)
        assert await opened.cache.ttl("a") == math.inf


async def _one() -> bytes:
    return b"1"


# --- keys -------------------------------------------------------------------------------------------------------------


async def test_keys_by_prefix(backend: Backend, clock: Clock, cache: c.Cache) -> None:
    """Keys of every kind come without the component's prefix; signs of patterns stand for themselves."""
    await cache.set_many({"user:1": 1, "user:2": 1, "users": 1, "u*[?]\\:3": 1})
    await cache.hashes.set("user:h", "f", 1)
    await cache.set("user:gone", 1, ttl=backend.second)
    await backend.elapse(2)
    assert sorted(await cache.keys("user:")) == ["user:1", "user:2", "user:h"]
    assert await cache.keys("u*[?]\\") == ["u*[?]\\:3"]
    assert len(await cache.keys()) == 5
    assert await cache.keys("nobody") == []


async def test_a_scan_goes_on_while_keys_come_and_go(cache: c.Cache) -> None:
    """What is there all the time is told exactly once."""
    stay = {f"stay:{number}" for number in range(1000)}
    await cache.set_many(dict.fromkeys(stay, 1) | {f"go:{number}": 1 for number in range(1000)})
    told: list[str] = []
    async for key in cache.scan():
        told.append(key)
        if len(told) % 10 == 0:
            await cache.delete(f"go:{len(told)}")
            await cache.set(f"come:{len(told)}", 1)
    assert stay <= set(told)
    assert len(told) == len(set(told))


async def test_caches_with_different_prefixes_do_not_meet(backend: Backend) -> None:
    """Neither their entries nor their locks."""
    async with backend.opened(key_prefix="one:") as one, backend.opened(key_prefix="two:") as two:
        await one.cache.set("k", 1)
        assert await two.cache.get("k") is None
        assert await two.cache.keys() == []
        async with one.cache.lock("k", wait=False), two.cache.lock("k", wait=False):
            pass


async def test_a_lock_and_an_entry_may_have_the_same_name(cache: c.Cache) -> None:
    """They have nothing to do with each other."""
    await cache.set("k", "entry")
    async with cache.lock("k", wait=False):
        assert await cache.get("k", type=str) == "entry"
        assert await cache.keys() == ["k"]
        assert await cache.delete("k") == 1
        with pytest.raises(c.LockHeld):
            async with cache.lock("k", wait=False):
                pass
