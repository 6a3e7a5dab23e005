"""Snowflake: the layout, the cap, and no duplicate whatever the clock, the process or the lease does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from creche.components.uid.errors import ClockMovedBack, LayoutExhausted, MarkReached, WorkerIdLost
from creche.components.uid.snowflake import (
    DEFAULT_LAYOUT,
    EPOCH_MS,
    Layout,
    Snowflake,
    SnowflakeGenerator,
    SnowflakeStatistics,
    Wait,
    parse,
)

START = 1_700_000_000_000
START_TIME = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
TINY = Layout(sequence_bits=2)  # four ids per millisecond


class Clock:
    """A wall clock set by hand, which counts how often it is read and fails whoever spins on it."""

    MOST_READS = 300_000

    def __init__(self, ms: int = START) -> None:
        self.ms = ms
        self.reads = 0

    def __call__(self) -> int:
        self.reads += 1
        assert self.reads <= self.MOST_READS, "spinning"
        return self.ms


def issued(answer: int | Wait) -> int:
    """The id, where one is due."""
    assert isinstance(answer, int)
    return answer


def batch(answer: list[int] | Wait) -> list[int]:
    """The ids, where some are due."""
    assert isinstance(answer, list)
    return answer


def unix_ms(number: int, layout: Layout = DEFAULT_LAYOUT) -> int:
    """The absolute millisecond in an id."""
    return (parse(number, layout).time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


# --- the layout -------------------------------------------------------------------------------------------


def test_the_default_layout_is_41_10_12_from_2021() -> None:
    """63 bits: 1024 workers, 4096 ids per millisecond, from 2021 until 2090."""
    bits = (DEFAULT_LAYOUT.time_bits, DEFAULT_LAYOUT.worker_bits, DEFAULT_LAYOUT.sequence_bits)
    assert bits == (41, 10, 12)
    assert DEFAULT_LAYOUT.epoch_ms == EPOCH_MS == 1_609_459_200_000
    assert DEFAULT_LAYOUT.bits == 63
    assert DEFAULT_LAYOUT.max_worker_id == 1023
    assert DEFAULT_LAYOUT.ids_per_ms == 4096
    end = parse((1 << 63) - 1)
    assert (end.time.year, end.time.month, end.worker_id, end.sequence) == (2090, 9, 1023, 4095)


def test_zero_is_the_epoch() -> None:
    """The least id is the first of worker 0 at 2021-01-01T00:00:00Z."""
    assert parse(0) == Snowflake(datetime(2021, 1, 1, tzinfo=UTC), worker_id=0, sequence=0)


def test_an_id_is_its_parts_side_by_side() -> None:
    """The bits stand where the format says, and parsing tells the absolute time, not one since the epoch."""
    number = (START - EPOCH_MS) << 22 | 5 << 12 | 7
    assert DEFAULT_LAYOUT.compose(START, 5, 7) == number
    assert parse(number) == Snowflake(START_TIME, worker_id=5, sequence=7)


def test_a_layout_can_fit_javascript() -> None:
    """With 5 and 7 bits every id is at most 2**53 - 1, which a double holds exactly."""
    layout = Layout(worker_bits=5, sequence_bits=7)
    assert layout.compose(layout.last_ms, layout.max_worker_id, layout.ids_per_ms - 1) == (1 << 53) - 1


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Layout(time_bits=0), "at least 1 bit"),
        (lambda: Layout(worker_bits=-1), "at least 0"),
        (lambda: Layout(sequence_bits=-1), "at least 0"),
        (lambda: Layout(time_bits=42), "64 bits do not fit"),
        (lambda: Layout(worker_bits=20), "73 bits do not fit"),
        (lambda: Layout(epoch_ms=-1), "before 1970"),
        (lambda: Layout(time_bits=48, worker_bits=3), "year 9999"),
        (lambda: Layout(epoch_ms=1 << 80), "year 9999"),
    ],
)
def test_a_layout_that_makes_no_sense_is_refused(make: Callable[[], Layout], reason: str) -> None:
    """Bits that are missing, do not add up or outrun the calendar are found when the layout is made."""
    with pytest.raises(ValueError, match=reason):
        make()


def test_a_layout_is_frozen() -> None:
    """Ids already out cannot change their meaning."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT_LAYOUT.worker_bits = 3  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("number", [-1, 1 << 63])
def test_numbers_outside_the_layout_are_no_ids(number: int) -> None:
    """A negative number or one wider than the layout is refused."""
    with pytest.raises(ValueError, match="is no id of"):
        parse(number)


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Any layout that holds the years to come, from 46 to 63 bits."""
    worker_bits, sequence_bits = draw(st.integers(0, 11)), draw(st.integers(0, 8))
    return Layout(time_bits=44, worker_bits=worker_bits, sequence_bits=sequence_bits)


@given(layouts(), st.data())
def test_parts_survive_the_round_trip(layout: Layout, data: st.DataObject) -> None:
    """In any layout, parsing gives back exactly what an id was composed of."""
    ms = data.draw(st.integers(layout.epoch_ms, layout.last_ms))
    worker_id = data.draw(st.integers(0, layout.max_worker_id))
    sequence = data.draw(st.integers(0, layout.ids_per_ms - 1))
    number = layout.compose(ms, worker_id, sequence)
    parsed = parse(number, layout)
    assert (unix_ms(number, layout), parsed.worker_id, parsed.sequence) == (ms, worker_id, sequence)
    assert parsed.time.tzinfo is UTC


# --- the worker id ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("worker_id", [0, 1, 1023])
def test_every_worker_id_can_be_chosen(worker_id: int) -> None:
    """0 is a worker id like any other, not a word for "choose one for me"."""
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, worker_id, Clock())
    assert parse(issued(generator.next())) == Snowflake(START_TIME, worker_id, 0)


@pytest.mark.parametrize("worker_id", [-1, 1024])
def test_a_worker_id_outside_the_layout_is_refused(worker_id: int) -> None:
    """A worker id that would spill into the time bits is refused, not cut or replaced."""
    with pytest.raises(ValueError, match=r"within 0\.\.1023"):
        SnowflakeGenerator(DEFAULT_LAYOUT, worker_id, Clock())


def test_workers_never_meet() -> None:
    """Two workers at the same moment share no id."""
    one, two = (batch(SnowflakeGenerator(DEFAULT_LAYOUT, w, Clock()).take(4096)) for w in (1, 2))
    assert not set(one) & set(two)


def test_a_lost_worker_id_ends_the_generator() -> None:
    """Once the lease is lost no id is issued, not even from what the millisecond had left, and for good."""
    clock = Clock()
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 7, clock)
    generator.next()
    generator.revoke()
    generator.revoke()
    for _ in range(3):
        with pytest.raises(WorkerIdLost, match="7 is no longer ours") as caught:
            generator.next()
        with pytest.raises(WorkerIdLost):
            generator.take(10)
        assert caught.value.worker_id == 7
        clock.ms += 1
    generator.extend(START + 1000)
    with pytest.raises(WorkerIdLost):
        generator.next()
    assert repr(generator) == "<SnowflakeGenerator worker 7, worker id lost>"


# --- the cap ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [0, 1, 7, 1000, 5000])
def test_saturation_gives_no_duplicates_and_stays_at_the_cap(at_once: int) -> None:
    """Flat out for 50 ms, exactly 4096 ids per millisecond come out, all different.

    Comparing epoch-relative with absolute times lets every wait end at once: 76 % duplicates.
    """
    clock = Clock()
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock)
    numbers: list[int] = []
    while clock.ms < START + 50:
        assert len(numbers) < 51 * 4096, "more than the format holds"
        match generator.take(at_once) if at_once else generator.next():
            case Wait(seconds):
                clock.ms += round(seconds * 1000)
            case int(number):
                numbers.append(number)
            case more:
                numbers += more
    assert len(numbers) == 50 * 4096
    assert len(set(numbers)) == len(numbers)
    assert numbers == sorted(numbers)


def test_at_the_cap_the_answer_is_a_wait_and_no_spin() -> None:
    """With the millisecond used up, one reading of the clock gives `Wait` until the next one."""
    clock = Clock()
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock)
    assert len(batch(generator.take(4096))) == 4096
    clock.reads = 0
    assert generator.next() == Wait(0.001)
    assert generator.take(10) == Wait(0.001)
    assert clock.reads == 2
    clock.ms += 1
    assert parse(issued(generator.next())).time == START_TIME + timedelta(milliseconds=1)


def test_take_gives_what_the_millisecond_has_left() -> None:
    """A batch ends with its millisecond; the caller asks again for the rest."""
    clock = Clock()
    generator = SnowflakeGenerator(TINY, 1, clock)
    first = issued(generator.next())
    assert batch(generator.take(2)) == [first + 1, first + 2]
    assert batch(generator.take(100)) == [first + 3]
    assert generator.take(1) == Wait(0.001)
    clock.ms += 1
    assert [parse(number, TINY).sequence for number in batch(generator.take(100))] == [0, 1, 2, 3]


@pytest.mark.parametrize("n", [0, -1])
def test_take_refuses_to_take_nothing(n: int) -> None:
    """No ids would be neither ids nor a wait."""
    with pytest.raises(ValueError, match=f"cannot take {n} ids"):
        SnowflakeGenerator(DEFAULT_LAYOUT, 1, Clock()).take(n)


# --- a clock that moves back ------------------------------------------------------------------------------


def test_within_the_tolerance_the_last_millisecond_is_finished_then_waited_for() -> None:
    """A small step back first uses what is left, then waits until the clock is past the last id's time."""
    clock = Clock()
    generator = SnowflakeGenerator(TINY, 1, clock)
    numbers = [issued(generator.next())]
    clock.ms -= 300
    numbers += [*batch(generator.take(2)), issued(generator.next())]
    assert {unix_ms(number, TINY) for number in numbers} == {START}
    assert generator.next() == Wait(0.301)
    clock.ms += 301
    numbers.append(issued(generator.next()))
    assert unix_ms(numbers[-1], TINY) == START + 1
    assert all(a < b for a, b in pairwise(numbers))


def test_beyond_the_tolerance_the_clock_moved_back() -> None:
    """The tolerance, 1 s by default, is exact; the error says by how much, and the ids left survive it."""
    clock = Clock()
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock)
    last = issued(generator.next())
    clock.ms = START - 1001
    with pytest.raises(ClockMovedBack, match=r"1\.001 s") as caught:
        generator.next()
    with pytest.raises(ClockMovedBack):
        generator.take(5)
    assert caught.value.by == 1.001
    clock.ms = START - 1000
    assert issued(generator.next()) == last + 1


@pytest.mark.parametrize("step", [-1, -10, -1000, -1001, -3_600_000])
def test_an_ntp_step_never_repeats_an_id(step: int) -> None:
    """However a step back is answered, what comes when the clock runs over the same time again is new."""
    clock = Clock()
    generator = SnowflakeGenerator(TINY, 1, clock)
    numbers = batch(generator.take(3))
    clock.ms += step
    while clock.ms <= START + 1:
        assert len(numbers) < 100, "more than the format holds"
        try:
            answer = generator.next()
        except ClockMovedBack as refusal:
            clock.ms += round(refusal.by * 1000)
            continue
        if isinstance(answer, Wait):
            clock.ms += round(answer.seconds * 1000)
        else:
            numbers.append(answer)
    assert len(numbers) == 8
    assert all(a < b for a, b in pairwise(numbers))


def test_a_clock_before_the_epoch_has_moved_back() -> None:
    """A machine that wakes up in 1970 issues nothing; up to the tolerance it only waits."""
    clock = Clock(0)
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock)
    with pytest.raises(ClockMovedBack) as caught:
        generator.next()
    assert caught.value.by == (EPOCH_MS - 1) / 1000
    clock.ms = EPOCH_MS - 1
    assert generator.next() == Wait(0.001)
    clock.ms = EPOCH_MS
    assert parse(issued(generator.next())) == Snowflake(datetime(2021, 1, 1, tzinfo=UTC), 1, 0)


def test_a_clock_past_the_layout_is_refused() -> None:
    """The last millisecond can be used; after it the time would overflow into the sign."""
    clock = Clock(DEFAULT_LAYOUT.last_ms)
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1023, clock)
    assert batch(generator.take(4096))[-1] == (1 << 63) - 1
    clock.ms += 1
    with pytest.raises(LayoutExhausted, match="2090-09-07") as caught:
        generator.next()
    assert caught.value.end == parse((1 << 63) - 1).time
    assert generator.high_water == DEFAULT_LAYOUT.last_ms


@pytest.mark.parametrize("tolerance", [-0.001, float("inf"), float("nan")])
def test_a_tolerance_that_bounds_nothing_is_refused(tolerance: float) -> None:
    """A negative, infinite or undefined tolerance is found when the generator is made."""
    with pytest.raises(ValueError, match="tolerance"):
        SnowflakeGenerator(DEFAULT_LAYOUT, 1, Clock(), tolerance=tolerance)


# --- marks and restarts -----------------------------------------------------------------------------------


def test_high_water_is_the_last_ids_time() -> None:
    """The mark is known before the first id, follows the ids and stays when the clock steps back."""
    clock = Clock()
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock)
    assert generator.high_water == EPOCH_MS - 1
    generator.next()
    assert generator.high_water == START
    clock.ms -= 10
    generator.next()
    assert generator.high_water == START


def test_a_successor_starts_after_the_mark() -> None:
    """With an earlier clock after a restart, ids wait for the mark to pass instead of repeating."""
    clock = Clock()
    first = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock)
    before = batch(first.take(100))
    clock.ms -= 200
    second = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock, high_water=first.high_water)
    assert second.next() == Wait(0.201)
    clock.ms += 201
    assert issued(second.next()) > before[-1]


def test_a_successor_far_behind_the_mark_says_so() -> None:
    """A restart on a clock an hour earlier is refused, with the hour."""
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, Clock(START - 3_600_000), high_water=START)
    with pytest.raises(ClockMovedBack) as caught:
        generator.next()
    assert caught.value.by == 3600


def test_a_mark_before_the_epoch_means_none() -> None:
    """First boot may pass 0."""
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, Clock(), high_water=0)
    assert generator.high_water == EPOCH_MS - 1
    assert unix_ms(issued(generator.next())) == START


def test_nothing_is_issued_beyond_the_promise() -> None:
    """Ids flow up to the limit inclusive, then only after a later mark has been stored and told."""
    clock = Clock()
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock, high_water=0, limit=0)
    with pytest.raises(MarkReached):
        generator.next()
    mark = generator.reserve(500)
    assert mark == START + 500
    with pytest.raises(MarkReached):
        generator.next()
    generator.extend(mark)
    clock.ms = mark
    assert unix_ms(issued(generator.next())) == mark
    clock.ms = mark + 1
    with pytest.raises(MarkReached, match=str(mark)) as caught:
        generator.take(2)
    assert caught.value.mark == generator.limit == mark
    generator.extend(generator.reserve(1))
    assert unix_ms(issued(generator.next())) == mark + 1


def test_the_limit_only_moves_forward() -> None:
    """An old answer of the storage that arrives late takes nothing back; without a limit there is none."""
    clock = Clock()
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock, limit=START + 5)
    generator.extend(START - 100)
    assert generator.limit == START + 5
    free = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock)
    free.extend(START - 100)
    assert free.limit == DEFAULT_LAYOUT.last_ms


def test_a_reservation_counts_from_the_later_of_clock_and_last_id() -> None:
    """With the clock behind, the promise still reaches past what is already used."""
    clock = Clock()
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock)
    generator.next()
    clock.ms -= 400
    assert generator.reserve(100) == START + 100
    clock.ms += 500
    assert generator.reserve(100) == START + 200


@pytest.mark.parametrize("ms_ahead", [0, -1, 2001])
def test_a_reservation_stays_within_the_tolerance(ms_ahead: int) -> None:
    """Further ahead, a crash and a quick restart would look like a clock that moved back."""
    generator = SnowflakeGenerator(DEFAULT_LAYOUT, 1, Clock(), tolerance=2.0)
    assert generator.reserve(2000) == START + 2000
    with pytest.raises(ValueError, match=r"1\.\.2000"):
        generator.reserve(ms_ahead)


def test_a_crash_right_after_a_reservation_costs_a_wait_and_no_error() -> None:
    """The widest reservation and a restart in the same millisecond: the successor waits and goes on."""
    clock = Clock()
    first = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock)
    mark = first.reserve(1000)
    second = SnowflakeGenerator(DEFAULT_LAYOUT, 1, clock, high_water=mark, limit=mark)
    assert second.next() == Wait(1.001)
    clock.ms += 1001
    second.extend(second.reserve(1000))
    assert unix_ms(issued(second.next())) == mark + 1


# --- what can be seen -------------------------------------------------------------------------------------


def test_statistics_tell_what_the_clock_did() -> None:
    """Requests held, waited for and refused are counted apart; the repr tells the state."""
    clock = Clock()
    generator = SnowflakeGenerator(TINY, 3, clock, limit=START + 9)
    assert repr(generator) == f"<SnowflakeGenerator worker 3, 0 left at {EPOCH_MS - 1} ms>"
    generator.next()
    assert repr(generator) == f"<SnowflakeGenerator worker 3, 3 left at {START} ms>"
    clock.ms -= 1
    generator.take(2)
    generator.next()
    generator.next()
    clock.ms -= 5000
    with pytest.raises(ClockMovedBack):
        generator.next()
    assert generator.statistics() == SnowflakeStatistics(
        worker_id=3, high_water=START, limit=START + 9, held=2, waits=1, refused=1
    )


# --- any clock, any crash ---------------------------------------------------------------------------------

steps = st.one_of(st.integers(-2, 2), st.integers(-60, 60), st.integers(-5000, 5000))


def assert_behind(by: float, behind_ms: int, tolerance_ms: int) -> None:
    """The error tells the true distance, and that is beyond the tolerance."""
    assert by == behind_ms / 1000
    assert behind_ms > tolerance_ms


@settings(deadline=None)
@given(layouts(), st.lists(st.tuples(steps, st.integers(0, 9), st.booleans()), max_size=80), st.data())
def test_any_clock_walk_keeps_ids_unique_and_in_order(
    layout: Layout, walk: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    """Whatever the clock does, ids increase, tell a time the clock has shown, and parse to their worker."""
    worker_id = data.draw(st.integers(0, layout.max_worker_id))
    clock = Clock()
    generator = SnowflakeGenerator(layout, worker_id, clock, tolerance=0.05)
    numbers: list[int] = []
    shown: set[int] = set()
    for step, n, single in walk:
        clock.ms += step
        shown.add(clock.ms)
        for _ in range(n):
            try:
                answer = generator.next() if single else generator.take(n)
            except ClockMovedBack as refusal:
                assert_behind(refusal.by, generator.high_water - clock.ms, tolerance_ms=50)
                break
            if isinstance(answer, Wait):
                assert answer.seconds == (generator.high_water + 1 - clock.ms) / 1000
                break
            numbers += [answer] if isinstance(answer, int) else answer
    assert all(a < b for a, b in pairwise(numbers))
    assert {parse(number, layout).worker_id for number in numbers} <= {worker_id}
    assert {unix_ms(number, layout) for number in numbers} <= shown


class DurableWorker(RuleBasedStateMachine):
    """A worker that promises ids to its storage, on a clock that walks anywhere, through any crash."""

    TOLERANCE_MS = 40

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.stored = 0
        self.numbers: list[int] = []
        self.generator = self.born()

    def born(self) -> SnowflakeGenerator:
        return SnowflakeGenerator(
            TINY,
            9,
            self.clock,
            high_water=self.stored,
            limit=self.stored,
            tolerance=self.TOLERANCE_MS / 1000,
        )

    @rule(step=steps)
    def tick(self, step: int) -> None:
        """The clock goes on, or anywhere."""
        self.clock.ms += step

    @rule(ahead=st.integers(1, TOLERANCE_MS), told=st.booleans())
    def promise(self, ahead: int, told: bool) -> None:
        """The owner stores a mark; perhaps it crashes before it can tell the generator."""
        self.stored = max(self.stored, self.generator.reserve(ahead))
        if told:
            self.generator.extend(self.stored)

    @rule()
    def crash(self) -> None:
        """All but the stored mark is lost."""
        self.generator = self.born()

    @rule()
    def clean_stop(self) -> None:
        """The owner stores the exact mark, which may be earlier than the promise."""
        self.stored = self.generator.high_water
        self.generator = self.born()

    @rule(n=st.integers(0, 9))
    def issue(self, n: int) -> None:
        """Ask for ids, singly (n = 0) or in a batch; every answer must be true."""
        try:
            answer = self.generator.take(n) if n else self.generator.next()
        except (ClockMovedBack, MarkReached) as refusal:
            self.understand(refusal)
        else:
            self.accept(answer)

    def understand(self, refusal: ClockMovedBack | MarkReached) -> None:
        if isinstance(refusal, ClockMovedBack):
            assert refusal.by * 1000 > self.TOLERANCE_MS
        else:
            assert refusal.mark <= self.stored
            assert refusal.mark < self.clock.ms

    def accept(self, answer: int | list[int] | Wait) -> None:
        if isinstance(answer, Wait):
            assert 0 < answer.seconds * 1000 <= self.TOLERANCE_MS + 1
            return
        for number in [answer] if isinstance(answer, int) else answer:
            assert not self.numbers or number > self.numbers[-1]
            self.numbers.append(number)

    @rule()
    def flow_again(self) -> None:
        """Once the clock is past the mark and the promise is kept, an id comes at once."""
        self.clock.ms = max(self.clock.ms, self.generator.high_water) + 1
        self.promise(1, True)
        self.accept(issued(self.generator.next()))

    @invariant()
    def promised(self) -> None:
        """No id is later than what the storage holds, so a successor cannot repeat it."""
        assert not self.numbers or unix_ms(self.numbers[-1], TINY) <= self.stored


DurableWorker.TestCase.settings = settings(deadline=None, stateful_step_count=60)
TestDurableWorker = DurableWorker.TestCase
