"""Whether a cached value may be used, and for how long: pure policy, clock and randomness are passed in."""

from __future__ import annotations

import math
from enum import Enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from .config import LoadPolicy

# An early refresh that would need a draw as unlikely as exp(-40) is not drawn for.
_FAR = 40.0


class Draw(Protocol):
    """The part of `random.Random` that is used here."""

    def random(self) -> float: ...

    def uniform(self, a: float, b: float, /) -> float: ...


class Verdict(Enum):
    """What to do with what was found."""

    USE = "use"
    """It is fresh."""
    REFRESH = "use it, and load anew in the background"
    REST = "use it although it is stale: the last load failed a short while ago"
    LOAD = "load; fall back on it if that is slow or fails"


def surely_fresh(now: float, fresh_until: float, cost: float, policy: LoadPolicy) -> bool:
    """Whether `judge` says `Verdict.USE`, whatever is drawn."""
    left = fresh_until - now
    return left > 0 and left >= _FAR * cost * policy.early


def judge(now: float, fresh_until: float, cost: float, retry_at: float, policy: LoadPolicy, draw: Draw) -> Verdict:
    """What to do with a value that is there at `now`.

    Parameters
    ----------
    fresh_until
        Its logical end; it may be there longer, as a stale one.
    cost
        How many seconds its load took; 0 if it was not loaded.
    retry_at
        When the next load may be tried, after one that failed.
    """
    if now >= fresh_until:
        return Verdict.REST if now < retry_at else Verdict.LOAD
    spread = cost * policy.early
    # XFetch: in effect each caller's clock is ahead by a random time, exponentially distributed about `spread`.
    if fresh_until - now < _FAR * spread and now - spread * math.log(1 - draw.random()) >= fresh_until:
        return Verdict.REFRESH if now >= retry_at else Verdict.USE
    return Verdict.USE


def jittered(ttl: float, policy: LoadPolicy, draw: Draw) -> float:
    """`ttl`, or less by up to the policy's jitter."""
    return ttl * draw.uniform(1 - policy.jitter, 1) if policy.jitter and ttl != math.inf else ttl
