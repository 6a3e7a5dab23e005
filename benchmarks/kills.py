"""What becomes of messages while actors are killed, and whether what callers were told is true.

Theory of operation
-------------------
Sixteen actors under three supervisors: eight that restart alone, four of ``one_for_all``, four of ``rest_for_one``.
Half of the first refuse callers while they are down, for a millisecond; all others are back at once, and their callers
wait. 64 callers send calls, and a cast every fourth time, to one actor after the other. A killer strikes at random
moments, so many times a second of real time, and now and then it kills a whole supervisor.

Each message has an id. Its handler writes the id to a *disk* that is outside of all actors and outlives them, between
two checkpoints, so that a kill may come before the effect or after it. When all is over the disk is held against what
was told:

* *lost*: a call was answered with a value and has left no effect; or a cast was accepted, was not handled to its end,
  and is not told of as a dead letter. Dead letters bear no ids, so casts are counted for each actor.
* *double*: two effects of one id.
* *untrue*: an effect of a call that ended as not delivered; or more dead letters of an actor than casts that it has not
  finished.

With *retrying* callers there are only calls, each made again until it has a value: after `NotDelivered`, for that is
safe, and after `OutcomeUnknown`, for here the handler looks at the disk first. There is a checkpoint between its look
and its write: that nothing comes between them is what the actor is for. Each id must be on the disk exactly once.
"""

from __future__ import annotations

import random
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Literal

import trio

import creche
from creche.supervisors.strategies import Strategy

from . import _harness as harness
from ._harness import Probe, Row, Size, Stopwatch

RATES = (10, 100, 1_000)  # kills a second
CALLERS = 64
SUPERVISORS: dict[str, tuple[Strategy, int]] = {  # name -> how it restarts, and how many
    "alone": ("one_for_one", 8),
    "all": ("one_for_all", 4),
    "rest": ("rest_for_one", 4),
}
ACTORS = sum(size for _, size in SUPERVISORS.values())
SUPERVISOR_DIES = 0.02  # of the kills
NEVER_GIVE_UP = creche.Intensity(restarts=10**9, window=1e-3)
AT_ONCE = creche.Backoff(first=0, jitter=0)
AFTER_A_WHILE = creche.Backoff(first=1e-3, cap=1e-3, free=0)

Manner = Literal["plain", "retrying"]


@dataclass(slots=True)
class Disk:
    """What outlives the actors. `finished` counts casts handled to their end, by actor."""

    effects: Counter[int] = field(default_factory=Counter[int])
    finished: Counter[str] = field(default_factory=Counter[str])
    struck: dict[str, float] = field(default_factory=dict[str, float])  # actor -> when, until it handles a message
    recoveries: list[float] = field(default_factory=list[float])  # microseconds
    has_recovered: trio.Event = field(default_factory=trio.Event)  # somebody

    def recovered(self, name: str) -> None:
        """An actor handles a message."""
        if name in self.struck:
            self.recoveries.append((time.perf_counter() - self.struck.pop(name)) * 1e6)
            self.has_recovered.set()


class Clerk(creche.Actor):
    """Writes ids to the disk."""

    def __init__(self, name: str, disk: Disk) -> None:
        self.name = name
        self.disk = disk

    async def write(self, ident: int) -> int:
        self.disk.recovered(self.name)
        await trio.lowlevel.checkpoint()
        self.disk.effects[ident] += 1
        await trio.lowlevel.checkpoint()
        return ident

    async def write_once(self, ident: int) -> int:
        self.disk.recovered(self.name)
        known = ident in self.disk.effects
        await trio.lowlevel.checkpoint()
        if not known:
            self.disk.effects[ident] += 1
        await trio.lowlevel.checkpoint()
        return ident

    async def note(self, ident: int) -> None:
        await self.write(ident)
        self.disk.finished[self.name] += 1


@dataclass(slots=True)
class Told:
    """What callers and the event stream were told."""

    calls: dict[int, str] = field(default_factory=dict[int, str])  # id -> its last outcome
    casts: dict[int, str] = field(default_factory=dict[int, str])  # id -> its actor, if it was accepted
    dead: Counter[str] = field(default_factory=Counter[str])  # casts told of as dead letters, by actor
    outcomes: Counter[str] = field(default_factory=Counter[str])  # of each attempt

    def heed(self, event: creche.events.Event) -> None:
        """A hook for events."""
        if isinstance(event, creche.events.DeadLetter):
            self.dead[event.path.rpartition("/")[2]] += 1
            self.outcomes[f"dead_letter_{event.reason}"] += 1


@dataclass(frozen=True, slots=True)
class Audit:
    """How often the disk contradicts what was told."""

    lost: int
    double: int
    untrue: int

    @property
    def clean(self) -> bool:
        return not (self.lost or self.double or self.untrue)


def audit(disk: Disk, told: Told) -> Audit:
    """Hold the disk against what was told."""
    ends = Counter((outcome, disk.effects[ident] > 0) for ident, outcome in told.calls.items())
    accepted = Counter(told.casts.values())
    unfinished = {name: accepted[name] - disk.finished[name] - told.dead[name] for name in accepted}
    refused = sum(times for (outcome, effect), times in ends.items() if effect and outcome.startswith("not_delivered"))
    return Audit(
        lost=ends["value", False] + sum(max(left, 0) for left in unfinished.values()),
        double=sum(times > 1 for times in disk.effects.values()),
        untrue=refused + sum(max(-left, 0) for left in unfinished.values()),
    )


@dataclass(frozen=True, slots=True)
class Report:
    """One run. `seconds` are of real time, `cpu` is in microseconds for each message that was handled."""

    rate: int
    manner: Manner
    kills: int
    seconds: float
    handled: int
    cpu: float
    outcomes: Counter[str]
    calls: Sequence[float]  # microseconds of each call that got its value
    recoveries: Sequence[float]
    audit: Audit


class Run:
    """Callers, killer and tree of one run."""

    def __init__(self, rate: int, manner: Manner, rng: random.Random) -> None:
        self._rate = rate
        self._manner: Manner = manner
        self._rng = rng
        self._disk = Disk()
        self._told = Told()
        self._idents = count()
        self._names = [f"{group}-{number}" for group, (_, size) in SUPERVISORS.items() for number in range(size)]
        self._handles: list[creche.Handle[Clerk]] = []
        self._calls: list[float] = []
        self._kills = 0
        self._over = False

    async def run(self, seconds: float) -> Report:
        """Let it go on for so long, then until everything has been answered."""
        async with creche.open_runtime("benchmark", intensity=NEVER_GIVE_UP) as runtime:
            runtime.events.subscribe(self._told.heed)
            for supervisor in self._supervisors():
                await runtime.start(supervisor)
            self._handles = [runtime.handle(self._path(name), Clerk) for name in self._names]
            began = time.perf_counter()
            with Stopwatch() as watch:
                await self._let_loose(runtime, seconds)
            lasted = time.perf_counter() - began
            handled = self._told.outcomes["value"] + self._disk.finished.total()
        return Report(
            self._rate,
            self._manner,
            self._kills,
            lasted,
            handled,
            watch.elapsed / handled,
            self._told.outcomes,
            self._calls,
            self._disk.recoveries,
            audit(self._disk, self._told),
        )

    def _supervisors(self) -> list[creche.Spec[object]]:
        return [
            creche.supervisor(
                group,
                *(self._clerk(name) for name in self._names if name.startswith(group)),
                strategy=strategy,
                intensity=NEVER_GIVE_UP,
            ).options(backoff=AT_ONCE)
            for group, (strategy, _) in SUPERVISORS.items()
        ]

    def _clerk(self, name: str) -> creche.Spec[creche.Handle[Clerk]]:
        spec = creche.child(Clerk, name, self._disk).options(name=name, backoff=AT_ONCE)
        refuses = name.startswith("alone") and int(name.rpartition("-")[2]) % 2
        return spec.options(while_down="reject", backoff=AFTER_A_WHILE) if refuses else spec

    def _path(self, name: str) -> str:
        return f"root/{name.partition('-')[0]}/{name}"

    async def _let_loose(self, runtime: creche.Runtime, seconds: float) -> None:
        async with trio.open_nursery() as callers, trio.open_nursery() as killing:
            for number in range(CALLERS):
                callers.start_soon(self._retry_in_turn if self._manner == "retrying" else self._send_in_turn, number)
            if self._rate:
                killing.start_soon(self._kill_in_turn, runtime)
            await trio.sleep(seconds)
            if self._rate:
                await self._disk.has_recovered.wait()
            killing.cancel_scope.cancel()
            self._over = True

    # --- callers ----------------------------------------------------------------------------------

    async def _send_in_turn(self, caller: int) -> None:
        for number in count(caller):
            if self._over:
                break
            ident, actor = next(self._idents), number % ACTORS
            if number % 4:
                self._told.calls[ident] = await self._call(actor, Clerk.write, ident)
            elif await self._cast(actor, ident):
                self._told.casts[ident] = self._names[actor]

    async def _retry_in_turn(self, caller: int) -> None:
        for number in count(caller):
            if self._over:
                break
            ident = next(self._idents)
            while await self._call(number % ACTORS, Clerk.write_once, ident) != "value":
                pass
            self._told.calls[ident] = "value"

    async def _call(self, actor: int, method: Callable[[Clerk, int], Awaitable[int]], ident: int) -> str:
        outcome = "value"
        began = time.perf_counter()
        try:
            await self._handles[actor].call(method, ident)
            self._calls.append((time.perf_counter() - began) * 1e6)
        except creche.NotDelivered as error:
            outcome = f"not_delivered_{error.reason}"
            if self._manner == "retrying":
                await trio.sleep(error.retry_after or 0)
        except creche.OutcomeUnknown:
            outcome = "outcome_unknown"
        self._told.outcomes[outcome] += 1
        return outcome

    async def _cast(self, actor: int, ident: int) -> bool:
        try:
            await self._handles[actor].cast(Clerk.note, ident)
        except creche.NotDelivered as error:
            self._told.outcomes[f"cast_not_delivered_{error.reason}"] += 1
            return False
        self._told.outcomes["cast_accepted"] += 1
        return True

    # --- killer -----------------------------------------------------------------------------------

    async def _kill_in_turn(self, runtime: creche.Runtime) -> None:
        """At random moments. One that comes late, because the loop was busy, makes up for it."""
        due = trio.current_time()
        while True:
            await trio.sleep_until(due)
            due += self._rng.expovariate(self._rate)
            if self._rng.random() < SUPERVISOR_DIES:
                group = self._rng.choice(list(SUPERVISORS))
                self._kills += runtime.kill(f"root/{group}", "benchmark")
                continue
            actor = self._rng.randrange(ACTORS)
            if runtime.kill(self._handles[actor], "benchmark"):
                self._kills += 1
                self._disk.struck.setdefault(self._names[actor], time.perf_counter())


# --- rows ---------------------------------------------------------------------------------------------------------


def seconds_of(size: Size) -> float:
    """How long one run lasts."""
    return size.operations / 10_000


def probes(reports: list[Report]) -> list[Probe]:
    """Each run adds its report to `reports`, too."""

    def run(size: Size, rate: int, manner: Manner) -> Report:
        report = trio.run(Run(rate, manner, random.Random()).run, seconds_of(size))
        reports.append(report)
        return report

    def quiet(manner: Manner, size: Size) -> list[float]:
        report = run(size, 0, manner)
        return [report.cpu, statistics.median(report.calls)]

    def killed(rate: int, manner: Manner, size: Size) -> list[float]:
        report = run(size, rate, manner)
        return [report.cpu, statistics.median(report.recoveries), harness.percentile(report.recoveries, 0.99)]

    manners: tuple[Manner, ...] = ("plain", "retrying")
    return [
        *(Probe((f"{manner}_0", f"{manner}_call"), partial(quiet, manner)) for manner in manners),
        *(
            Probe(
                (f"{manner}_{rate}", f"{manner}_recovery_{rate}", f"{manner}_recovery_p99_{rate}"),
                partial(killed, rate, manner),
            )
            for manner in manners
            for rate in RATES
        ),
    ]


ROWS = [
    *(Row(f"kills_{rate}", f"plain_{rate}", "plain_0", None, f"CPU of a message, {rate} kills/s") for rate in RATES),
    *(Row(f"retries_{rate}", f"retrying_{rate}", "retrying_0", None, "the same, callers retry") for rate in RATES),
    *(
        Row(f"recovery_{rate}", f"plain_recovery_{rate}", "plain_call", None, f"kill -> next handler, {rate} kills/s")
        for rate in RATES
    ),
    *(
        Row(f"recovery_p99_{rate}", f"plain_recovery_p99_{rate}", "plain_call", None, "the same, 99th percentile")
        for rate in RATES
    ),
]


@dataclass(frozen=True, slots=True)
class Summary:
    """All runs of one kind together. Recoveries are in microseconds."""

    manner: Manner
    rate: int
    kills: int
    handled_per_second: float
    recovery: float
    recovery_p99: float
    lost: int
    double: int
    untrue: int
    outcomes: dict[str, int]


def summaries(reports: Sequence[Report]) -> list[Summary]:
    """One for each kind of run, in order."""
    kinds = sorted({(report.manner, report.rate) for report in reports})
    return [_summary([report for report in reports if (report.manner, report.rate) == kind]) for kind in kinds]


def _summary(reports: Sequence[Report]) -> Summary:
    recoveries = [one for report in reports for one in report.recoveries] or [0.0]
    outcomes = sum((report.outcomes for report in reports), Counter[str]())
    return Summary(
        reports[0].manner,
        reports[0].rate,
        sum(report.kills for report in reports),
        round(sum(report.handled for report in reports) / sum(report.seconds for report in reports)),
        round(statistics.median(recoveries)),
        round(harness.percentile(recoveries, 0.99)),
        sum(report.audit.lost for report in reports),
        sum(report.audit.double for report in reports),
        sum(report.audit.untrue for report in reports),
        dict(sorted(outcomes.items())),
    )
