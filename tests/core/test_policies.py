"""Pure policies: backoff, budget, the table of states."""

from __future__ import annotations

import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

import creche
from creche.runtime.backoff import Backoff
from creche.runtime.errors import InternalError
from creche.runtime.intensity import Intensity
from creche.runtime.life import Life
from creche.runtime.node import AT_REST, TRANSITIONS, Node, State, one_line, stack_of, unwrap
from creche.supervisors.budget import Budget
from creche.supervisors.strategies import GROUP_OF, Strategy
from tests.core.support import Probe, cell_of, settle


class Middle:
    """No jitter: the middle of the range."""

    def uniform(self, a: float, b: float, /) -> float:
        return (a + b) / 2


def test_backoff_as_a_table() -> None:
    """The first `free` restarts come at once, then first, first*factor, ... up to the cap."""
    backoff = Backoff(first=1, factor=2, cap=10, jitter=0.1, free=2)
    assert [backoff.delay(n, Middle()) for n in range(1, 9)] == [0, 0, 1, 2, 4, 8, 10, 10]


@given(
    backoff=st.builds(
        Backoff,
        first=st.floats(0, 10),
        factor=st.floats(1, 1e12),
        cap=st.floats(10, 1000),
        jitter=st.floats(0, 1),
        free=st.integers(0, 5),
    ),
    consecutive=st.integers(1, 10_000),
    seed=st.integers(),
)
def test_backoff_stays_within_its_bounds(backoff: Backoff, consecutive: int, seed: int) -> None:
    """However long a streak, the delay is a number between 0 and the cap, plus jitter; and none while it is free."""
    delay = backoff.delay(consecutive, random.Random(seed))
    assert 0 <= delay <= backoff.cap * (1 + backoff.jitter) * 1.000001
    if consecutive <= backoff.free:
        assert delay == 0


def test_backoff_takes_its_randomness_from_the_caller() -> None:
    """The same seed gives the same delays."""
    backoff = Backoff(free=0)
    one, two = ([backoff.delay(n, rng) for n in range(1, 20)] for rng in (random.Random(7), random.Random(7)))
    assert one == two


def test_budget_as_a_table() -> None:
    """One more than `restarts` charges within the window is one too many; what is older than the window does
    not count."""
    budget = Budget(Intensity(restarts=2, window=10))
    assert [budget.charge(now) for now in (0, 1, 9, 12, 23, 24, 25)] == [
        True, True, False, True, True, True, False,
    ]  # fmt: skip
    budget.reset()
    assert budget.charge(26)
    assert not Budget(Intensity(restarts=0)).charge(0)


@given(
    restarts=st.integers(0, 5), window=st.integers(1, 20), times=st.lists(st.integers(0, 100), max_size=50).map(sorted)
)
def test_budget_against_its_definition(restarts: int, window: int, times: list[int]) -> None:
    """A charge is one too many exactly if more than `restarts` charges lie within the window that ends with it."""
    budget = Budget(Intensity(restarts, window))
    for index, now in enumerate(times):
        recent = [before for before in times[: index + 1] if now - before < window]
        assert budget.charge(now) is (len(recent) <= restarts)


def test_a_first_delay_of_zero_means_never_any_delay() -> None:
    """However long the row of crashes is: growing zero must not end in the cap when the factor overflows."""
    backoff = creche.Backoff(first=0, free=0)
    assert {backoff.delay(crashes, random.Random(0)) for crashes in (1, 2, 64, 1024, 1025, 10**6)} == {0.0}


def test_strategies_as_a_table() -> None:
    """one_for_one restarts the crashed child alone; one_for_all from the first, rest_for_one from it, to the last;
    dependents with all that depend on it over any number of steps, wherever they stand."""
    assert "one_for_one" not in GROUP_OF

    def groups(strategy: Strategy, needs: dict[str, str]) -> list[str]:
        return ["".join(GROUP_OF[strategy]("abcd", crashed, lambda name: needs.get(name, ""))) for crashed in "abcd"]

    assert groups("one_for_all", {}) == ["abcd"] * 4
    assert groups("rest_for_one", {}) == ["abcd", "bcd", "cd", "d"]
    assert groups("dependents", {}) == ["a", "b", "c", "d"]
    assert groups("dependents", {"b": "a", "d": "b"}) == ["abd", "bd", "c", "d"]
    assert groups("dependents", {"a": "c", "b": "a", "c": "d"}) == ["ab", "b", "abc", "abcd"]


def test_every_state_has_its_row() -> None:
    """The table of transitions is complete: every state is in it, can be reached, and can reach the end; only
    STOPPED is final."""
    assert set(TRANSITIONS) == set(State)
    assert [state for state, following in TRANSITIONS.items() if not following] == [State.STOPPED]
    assert all(State.STOPPED in following for state, following in TRANSITIONS.items() if following)
    reached = {State.NEW}.union(*TRANSITIONS.values())
    assert reached == set(State)
    assert State.RUNNING not in AT_REST


async def test_illegal_moves_are_internal_errors() -> None:
    """A move that the table does not have raises InternalError with the path and both states."""
    async with creche.open_runtime("t") as runtime:
        node: Node = cell_of(await runtime.start(creche.child(Probe)))
        with pytest.raises(InternalError, match="root/probe: no transition from running to starting"):
            node.move(State.STARTING)
        assert isinstance(node, Life)
        assert "_serve" in stack_of(node.task)


def test_unwrap_takes_only_single_leaves() -> None:
    """Groups of one are opened, however deep; a group of two stays."""
    leaf = ValueError("leaf")
    assert unwrap(ExceptionGroup("a", [ExceptionGroup("b", [leaf])])) is leaf
    pair = ExceptionGroup("pair", [leaf, leaf])
    assert unwrap(ExceptionGroup("a", [pair])) is pair


def test_one_line_is_one_line() -> None:
    """An error is told by its type and the first line of its text."""
    assert one_line(ValueError("a\nb")) == "ValueError: a"
    assert one_line(ValueError()) == "ValueError"


async def test_stacks_are_told_without_touching_the_task() -> None:
    """`stack_of` names the frames in which a task stands."""
    tasks: list[trio.lowlevel.Task] = []

    async def standing_here() -> None:
        tasks.append(trio.lowlevel.current_task())
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(standing_here)
        await settle()
        assert "standing_here" in stack_of(tasks[0])
        nursery.cancel_scope.cancel()
    assert stack_of(None) == "(no task)"
