"""What becomes of a crash: the verdict, the budget, and giving up.

Theory of operation
-------------------
A crashed child asks `child_crashed` synchronously, in its own task, and is told to restart after a delay, to wait at
its start gate for a group restart, to suspend because the supervisor itself is going down, or that it is done. So
single restarts do not pass through the supervisor's task.

A crash that joins a group that is being paused is not charged; one that comes while the group is being started is
charged, as it would be without the group, else a child that cannot start would be restarted for ever.

Failing: more restarts than the intensity allows, or a child that cannot start while the supervisor starts. Then the
supervisor suspends its children in reverse order (cells keep identity and mail) and crashes itself; its parent decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runtime import events
from ..runtime.errors import IntensityExceeded, StartFailed, Unavailable
from ..runtime.node import Node, Parent, Verdict, one_line
from .budget import Budget
from .groups import Groups
from .strategies import FIRST_OF_GROUP

if TYPE_CHECKING:
    from ..runtime.runtime import Runtime
    from .spec import SupervisorSpec


class Restarts(Groups):
    """The part of a supervisor that judges crashes."""

    __slots__ = ("_budget",)

    def __init__(self, runtime: Runtime, parent: Parent, name: str, rules: SupervisorSpec) -> None:
        super().__init__(runtime, parent, name, rules)
        self._budget = Budget(rules.intensity)

    def child_crashed(self, child: Node, failure: Exception, now: float) -> tuple[Verdict, float]:
        """Part of `Parent`."""
        if child in self._first_starts:
            return self._first_start_failed(child, failure)
        if self._leaving():
            return Verdict.SUSPEND, 0.0
        if child.spec.restart == "temporary":
            return Verdict.STOP, 0.0
        grouped = self.rules.strategy in FIRST_OF_GROUP
        joins = self._pausing and grouped
        weather = failure if isinstance(failure, Unavailable) else None  # no bug: it costs nothing and is waited out
        if not joins and weather is None and not self._budget.charge(now):
            self._give_up(child, failure)
            return Verdict.SUSPEND, 0.0
        delay = child.spec.backoff.delay(child.streak, self.runtime.random)
        if weather is not None:
            delay = max(delay, weather.retry_after or 0.0)
        if not grouped:
            return Verdict.RESTART, delay
        self._join_group(child, delay)
        return Verdict.REGROUP, delay

    def child_gives_up(self, child: Node, failure: Exception) -> None:
        """Part of `Parent`: it will ask when it has stopped its children."""

    def _first_start_failed(self, child: Node, failure: Exception) -> tuple[Verdict, float]:
        if child.name in self._dynamic:
            return Verdict.STOP, 0.0
        child.start_error = None  # nobody asks for it
        if self._failure is None and not self._ending:
            error = StartFailed(child.path, one_line(failure))
            error.__cause__ = failure
            self._fail(error)
        return Verdict.SUSPEND, 0.0

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self.wake()
        self._abort_start()
        self.parent.child_gives_up(self, error)

    def _give_up(self, child: Node, failure: Exception) -> None:
        intensity = self.rules.intensity
        crashes = sorted(crash for node in self._nodes.values() for crash in node.crashes())
        history = tuple(line for _, line in crashes[-16:])
        error = IntensityExceeded(self.path, intensity.restarts, intensity.window, history)
        error.__cause__ = failure
        self._fail(error)
        if self.runtime.events.on:
            self.emit(events.Escalated, one_line(error))

    def _take_failure(self) -> Exception | None:
        failure = self._condemned if self._failure is None else self._failure
        self._failure = self._condemned = None
        return failure
