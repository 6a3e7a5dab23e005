"""What becomes of a record whose handler raised: pure policy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeGuard, cast

from ...runtime.backoff import Backoff, Jitter
from ...runtime.checks import require
from ...runtime.errors import CallFailed
from .errors import Unavailable

Action = Literal["retry", "retry_topic", "dead_letter", "drop"]
Choice = Literal["retry", "dead_letter", "drop"]
_CHOICES: tuple[Choice, ...] = ("retry", "dead_letter", "drop")

WEATHER = (CallFailed, Unavailable)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """First retry in place, which keeps the order; then through retry topics, which gives it up; then dead letters.

    Parameters
    ----------
    attempts
        Tries in place. What waits behind the record in its order (its key, or its partition) waits with it.
    backoff
        The delays between them.
    topics
        Delays in seconds. After `attempts` failures the record goes to a retry topic, comes back from it after the
        first of these delays for one more try, and so on. Meanwhile the records behind it are handled: it loses its
        place in the order. Empty: no retry topics. At last it goes to the dead-letter topic.
    on
        Exceptions that are treated otherwise: ``"dead_letter"`` at once, ``"drop"`` (done, and told by an event only),
        or ``"retry"``. The entry for the nearest class in the exception's inheritance counts.

    Failed calls (`creche.CallFailed`) and `Unavailable`, and groups of nothing else, are weather, not poison: unless
    `on` says otherwise they are retried in place for as long as it takes, and do not count as attempts. An error of any
    kind may carry a `retry_after`, in seconds: it is not tried again before that, or before the cap of `backoff`,
    whichever is earlier.
    """

    attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.2, free=0))
    topics: tuple[float, ...] = ()
    on: Mapping[type[Exception], Choice] = field(default_factory=dict[type[Exception], Choice])

    def __post_init__(self) -> None:
        require(self, "attempts", self.attempts >= 1, "at least 1")
        require(self, "topics", all(map(_is_delay, self.topics)), "delays in seconds, above 0")
        require(self, "on", all(map(_is_exception_class, self.on)), "the keys are subclasses of Exception")
        require(self, "on", all(choice in _CHOICES for choice in self.on.values()), f"the values are of {_CHOICES}")

    def counts(self, error: Exception) -> bool:
        """Whether the failure is the record's own."""
        if isinstance(error, ExceptionGroup):
            return any(map(self.counts, cast("ExceptionGroup[Exception]", error).exceptions))
        return not isinstance(error, WEATHER)

    def action(self, error: Exception, failures: int, stage: int = 0) -> Action:
        """What to do about `error`.

        `failures` counts those of this record that count, in this topic, this one included. `stage` is 0 in the
        original topic, n in the n-th retry topic.
        """
        named: list[Choice] = [self.on[kind] for kind in type(error).__mro__ if kind in self.on]
        choice: Choice = named[0] if named else "retry"
        if choice == "retry" and self.counts(error) and failures >= (1 if stage else self.attempts):
            return "retry_topic" if stage < len(self.topics) else "dead_letter"
        return choice

    def delay(self, error: Exception, tries: int, rng: Jitter) -> float:
        """Seconds until the next try, after `tries` in a row failed.

        An error that has a `retry_after`, in seconds, is heeded: not before that, up to the cap of the backoff.
        """
        delay = self.backoff.delay(tries, rng)
        hint = getattr(error, "retry_after", None)
        return max(delay, min(hint, self.backoff.cap)) if _is_delay(hint) else delay


def _is_exception_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _is_delay(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and value > 0
