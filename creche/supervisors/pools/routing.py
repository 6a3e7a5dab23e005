"""Who gets a message: pure policy. Nothing here knows of cells, queues or time.

A policy is asked for each message that is not bound to a worker already. It names one, or None: whoever is free first.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast

from ...runtime.errors import SpecInvalid
from ...runtime.stable_hash import StableKey, stable_hash

POINTS = 64  # of one worker on the ring: with 8 workers the largest share is then some 1.3 times the mean


class Candidate(Protocol):
    """A worker, as far as a policy looks at it."""

    @property
    def name(self) -> str: ...

    @property
    def up(self) -> bool:
        """Whether it can take messages at this moment."""
        ...

    @property
    def load(self) -> int:
        """How many messages wait for it or are in its hand."""
        ...


W = TypeVar("W", bound=Candidate)
KeyFunction = Callable[..., Hashable]


@dataclass(frozen=True, slots=True)
class ByKey:
    """See `by_key`."""

    key: KeyFunction


@dataclass(frozen=True, slots=True)
class Sticky:
    """See `sticky`."""

    key: KeyFunction


Routing = Literal["shared", "round_robin", "least_loaded"] | ByKey | Sticky


def first_argument(*args: Any, **kwargs: Any) -> Hashable:
    """The key of a message unless a function says otherwise."""
    value: Hashable = args[0] if args else next(iter(kwargs.values()), None)
    return value


def by_key(key: KeyFunction = first_argument) -> ByKey:
    """Route all messages of one key to one worker, chosen by consistent hash.

    Messages of one key are handled one after the other, in order, and each worker sees its own keys only, so it can
    keep their state. When the pool is resized from `n` to `n + 1` workers about one key in `n + 1` moves; it moves once
    what is queued for it has been handled. While its worker is down a key waits, as ``while_down`` says.

    Parameters
    ----------
    key
        Takes the message's arguments and returns a str, bytes, int, float, bool, None, or a tuple of these. It must
        depend on nothing else, and may be called more than once. Default: the first argument.

    Raises
    ------
    SpecInvalid
        `key` is no function.
    """
    return ByKey(_function("by_key", key))


def sticky(key: KeyFunction = first_argument) -> Sticky:
    """Let a key stay with the worker that has it in hand or queued; else whoever is free first takes it.

    Messages of one key are handled one after the other, in order, as with `by_key`, but no worker idles while keys of
    others wait, and no key waits for a worker that is down. A worker that crashes has lost the message in its hand, and
    its keys go to others at once.

    Parameters and errors as of `by_key`; the key may be any hashable.
    """
    return Sticky(_function("sticky", key))


def _function(where: str, key: object) -> Any:
    if not callable(key):
        raise SpecInvalid(where, key, "pass a function that takes the message's arguments and returns its key")
    return key


class Policy(Protocol[W]):
    """How the worker of a message is chosen."""

    def choose(self, key: Hashable, workers: Sequence[W]) -> W | None:
        """One of `workers`, of which there is at least one; None: whoever is free first."""
        ...


class WhoIsFree(Policy[W]):
    """``"shared"``, and what is not bound of ``sticky``."""

    def choose(self, key: Hashable, workers: Sequence[W]) -> W | None:
        """See `Policy`."""
        return None


class RoundRobin(Policy[W]):
    """``"round_robin"``: each worker in turn; who is down is passed over while others are up."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, key: Hashable, workers: Sequence[W]) -> W | None:
        """See `Policy`."""
        for _ in range(len(workers)):
            self._turn = (self._turn + 1) % len(workers)
            if workers[self._turn].up:
                break
        return workers[self._turn]


class LeastLoaded(Policy[W]):
    """``"least_loaded"``: of those that are up, one with the least load; those of one load take turns."""

    def __init__(self) -> None:
        self._turns: RoundRobin[W] = RoundRobin()

    def choose(self, key: Hashable, workers: Sequence[W]) -> W | None:
        """See `Policy`."""
        up = [worker for worker in workers if worker.up] or workers
        least = min(worker.load for worker in up)
        return self._turns.choose(key, [worker for worker in up if worker.load == least])


class Ring(Policy[W]):
    """`by_key`: consistent hash with `POINTS` virtual nodes for each worker (Karger et al., STOC 1997)."""

    def __init__(self) -> None:
        self._names: tuple[str, ...] = ()
        self._points: list[int] = []
        self._owners: list[int] = []  # of each point, its index among the workers

    def choose(self, key: Hashable, workers: Sequence[W]) -> W | None:
        """See `Policy`. Raises TypeError for a key that has no stable hash."""
        names = tuple([worker.name for worker in workers])
        if names != self._names:
            self._lay_out(names)
        where = bisect_right(self._points, stable_hash(cast("StableKey", key))) % len(self._points)
        return workers[self._owners[where]]

    def _lay_out(self, names: tuple[str, ...]) -> None:
        points = sorted((stable_hash((name, n)), index) for index, name in enumerate(names) for n in range(POINTS))
        self._names = names
        self._points = [point for point, _ in points]
        self._owners = [index for _, index in points]


def policy_of(routing: Routing) -> Policy[Any]:
    """The policy that a routing names."""
    if isinstance(routing, ByKey):
        return Ring()
    if routing == "round_robin":
        return RoundRobin()
    if routing == "least_loaded":
        return LeastLoaded()
    return WhoIsFree()
