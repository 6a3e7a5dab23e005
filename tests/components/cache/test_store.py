"""The store of the embedded backend alone: its bounds, its clock, its tags."""

from __future__ import annotations

import math
import random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from creche.components.cache import blooms, hashes, sets, sorted_sets, strings
from creche.components.cache.bloom import Bloom
from creche.components.cache.sorted_set import SortedSet
from creche.components.cache.store import Store

from .support import FakeClock

INF = math.inf


def new_store(clock: FakeClock | None = None, max_entries: int = 1000, max_bytes: int | None = None) -> Store:
    return Store(clock or FakeClock(), random.Random(1), max_entries, max_bytes)


def test_it_keeps_no_more_than_it_may() -> None:
    """However much is written, of whatever kind; what goes is counted, and the newest stays."""
    store = new_store(max_entries=10)
    for number in range(100):
        strings.write(store, f"k{number}", b"v", INF)
        sets.add(store, f"s{number}", [b"m"])
        assert len(store.records) <= 10
        assert sets.length(store, f"s{number}") == 1
    told = store.statistics()
    assert (told.entries, told.evicted) == (10, 190)


def test_it_can_be_bounded_by_bytes() -> None:
    """Values, keys and members weigh; a collection that grows displaces others, and one that shrinks makes room."""
    store = new_store(max_bytes=100_000)
    for number in range(1000):
        strings.write(store, f"k{number}", b"x" * 1000, INF)
        assert store.statistics().bytes <= 100_000
    assert 60 <= len(store.records) <= 75
    before = len(store.records)
    for number in range(300):
        hashes.write(store, "h", {f"f{number}": b"x" * 10})
        assert store.statistics().bytes <= 100_000
    assert hashes.length(store, "h") == 300
    assert len(store.records) < before - 20
    for number in range(2000):
        hashes.write(store, "h", {f"f{number}": b"x" * 10})
        assert store.statistics().bytes <= 100_000
    assert hashes.length(store, "h") < 2000
    strings.write(store, "huge", b"x" * 200_000, INF)
    assert strings.read(store, "huge") is None


def test_bytes_are_given_back() -> None:
    """After everything has been written, changed, shrunk and deleted, nothing is held any more."""
    store = new_store(max_bytes=1_000_000)
    strings.write(store, "k", b"x" * 1000, INF)
    strings.write(store, "k", b"x", INF)
    hashes.write(store, "h", {"a": b"x" * 100, "b": b"y"})
    hashes.write(store, "h", {"a": b"x"})
    sets.add(store, "s", [b"a", b"b"])
    sorted_sets.add(store, "z", {b"a": 1, b"b": 2})
    blooms.add(store, "b", [b"x"])
    hashes.remove(store, "h", ["a"])
    sets.remove(store, "s", [b"a"])
    sorted_sets.remove(store, "z", [b"a"])
    alone = new_store(max_bytes=1_000_000)
    strings.write(alone, "k", b"x", INF)
    hashes.write(alone, "h", {"b": b"y"})
    sets.add(alone, "s", [b"b"])
    sorted_sets.add(alone, "z", {b"b": 2})
    blooms.add(alone, "b", [b"x"])
    assert store.statistics().bytes == alone.statistics().bytes > 0
    hashes.remove(store, "h", ["b"])
    sets.remove(store, "s", [b"b"])
    sorted_sets.remove_by_rank(store, "z", 0, -1)
    assert strings.remove(store, ["k", "b", "h"]) == 2
    assert store.statistics().bytes == 0


def test_the_memory_of_what_has_ended_is_freed_unseen() -> None:
    """Within a second of its end, although nobody looks; for thousands that end in one second it wakes up once."""
    clock = FakeClock()
    store = new_store(clock, max_entries=100_000)
    for number in range(5000):
        strings.write(store, f"k{number}", b"v", ttl=9 + number / 5000)
    strings.write(store, "later", b"v", ttl=1000)
    times = {when for when, _, _ in cast("Any", store.deadlines)._heap}
    assert times == {1009.0, 1010.0, 2000.0}
    clock.now += 10
    store.deadlines.expire_due(clock.now)
    assert list(store.records) == ["later"]
    assert store.statistics().expired == 5000


def test_moving_an_end_again_and_again_does_not_pile_up() -> None:
    """A key that is written often has one place in the heap; and it ends at its last end."""
    clock = FakeClock()
    store = new_store(clock)
    for number in range(1000):
        strings.write(store, "k", b"v", ttl=10 + number)
    assert len(store.deadlines) == 1
    clock.now += 500
    store.deadlines.expire_due(clock.now)
    assert strings.read(store, "k") == b"v"
    assert strings.expire(store, "k", 1)
    clock.now += 2
    store.deadlines.expire_due(clock.now)
    assert not store.records


@pytest.mark.parametrize("ttl", range(1, 10))
def test_the_time_left_is_never_negative(ttl: int) -> None:
    """Not even if a key ends while it is being looked at."""

    class Ticking(FakeClock):
        def __call__(self) -> float:
            self.now += 1
            return self.now

    store = new_store(Ticking())
    strings.write(store, "k", b"v", ttl)
    while (left := strings.time_left(store, "k")) is not None:
        assert left >= 0


def test_an_end_that_was_put_off_is_not_forgotten() -> None:
    """The heap calls at the old time, and then again at the new one."""
    clock = FakeClock()
    store = new_store(clock)
    strings.write(store, "k", b"v", ttl=2)
    strings.expire(store, "k", 50)
    for seconds, there in ((3, True), (46, True), (2, False)):
        clock.now += seconds
        store.deadlines.expire_due(clock.now)
        assert (list(store.records) == ["k"]) is there
    assert len(store.deadlines) == 0


def test_deleted_keys_leave_the_heap() -> None:
    """Keys that come and go with long times do not fill it."""
    store = new_store()
    for number in range(10_000):
        strings.write(store, f"k{number}", b"v", ttl=1000)
        strings.remove(store, [f"k{number}"])
    assert len(store.deadlines) < 200


def test_barriers_are_kept_for_as_long_as_they_matter() -> None:
    """A tag that nothing carries any more leaves nothing behind, however many have been invalidated."""
    store = new_store(max_entries=100)
    for number in range(1000):
        strings.write(store, f"k{number}", b"v", INF, (f"t{number}",))
        strings.invalidate(store, [f"t{number}", f"never{number}"])
    inside = cast("Any", store)
    assert len(inside._barriers) <= 100
    assert len(inside._carriers) <= 100
    strings.remove(store, list(store.records))
    assert (inside._barriers, inside._carriers) == ({}, {})


def test_what_a_command_gives_is_the_callers() -> None:
    """To change it changes nothing in the store."""
    store = new_store()
    hashes.write(store, "h", {"f": b"1"})
    sets.add(store, "s", [b"m"])
    hashes.get_all(store, "h")["g"] = b"2"
    sets.members(store, "s").add(b"n")
    assert (hashes.length(store, "h"), sets.length(store, "s")) == (1, 1)


def test_statistics_count_reads_of_strings() -> None:
    """Hits, misses, and their ratio."""
    store = new_store()
    assert store.statistics().hit_ratio == 0
    strings.write(store, "k", b"v", INF)
    strings.read_many(store, ["k", "k", "x", "k"])
    told = store.statistics()
    assert (told.hits, told.misses, told.hit_ratio) == (3, 1, 0.75)


@given(
    changes=st.lists(
        st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.none() | st.floats(allow_nan=False)), max_size=30
    )
)
def test_a_sorted_set_is_a_sorted_dictionary(changes: list[tuple[bytes, float | None]]) -> None:
    """Whatever is added, moved and removed."""
    ours, model = SortedSet(), dict[bytes, float]()
    for member, score in changes:
        if score is None:
            assert ours.remove(member) == (model.pop(member, None) is not None)
        else:
            assert ours.add(member, score) == (member not in model)
            model[member] = score
        expected = sorted(model.items(), key=lambda item: (item[1], item[0]))
        assert ours.by_rank(0, -1) == expected
        assert len(ours) == len(model)
        low, high = (score or 0.0, 1.0)
        assert ours.by_score(low, high) == [item for item in expected if low <= item[1] <= high]
        assert ours.count(low, high) == len(ours.by_score(low, high))
        assert ours.score(member) == model.get(member)


@pytest.mark.parametrize("error_rate", [0.5, 0.01, 0.0001])
def test_the_size_of_a_bloom_filter(error_rate: float) -> None:
    """It takes what theory asks for at half the rate, for the layers to come, and no more."""
    bloom = Bloom(error_rate, 1000)
    bits = -1000 * math.log(error_rate / 2) / math.log(2) ** 2
    assert bits / 8 <= bloom.memory <= bits / 8 + 2
