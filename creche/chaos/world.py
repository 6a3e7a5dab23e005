"""The world of one run: a plan that is carried out in a tree, and what must hold meanwhile.

Theory of operation
-------------------
The plan is carried out by an actor, `Monkey`, that the tree gets as one more child of its root: in a live tree and in
virtual time alike. How far it has come is written in the world, so that it goes on after a crash of its own.

What must *always* hold is looked at after each event of the tree and after each step of the plan, in the very task that
made the event, so nothing can come between what broke it and the finding. It must be synchronous. What is found cancels
the scenario and is raised when that has unwound. What must *eventually* hold is asked again and again for so long.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager
from typing import Any, Self, TypeVar, TypeVarTuple, assert_never

import trio

from ..runtime.actor import Actor
from ..runtime.cell import Cell
from ..runtime.envelope import NEVER
from ..runtime.errors import CrecheError, SpecInvalid
from ..runtime.events import Event
from ..runtime.node import Node, one_line
from ..runtime.runtime import Runtime
from ..runtime.spec import child
from ..testing.faults import Act, Crash, Cut, Delay, Fault, Hang, Kill, RefuseStart, StepClock
from ..testing.injector import Injector
from ..testing.journal import Journal
from .plan import Plan, Recipe, Step, draw, targets_in

R = TypeVar("R")
Ts = TypeVarTuple("Ts")

MONKEY = "chaos"  # the actor's name
LOOK_EVERY = 0.01  # seconds between two looks at what is to hold eventually

Action = Callable[[], Awaitable[object] | object]
Condition = Callable[[], bool | None]
AsyncCondition = Callable[[], Awaitable[bool] | bool]


class Violated(CrecheError):
    """Something that must hold does not. `name` says what, `plan` under which plan it was found."""

    def __init__(self, name: str, detail: str, plan: Plan) -> None:
        super().__init__(f"{name}: {detail}")
        self.name = name
        self.detail = detail
        self.plan = plan


class Shared:
    """What runs have in common, until the block that it opens ends. See `World.shared`."""

    def __init__(self) -> None:
        self._made: dict[object, Any] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._made.clear()
        self._stack.close()

    @property
    def used(self) -> bool:
        """Whether there is anything."""
        return bool(self._made)

    def get(self, make: Callable[[*Ts], AbstractContextManager[R]], args: tuple[*Ts]) -> R:
        """What ``make(*args)`` has given, or gives now."""
        key = make, args
        if key not in self._made:
            self._made[key] = self._stack.enter_context(make(*args))
        made: R = self._made[key]
        return made


class World:
    """What a scenario is given.

    `seed` is the run's; `random` is drawn from it, for the scenario's own load. `journal` has what became of all calls.
    """

    def __init__(
        self, seed: int, recipe: Recipe | None = None, plan: Plan | None = None, shared: Shared | None = None
    ) -> None:
        self.seed = seed
        self._shared = Shared() if shared is None else shared
        self.random = random.Random(f"creche chaos load {seed}")
        self.injector = Injector()
        self.plan = plan
        self.violation: Violated | None = None
        self._recipe = Recipe() if recipe is None else recipe
        self._always: dict[str, Condition] = {}
        self._actions: dict[str, Action] = {}
        self._scope = trio.CancelScope()
        self._began = 0.0
        self._next = 0  # the step that comes next
        self._done = trio.Event()

    @property
    def journal(self) -> Journal:
        """What became of all calls, so far."""
        return self.injector.journal

    # --- for scenarios ----------------------------------------------------------------------------

    def always(self, name: str, condition: Condition) -> None:
        """From now on `condition` must hold. It does not when it returns False or raises.

        Whatever it raises: what cannot be judged must not pass for what holds.
        """
        if inspect.iscoroutinefunction(condition):
            raise SpecInvalid("always", condition, "a function that awaits nothing; to ask is for `eventually`")
        self._always[name] = condition
        self.look()

    async def eventually(
        self, name: str, condition: AsyncCondition, *, within: float, every: float = LOOK_EVERY
    ) -> None:
        """Wait until `condition`, sync or async, holds; look `every` so many seconds. Not `within` so many: `Violated`.

        An error of a call, such as `OutcomeUnknown`, counts as "not yet".
        """
        last = "it never held"
        with trio.move_on_after(within):
            while True:
                try:
                    holds = condition()
                    if await holds if isinstance(holds, Awaitable) else holds:
                        return
                except (AssertionError, CrecheError) as error:
                    last = one_line(error)
                await trio.sleep(every)
        self.report(name, f"not within {within:g} s: {last}")
        await trio.lowlevel.checkpoint()

    def shared(self, make: Callable[[*Ts], AbstractContextManager[R]], *args: *Ts) -> R:
        """What all runs of an `explore` or `check` have in common: ``make(*args)``, entered once, left after the last.

        For what takes time to build and is not changed by running, such as an app whose parts remember nothing. A `run`
        or `replay` has its own. What fails only after others is found as a fault of its own. `args` must be hashable.
        """
        return self._shared.get(make, args)

    def action(self, name: str, do: Action) -> None:
        """Let plans draw `Act(name)`: `do` is called, and awaited if it is async. To be said before `unleashed`."""
        self._actions[name] = do

    @asynccontextmanager
    async def unleashed(self, runtime: Runtime) -> AsyncGenerator[Plan]:
        """Carry the plan out while the block runs, which does not end before the last step has been made.

        Then nothing strikes any more, and what hangs goes on. The plan is the one that the world was made with, or is
        drawn for this tree now.
        """
        if self.plan is None:
            recipe = self._recipe
            self.plan = draw(self.seed, targets_in(runtime, recipe), recipe, tuple(self._actions))
        self._require_actions(self.plan)
        self._began, self._next, self._done = trio.current_time(), 0, trio.Event()
        unsubscribe = runtime.events.subscribe(self._saw)
        monkey = await runtime.start(child(Monkey, self).options(name=MONKEY))
        try:
            yield self.plan
            await self._done.wait()
        finally:
            self.injector.disarm()  # what hangs goes on, and with it perhaps a step that waits for it
            with trio.CancelScope(shield=True):
                await runtime.stop(monkey)
            self.injector.disarm()  # what was armed meanwhile
            unsubscribe()

    def call_off(self) -> None:
        """Make no more steps of the plan: `unleashed` does not wait for them."""
        self._done.set()

    # --- invariants -------------------------------------------------------------------------------

    def look(self) -> None:
        """See whether all that must always hold does."""
        if self.violation is None:
            for name, condition in self._always.items():
                try:
                    if condition() is False:
                        self.report(name, "it does not hold")
                except Exception as error:
                    self.report(name, one_line(error))

    def report(self, name: str, detail: str) -> None:
        """Something does not hold. The first report counts; the scenario is cancelled."""
        if self.violation is None:
            self.violation = Violated(name, detail, self.plan or Plan(self.seed))
            self._scope.cancel(f"violated: {name}")

    def _saw(self, _event: Event) -> None:
        self.look()

    async def live(self, scenario: Callable[[World], Awaitable[object]], patience: float) -> None:
        """Run a scenario in this world to its end. Raises what it raises, or `Violated`."""
        with trio.move_on_after(patience) as limit, self._scope:
            await scenario(self)
        if limit.cancelled_caught:
            self.report("the scenario ends", f"it has not after {patience:g} s; down: {', '.join(self.journal.down)}")
        if self.violation is None and self.journal.unanswered:
            self.report("each call has an outcome", f"{self.journal.unanswered} have none")
        if self.violation is not None:
            raise self.violation

    def _require_actions(self, plan: Plan) -> None:
        known = ", ".join(self._actions) or "none"
        for step in plan.steps:
            if isinstance(step.fault, Act) and step.fault.name not in self._actions:
                raise SpecInvalid("Act.name", step.fault.name, f"an action of the scenario: {known}")

    # --- the plan ---------------------------------------------------------------------------------

    async def carry_out(self, runtime: Runtime) -> None:
        """Make the steps that are left, each at its time."""
        steps = () if self.plan is None else self.plan.steps
        while self._next < len(steps):
            step = steps[self._next]
            await trio.sleep_until(self._began + step.at)
            self._next += 1  # before it is made: a step that kills the monkey is not made twice
            await self._make(runtime, step)
            self.look()
        self._done.set()

    async def _make(self, runtime: Runtime, step: Step) -> None:
        fault: Fault = step.fault
        match fault:
            case Kill():
                node = _find(runtime, step.target)
                if node is not None and runtime.kill(node, fault.reason):
                    self.injector.struck(fault)
            case Crash() | Delay() | Hang() | RefuseStart():
                self.injector.arm(step.target, fault)
            case StepClock():
                runtime.step_wall_clock(fault.by)
                self.injector.struck(fault)
            case Cut():
                await self._cut(runtime, step.target)
            case Act():
                await self._act(fault)
            case _ as never:
                assert_never(never)

    async def _cut(self, runtime: Runtime, path: str) -> None:
        node = _find(runtime, path)
        if isinstance(node, Cell) and "cut" in node.messages:
            self.injector.struck(Cut())
            await node.cast(node.messages["cut"], (), {}, NEVER)

    async def _act(self, fault: Act) -> None:
        self.injector.struck(fault)
        done = self._actions[fault.name]()
        if isinstance(done, Awaitable):
            await done


def _find(runtime: Runtime, path: str) -> Node | None:
    """The node, unless it has come and gone with its supervisor."""
    try:
        return runtime.node_of(path)
    except KeyError:
        return None


class Monkey(Actor):
    """Carries out the plan of a world in its own tree."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.context.spawn(world.carry_out, self.context.runtime)
