"""What becomes of a crash: the verdict, the budgets, and giving up.

Theory of operation
-------------------
A crashed child asks `child_crashed` synchronously, in its own task, and is told to restart after a delay, to wait at
its start gate for a group restart, to suspend because the supervisor itself is going down, or that it is done. So
single restarts do not pass through the supervisor's task.

One crash is one charge, to the child's own budget if it has one, else to the supervisor's. A crash that joins a group
that is being paused is not charged; one that comes while the group is being started is charged, as it would be without
the group, else a child that cannot start would be restarted for ever.

When a budget is spent, `on_exhausted` of whom it is about decides: a child for its own budget, a supervisor for that of
its children. To escalate is to fail. Who is parked is on probation until it has been healthy for long enough: each
crash until then parks it again, for longer, and is not charged.

Failing: a budget that is spent, or a child that cannot start while the supervisor starts. Then the supervisor suspends
its children in reverse order (cells keep identity and mail) and crashes itself; its parent decides.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import trio

from ..runtime import events
from ..runtime.deadlines import Timer
from ..runtime.errors import Crashes, IntensityExceeded, StartFailed, Unavailable
from ..runtime.node import RESTART, Node, Parent, State, Verdict, Want, one_line
from .budget import Budget
from .groups import Groups

if TYPE_CHECKING:
    from ..runtime.intensity import Intensity
    from ..runtime.runtime import Runtime
    from .spec import SupervisorSpec

Answer = tuple[Verdict, float]


class _Probation:
    """A child that has been parked, until it has proved to be healthy."""

    __slots__ = ("proof", "trials")

    def __init__(self) -> None:
        self.trials = 0
        self.proof: Timer | None = None  # runs while it is up

    def ends(self) -> None:
        """It is down again, or nobody asks any more."""
        if self.proof is not None:
            self.proof.cancel()
            self.proof = None


class Restarts(Groups):
    """The part of a supervisor that judges crashes."""

    __slots__ = ("_budget", "_own_budgets", "_probations")

    def __init__(self, runtime: Runtime, parent: Parent, name: str, rules: SupervisorSpec) -> None:
        super().__init__(runtime, parent, name, rules)
        self._budget = Budget(rules.intensity)
        self._own_budgets: dict[str, Budget] = {}  # of the children that have one and have crashed
        self._probations: dict[str, _Probation] = {}  # of the children that are parked, or being tried

    def child_crashed(self, child: Node, failure: Exception, now: float) -> Answer:
        """Part of `Parent`."""
        if child in self._first_starts:
            return self._first_start_failed(child, failure)
        if self._leaving():
            return Verdict.SUSPEND, 0.0
        rules = child.spec
        if rules.restart == "temporary":
            return Verdict.STOP, 0.0
        if rules.on_exhausted != "escalate" and (child.name in self._probations or _is_own_failure(child, failure)):
            return self._exhausted(child, failure)
        group = None if self._grouping is None else self._group_of(child)
        joins = group is not None and self._joins(group)
        weather = failure if isinstance(failure, Unavailable) else None  # no bug: it costs nothing and is waited out
        if not joins and weather is None:  # one crash is one charge
            budget = self._budget if rules.intensity is None else self._own_budget(child, rules.intensity)
            if not budget.charge(now):
                return self._exhausted(child, failure)
        delay = rules.backoff.delay(child.streak, self.runtime.random)
        if weather is not None:
            delay = max(delay, weather.retry_after or 0.0)
        if group is None or (len(group) == 1 and not joins and self.rules.strategy == "dependents"):
            return RESTART, delay
        self._join_group(group, delay)
        return Verdict.REGROUP, delay

    def _own_budget(self, child: Node, intensity: Intensity) -> Budget:
        budget = self._own_budgets.get(child.name)
        if budget is None or budget.intensity != intensity or child.streak == 1:  # the first crash since it was healthy
            budget = self._own_budgets[child.name] = Budget(intensity)
        return budget

    def _exhausted(self, child: Node, failure: Exception) -> Answer:
        if child.spec.on_exhausted == "park":
            return self._put_on_probation(child, failure)
        if child.spec.on_exhausted == "stop":
            return Verdict.STOP, 0.0
        self._give_up(child, failure)
        return Verdict.SUSPEND, 0.0

    def child_gives_up(self, child: Node, failure: Exception) -> None:
        """Part of `Parent`: it will ask when it has stopped its children."""

    # --- parking ----------------------------------------------------------------------------------

    def _put_on_probation(self, child: Node, failure: Exception) -> Answer:
        probation = self._probations.setdefault(child.name, _Probation())
        probation.ends()
        probation.trials += 1
        delay = child.spec.probe.delay(probation.trials, self.runtime.random)
        if isinstance(failure, Unavailable):
            delay = max(delay, failure.retry_after or 0.0)
        return Verdict.PARK, delay

    def child_is_ready(self, child: Node) -> None:
        """Part of `Parent`."""
        if child.want is not Want.DRAIN:  # else whoever is starting it has to be told that it was stopped
            self._first_starts.discard(child)
        if self._probations and child.name in self._probations:
            probation = self._probations[child.name]
            probation.ends()
            healthy_at = trio.current_time() + child.spec.probe.reset_after
            probation.proof = Timer(self.runtime.deadlines, healthy_at, lambda: self._proved_healthy(child))

    def _proved_healthy(self, child: Node) -> None:
        if child.state is State.RUNNING:  # else it has to prove it when it is ready again
            del self._probations[child.name]
            self._own_budgets.pop(child.name, None)
            if self.runtime.events.on:
                child.emit(events.Unparked)

    def _forget(self, child: Node) -> None:
        """See `Children`."""
        self._own_budgets.pop(child.name, None)
        probation = self._probations.pop(child.name, None)
        if probation is not None:
            probation.ends()

    def _start_afresh(self) -> None:
        """A new incarnation: what its children did in the last one is forgotten."""
        self._failure = None
        self._group.clear()
        self._group_until = 0.0
        self._budget.reset()
        self._own_budgets.clear()
        for probation in self._probations.values():
            probation.ends()
        self._probations.clear()

    # --- failing ----------------------------------------------------------------------------------

    def _first_start_failed(self, child: Node, failure: Exception) -> tuple[Verdict, float]:
        if child.name in self._dynamic:
            self._start_errors[child] = failure
            return Verdict.STOP, 0.0
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
        own = child.spec.intensity
        crashes = sorted(crash for node in self._nodes.values() for crash in node.crashes())
        error = IntensityExceeded(
            self.path,
            own or self.rules.intensity,
            tuple(line for _, line in crashes[-16:]),
            child=None if own is None else child.path,
            last=child.path,
            crashes=tuple(crashes for node in self._nodes.values() for crashes in self._crashes_of(node)),
        )
        error.__cause__ = failure
        self._fail(error)
        if self.runtime.events.on:
            self.emit(events.Escalated, one_line(error))

    def _crashes_of(self, node: Node) -> list[Crashes]:
        """What a child has died of in this incarnation of the supervisor, as far as it is remembered."""
        texts = Counter(text for when, _, text in node.history or () if when >= self._began)
        return [Crashes(node.path, text, times) for text, times in texts.items()]

    def _take_failure(self) -> Exception | None:
        failure = self._condemned if self._failure is None else self._failure
        self._failure = self._condemned = None
        return failure


def _is_own_failure(child: Node, failure: Exception) -> bool:
    """Whether a supervisor crashes because the budget of its children is spent."""
    return isinstance(failure, IntensityExceeded) and failure.path == child.path
