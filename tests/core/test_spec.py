"""Child specs: frozen, and validated when they are made."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import creche
from creche.runtime.errors import SpecInvalid
from creche.runtime.spec import ChildOptions, snake_case
from creche.supervisors.spec import supervisor
from tests.core.support import Probe


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", "a/b"),
        ("name", ""),
        ("restart", "always"),
        ("overflow", "block"),
        ("while_down", "fail"),
        ("layer", "roof"),
        ("mailbox", 0),
        ("down_wait", -1),
        ("unwind_grace", -0.1),
        ("drain", -1),
        ("shutdown", float("nan")),
    ],
)
def test_wrong_options_are_refused_when_the_spec_is_made(option: str, value: object) -> None:
    """A wrong option raises SpecInvalid with the field, the value and the fix, before anything starts."""
    wrong: dict[str, Any] = {option: value}
    with pytest.raises(SpecInvalid) as caught:
        creche.child(Probe).options(**wrong)
    assert caught.value.field == f"ChildOptions.{option}"


def test_unknown_options_are_refused() -> None:
    """An option that does not exist raises SpecInvalid, which lists those that do."""
    wrong: dict[str, Any] = {"timeout": 3}
    with pytest.raises(SpecInvalid, match="unwind_grace"):
        creche.child(Probe).options(**wrong)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (lambda: creche.Backoff(first=-1), "Backoff.first"),
        (lambda: creche.Backoff(factor=0.5), "Backoff.factor"),
        (lambda: creche.Backoff(first=5, cap=1), "Backoff.cap"),
        (lambda: creche.Backoff(jitter=2), "Backoff.jitter"),
        (lambda: creche.Backoff(free=-1), "Backoff.free"),
        (lambda: creche.Backoff(reset_after=0), "Backoff.reset_after"),
        (lambda: creche.Intensity(restarts=-1), "Intensity.restarts"),
        (lambda: creche.Intensity(window=0), "Intensity.window"),
    ],
)
def test_wrong_policies_are_refused(wrong: Any, field: str) -> None:
    """Backoffs and intensities check themselves."""
    with pytest.raises(SpecInvalid) as caught:
        wrong()
    assert caught.value.field == field


def test_only_actors_are_children() -> None:
    """`child` takes a subclass of Actor and arguments that its constructor takes."""
    with pytest.raises(SpecInvalid, match="subclass"):
        creche.child(dict)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType, reportCallIssue]
    with pytest.raises(SpecInvalid, match="Probe"):
        creche.child(Probe, [], 2, 3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def test_options_make_a_new_spec() -> None:
    """Specs are frozen: `.options` leaves the old one as it was and adds to what was given before."""
    first = creche.child(Probe)
    second = first.options(name="a").options(restart="temporary")
    assert first.child_options == ChildOptions()
    assert (second.child_options.name, second.child_options.restart) == ("a", "temporary")
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.args = ()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_spec_tells_its_dependencies() -> None:
    """The handles among the arguments are what must run before: of an actor, and of all below a supervisor."""
    one, two = creche.child(Probe).new_handle(), creche.child(Probe).new_handle()

    class Needy(creche.Actor):
        def __init__(self, first: object, *, second: object) -> None: ...

    needy = creche.child(Needy, one, second=two)
    assert list(needy.dependencies()) == [one, two]
    assert list(supervisor("s", needy, creche.child(Probe)).dependencies()) == [one, two]


@pytest.mark.parametrize(
    ("name", "snake"),
    [("Greeter", "greeter"), ("HTTPServer", "http_server"), ("MyActor2", "my_actor2"), ("_X", "_x")],
)
def test_default_names_are_in_snake_case(name: str, snake: str) -> None:
    """A child's default name is its class name in snake case."""
    assert snake_case(name) == snake


@pytest.mark.parametrize("name", ["a/b", "", "a b"])
def test_supervisor_names_follow_the_same_rule(name: str) -> None:
    """A supervisor's name is part of paths as well: what a child may not be called, it may not."""
    with pytest.raises(SpecInvalid):
        supervisor(name)
    with pytest.raises(SpecInvalid, match="strategy"):
        supervisor("s", strategy="all")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def test_one_spec_may_start_many() -> None:
    """A spec can be started again and again; each gets its own actor, and a number in its name."""
    spec = creche.child(Probe)
    async with creche.open_runtime("t") as runtime:
        handles = [await runtime.start(spec) for _ in range(3)]
        assert [handle.path for handle in handles] == ["root/probe", "root/probe-2", "root/probe-3"]
        assert [await handle.ask.add() for handle in handles] == [1, 1, 1]
