"""Callers, actors, crashes, kills, cancels, small mailboxes and stops at random: what must hold whatever happens.

Seeded, in virtual time, Trio's order of tasks included: a seed that fails fails again. Four files: `fuzz_actors` is
what the actors do, `fuzz_callers` what is sent to them, `fuzz_ledger` what is known of each message and what must hold;
here is the rest of what is done to them.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Literal

import pytest
import trio

import creche
import creche.testing
from creche.runtime.deadlines import Timer
from creche.runtime.events import Crashed, Event
from creche.runtime.node import State
from creche.runtime.spec import OnExhausted
from creche.supervisors.spec import SupervisorSpec
from creche.supervisors.strategies import STRATEGIES, Strategy
from tests.core.fuzz_actors import PlainWorker, Worker
from tests.core.fuzz_callers import Caller
from tests.core.fuzz_ledger import Ledger
from tests.core.support import cell_of, reach

CALLERS, ACTORS = 14, 4
PLAIN = 120  # from this seed on children have budgets and dependencies of their own, and are replaced
CRASHES = {"Boom", "ExceptionGroup", "IncarnationEnded", "IntensityExceeded", "Killed"}  # whatever else is our own bug
METHODS: Sequence[Callable[..., Awaitable[int]]] = (
    Worker.work,
    Worker.work,
    Worker.work_for_caller,
    Worker.together,
    Worker.together_for_caller,
    Worker.beside,
    Worker.beside_for_caller,
    Worker.later,
    Worker.again,
)


class ToActors(Caller):
    """A caller of actors, each of which calls the next one."""

    methods = METHODS

    def _next_up(self, place: int) -> creche.Handle[Worker] | None:
        return self.handles[place + 1] if place + 1 < len(self.handles) else None

    def _for_many(self, handle: creche.Handle[Worker]) -> Any:
        return handle.within(5) if self.dice.random() < 0.3 else handle


def policies(seed: int, strategy: Strategy, index: int) -> dict[str, Any]:
    """A budget of its own for a child, what happens when it is spent, and whom it depends on; for some seeds."""
    if seed < PLAIN:
        return {}
    dice = random.Random(f"{seed} {index} policies")
    rules: dict[str, Any] = {"probe": creche.Backoff(first=dice.choice((0.5, 5)), free=0, cap=20, reset_after=2)}
    if dice.random() < 0.7:
        rules["intensity"] = creche.Intensity(dice.choice((0, 3)), dice.choice((1, 100)))
        choices: tuple[OnExhausted, ...] = ("park", "park", "stop", "escalate")
        in_whole_groups = strategy in ("one_for_all", "rest_for_one")
        rules["on_exhausted"] = dice.choice(choices[2:] if in_whole_groups else choices)
    if strategy == "dependents":
        rules["depends_on"] = tuple(f"w{other}" for other in range(index) if dice.random() < 0.5)
    return rules


def tree(dice: random.Random, ledger: Ledger, seed: int) -> SupervisorSpec:
    """Two supervisors, and actors with rules at random."""
    children = []
    strategy = STRATEGIES[seed % len(STRATEGIES)]
    for index in range(ACTORS):
        rules: dict[str, Any] = {
            "name": f"w{index}",
            "backoff": creche.Backoff(first=dice.choice((0, 0.1, 1)), free=1, cap=1),
            "mailbox": dice.choice((1, 2, 64)),
            "overflow": dice.choice(("wait", "wait", "reject", "drop_oldest", "drop_newest", "latest_by_key")),
            "stash": dice.choice((1, 3, 64)),
            "while_down": dice.choice(("wait", "wait", "reject")),
            "restart": dice.choice(("permanent", "permanent", "transient")),
            "drain": dice.choice((0, 1, 10)),
            "down_wait": dice.choice((0.5, 5)),
            "unwind_grace": dice.choice((0.5, 5)),
        }
        cls = dice.choice((Worker, PlainWorker))
        children.append(creche.child(cls, ledger, seed + index).options(**rules, **policies(seed, strategy, index)))
    intensity = creche.Intensity(dice.choice((5, 1000)), 1)
    sub = creche.supervisor(
        "sub", *children, strategy=dice.choice(STRATEGIES) if seed < PLAIN else strategy, intensity=intensity
    )
    if seed % 3 == 0 and seed >= PLAIN:
        sub = sub.options(on_exhausted="park", probe=creche.Backoff(first=3, free=0))
    return creche.supervisor("root", sub, intensity=creche.Intensity(1000, 1))


async def replace_one(runtime: creche.Runtime, dice: random.Random, path: str, ledger: Ledger) -> None:
    cls = dice.choice((Worker, PlainWorker))
    when: Literal["next", "now"] = dice.choice(("next", "now"))
    spec = creche.child(cls, ledger, dice.randrange(1000)).with_options(runtime.node_of(path).spec)
    with suppress(creche.ActorStopped, creche.StartFailed):
        await runtime.replace(path, spec, when=when)


async def chaos(
    runtime: creche.Runtime, dice: random.Random, paths: Sequence[str], replaces: Ledger | None = None
) -> None:
    pace = dice.choice((1, 10, 100))  # where hardly anything is killed, what is lost is not answered for by accident
    while True:
        await trio.sleep(dice.random() * pace)
        if dice.random() < 0.02:
            await runtime.stop(runtime.node_of(dice.choice(paths[1:])))
        if replaces is not None and dice.random() < 0.1:
            await replace_one(runtime, dice, dice.choice(paths[1:]), replaces)
        runtime.kill(dice.choice(paths), "chaos")


async def scenario(seed: int) -> None:
    dice, ledger = random.Random(seed), Ledger()
    paths = ["root/sub", *(f"root/sub/w{index}" for index in range(ACTORS))]
    handles: list[creche.Handle[Worker]] = []
    runtimes: list[creche.Runtime] = []
    seen: list[Event] = []
    with trio.move_on_after(2000) as forever:
        async with trio.open_nursery() as callers:
            with trio.move_on_after(dice.choice((3, 2000, 2000))):  # at times it is cancelled from outside
                root = tree(dice, ledger, seed)
                async with creche.open_runtime("fuzz", root=root, seed=seed, stop_within=60) as runtime:
                    runtimes.append(runtime)
                    runtime.events.subscribe(seen.append)
                    handles += [reach(runtime, path, Worker) for path in paths[1:]]
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(chaos, runtime, dice, paths, None if seed < PLAIN else ledger)
                        async with trio.open_nursery() as busy:
                            for me in range(CALLERS):  # some are still calling while the tree stops
                                (busy if me % 4 else callers).start_soon(ToActors(me, seed, handles, ledger).run)
                        nursery.cancel_scope.cancel()
    assert not forever.cancelled_caught, "somebody waits for ever"
    ledger.check({handle.path for handle in handles if cell_of(handle).spec.overflow == "latest_by_key"})
    left = [entry for _, _, entry in runtimes[0].deadlines._heap if entry.live()]
    assert all(isinstance(entry, Timer) for entry in left), left  # of a backoff: it wakes nobody any more
    assert {event.error.partition(":")[0] for event in seen if isinstance(event, Crashed)} <= CRASHES
    for handle in handles:
        cell = cell_of(handle)
        assert (cell.state, cell.queued, cell.stashed, list(cell.waits_for())) == (State.STOPPED, 0, 0, [])
        assert (cell.task, cell._companion, cell._current) == (None, None, None)


@pytest.mark.parametrize("seed", range(PLAIN + 60))
def test_fuzz(seed: int) -> None:
    """Each call has one outcome, nothing runs twice, nothing revoked runs, senders' order holds, nothing is left."""
    creche.testing.run(scenario, seed, seed=seed)
