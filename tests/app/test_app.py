"""An app inside a Trio run: declaration, dependencies, layers, order of start and stop."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.runtime.spec import LAYERS


class Part(creche.Actor):
    """Notes when it starts and stops."""

    def __init__(self, notes: list[str], name: str, *needs: object) -> None:
        self._notes = notes
        self._name = name

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        self._notes.append(f"+{self._name}")
        yield
        self._notes.append(f"-{self._name}")

    async def name(self) -> str:
        return self._name


class Failing(creche.Actor):
    """Cannot start."""

    def __init__(self) -> None:
        raise OSError("no such device")


class Caller(creche.Actor):
    """Calls what it depends on before it is ready."""

    def __init__(self, other: creche.Handle[Part]) -> None:
        self._other = other
        self._seen = ""

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        self._seen = await self._other.ask.name()
        yield

    async def seen(self) -> str:
        return self._seen


async def test_layers_start_from_the_foundation_up_and_stop_in_reverse() -> None:
    notes: list[str] = []
    app = creche.App("test")
    app.use(creche.child(Part, notes, "edge").options(layer="edge", name="edge"))
    app.use(creche.child(Part, notes, "log").options(layer="foundation", name="log"))
    app.use(creche.child(Part, notes, "db").options(layer="infrastructure", name="db"))
    app.use(creche.child(Part, notes, "own"))
    async with app.open():
        assert notes == ["+log", "+db", "+own", "+edge"]
    assert notes[4:] == ["-edge", "-own", "-db", "-log"]


async def test_nothing_stands_in_a_layer_below_what_it_depends_on() -> None:
    notes: list[str] = []
    app = creche.App("test")
    db = app.use(creche.child(Part, notes, "db").options(layer="infrastructure"))
    app.use(creche.child(Part, notes, "log", db).options(layer="foundation", name="log"))
    async with app.open() as running:
        assert running.tree().find("root/infrastructure/log").state == "running"
        assert notes == ["+db", "+log"]


async def test_a_handle_raises_not_started_until_the_app_runs() -> None:
    app = creche.App("test")
    part = app.use(creche.child(Part, [], "x"))
    with pytest.raises(creche.NotStarted, match=r"part.*app\.open"):
        await part.ask.name()
    async with app.open():
        assert await part.ask.name() == "x"
    with pytest.raises(creche.ActorStopped):
        await part.ask.name()


async def test_what_an_actor_depends_on_can_be_called_while_it_starts() -> None:
    app = creche.App("test")
    part = app.use(creche.child(Part, [], "x"))
    caller = app.use(creche.child(Caller, part))
    async with app.open():
        assert await caller.ask.seen() == "x"


async def test_the_foundation_restarts_with_what_it_depends_on(autojump_clock: MockClock) -> None:
    """What was made from another member of the foundation restarts with it; in the other layers nobody does."""
    notes: list[str] = []
    app = creche.App("test")
    for layer in LAYERS:
        base = app.use(creche.child(Part, notes, f"{layer} base").options(layer=layer, name=f"{layer}-base"))
        app.use(creche.child(Part, notes, f"{layer} user", base).options(layer=layer, name=f"{layer}-user"))
        app.use(creche.child(Part, notes, f"{layer} other").options(layer=layer, name=f"{layer}-other"))
    async with app.open() as running:
        for layer in LAYERS:
            notes.clear()
            running.runtime.kill(f"root/{layer}/{layer}-base", "test")
            await trio.sleep(1)
            user = [f"-{layer} user", f"+{layer} user"] if layer == "foundation" else []
            assert sorted(notes) == sorted([f"+{layer} base", *user])


async def test_override_replaces_what_a_handle_reaches() -> None:
    app = creche.App("test")
    part = app.use(creche.child(Part, [], "real"))
    caller = app.use(creche.child(Caller, part))
    app.override(part, creche.child(Part, [], "fake"))
    async with app.open():
        assert await caller.ask.seen() == "fake"


async def test_override_refuses_a_handle_of_another_app() -> None:
    part = creche.App("other").use(creche.child(Part, [], "x"))
    with pytest.raises(creche.SpecInvalid, match="not a handle that this app"):
        creche.App("test").override(part, creche.child(Part, [], "y"))


async def test_an_actor_used_twice_gets_two_names() -> None:
    app = creche.App("test")
    for _ in range(3):
        app.use(creche.child(Part, [], "x"))
    async with app.open() as running:
        assert [node.name for node in running.tree().find("root/service").children] == ["part", "part-2", "part-3"]


async def test_a_name_given_twice_is_refused_before_anything_starts() -> None:
    app = creche.App("test")
    app.use(creche.child(Part, [], "x").options(name="one"))
    with pytest.raises(creche.SpecInvalid, match="one"):
        app.use(creche.child(Part, [], "y").options(name="one"))


async def test_a_start_that_fails_stops_what_had_started_in_reverse_and_says_why() -> None:
    notes: list[str] = []
    app = creche.App("test")
    app.use(creche.child(Part, notes, "a").options(name="a"))
    app.use(creche.child(Part, notes, "b").options(name="b"))
    app.use(creche.child(Failing))
    app.use(creche.child(Part, notes, "c").options(layer="edge"))
    with pytest.raises(creche.TreeFailed) as failed:
        async with app.open():
            raise AssertionError("unreachable")  # pragma: no cover
    assert notes == ["+a", "+b", "-b", "-a"]
    causes = []
    cause: BaseException | None = failed.value
    while cause is not None:
        causes.append(type(cause).__name__)
        cause = cause.__cause__
    assert causes[-1] == "OSError"


def test_an_environment_that_is_neither_of_the_two_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRECHE_ENV", "prod")
    with pytest.raises(creche.ConfigInvalid, match=r"'prod'.*'production'"):
        creche.App("test")


async def test_an_app_can_be_opened_again_after_it_has_stopped() -> None:
    app = creche.App("test")
    part = app.use(creche.child(Part, [], "x"))
    for _ in range(2):
        async with app.open():
            assert await part.ask.name() == "x"
