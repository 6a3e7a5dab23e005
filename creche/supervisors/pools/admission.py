"""Which calls are too old to be worth handling: pure policy, the clock is passed in.

Under overload a queue that refuses nobody serves everybody too late: callers have given up by the time their turn
comes. What tells overload is not the length of the queue, nor a burst, but that it stays slow. So the age of what is
taken is watched, as CoDel does (Nichols and Jacobson, RFC 8289): if it stays above `target` for a whole `interval`,
there is more work than can be done. From then on, until the queue has been empty once, calls that have waited longer
than `target` are refused when their turn comes (Maurer, "Fail at Scale", ACM Queue 13-8, 2015: a short limit while the
queue is a standing one): the others are served in time, and the workers have no idle moment. CoDel's own law, which
drops one packet now and then, is for senders that slow down when they see a loss; callers do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from ...runtime.checks import require, require_number


@dataclass(frozen=True, slots=True)
class Admission:
    """When calls are refused for having waited too long.

    Parameters
    ----------
    target
        Seconds that a call may wait while there is too much to do; a few times what a handler takes.
    interval
        Seconds for which whatever is taken must have waited longer than `target`, before that is believed.

    Raises
    ------
    SpecInvalid
        A value is no number above 0.
    """

    target: float = 1.0
    interval: float = 10.0

    def __post_init__(self) -> None:
        for name in ("target", "interval"):
            require_number(self, name)
            require(self, name, 0 < getattr(self, name) < float("inf"), "seconds, more than 0 and finite")


class Admitting:
    """The rule applied to one queue."""

    __slots__ = ("_interval", "_slow_since", "_target", "_young_at", "overloaded")

    def __init__(self, rule: Admission) -> None:
        self._target = rule.target
        self._interval = rule.interval
        self._slow_since: float | None = None  # since when the head of the queue has been older than the target
        self._young_at = -inf  # when the last one was taken that had not waited for long
        self.overloaded = False

    def too_old(self, waited: float, now: float) -> bool:
        """Tell of a message that is taken at `now` after `waited` seconds. True: refuse it."""
        if waited <= self._target:
            self._slow_since, self._young_at = None, now
            return False
        if self._slow_since is None:
            # It was the head all the while, or behind an older one, or, where there are priorities, behind a young one.
            self._slow_since = max(now - waited + self._target, self._young_at)
        if now - self._slow_since >= self._interval:
            self.overloaded = True
        return self.overloaded

    def emptied(self) -> None:
        """The queue has been empty: no standing queue any more."""
        self._slow_since = None
        self.overloaded = False
