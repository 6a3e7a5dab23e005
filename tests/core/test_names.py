"""Actors by name, and groups of actors."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.cancelling import Strike, everywhere, prove_idle
from tests.core.support import Probe, settle


class Greeter(Probe):
    """Has a message that a plain probe has not."""

    async def greet(self) -> str:
        return "hello"


def registered(name: str, cls: type[Probe] = Probe) -> creche.Spec[creche.Handle[Probe]]:
    return creche.child(cls).options(register=name)


# --- names ------------------------------------------------------------------------------------------------------------


async def test_a_name_finds_its_actor() -> None:
    """`runtime.names.register(name, handle)`; `runtime.whereis(name)` is that handle, None if nobody has the name."""
    async with creche.open_runtime("t") as runtime:
        greeter = await runtime.start(creche.child(Greeter))
        assert runtime.whereis("greeter") is None
        runtime.names.register("greeter", greeter)
        runtime.names.register("greeter", greeter)
        runtime.names.register("an alias", greeter)
        assert runtime.whereis("greeter") is runtime.whereis("an alias", Greeter) is greeter
        assert runtime.names.whereis("greeter") is greeter
        runtime.names.unregister("greeter")
        runtime.names.unregister("greeter")
        assert runtime.whereis("greeter") is None
        assert len(runtime.names) == 1


async def test_a_taken_name_is_refused() -> None:
    """`NameTaken` names the holder."""
    async with creche.open_runtime("t") as runtime:
        first, second = await runtime.start(creche.child(Probe)), await runtime.start(creche.child(Probe))
        runtime.names.register("x", first)
        with pytest.raises(creche.NameTaken, match="root/probe:") as caught:
            runtime.names.register("x", second)
        assert (caught.value.name, caught.value.path) == ("x", first.path)
        assert runtime.whereis("x") is first


async def test_names_are_kept_over_restarts_and_freed_at_the_end() -> None:
    """Also when it ends by a crash; the name is free in the moment when it has ended."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        last = await runtime.start(creche.child(Probe).options(restart="temporary"))
        runtime.names.register("x", probe)
        runtime.names.register("y", last)
        for handle in (probe, last):
            with pytest.raises(creche.OutcomeUnknown):
                await handle.ask.crash()
        assert await probe.ask.life() == 2
        assert (runtime.whereis("x"), runtime.whereis("y")) == (probe, None)
        await runtime.stop(probe)
        runtime.names.register("x", await runtime.start(creche.child(Probe)))


async def test_a_child_can_be_started_with_a_name() -> None:
    """`.options(register=name)`, for static and dynamic children; a taken one is refused and starts nothing."""
    root = creche.supervisor("root", registered("static"))
    async with creche.open_runtime("t", root=root) as runtime:
        static = runtime.whereis("static", Probe)
        assert static is not None
        assert await static.ask.life() == 1
        dynamic = await runtime.start(registered("dynamic"))
        found = runtime.whereis("dynamic")
        assert found is not None
        assert found.path == dynamic.path
        pair = creche.supervisor("pair", registered("new").options(name="a"), registered("static").options(name="b"))
        for spec in (registered("dynamic"), pair):
            with pytest.raises(creche.NameTaken):
                await runtime.start(spec)
        assert runtime.whereis("new") is None
        assert [node.path for node in runtime.tree()] == ["root", "root/probe", "root/probe-2"]


async def test_a_start_that_fails_frees_its_name() -> None:
    """And so does one that is cancelled."""

    class Failing(Probe):
        def __init__(self) -> None:
            raise ValueError("no")

    async with creche.open_runtime("t") as runtime:
        with pytest.raises(creche.StartFailed):
            await runtime.start(registered("x", Failing))
        assert runtime.whereis("x") is None
        assert len(runtime.names) == 0


async def test_names_are_typed_by_what_is_asked_for() -> None:
    """An actor that has not the messages of the class is refused with `SpecInvalid`."""
    async with creche.open_runtime("t") as runtime:
        runtime.names.register("x", await runtime.start(creche.child(Probe)))
        assert runtime.whereis("x", Probe) is not None
        with pytest.raises(creche.SpecInvalid, match="Greeter"):
            runtime.whereis("x", Greeter)


async def test_wrong_names_and_handles_are_refused() -> None:
    """`SpecInvalid`, `NotStarted` and `ActorStopped` say what is wrong."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.SpecInvalid):
            runtime.names.register("", probe)
        with pytest.raises(creche.SpecInvalid, match="handle of an actor"):
            runtime.names.register("x", cast("Any", Probe))
        with pytest.raises(creche.SpecInvalid):
            creche.child(Probe).options(register="")
        with pytest.raises(creche.SpecInvalid, match="names are for actors"):
            creche.supervisor("s").options(register="x")
        with pytest.raises(creche.NotStarted):
            runtime.names.register("x", creche.child(Probe).new_handle())
        await runtime.stop(probe)
        with pytest.raises(creche.ActorStopped):
            runtime.names.register("x", probe)
        with pytest.raises(creche.ActorStopped):
            runtime.groups.join("x", probe)
        with pytest.raises(creche.SpecInvalid):
            runtime.groups.join("", probe)


async def test_watching_a_name() -> None:
    """The present holder first, then each change; there is no gap between the two."""
    async with creche.open_runtime("t") as runtime:
        async with runtime.names.watch("x") as changes:
            assert await changes.receive() is None
            first = await runtime.start(creche.child(Probe))
            runtime.names.register("x", first)
            assert await changes.receive() is first
            await runtime.stop(first)
            assert await changes.receive() is None
            with pytest.raises(trio.WouldBlock):
                changes.receive_nowait()
        assert not runtime.names._feeds


async def test_a_slow_reader_of_a_name_gets_the_latest() -> None:
    """What he has not read is replaced: he holds up nobody."""
    async with creche.open_runtime("t") as runtime, runtime.names.watch("x") as changes:
        for _ in range(100):
            probe = await runtime.start(registered("x"))
            await runtime.stop(probe)
        last = await runtime.start(creche.child(Probe))
        runtime.names.register("x", last)
        assert await changes.receive() is last
        with pytest.raises(trio.WouldBlock):
            changes.receive_nowait()


def test_watches_are_cancelled_everywhere() -> None:
    """Whoever watches a name or a group can leave at any moment, and leaves nothing."""

    async def follow(runtime: creche.Runtime, kind: str) -> object:
        if kind == "name":
            async with runtime.names.watch("x") as holders:
                return [await holders.receive() for _ in range(2)]
        async with runtime.groups.watch("x") as changes:
            return [await changes.receive() for _ in range(2)]

    async def scenario(strike: Strike, kind: str) -> None:
        async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
            probe = await runtime.start(creche.child(Probe))

            async def change() -> None:
                await trio.sleep(1)
                runtime.names.register("x", probe)
                runtime.groups.join("x", probe)

            nursery.start_soon(change)
            end = await strike.cancel(follow, runtime, kind)
            assert end.what in ("value", "cancelled")
            assert not runtime.names._feeds
            assert not runtime.groups._feeds
            await prove_idle(runtime)

    for kind in ("name", "group"):
        everywhere(scenario, kind)


# --- groups -----------------------------------------------------------------------------------------------------------


async def test_groups_have_members() -> None:
    """`join` and `leave`; `members` are the handles in order; an actor may be in several groups."""
    async with creche.open_runtime("t") as runtime:
        groups = runtime.groups
        first, second = await runtime.start(creche.child(Greeter)), await runtime.start(creche.child(Probe))
        assert groups.members("workers") == ()
        for handle in (first, second, first):
            groups.join("workers", handle)
        groups.join("others", second)
        assert groups.members("workers") == (first, second)
        assert list(groups) == ["workers", "others"]
        assert groups.members("others", Probe) == (second,)
        with pytest.raises(creche.SpecInvalid, match="Greeter"):
            groups.members("workers", Greeter)
        groups.leave("workers", first)
        groups.leave("workers", first)
        groups.leave("nothing", first)
        groups.leave("others", second)
        assert groups.members("workers") == (second,)
        assert list(groups) == ["workers"]


async def test_members_stay_over_restarts_and_leave_at_the_end() -> None:
    """By themselves, in the moment when they have ended."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        runtime.groups.join("workers", probe)
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.crash()
        assert await probe.ask.life() == 2
        assert runtime.groups.members("workers") == (probe,)
        await runtime.stop(probe)
        assert runtime.groups.members("workers") == ()
        assert list(runtime.groups) == []


async def test_watching_a_group() -> None:
    """All members first, then who joins and leaves, by the same handles."""
    async with creche.open_runtime("t") as runtime:
        first, second = await runtime.start(creche.child(Probe)), await runtime.start(creche.child(Probe))
        runtime.groups.join("workers", first)
        async with runtime.groups.watch("workers") as changes:
            change = await changes.receive()
            assert (change.joined, change.left) == ((first,), ())
            runtime.groups.join("workers", second)
            change = await changes.receive()
            assert (change.joined, change.left) == ((second,), ())
            await runtime.stop(first)
            change = await changes.receive()
            assert (change.joined, change.left) == ((), (first,))
            assert repr(change) == "<GroupChange joined=[] left=['root/probe']>"


async def test_a_slow_reader_of_a_group_gets_the_sum() -> None:
    """What changes before he reads is added up: who came and went is in neither list."""
    async with creche.open_runtime("t") as runtime, runtime.groups.watch("workers") as changes:
        assert (await changes.receive()).joined == ()
        stays = await runtime.start(creche.child(Probe))
        runtime.groups.join("workers", stays)
        for _ in range(100):
            passing = await runtime.start(creche.child(Probe))
            runtime.groups.join("workers", passing)
            await runtime.stop(passing)
        change = await changes.receive()
        assert (change.joined, change.left) == ((stays,), ())
        runtime.groups.leave("workers", stays)
        runtime.groups.join("workers", stays)
        change = await changes.receive()
        assert (change.joined, change.left) == ((), ())


async def test_a_reader_who_waits_gets_each_change(autojump_clock: MockClock) -> None:
    """A change goes to him directly; the next one is another."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        seen: list[tuple[int, int]] = []

        async def read() -> None:
            async with runtime.groups.watch("g") as changes:
                while True:
                    change = await changes.receive()
                    seen.append((len(change.joined), len(change.left)))

        nursery.start_soon(read)
        await settle()
        probe = await runtime.start(creche.child(Probe))
        for _ in range(2):
            runtime.groups.join("g", probe)
            await settle()
            runtime.groups.leave("g", probe)
            await settle()
        assert seen == [(0, 0), (1, 0), (0, 1), (1, 0), (0, 1)]
        nursery.cancel_scope.cancel()


async def test_the_end_of_a_runtime_frees_all_names() -> None:
    """And ends all memberships."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(registered("x"))
        runtime.groups.join("g", probe)
    assert runtime.whereis("x") is None
    assert list(runtime.groups) == []
