"""Events: what is told, to whom, and that nobody has to listen."""

from __future__ import annotations

import sys
from typing import Any

import pytest

import creche
from creche.runtime import events
from creche.runtime.events import Event, EventHub
from tests.core.support import Boom, Probe, asking, cell_of, kinds, recorded, settle


async def test_the_story_of_a_crash() -> None:
    """Start, crash, restart and stop are told in order, with the facts."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.crash("told")
        await probe.ask.life()
        await runtime.stop(probe)
        assert kinds(seen, probe.path) == [
            "Started", "Ready", "Crashed", "Restarting", "Started", "Ready", "Stopped",
        ]  # fmt: skip
        crashed = seen[2]
        assert isinstance(crashed, events.Crashed)
        assert (crashed.error, crashed.incarnation, crashed.queued) == ("Boom: told", 1, 0)
        assert "Traceback" in crashed.detail
        restarting = seen[3]
        assert isinstance(restarting, events.Restarting)
        assert (restarting.delay, restarting.restarts) == (0, 1)


async def test_events_off_are_not_even_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a subscriber no event is constructed."""

    def explode(self: object, *values: object) -> None:
        raise AssertionError("an event was made")

    for kind in Event.__subclasses__():
        monkeypatch.setattr(kind, "__init__", explode)
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.crash()
        await probe.ask.life()


async def test_hook_errors_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook that raises is reported as unraisable, stays subscribed, and neither the tree nor other hooks notice."""
    reports: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", reports.append)

    def explode(event: Event) -> None:
        raise ValueError(event.kind)

    async with creche.open_runtime("t") as runtime:
        runtime.events.subscribe(explode)
        seen = recorded(runtime)
        probe = await runtime.start(creche.child(Probe))
        assert await probe.ask.life() == 1
        assert [str(report.exc_value) for report in reports] == ["Started", "Ready"]
        assert [event.kind for event in seen] == ["Started", "Ready"]


def test_subscriptions_end_one_by_one() -> None:
    """Each subscription ends by itself, also if one hook subscribed twice; ending it again does nothing."""
    hub = EventHub()
    seen: list[Event] = []
    hook = seen.append
    end_first, end_second = hub.subscribe(hook), hub.subscribe(hook)
    event = events.Started(0, "root/a", 1)
    hub.emit(event)
    assert len(seen) == 2
    end_first()
    end_first()
    hub.emit(event)
    assert len(seen) == 3
    assert hub.on
    end_second()
    assert not hub.on


async def test_a_hook_may_unsubscribe_and_send() -> None:
    """A hook may end its own subscription and send casts."""
    async with creche.open_runtime("t") as runtime:
        probe = await runtime.start(creche.child(Probe))

        def hook(event: Event) -> None:
            end()
            probe.cast_nowait(Probe.add)

        end = runtime.events.subscribe(hook)
        runtime.kill(probe, "now")
        assert await probe.ask.life() == 2
        assert await probe.ask.add() == 2


async def test_reports_count() -> None:
    """A cell counts what it handled, what was revoked and what replies nobody waited for."""
    import trio

    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        probe = await runtime.start(creche.child(Probe))
        await probe.ask.add()
        await probe.cast(Probe.add)
        reply = asking(nursery, probe.ask.add)
        await settle()
        assert reply.value == 3
        cell = cell_of(probe)
        assert (cell.handled, cell.revoked, cell.discarded) == (3, 0, 0)


async def test_an_unseen_crash_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Of a cast, a timer or background work, while nobody has subscribed; with its traceback."""

    async def crash() -> None:
        raise Boom("unseen")

    async def spawn(probe: Probe) -> None:
        probe.context.spawn(crash)

    async with creche.open_runtime("t", intensity=creche.Intensity(100)) as runtime:
        probe = await runtime.start(creche.child(Probe).options(backoff=creche.Backoff(first=0)))
        for how in ("in a handler", "in the background"):
            caplog.clear()
            if how == "in a handler":
                probe.cast_nowait(Probe.crash, "unseen")
            else:
                probe.cast_nowait(Probe.run, spawn)
            await settle()
            (record,) = caplog.records
            assert record.name == "creche"
            assert "root/probe#" in record.getMessage()
            assert "Boom('unseen')" in record.getMessage()
            assert record.exc_info is not None
        caplog.clear()
        with pytest.raises(creche.OutcomeUnknown):
            await probe.ask.crash("told to its caller")
        runtime.kill(probe, "told by who kills")
        await settle()
        with pytest.raises(creche.StartFailed):
            await runtime.start(creche.child(Doomed))
        runtime.events.subscribe(lambda _event: None)
        probe.cast_nowait(Probe.crash, "told to a hook")
        await settle()
        assert caplog.records == []


class Doomed(creche.Actor):
    """Cannot start."""

    def __init__(self) -> None:
        raise Boom("told to the starter")
