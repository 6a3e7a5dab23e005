"""Delays between restarts: pure policy, the randomness is passed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .checks import require, require_number


class Jitter(Protocol):
    """The part of `random.Random` that a backoff uses."""

    def uniform(self, a: float, b: float, /) -> float: ...


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before the n-th restart in a row, in seconds.

    The first `free` restarts come at once: most crashes are one bad message. After them the delay is ``first *
    factor**k`` up to `cap`, spread by ±`jitter` (a fraction). An incarnation that stayed up for `reset_after` seconds
    is healthy and starts the count anew. Raises `SpecInvalid` for a value out of range.
    """

    first: float = 0.05
    factor: float = 2.0
    cap: float = 30.0
    jitter: float = 0.1
    free: int = 1
    reset_after: float = 10.0

    def __post_init__(self) -> None:
        require_number(self, "first")
        require_number(self, "factor", at_least=1)
        require_number(self, "cap")
        require(self, "cap", self.cap >= self.first, f"at least first = {self.first:g}")
        require_number(self, "jitter")
        require(self, "jitter", self.jitter <= 1, "a fraction between 0 and 1")
        require_number(self, "free", whole=True)
        require_number(self, "reset_after")
        require(self, "reset_after", self.reset_after > 0, "seconds, more than 0")

    def delay(self, consecutive: int, rng: Jitter) -> float:
        """Seconds before restart number `consecutive` (from 1) since the last healthy time."""
        step = consecutive - self.free - 1
        if step < 0 or self.first == 0:
            return 0.0
        try:
            delay = min(self.cap, self.first * self.factor**step)
        except OverflowError:
            delay = self.cap
        return delay * rng.uniform(1 - self.jitter, 1 + self.jitter)
