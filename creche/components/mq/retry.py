"""What becomes of a record whose handler raised: pure policy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ...runtime.backoff import Backoff, Jitter
from ...runtime.checks import require
from ...runtime.errors import CallFailed, NotDelivered
from .errors import Unavailable

Action = Literal["retry", "dead_letter", "drop"]
_ACTIONS: tuple[Action, ...] = ("retry", "dead_letter", "drop")

WEATHER = (CallFailed, Unavailable)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Retry in place: the record's partition waits, so the order within it is kept.

    Parameters
    ----------
    attempts
        After so many failures a record goes to the dead-letter topic.
    backoff
        The delays between them.
    on
        Exceptions that are treated otherwise: ``"dead_letter"`` at once, ``"drop"`` (done, and told by an event only),
        or ``"retry"``. The entry for the nearest class in the exception's inheritance counts.

    Failed calls (`creche.CallFailed`) and `Unavailable` are weather, not poison: unless `on` says otherwise they are
    retried for as long as it takes, and do not count as attempts.
    """

    attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(first=0.2, free=0))
    on: Mapping[type[Exception], Action] = field(default_factory=dict[type[Exception], Action])

    def __post_init__(self) -> None:
        require(self, "attempts", self.attempts >= 1, "at least 1")
        require(self, "on", all(map(_is_exception_class, self.on)), "the keys are subclasses of Exception")
        require(self, "on", all(action in _ACTIONS for action in self.on.values()), f"the values are of {_ACTIONS}")

    def counts(self, error: Exception) -> bool:
        """Whether the failure is the record's own."""
        return not isinstance(error, WEATHER)

    def action(self, error: Exception, failures: int) -> Action:
        """What to do about `error`. `failures` counts those of this record that count, this one included."""
        named: list[Action] = [self.on[kind] for kind in type(error).__mro__ if kind in self.on]
        action: Action = named[0] if named else "retry"
        if action == "retry" and self.counts(error) and failures >= self.attempts:
            return "dead_letter"
        return action

    def delay(self, error: Exception, tries: int, rng: Jitter) -> float:
        """Seconds until the next try, after `tries` in a row failed; not before what the error says is worth it."""
        delay = self.backoff.delay(tries, rng)
        hint = error.retry_after if isinstance(error, NotDelivered | Unavailable) else None
        return delay if hint is None else max(delay, min(hint, self.backoff.cap))


def _is_exception_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)
