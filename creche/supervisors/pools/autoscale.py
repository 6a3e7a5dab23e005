"""How many workers there should be: pure policy, the clock is passed in.

Growing is quick and shrinking is slow, because a caller waits for the first and nobody for the second, and a worker
that comes and goes with each burst costs more than one that idles (poolboy's users asked for exactly that).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ...runtime.checks import require, require_number


@dataclass(frozen=True, slots=True)
class Autoscale:
    """Bounds and speed of a pool that is resized by its load.

    Parameters
    ----------
    min, max
        The pool never has fewer or more workers.
    grow_at
        It grows by half when the oldest message has waited so many seconds and no worker is idle.
    shrink_after
        It shrinks by one when, for so many seconds, there was never more to do than one worker fewer could have done.
    every
        Seconds between two looks at the load; also the least time between two steps.

    Raises
    ------
    SpecInvalid
        A value is out of range.
    """

    min: int
    max: int
    grow_at: float = 0.1
    shrink_after: float = 60.0
    every: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min", "max"):
            require_number(self, name, at_least=1, whole=True)
        require(self, "max", self.max >= self.min, f"at least min = {self.min}")
        for name in ("grow_at", "shrink_after"):
            require_number(self, name)
        require_number(self, "every")
        require(self, "every", 0 < self.every < float("inf"), "seconds, more than 0 and finite")


class Autoscaler:
    """The rule applied to one pool."""

    def __init__(self, rule: Autoscale) -> None:
        self._rule = rule
        self._quiet_since: float | None = None

    def size(self, now: float, size: int, busy: int, oldest: float) -> int:
        """What the size should be.

        Parameters
        ----------
        busy, oldest
            Workers that have a message in hand or are down; seconds for which the oldest message has waited, 0 without
            one.
        """
        rule = self._rule
        if oldest > 0 or busy >= size:
            self._quiet_since = None
        elif self._quiet_since is None:
            self._quiet_since = now
        wanted = size
        if oldest >= rule.grow_at and oldest > 0 and busy >= size:
            wanted = size + ceil(size / 2)
        elif self._quiet_since is not None and now - self._quiet_since >= rule.shrink_after:
            self._quiet_since = now
            wanted = size - 1
        return min(rule.max, max(rule.min, wanted))
