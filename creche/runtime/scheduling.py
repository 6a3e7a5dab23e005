"""Making the order of Trio's tasks a function of a seed.

Theory of operation
-------------------
In each pass Trio runs the tasks that can run in an order drawn from a Random of its own. For Hypothesis it has a hook,
published as an entry point, which does two things: from then on the tasks of a pass are sorted before they are
shuffled, so that the order depends on nothing but that Random; and it hands the Random to Hypothesis, which seeds it
for each example. (Trio does this since its issue 890; pytest-trio did it before by Trio's private names.) We load the
hook, call it, and seed the Random that it refers to: `inspect.getclosurevars` tells which that is, so no private name
of Trio is spelt here, and none of Hypothesis.

None of this is promised by Trio. So whoever wants to rely on it looks first: a small run, several times, in which
tasks are made runnable in one order and in the opposite one. Where the order that they run in does not follow from the
seed alone, nothing is started. The same goes for what `virtual_time` relies on.

The Random is one for the whole process, and so is that of the module `random`, which is seeded along with it, for
libraries that draw from it. Both get their state back. What the hook has switched on stays on, as it does after each
``import hypothesis``.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import random
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from .errors import CrecheError
from .virtual_time import VirtualTime, is_in_order

FindRandom = Callable[[], random.Random]

_RACERS, _ROUNDS = 6, 6  # 720 orders a round: by chance no two runs look alike
_ONE_AT_A_TIME = threading.Lock()  # global as what it guards: Trio has one Random for all threads


class NotDeterministic(CrecheError):
    """A deterministic run has been refused, before it began: its order would not follow from its seed.

    `reason` says why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"not deterministic: {reason}")
        self.reason = reason


class Order:
    """The order of Trio's tasks, which has been found to follow from a seed.

    `find_random` switches Trio's deterministic order on and returns the Random that it follows; default:
    `find_trios_random`. Raises `NotDeterministic`, and what `find_random` raises.
    """

    def __init__(self, find_random: FindRandom | None = None) -> None:
        with _alone():
            self._of_trio = (find_random or find_trios_random)()
            with _state_given_back(self._of_trio):
                _test(self._of_trio)

    @contextmanager
    def follows(self, seed: str) -> Generator[None]:
        """Within the block a `trio.run` has its order of tasks from `seed`, and the module `random` its numbers.

        Raises `NotDeterministic`; then the block is not entered.
        """
        with _alone(), _state_given_back(self._of_trio):
            self._of_trio.seed(f"{seed}:scheduling")
            random.seed(f"{seed}:module")
            yield


@contextmanager
def _alone() -> Generator[None]:
    if trio.lowlevel.in_trio_run():
        raise NotDeterministic(
            "this is called inside a Trio run, whose order of tasks is settled. "
            "Call it from plain code; in pytest from `def test_...`, not from `async def test_...`"
        )
    if not _ONE_AT_A_TIME.acquire(blocking=False):
        raise NotDeterministic("another thread is in a deterministic run, and Trio has one source of order for all")
    try:
        yield
    finally:
        _ONE_AT_A_TIME.release()


@contextmanager
def _state_given_back(of_trio: random.Random) -> Generator[None]:
    before = of_trio.getstate(), random.getstate()
    try:
        yield
    finally:
        of_trio.setstate(before[0])
        random.setstate(before[1])


# --- finding the Random -----------------------------------------------------------------------------


def find_trios_random() -> random.Random:
    """Call the hook that Trio has for Hypothesis, and return the Random that it registers there.

    Raises ImportError without Hypothesis, and `NotDeterministic` if this Trio has no such hook.
    """
    hook = trios_hook()
    try:
        hook()
    except ImportError as error:
        raise ImportError("creche.testing.run needs Hypothesis: pip install 'creche[testing]'") from error
    return random_of(hook)


def trios_hook() -> Callable[[], object]:
    """What Trio has registered in the entry-point group ``hypothesis``."""
    try:
        (entry,) = importlib.metadata.distribution("trio").entry_points.select(group="hypothesis")
    except (importlib.metadata.PackageNotFoundError, ValueError) as error:
        raise NotDeterministic(f"Trio {trio.__version__} has not one entry point in the group 'hypothesis'") from error
    hook: Callable[[], object] = entry.load()
    return hook


def random_of(hook: Callable[[], object]) -> random.Random:
    """The one Random that a function refers to."""
    named = inspect.getclosurevars(hook).globals.values()
    try:
        (found,) = [value for value in named if isinstance(value, random.Random)]
    except ValueError:
        raise NotDeterministic(f"{hook!r}, Trio {trio.__version__}'s hook, refers to not one Random") from None
    return found


# --- the self-test --------------------------------------------------------------------------------


def _test(of_trio: random.Random) -> None:
    """Raise `NotDeterministic` unless the order of tasks follows from the state of `of_trio`, and from nothing else.

    The same goes for virtual time, on which the same runs rely.
    """

    def order(seed: str, *, backwards: bool = False) -> list[int]:
        of_trio.seed(seed)
        return trio.run(_race, backwards)

    if not is_in_order(VirtualTime()):
        raise NotDeterministic(f"Trio {trio.__version__} does not say when it would jump ahead in time")
    first = order("one")
    if order("one") != first:
        raise NotDeterministic(f"Trio {trio.__version__} ran tasks in two orders from one seed of its Random")
    if order("one", backwards=True) != first:
        raise NotDeterministic(
            f"Trio {trio.__version__} orders tasks also by when they became runnable: "
            "its deterministic scheduling is not switched on"
        )
    if order("another") == first:
        raise NotDeterministic(f"Trio {trio.__version__} ran tasks in one order from two seeds of its Random")


async def _race(backwards: bool) -> list[int]:
    """The order in which tasks ran that were made runnable together, one after the other, round by round."""
    order: list[int] = []
    rounds = [[trio.Event() for _ in range(_RACERS)] for _ in range(_ROUNDS)]

    async def racer(number: int) -> None:
        for gates in rounds:
            await gates[number].wait()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(_RACERS):
            nursery.start_soon(racer, number)
        for gates in rounds:
            await wait_all_tasks_blocked()
            for gate in reversed(gates) if backwards else gates:
                gate.set()
    return order
