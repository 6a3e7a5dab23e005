"""UUIDv7 (RFC 9562), strictly increasing within one generator.

Theory of operation
-------------------
An id is 48 bits of Unix milliseconds, a 42-bit counter and 32 random bits (RFC 9562 §6.2, method 1; the
widths are CPython's):

    unix_ts_ms 48 | version 4 | counter, high 12 | variant 2 | counter, low 30 | random 32

Each new millisecond seeds the counter with 41 random bits. Its top bit is 0, so at least 2**41 ids fit before
it overflows.

The timestamp is a logical clock, a high-water mark: it follows the wall clock forward and never moves back.
While the wall clock is behind it, ids keep the last timestamp and count on. Only a counter that overflows
borrows one millisecond from the future. CPython 3.14 instead takes last + 1 on *every* call while the clock
is behind: after a step of 5 s back at 100 ids/ms its stamps were 1 094 s ahead of the clock 11 s later, and
they stay ahead while more than one id per millisecond is made. Here they stand still until the clock catches
up.

How far the stamps may be ahead is bounded by `max_drift`; `Rollback` says what happens beyond.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import final
from uuid import RFC_4122, UUID

from .errors import ClockMovedBack

MAX_DRIFT = 10.0  # seconds: bridges leap seconds and an ordinary step of NTP

_SEED_BITS = 41
_TAIL_BITS = 32
_COUNTER_MAX = (1 << 42) - 1
_LOW_BITS = 30
_LOW_MASK = (1 << _LOW_BITS) - 1
_VERSION_AND_VARIANT = 7 << 76 | 0b10 << 62

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CANONICAL = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


class Rollback(StrEnum):
    """What a generator does when the clock is further behind its last timestamp than `max_drift`."""

    RAISE = "raise"
    """Refuse with `ClockMovedBack`: order and honest times, at the price of availability."""
    HOLD = "hold"
    """Keep the last timestamp until the clock catches up: order and availability, but times may be off."""
    FOLLOW = "follow"
    """Restart from the clock: availability and honest times, but order breaks once.

    Where the clock passes a second time, only 73 random bits keep the ids apart.
    """


@final
@dataclass(frozen=True, slots=True)
class Uuid7Statistics:
    """A snapshot of one generator.

    `drift` is how many seconds the last id's timestamp was ahead of the clock when it was made, `held` counts
    the ids made while the clock was behind, `borrowed` the milliseconds taken from the future.
    """

    drift: float
    held: int
    borrowed: int


@final
class Uuid7Generator:
    """A source of UUIDv7 values, each greater than the one before it.

    `now_ms` reads the wall clock in whole Unix milliseconds; `randbits(k)` gives k random bits and should be
    cryptographic (`secrets.randbits`), for it is all that keeps two processes apart. `max_drift`, in seconds,
    bounds how far timestamps may be ahead of the clock: the default bridges leap seconds and an ordinary NTP
    step. `after` is the last id of a predecessor: every new one is greater.

    For one thread. A child process must `reseed()` after a fork.
    """

    def __init__(
        self,
        *,
        now_ms: Callable[[], int],
        randbits: Callable[[int], int],
        max_drift: float = MAX_DRIFT,
        on_rollback: Rollback = Rollback.RAISE,
        after: UUID | None = None,
    ) -> None:
        if not 0 <= max_drift < float("inf"):
            raise ValueError(f"max_drift must be a finite number of seconds >= 0, not {max_drift!r}")
        self._now_ms = now_ms
        self._randbits = randbits
        self._max_drift_ms = round(max_drift * 1000)
        self._on_rollback = Rollback(on_rollback)
        # A full counter makes the first id draw a seed, whatever the clock reads.
        self._ms, self._counter = (0, _COUNTER_MAX) if after is None else _unpack(after)
        self._drift_ms = 0
        self._held = 0
        self._borrowed = 0

    def next(self) -> UUID:
        """Make one id. Raises `ClockMovedBack` under `Rollback.RAISE` only."""
        self._advance(self._now_ms())
        return UUID(int=_pack(self._ms, self._counter, self._randbits(_TAIL_BITS)))

    def take(self, n: int) -> list[UUID]:
        """Make `n` ids in order, with one reading of the clock. Raises as `next` does, making none."""
        if n < 0:
            raise ValueError(f"cannot take {n} ids")
        now = self._now_ms()
        tails = self._randbits(_TAIL_BITS * n).to_bytes(_TAIL_BITS // 8 * n, "little")
        ids: list[UUID] = []
        for tail in memoryview(tails).cast("I"):
            self._advance(now)
            ids.append(UUID(int=_pack(self._ms, self._counter, tail)))
        return ids

    def reseed(self) -> None:
        """Draw a new counter before the next id. For the child after a fork, which copies the counter."""
        self._counter = _COUNTER_MAX

    def statistics(self) -> Uuid7Statistics:
        """What the clock has done to this generator so far."""
        return Uuid7Statistics(drift=self._drift_ms / 1000, held=self._held, borrowed=self._borrowed)

    def __repr__(self) -> str:
        return f"<Uuid7Generator at {self._ms} ms, {self._drift_ms / 1000:g} s ahead of the clock>"

    def _advance(self, now: int) -> None:
        """Move to a (timestamp, counter) greater than the last one."""
        if now > self._ms:
            self._open(now, now)
        elif now == self._ms and self._counter < _COUNTER_MAX:
            self._counter += 1
        else:
            self._bridge(now)

    def _bridge(self, now: int) -> None:
        """The clock is behind, or the counter is used up."""
        full = self._counter == _COUNTER_MAX
        ms = self._ms + 1 if full else self._ms
        if ms - now > self._max_drift_ms and self._on_rollback is Rollback.RAISE:
            raise ClockMovedBack(by=(ms - now) / 1000)
        if ms - now > self._max_drift_ms and self._on_rollback is Rollback.FOLLOW:
            self._open(now, now)
        elif full:
            self._open(ms, now)
            self._borrowed += 1
        else:
            self._counter += 1
            self._drift_ms = ms - now
            self._held += 1

    def _open(self, ms: int, now: int) -> None:
        # The draw comes first: if it fails, the old timestamp keeps its own counter.
        self._counter = self._randbits(_SEED_BITS)
        self._ms = ms
        self._drift_ms = ms - now


def is_uuid7(text: str) -> bool:
    """Whether `text` is a UUID of version 7 and RFC variant in canonical form.

    That is lower case, with hyphens and nothing around it: one id has one such text, so it makes a good key.
    """
    return _CANONICAL.fullmatch(text) is not None


def uuid7_time(uuid: UUID) -> datetime:
    """The time in `uuid`, in UTC, to the millisecond.

    Raises `ValueError` if `uuid` is not of version 7 or its time is beyond the year 9999.
    """
    _require_v7(uuid)
    try:
        return _UNIX_EPOCH + timedelta(milliseconds=uuid.int >> 80)
    except OverflowError as exc:
        raise ValueError(f"{uuid} holds a time beyond the year 9999") from exc


def _pack(ms: int, counter: int, tail: int) -> int:
    high, low = counter >> _LOW_BITS, counter & _LOW_MASK
    return ms << 80 | _VERSION_AND_VARIANT | high << 64 | low << _TAIL_BITS | tail


def _unpack(uuid: UUID) -> tuple[int, int]:
    """The timestamp in ms and the 42 bits that are the counter here, whoever made the id."""
    _require_v7(uuid)
    value = uuid.int
    return value >> 80, (value >> 64 & 0xFFF) << _LOW_BITS | value >> _TAIL_BITS & _LOW_MASK


def _require_v7(uuid: UUID) -> None:
    if uuid.version != 7 or uuid.variant != RFC_4122:
        raise ValueError(f"{uuid} is not a UUIDv7")
