"""Snowflake ids: 64-bit integers that sort by time and need no coordination beyond a worker id.

Theory of operation
-------------------
An id is `time since the layout's epoch | worker id | sequence`, by default 41, 10 and 12 bits. That caps one
worker at 4096 ids per millisecond: 4.096 million a second, 244 ns each. A generator that claims more is
issuing duplicates.

*Rule 1*: the policy decides and never acts. At the cap `next` and `take` return `Wait(seconds)`; the owner
sleeps, cancellably, and asks again. Nothing here spins, sleeps or locks, and each request reads the clock
once.

*Rule 2*: all clock arithmetic is in absolute Unix milliseconds. The epoch is subtracted in `Layout.compose`,
added in `parse`, and appears nowhere else. (Comparing an epoch-relative time with an absolute one makes every
wait end at once, and then most ids are duplicates.)

*Rule 3*: no id has a time at or before an older generator's high-water mark, and within one generator (time,
sequence) only grows. When the clock steps back, what is left of the last millisecond is issued; then the
answer is `Wait` until the clock is past it; further back than `tolerance` it is `ClockMovedBack`, and so is a
clock before the epoch. No millisecond is borrowed from the future. A step forward is believed, for nothing
here can tell it from time gone by.

*Rule 4*: to survive a restart on an earlier clock, the owner promises ids ahead of use. `limit` is the last
millisecond it has promised to durable storage; past it the answer is `MarkReached`:

    generator = SnowflakeGenerator(layout, worker_id, now_ms, high_water=stored, limit=stored)
    mark = generator.reserve(1000)      # again from time to time, well before the mark is reached
    await storage.write(mark)
    generator.extend(mark)

A successor starts after the stored mark, so it waits up to what was reserved; on a clean stop the owner
stores `high_water` itself instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import final

from .errors import ClockMovedBack, LayoutExhausted, MarkReached, WorkerIdLost

EPOCH_MS = 1_609_459_200_000
"""2021-01-01T00:00:00Z in Unix milliseconds."""

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _instant(ms: int) -> datetime:
    return _UNIX_EPOCH + timedelta(milliseconds=ms)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How the bits of an id are divided, from the most significant down, and when its time begins.

    `epoch_ms` is that beginning, in Unix milliseconds. At most 63 bits in all, so that an id fits a signed
    64-bit column; `Layout(worker_bits=5, sequence_bits=7)` has 53, which a JavaScript number holds exactly.
    Ids of different layouts do not mix: choose one per kind of id, for good. Raises `ValueError` if it makes
    no sense.
    """

    time_bits: int = 41
    worker_bits: int = 10
    sequence_bits: int = 12
    epoch_ms: int = EPOCH_MS

    def __post_init__(self) -> None:
        if self.time_bits < 1 or self.worker_bits < 0 or self.sequence_bits < 0:
            raise ValueError(f"{self}: time needs at least 1 bit, worker and sequence at least 0")
        if self.bits > 63:
            raise ValueError(f"{self}: {self.bits} bits do not fit a signed 64-bit integer, 63 do")
        if self.epoch_ms < 0:
            raise ValueError(f"{self}: the epoch must not be before 1970")
        try:
            _instant(self.last_ms)
        except OverflowError as exc:
            raise ValueError(f"{self}: its times run beyond the year 9999") from exc

    @property
    def bits(self) -> int:
        """The width of an id."""
        return self.time_bits + self.worker_bits + self.sequence_bits

    @property
    def max_worker_id(self) -> int:
        """The greatest worker id; the least is 0."""
        return (1 << self.worker_bits) - 1

    @property
    def ids_per_ms(self) -> int:
        """The cap of one worker."""
        return 1 << self.sequence_bits

    @property
    def last_ms(self) -> int:
        """The last Unix millisecond that an id can hold."""
        return self.epoch_ms + (1 << self.time_bits) - 1

    def compose(self, ms: int, worker_id: int, sequence: int) -> int:
        """The id of these parts, unchecked; `ms` is in absolute Unix milliseconds. `parse` is its inverse."""
        return ((ms - self.epoch_ms) << self.worker_bits | worker_id) << self.sequence_bits | sequence


DEFAULT_LAYOUT = Layout()
"""41 bits of milliseconds from 2021 (until September 2090), 1024 workers, 4096 ids per millisecond each."""


@final
@dataclass(frozen=True, slots=True)
class Snowflake:
    """What an id says: its time (absolute, UTC, to the ms), its worker, its place in that millisecond."""

    time: datetime
    worker_id: int
    sequence: int


@final
@dataclass(frozen=True, slots=True)
class Wait:
    """A decision: no id now, ask again after `seconds`. Asking earlier does no harm."""

    seconds: float


@final
@dataclass(frozen=True, slots=True)
class SnowflakeStatistics:
    """A snapshot of one generator.

    `worker_id` is the one that ids have now; `high_water` and `limit` are Unix milliseconds (see their properties).
    `held` counts the requests served while the clock was behind the last id's time, `waits` those answered with
    `Wait`, `refused` those that raised `ClockMovedBack`.
    """

    worker_id: int
    high_water: int
    limit: int
    held: int
    waits: int
    refused: int


def parse(number: int, layout: Layout = DEFAULT_LAYOUT) -> Snowflake:
    """Take an id apart. Raises `ValueError` if `number` is negative or too wide for `layout`."""
    if not 0 <= number < 1 << layout.bits:
        raise ValueError(f"{number} is no id of {layout}")
    sequence = number & (layout.ids_per_ms - 1)
    worker_id = number >> layout.sequence_bits & layout.max_worker_id
    ms = layout.epoch_ms + (number >> layout.sequence_bits + layout.worker_bits)
    return Snowflake(_instant(ms), worker_id, sequence)


# Crockford's alphabet: no letter that looks like a digit, and in the order of their codes: texts sort as the numbers.
_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {digit: value for value, digit in enumerate(_DIGITS)}
_TEXT_LENGTH = 13  # of 5 bits each: 65


def to_text(number: int) -> str:
    """An id as 13 digits and capital letters (Crockford's base 32): they sort as the numbers do, and fit into URLs.

    Raises `ValueError` if `number` does not fit into 63 bits.
    """
    if not 0 <= number < 1 << 63:
        raise ValueError(f"{number} is no id: it does not fit into 63 bits")
    return "".join(_DIGITS[number >> shift & 31] for shift in range(5 * (_TEXT_LENGTH - 1), -1, -5))


def from_text(text: str) -> int:
    """The id of such a text. One id has one text, so small letters and lookalikes are refused.

    Raises `ValueError` if it is none.
    """
    number = 0
    try:
        for digit in text:
            number = number << 5 | _VALUES[digit]
    except KeyError:
        number = -1
    if len(text) != _TEXT_LENGTH or not 0 <= number < 1 << 63:
        raise ValueError(f"{text!r} is not the text of an id: 13 digits or capital letters, as to_text gives")
    return number


@final
class SnowflakeGenerator:
    """A source of ids for one worker, each greater than the one before it.

    `now_ms` reads the wall clock in whole Unix milliseconds. `high_water` is the mark left by earlier
    generators of this worker id, in Unix milliseconds: every id is later. `limit` is the last millisecond
    that may be used before `extend` (None: no limit). `tolerance`, in seconds, is how far behind the last
    id's time the clock may be for the answer to be an id or `Wait` rather than `ClockMovedBack`: the default
    bridges a leap second and most NTP steps, and bounds every wait to 1 ms more than itself.

    For one thread. A fork copies the worker id, so the child must `revoke` its copy.
    """

    def __init__(
        self,
        layout: Layout,
        worker_id: int,
        now_ms: Callable[[], int],
        *,
        high_water: int | None = None,
        limit: int | None = None,
        tolerance: float = 1.0,
    ) -> None:
        if not 0 <= worker_id <= layout.max_worker_id:
            raise ValueError(f"worker_id must be within 0..{layout.max_worker_id}, not {worker_id}")
        if not 0 <= tolerance < float("inf"):
            raise ValueError(f"tolerance must be a finite number of seconds >= 0, not {tolerance!r}")
        self._layout = layout
        self._worker_id = worker_id
        self._now_ms = now_ms
        self._tolerance_ms = round(tolerance * 1000)
        self._limit = layout.last_ms if limit is None else limit
        # The current millisecond and the ids it has left, [next, end): none at first, for the mark's
        # own millisecond is used up.
        self._ms = layout.epoch_ms - 1 if high_water is None else max(high_water, layout.epoch_ms - 1)
        self._next = self._end = 0
        self._lost = False
        self._held = self._waits = self._refused = 0

    @property
    def high_water(self) -> int:
        """The Unix millisecond that no id so far is later than.

        Before the first id it is the mark given, or else the millisecond before the epoch.
        """
        return self._ms

    @property
    def limit(self) -> int:
        """The last Unix millisecond that ids may be issued for."""
        return self._limit

    def next(self) -> int | Wait:
        """Issue one id, or say how long to wait for it.

        Raises `ClockMovedBack`, `MarkReached`, `WorkerIdLost` or `LayoutExhausted`.
        """
        now = self._now_ms()
        if now != self._ms or self._next == self._end:
            wait = self._make_room(now)
            if wait is not None:
                return wait
        number = self._next
        self._next = number + 1
        return number

    def take(self, n: int) -> list[int] | Wait:
        """Issue from 1 to `n` consecutive ids, as many as the millisecond has left, or say how long to wait.

        Raises as `next` does, and `ValueError` if `n` is less than 1.
        """
        if n < 1:
            raise ValueError(f"cannot take {n} ids")
        now = self._now_ms()
        if now != self._ms or self._next == self._end:
            wait = self._make_room(now)
            if wait is not None:
                return wait
        first = self._next
        self._next = min(first + n, self._end)
        return list(range(first, self._next))

    def reserve(self, ms_ahead: int) -> int:
        """The mark to store so that ids may be issued for `ms_ahead` milliseconds from now, after `extend`.

        Raises `ValueError` beyond `tolerance`: a successor that starts at once would take such a mark for a
        clock that moved back.
        """
        if not 0 < ms_ahead <= self._tolerance_ms:
            raise ValueError(f"ms_ahead must be 1..{self._tolerance_ms} (the tolerance), not {ms_ahead}")
        return max(self._now_ms(), self._ms) + ms_ahead

    def extend(self, mark: int) -> None:
        """Allow ids up to Unix millisecond `mark`, now in storage. An earlier mark changes nothing."""
        self._limit = max(self._limit, mark)

    def revoke(self) -> None:
        """The right to the worker id is gone: every request raises `WorkerIdLost`, for good. Idempotent."""
        self._lost = True
        self._end = self._next

    def statistics(self) -> SnowflakeStatistics:
        """What the clock has done to this generator so far."""
        return SnowflakeStatistics(self._worker_id, self._ms, self._limit, self._held, self._waits, self._refused)

    def __repr__(self) -> str:
        state = "worker id lost" if self._lost else f"{self._end - self._next} left at {self._ms} ms"
        return f"<SnowflakeGenerator worker {self._worker_id}, {state}>"

    def _make_room(self, now: int) -> Wait | None:
        """None if there is an id to issue. Requires `now` off the current millisecond, or none left in it."""
        if self._lost:
            raise WorkerIdLost(self._worker_id)
        behind = self._ms - now
        if behind < 0:
            self._open(now)
            return None
        if behind > self._tolerance_ms:
            self._refused += 1
            raise ClockMovedBack(by=behind / 1000)
        if self._next < self._end:
            self._held += 1
            return None
        self._waits += 1
        return Wait((behind + 1) / 1000)

    def _open(self, ms: int) -> None:
        if ms > self._layout.last_ms:
            raise LayoutExhausted(_instant(self._layout.last_ms))
        if ms > self._limit:
            raise MarkReached(self._limit)
        self._ms = ms
        self._next = self._layout.compose(ms, self._worker_id, 0)
        self._end = self._next + self._layout.ids_per_ms
