"""What somebody new to creche gets wrong first: the error says what to write instead, before anything has happened."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import creche
from tests.core.support import Probe, recorded


@pytest.mark.parametrize("wrong", [Probe, Probe(), int, None, "probe"])
async def test_only_specs_are_started(autojump_clock: MockClock, wrong: Any) -> None:
    """A class, an actor or anything else is a SpecInvalid that shows the way to write it."""
    is_probe = "Probe" in repr(wrong)
    fix = r"pass a spec: creche\.child\(Probe, \.\.\.\)" if is_probe else "pass a spec"
    async with creche.open_runtime("t") as runtime:
        with pytest.raises(creche.SpecInvalid, match=fix):
            await runtime.start(wrong)
        assert runtime.tree().children == ()
    with pytest.raises(creche.SpecInvalid, match=fix):
        creche.App("t").use(wrong)
    with pytest.raises(creche.SpecInvalid, match=fix):
        creche.supervisor("s", wrong)


async def test_a_root_is_a_supervisor() -> None:
    """Anything else is refused before the block is entered."""
    wrong: Any = creche.child(Probe)
    with pytest.raises(creche.SpecInvalid, match="supervisor"):
        creche.open_runtime("t", root=wrong)


def test_an_actor_that_has_been_made_is_no_class() -> None:
    """`child(Probe())` says to pass the class itself."""
    made: Any = Probe()
    with pytest.raises(creche.SpecInvalid, match="the class itself"):
        creche.child(made)


@pytest.mark.parametrize("how", ["spawn", "after", "every"])
async def test_functions_are_passed_not_called(autojump_clock: MockClock, how: str) -> None:
    """`spawn(fn())` instead of `spawn(fn)` is a TypeError where it is written."""

    async def body(probe: Probe) -> None:
        seconds = () if how == "spawn" else (1,)
        for wrong in (self_made(), None):
            with pytest.raises(TypeError, match="async function"):
                getattr(probe.context, how)(*seconds, wrong)

    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        await probe.ask.run(body)


async def self_made() -> None:
    await trio.lowlevel.checkpoint()


def test_options_of_the_wrong_type_are_refused() -> None:
    """A number for a Backoff or an Intensity would only be noticed by the first crash."""
    wrong: Any = 0.5
    with pytest.raises(creche.SpecInvalid, match="Backoff"):
        creche.child(Probe).options(backoff=wrong)
    for make in (
        lambda: creche.supervisor("s", intensity=wrong),
        lambda: creche.open_runtime("t", intensity=wrong),
        lambda: creche.App("t", intensity=wrong),
    ):
        with pytest.raises(creche.SpecInvalid, match="Intensity"):
            make()


def test_a_backoff_names_what_was_set() -> None:
    """`Backoff(first=60)` is above the default cap; the error names both."""
    with pytest.raises(creche.SpecInvalid, match=r"at least first = 60"):
        creche.Backoff(first=60)


async def test_a_full_mailbox_says_how_to_wait(autojump_clock: MockClock) -> None:
    """MailboxFull tells the capacity, and that an awaited cast waits."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe).options(mailbox=2))
        with pytest.raises(creche.MailboxFull, match=r"full \(2 messages\); an awaited cast waits"):
            for _ in range(3):
                probe.cast_nowait(Probe.add)


async def test_handles_of_static_children(autojump_clock: MockClock) -> None:
    """`runtime.handle(path, Class)` reaches what a supervisor's spec started; a wrong class or path is refused."""

    class Other(creche.Actor):
        async def something_else(self) -> None: ...

    root = creche.supervisor("root", creche.supervisor("sub", creche.child(Probe)))
    async with creche.open_runtime("t", root=root) as runtime:
        probe = runtime.handle("root/sub/probe", Probe)
        assert await probe.ask.note("hello") == "hello"
        with pytest.raises(creche.SpecInvalid, match="Other"):
            runtime.handle("root/sub/probe", Other)
        with pytest.raises(creche.SpecInvalid):
            runtime.handle("root/sub", Probe)
        with pytest.raises(KeyError):
            runtime.handle("root/nobody", Probe)


async def test_events_have_a_public_name(autojump_clock: MockClock) -> None:
    """`creche.events` is where hooks find the types."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        await runtime.start(creche.child(Probe))
        assert isinstance(seen[0], creche.events.Started)
