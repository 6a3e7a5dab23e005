"""The journal: what became of each call, who crashed, and how long it took to come back. Pure bookkeeping."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from ..runtime import events
from ..runtime.errors import (
    ActorStopped,
    CallCycle,
    DeadlineExceeded,
    NotDelivered,
    OutcomeUnknown,
    PeerFailed,
)

# In this order: a later one is a base of, or less than, an earlier one. What is none of these is an answer.
_OUTCOMES: Sequence[tuple[type[BaseException], str]] = (
    (DeadlineExceeded, "deadline_exceeded"),
    (NotDelivered, "not_delivered"),
    (OutcomeUnknown, "outcome_unknown"),
    (PeerFailed, "peer_failed"),
    (ActorStopped, "actor_stopped"),
    (CallCycle, "call_cycle"),
    (trio.Cancelled, "cancelled"),
)


def outcome_of(error: BaseException | None) -> str:
    """The name of an outcome: ``value``, ``answer`` (a declared error), or what kept the answer from the caller."""
    if error is None:
        return "value"
    return next((name for kind, name in _OUTCOMES if isinstance(error, kind)), "answer")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to.

    Parameters
    ----------
    calls
        How many ended in each way; see `outcome_of`.
    unanswered
        Calls that have not ended.
    restarts, recovery_p50, recovery_p99
        How many incarnations followed a crash, and seconds from the crash until the successor was ready; NaN if none.
    faults
        How many of each kind have struck.
    dead_letters
        Casts that were accepted and of which nobody knows that they were handled, by reason.
    """

    calls: Mapping[str, int]
    unanswered: int
    restarts: int
    recovery_p50: float
    recovery_p99: float
    faults: Mapping[str, int]
    dead_letters: Mapping[str, int]


class Journal:
    """Written by whoever stands between a runtime and its actors; read by invariants and reports."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.dead_letters: Counter[str] = Counter()
        self.recoveries: list[float] = []
        self.unanswered = 0
        self._down_since: dict[str, float] = {}  # path -> when its incarnation died

    def begun(self) -> None:
        """A call has been made."""
        self.unanswered += 1

    def ended(self, error: BaseException | None) -> None:
        """A call has ended, by a value or an error."""
        self.unanswered -= 1
        self.calls[outcome_of(error)] += 1

    def record(self, event: events.Event) -> None:
        """A hook for `Runtime.events`."""
        if isinstance(event, events.Crashed):
            self._down_since.setdefault(event.path, event.time)
        elif isinstance(event, events.Ready) and event.path in self._down_since:
            self.recoveries.append(event.time - self._down_since.pop(event.path))
        elif isinstance(event, events.Stopped):
            self._down_since.pop(event.path, None)
        elif isinstance(event, events.DeadLetter):
            self.dead_letters[event.reason] += 1

    @property
    def down(self) -> Sequence[str]:
        """The paths of those that have crashed and are not back yet."""
        return tuple(self._down_since)

    def summary(self) -> Summary:
        """All of it in figures."""
        return Summary(
            calls=dict(sorted(self.calls.items())),
            unanswered=self.unanswered,
            restarts=len(self.recoveries),
            recovery_p50=percentile(self.recoveries, 0.5),
            recovery_p99=percentile(self.recoveries, 0.99),
            faults=dict(sorted(self.faults.items())),
            dead_letters=dict(sorted(self.dead_letters.items())),
        )


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed (nearest rank); NaN of none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.nan
