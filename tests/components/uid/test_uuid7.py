"""UUIDv7: the form, the order, and what the generator does while the clock runs backwards."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from creche.components.uid.errors import ClockMovedBack
from creche.components.uid.uuid7 import Rollback, Uuid7Generator, Uuid7Statistics, is_uuid7, uuid7_time

START = 1_700_000_000_000
RFC_EXAMPLE = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"  # RFC 9562, appendix A.6
VERSION_1 = "c232ab00-9414-11ec-b3c8-9f6bdeced846"  # appendix A.1
VERSION_4 = "919108f7-52d1-4320-9bac-f847db4148a8"  # appendix A.3


class Clock:
    """A wall clock set by hand, which counts how often it is read."""

    def __init__(self, ms: int = START) -> None:
        self.ms = ms
        self.reads = 0

    def __call__(self) -> int:
        self.reads += 1
        return self.ms


def seeded() -> Callable[[int], int]:
    """Repeatable randomness."""
    return random.Random(0).getrandbits


def all_ones(bits: int) -> int:
    """The draw that leaves a counter the least room."""
    return (1 << bits) - 1


def stamp(uuid: UUID) -> int:
    """The 48 bits of Unix milliseconds."""
    return uuid.int >> 80


def counter(uuid: UUID) -> int:
    """The 42 bits after the timestamp, less version and variant."""
    return (uuid.int >> 64 & 0xFFF) << 30 | uuid.int >> 32 & 0x3FFF_FFFF


def with_counter(ms: int, value: int) -> UUID:
    """An id as a generator would have made it, with a zero tail."""
    return UUID(int=ms << 80 | 7 << 76 | (value >> 30) << 64 | 0b10 << 62 | (value & 0x3FFF_FFFF) << 32)


# --- the form ---------------------------------------------------------------------------------------------


def test_rfc_example_is_read_as_the_rfc_says() -> None:
    """The test vector of RFC 9562 A.6 is valid and holds the time that the RFC names."""
    assert is_uuid7(RFC_EXAMPLE)
    assert uuid7_time(UUID(RFC_EXAMPLE)) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


def test_made_ids_have_version_variant_and_the_clocks_time() -> None:
    """An id passes our own check and tells the clock's time, absolute, to the millisecond."""
    uuid = Uuid7Generator(now_ms=Clock(1_700_000_000_123), randbits=seeded()).next()
    assert is_uuid7(str(uuid))
    assert (uuid.version, uuid.variant) == (7, UUID(RFC_EXAMPLE).variant)
    assert uuid7_time(uuid) == datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "",
        RFC_EXAMPLE.upper(),
        RFC_EXAMPLE.replace("-", ""),
        RFC_EXAMPLE + "\n",
        " " + RFC_EXAMPLE,
        "{" + RFC_EXAMPLE + "}",
        "urn:uuid:" + RFC_EXAMPLE,
        RFC_EXAMPLE[:-1] + "g",
        RFC_EXAMPLE[:-1] + "１",
        RFC_EXAMPLE[:14] + "4" + RFC_EXAMPLE[15:],
        RFC_EXAMPLE[:19] + "7" + RFC_EXAMPLE[20:],
        RFC_EXAMPLE[:19] + "c" + RFC_EXAMPLE[20:],
        str(UUID(int=0)),
        VERSION_1,
        VERSION_4,
    ],
)
def test_other_texts_are_no_uuid7(text: str) -> None:
    """Another version, another variant and every form but the canonical one are refused."""
    assert not is_uuid7(text)


@given(st.uuids())
def test_is_uuid7_agrees_with_the_standard_library(uuid: UUID) -> None:
    """Of all RFC variant ids, exactly those of version 7 pass."""
    assert is_uuid7(str(uuid)) == (uuid.version == 7)


@pytest.mark.parametrize("uuid", [UUID(VERSION_1), UUID(VERSION_4), UUID(int=0), UUID(int=(1 << 128) - 1)])
def test_time_and_after_refuse_other_versions(uuid: UUID) -> None:
    """An id that is no UUIDv7 holds no such time, so asking for it or following it is a mistake."""
    with pytest.raises(ValueError, match="is not a UUIDv7"):
        uuid7_time(uuid)
    with pytest.raises(ValueError, match="is not a UUIDv7"):
        Uuid7Generator(now_ms=Clock(), randbits=seeded(), after=uuid)


def test_time_beyond_the_calendar_is_a_value_error() -> None:
    """48 bits reach the year 10889, Python's calendar ends at 9999."""
    with pytest.raises(ValueError, match="beyond the year 9999"):
        uuid7_time(with_counter((1 << 48) - 1, 0))


@pytest.mark.parametrize("max_drift", [-0.001, float("inf"), float("nan")])
def test_a_bound_that_bounds_nothing_is_refused(max_drift: float) -> None:
    """A negative, infinite or undefined drift is a mistake, found when the generator is made."""
    with pytest.raises(ValueError, match="max_drift"):
        Uuid7Generator(now_ms=Clock(), randbits=seeded(), max_drift=max_drift)


# --- order and randomness ---------------------------------------------------------------------------------


def test_ids_of_one_millisecond_increase() -> None:
    """Within one millisecond the counter orders the ids, and the timestamp stays the clock's."""
    generator = Uuid7Generator(now_ms=Clock(), randbits=seeded())
    uuids = [generator.next() for _ in range(5000)]
    assert all(a < b for a, b in pairwise(uuids))
    assert {stamp(uuid) for uuid in uuids} == {START}


def test_the_seed_leaves_headroom() -> None:
    """Even the greatest seed has a top bit of 0, so at least 2**41 ids fit into a millisecond."""
    uuid = Uuid7Generator(now_ms=Clock(), randbits=all_ones).next()
    assert counter(uuid) == (1 << 41) - 1


def test_every_millisecond_draws_a_new_seed() -> None:
    """The counter of a new millisecond tells nothing about the last one's."""
    clock = Clock()
    generator = Uuid7Generator(now_ms=clock, randbits=seeded())
    first = generator.next()
    clock.ms += 1
    second = generator.next()
    assert abs(counter(second) - counter(first)) > 1


def test_every_id_draws_its_own_tail() -> None:
    """The last 32 bits are fresh for each id, also within a batch."""
    generator = Uuid7Generator(now_ms=Clock(), randbits=seeded())
    uuids = [generator.next(), generator.next(), *generator.take(100)]
    assert len({uuid.int & 0xFFFF_FFFF for uuid in uuids}) == len(uuids)


def test_failing_randomness_is_raised_and_never_replaced() -> None:
    """Without entropy there is no id, rather than one of another version; afterwards order goes on."""
    draws = seeded()
    broken = False

    def randbits(bits: int) -> int:
        if broken:
            raise OSError("no entropy")
        return draws(bits)

    clock = Clock()
    generator = Uuid7Generator(now_ms=clock, randbits=randbits)
    before = generator.next()
    broken = True
    clock.ms += 1
    with pytest.raises(OSError, match="no entropy"):
        generator.next()
    broken = False
    clock.ms -= 1
    after = generator.next()
    assert after > before
    assert stamp(after) == START


def test_a_forked_copy_that_reseeds_shares_no_counter() -> None:
    """After a fork both copies would count on from the same number; `reseed` parts them."""
    seeds = iter([10, 1000, 2000])

    def randbits(bits: int) -> int:
        return next(seeds) if bits == 41 else 0

    clock = Clock()
    parent = Uuid7Generator(now_ms=clock, randbits=randbits)
    last = parent.next()
    child = copy.copy(parent)
    child.reseed()
    theirs, ours = child.take(3), parent.take(3)
    assert not set(theirs) & set(ours)
    assert min(theirs) > last
    assert counter(theirs[0]) == 1000


def test_after_continues_a_predecessor() -> None:
    """A successor that starts in the same millisecond goes on above the last id it is told of."""
    clock = Clock()
    last = Uuid7Generator(now_ms=clock, randbits=all_ones).next()
    first = Uuid7Generator(now_ms=clock, randbits=lambda _bits: 0, after=last).next()
    assert first > last
    assert stamp(first) == START


# --- take -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 1000])
def test_take_gives_that_many_in_order_for_one_clock_reading(n: int) -> None:
    """A batch is what as many single calls within one millisecond would give."""
    clock = Clock()
    generator = Uuid7Generator(now_ms=clock, randbits=seeded())
    first = generator.next()
    clock.reads = 0
    uuids = generator.take(n)
    assert len(uuids) == n
    assert clock.reads == 1
    assert all(a < b for a, b in pairwise([first, *uuids, generator.next()]))
    assert [counter(uuid) - counter(first) for uuid in uuids] == list(range(1, n + 1))


def test_take_refuses_a_negative_number() -> None:
    """Fewer than no ids cannot be taken."""
    with pytest.raises(ValueError, match="-1"):
        Uuid7Generator(now_ms=Clock(), randbits=seeded()).take(-1)


# --- a clock that moves back ------------------------------------------------------------------------------


def test_stamps_do_not_run_away_while_the_clock_is_behind() -> None:
    """After a step of 5 s back at 100 ids/ms the stamps stand still until the clock has caught up.

    CPython's rule, last + 1 on every call, would be 100 s ahead after the first second.
    """
    clock = Clock()
    generator = Uuid7Generator(now_ms=clock, randbits=seeded())
    uuids = generator.take(100)
    clock.ms -= 5000
    for _ in range(300):
        uuids += [generator.next() for _ in range(50)] + generator.take(50)
        clock.ms += 1
    assert {stamp(uuid) for uuid in uuids} == {START}
    assert all(a < b for a, b in pairwise(uuids))
    assert generator.statistics() == Uuid7Statistics(drift=4.701, held=30_000, borrowed=0)


def test_the_clock_is_followed_again_once_it_has_caught_up() -> None:
    """A bridged step back leaves no lasting drift."""
    clock = Clock()
    generator = Uuid7Generator(now_ms=clock, randbits=seeded())
    generator.next()
    clock.ms -= 5000
    generator.next()
    assert repr(generator) == f"<Uuid7Generator at {START} ms, 5 s ahead of the clock>"
    clock.ms = START + 1
    assert stamp(generator.next()) == START + 1
    assert generator.statistics() == Uuid7Statistics(drift=0.0, held=1, borrowed=0)


def test_a_step_back_up_to_the_bound_is_bridged_and_beyond_it_refused() -> None:
    """The bound is exact to the millisecond, the error says by how much, and nothing is lost by it."""
    clock = Clock()
    generator = Uuid7Generator(now_ms=clock, randbits=seeded(), max_drift=0.25)
    last = generator.next()
    clock.ms = START - 250
    assert stamp(bridged := generator.next()) == START
    clock.ms = START - 251
    with pytest.raises(ClockMovedBack, match=r"0\.251 s") as caught:
        generator.next()
    with pytest.raises(ClockMovedBack):
        generator.take(2)
    assert caught.value.by == 0.251
    clock.ms = START
    assert last < bridged < generator.next()


def test_hold_keeps_the_order_however_far_the_clock_is_behind() -> None:
    """Under HOLD a day's step back costs neither order nor availability."""
    clock = Clock()
    generator = Uuid7Generator(now_ms=clock, randbits=seeded(), on_rollback=Rollback.HOLD)
    last = generator.next()
    clock.ms -= 86_400_000
    uuids = generator.take(10)
    assert all(a < b for a, b in pairwise([last, *uuids]))
    assert stamp(uuids[-1]) == START


def test_follow_restarts_from_the_clock_beyond_the_bound_only() -> None:
    """Under FOLLOW a small step back keeps the order; a large one gives it up for the true time."""
    clock = Clock()
    generator = Uuid7Generator(now_ms=clock, randbits=seeded(), on_rollback=Rollback.FOLLOW)
    generator.next()
    clock.ms = START - 10_000
    assert stamp(generator.next()) == START
    clock.ms = START - 10_001
    assert stamp(generator.next()) == START - 10_001
    assert generator.statistics().drift == 0.0


def test_the_policy_may_come_as_text_and_must_exist() -> None:
    """A config file's word is as good as the enum's member; another word is refused at once."""
    assert Rollback("follow") is Rollback.FOLLOW
    with pytest.raises(ValueError, match="borrow"):
        Uuid7Generator(now_ms=Clock(), randbits=seeded(), on_rollback=Rollback("borrow"))


# --- a counter that overflows -----------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [0, 1, 1000])
def test_overflow_borrows_one_millisecond_and_no_more(behind: int) -> None:
    """A used-up counter moves the stamp on by 1 ms, once; the new counter serves all that follow."""
    full = with_counter(START, (1 << 42) - 2)
    generator = Uuid7Generator(now_ms=Clock(START - behind), randbits=all_ones, after=full)
    uuids = generator.take(1000)
    assert [stamp(uuid) for uuid in uuids] == [START] + [START + 1] * 999
    assert all(a < b for a, b in pairwise([full, *uuids]))
    assert generator.statistics().borrowed == 1
    assert generator.statistics().drift == (behind + 1) / 1000


def test_overflow_needs_no_borrowing_once_the_clock_has_moved_on() -> None:
    """A full counter does not matter in a new millisecond."""
    full = with_counter(START, (1 << 42) - 1)
    generator = Uuid7Generator(now_ms=Clock(START + 1), randbits=seeded(), after=full)
    assert stamp(generator.next()) == START + 1
    assert generator.statistics() == Uuid7Statistics(drift=0.0, held=0, borrowed=0)


def test_borrowing_stops_at_the_bound_too() -> None:
    """With no drift allowed, an overflow is refused until the clock moves on."""
    clock = Clock()
    full = with_counter(START, (1 << 42) - 1)
    generator = Uuid7Generator(now_ms=clock, randbits=seeded(), max_drift=0, after=full)
    with pytest.raises(ClockMovedBack) as caught:
        generator.next()
    assert caught.value.by == 0.001
    clock.ms += 1
    assert generator.next() > full


# --- any clock --------------------------------------------------------------------------------------------

steps = st.one_of(st.integers(-3, 3), st.integers(-400, 400), st.integers(-100_000, 100_000))
walks = st.lists(st.tuples(steps, st.integers(0, 6), st.booleans()), max_size=60)
counters = st.one_of(st.integers((1 << 42) - 8, (1 << 42) - 1), st.integers(0, (1 << 42) - 1))


def assert_refusable(refusal: ClockMovedBack, policy: Rollback, max_drift: float) -> None:
    """Only RAISE refuses, and only beyond the bound."""
    assert policy is Rollback.RAISE
    assert refusal.by > max_drift


@settings(deadline=None)
@given(walks, counters, st.sampled_from([0.0, 0.2, 10.0]), st.sampled_from([Rollback.RAISE, Rollback.HOLD]))
def test_any_clock_walk_keeps_order_and_bound(
    walk: list[tuple[int, int, bool]], start: int, max_drift: float, policy: Rollback
) -> None:
    """Whatever the clock does, ids increase; no stamp is past the clock's best plus what was borrowed.

    Under RAISE none is further ahead of the clock than the bound either, and a refusal is a true one.
    """
    clock = Clock()
    uuids = [with_counter(START, start)]
    best = START
    generator = Uuid7Generator(now_ms=clock, randbits=seeded(), max_drift=max_drift, on_rollback=policy, after=uuids[0])
    for step, n, batch in walk:
        clock.ms += step
        best = max(best, clock.ms)
        try:
            made = generator.take(n) if batch else [generator.next() for _ in range(n)]
        except ClockMovedBack as refusal:
            assert_refusable(refusal, policy, max_drift)
            continue
        uuids += made
        borrowed = generator.statistics().borrowed
        assert borrowed <= 1
        assert all(clock.ms <= stamp(uuid) <= best + borrowed for uuid in made)
        assert policy is Rollback.HOLD or all(stamp(uuid) - clock.ms <= max_drift * 1000 for uuid in made)
    assert all(a < b for a, b in pairwise(uuids))


@settings(deadline=None)
@given(walks, st.sampled_from([0.0, 0.2, 10.0]))
def test_following_any_clock_walk_stays_unique_and_near_the_clock(
    walk: list[tuple[int, int, bool]], max_drift: float
) -> None:
    """Under FOLLOW no id is refused, none repeats, and every stamp is within the bound."""
    clock = Clock()
    generator = Uuid7Generator(now_ms=clock, randbits=seeded(), max_drift=max_drift, on_rollback=Rollback.FOLLOW)
    uuids: list[UUID] = []
    for step, n, batch in walk:
        clock.ms += step
        made = generator.take(n) if batch else [generator.next() for _ in range(n)]
        assert all(0 <= stamp(uuid) - clock.ms <= max_drift * 1000 for uuid in made)
        uuids += made
    assert len(set(uuids)) == len(uuids)


@given(st.integers(0, 253_402_300_799_999))
def test_the_time_survives_the_round_trip(ms: int) -> None:
    """Any millisecond until the end of the year 9999 comes out as it went in."""
    generator = Uuid7Generator(now_ms=Clock(ms), randbits=seeded(), on_rollback=Rollback.HOLD)
    uuid = UUID(str(generator.next()))
    read = uuid7_time(uuid)
    assert read.tzinfo is UTC
    assert round(read.timestamp() * 1000) == stamp(uuid) == max(ms, 1)
