"""The pure policies of pools: routing, admission, size, priority, retry budgets. No runtime, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import creche
from creche.runtime.actor import MessageSpec
from creche.runtime.mailbox import Queued
from creche.supervisors.pools.admission import Admission, Admitting
from creche.supervisors.pools.autoscale import Autoscale, Autoscaler
from creche.supervisors.pools.line import FAIR_TURN, Entry, PriorityLine
from creche.supervisors.pools.routing import LeastLoaded, Ring, RoundRobin, WhoIsFree


@dataclass(frozen=True)
class Seat:
    """A worker, as a policy sees it."""

    name: str
    up: bool = True
    load: int = 0


def seats(count: int) -> list[Seat]:
    return [Seat(f"worker-{number}") for number in range(1, count + 1)]


some_seats = st.lists(
    st.builds(Seat, name=st.just(""), up=st.booleans(), load=st.integers(0, 5)), min_size=1, max_size=9
)


def named(workers: Sequence[Seat]) -> list[Seat]:
    return [replace(worker, name=f"worker-{number}") for number, worker in enumerate(workers, 1)]


# --- routing ------------------------------------------------------------------------------------------------


@given(some_seats, st.integers(1, 40))
def test_round_robin_is_fair_among_those_that_are_up(workers: list[Seat], turns: int) -> None:
    """None of them gets more than one message more than another; who is down gets none while others are up."""
    workers, policy = named(workers), RoundRobin[Seat]()
    chosen = Counter(policy.choose(None, workers) for _ in range(turns * len(workers)))
    up = [worker for worker in workers if worker.up]
    assert set(chosen) <= set(up or workers)
    if len(up) in (0, len(workers)):
        assert len(set(chosen.values())) == 1


@given(some_seats)
def test_least_loaded_chooses_one_of_the_least(workers: list[Seat]) -> None:
    """Of those that are up, if any are."""
    workers = named(workers)
    chosen = LeastLoaded[Seat]().choose(None, workers)
    among = [worker for worker in workers if worker.up] or workers
    assert chosen in among
    assert chosen.load == min(worker.load for worker in among)


def test_those_of_one_load_take_turns() -> None:
    """So that idle workers share."""
    policy, workers = LeastLoaded[Seat](), seats(3)
    assert {policy.choose(None, workers) for _ in range(3)} == set(workers)


def test_who_is_free_names_nobody() -> None:
    """Whatever there is."""
    assert WhoIsFree[Seat]().choose("key", seats(3)) is None


keys = st.one_of(st.text(), st.binary(), st.integers(), st.none(), st.tuples(st.text(), st.integers()))


@given(st.integers(1, 12), st.lists(keys, max_size=30))
def test_a_ring_moves_only_keys_of_the_worker_that_comes_or_goes(count: int, some: list[Hashable]) -> None:
    """All others stay where they are, in either direction."""
    ring, fewer, more = Ring[Seat](), seats(count), seats(count + 1)
    before = [ring.choose(key, fewer) for key in some]
    after = [ring.choose(key, more) for key in some]
    assert all(was == now or now == more[-1] for was, now in zip(before, after, strict=True))
    assert before == [Ring[Seat]().choose(key, fewer) for key in some]


@pytest.mark.parametrize("count", [2, 4, 8, 16])
def test_a_ring_moves_about_one_key_in_n(count: int) -> None:
    """And spreads the keys: no worker has more than twice its share."""
    ring, some = Ring[Seat](), range(5000)
    owners = Counter(ring.choose(key, seats(count)) for key in some)
    assert max(owners.values()) < 2 * len(some) / count
    moved = sum(ring.choose(key, seats(count)) != ring.choose(key, seats(count + 1)) for key in some[:500])
    assert 0.3 / (count + 1) < moved / 500 < 2 / (count + 1)


@given(st.integers(-5, 5), st.integers(1, 9))
def test_equal_keys_have_one_worker(key: int, count: int) -> None:
    """As in a dict: 1, 1.0 and True are one key."""
    ring, workers = Ring[Seat](), seats(count)
    assert ring.choose(key, workers) == ring.choose(float(key), workers)
    assert ring.choose((key, "x"), workers) == ring.choose((float(key), "x"), workers)
    assert ring.choose(1, workers) == ring.choose(True, workers)


# --- admission ----------------------------------------------------------------------------------------------


def test_a_burst_is_no_overload() -> None:
    """However old its messages get, if they get younger again in time."""
    admitting = Admitting(Admission(target=1, interval=10))
    assert not any(admitting.too_old(5, now) for now in range(1, 7))  # old since -3
    assert not admitting.too_old(0.5, 7)
    assert not any(admitting.too_old(5, now) for now in range(8, 14))


def test_overload_lasts_until_the_queue_is_empty() -> None:
    """Meanwhile those that have not waited for long are taken."""
    admitting = Admitting(Admission(target=1, interval=10))
    assert [admitting.too_old(5, now) for now in (0, 5, 6, 7)] == [False, False, True, True]  # old since -4
    assert [admitting.too_old(waited, 8) for waited in (0.5, 1, 1.1)] == [False, False, True]
    admitting.emptied()
    assert not admitting.too_old(5, 9)


def test_a_queue_that_stood_still_was_slow_all_the_while() -> None:
    """Nothing was taken for long: the first that is taken tells it."""
    assert Admitting(Admission(target=1, interval=10)).too_old(11, 100)
    assert not Admitting(Admission(target=1, interval=10)).too_old(10.9, 100)


@given(st.lists(st.tuples(st.floats(0, 30), st.floats(0, 5)), max_size=40))
def test_nothing_young_is_ever_refused(takes: list[tuple[float, float]]) -> None:
    """What has not waited longer than the target."""
    admitting, now = Admitting(Admission(target=1, interval=5)), 0.0
    for waited, later in takes:
        now += later
        assert not (admitting.too_old(waited, now) and waited <= 1)


# --- size ---------------------------------------------------------------------------------------------------

RULE = Autoscale(2, 10, grow_at=1, shrink_after=30, every=1)


def test_it_grows_by_half_while_messages_wait_and_nobody_is_idle() -> None:
    """Up to the maximum."""
    scaler, size, sizes = Autoscaler(RULE), 2, []
    for now in range(6):
        size = scaler.size(now, size, busy=size, oldest=2)
        sizes.append(size)
    assert sizes == [3, 5, 8, 10, 10, 10]
    assert scaler.size(7, 4, busy=3, oldest=2) == 4  # one is idle: it will come for what waits
    assert scaler.size(8, 4, busy=4, oldest=0.5) == 4


def test_it_shrinks_by_one_after_a_quiet_time() -> None:
    """A moment with all of them busy begins it anew."""
    scaler = Autoscaler(RULE)
    assert [scaler.size(now, 5, busy=2, oldest=0) for now in (0, 29, 30, 31, 59, 60)] == [5, 5, 4, 5, 5, 4]
    assert [scaler.size(now, 5, busy=busy, oldest=0) for now, busy in ((70, 5), (71, 2), (100, 2), (101, 2))] == [
        5,
        5,
        5,
        4,
    ]


@given(st.lists(st.tuples(st.integers(0, 12), st.floats(0, 100), st.floats(0, 100)), max_size=40))
def test_it_stays_between_its_bounds(looks: list[tuple[int, float, float]]) -> None:
    """Whatever the load; and does not shrink and grow in one look."""
    scaler, size, now = Autoscaler(RULE), 2, 0.0
    for busy, oldest, later in looks:
        now += later
        size = scaler.size(now, size, min(busy, size), oldest)
        assert 2 <= size <= 10


# --- priority -----------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 2), max_size=60))
def test_priorities_are_bounded_in_their_unfairness(classes: list[int]) -> None:
    """A message that `n` older ones wait before is among the first ``FAIR_TURN * (n + 1)`` that are taken."""
    rank: dict[int, int] = {}
    line = PriorityLine(lambda item: rank[id(item)], 3)
    entries: list[Entry] = []
    for since, number in enumerate(classes):
        item: Queued = (MessageSpec("m"), (), {}, {}, 0.0)
        rank[id(item)] = number
        entries.append((float(since), item, number))
        line.append(entries[-1])
    taken = [line.popleft() for _ in range(len(entries))]
    assert not line
    for place, entry in enumerate(taken):
        older = entries.index(entry)
        assert place < FAIR_TURN * (older + 1)
    for number in range(3):
        assert [entry for entry in taken if entry[2] == number] == [entry for entry in entries if entry[2] == number]


# --- retries ------------------------------------------------------------------------------------------------


def test_a_retry_budget_allows_half_of_its_tokens_in_a_row() -> None:
    """Then none, until enough calls have succeeded."""
    budget = creche.RetryBudget(tokens=10, ratio=0.5)
    assert [budget.failed() for _ in range(6)] == [True] * 4 + [False] * 2
    assert budget.refused == 2
    for _ in range(6):
        budget.succeeded()
    assert budget.failed()


@given(st.lists(st.booleans(), max_size=300))
def test_retries_are_bounded_by_successes(ends: list[bool]) -> None:
    """Whatever happens: half of the tokens at once, and `ratio` for each success."""
    budget, allowed = creche.RetryBudget(tokens=10, ratio=0.1), 0
    for good in ends:
        if good:
            budget.succeeded()
        else:
            allowed += budget.failed()
        assert 0 <= budget.tokens <= 10
    assert allowed <= 5 + 0.1 * ends.count(True) + 1e-6
