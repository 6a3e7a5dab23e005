"""What the runtime reports stands in the log, at sensible levels."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import creche
from creche.components import clog
from creche.components.clog.levels import DEBUG, ERROR, INFO, WARNING
from creche.components.clog.runtime_events import fields_of, headline
from creche.runtime import events
from tests.components.clog.support import log_to

AT = (1.0, "root/x", 3)


class Fragile(creche.Actor):
    async def fail(self) -> None:
        raise ZeroDivisionError("a\nb")

    async def leave(self) -> None:
        raise SystemExit(3)


@pytest.mark.parametrize(
    ("event", "level", "msg"),
    [
        (events.Started(*AT), DEBUG, "Started"),
        (events.Ready(*AT, after=0.1), DEBUG, "Ready"),
        (events.Crashed(*AT, error="E: x", detail="trace", queued=2), ERROR, "actor crashed"),
        (events.Restarting(*AT, delay=0.5, restarts=2), WARNING, "actor restarting"),
        (events.Replaced(*AT, cls="Greeter"), INFO, "actor replaced"),
        (events.Parked(*AT, delay=0.5, restarts=2), ERROR, "parked: crashed too often"),
        (events.Unparked(*AT), INFO, "healthy again after being parked"),
        (events.AutoShutdown(*AT, child="a"), INFO, "supervisor stops itself: its significant children have ended"),
        (events.GroupRestart(*AT, children=("a", "b")), DEBUG, "GroupRestart"),
        (events.Escalated(*AT, error="E: x"), ERROR, "supervisor gave up"),
        (events.Stopped(*AT, error=""), DEBUG, "Stopped"),
        (events.Stopped(*AT, error="E: x"), ERROR, "actor stopped by a failure"),
        (events.BadStop(*AT, error="E: x", detail="trace"), ERROR, "actor failed while it was stopped"),
        (events.DeadLetter(*AT, message="m", reason="closed"), WARNING, "message never handled"),
        (events.Overflowed(*AT, message="m", policy="reject"), DEBUG, "Overflowed"),
        (events.Stuck(*AT, stack="s"), ERROR, "actor stuck"),
        (events.Unstopped(*AT, stack="s"), ERROR, "actor did not stop"),
        (events.HandlerSlow(*AT, message="m", seconds=2.0, stack="s"), WARNING, "handler is slow"),
        (events.LoopStalled(*AT, message="m", seconds=2.0, stack="s"), WARNING, "event loop stood still"),
        (events.HandoverFailed(*AT, error="E: x", detail="trace"), ERROR, "actor could not hand over"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, events.Event) else "",
)
def test_each_event_has_its_level_and_text(event: events.Event, level: int, msg: str) -> None:
    """The table; what is not in it is a debug line."""
    assert headline(event) == (level, msg)


def test_an_event_becomes_fields() -> None:
    """All that it says, except what the line says anyway; the detail of a crash is its traceback."""
    fields = fields_of(events.Crashed(*AT, error="E: x", detail="trace", queued=2))
    assert fields == {"event": "Crashed", "error": "E: x", "traceback": "trace", "queued": 2}


async def test_a_crash_is_in_the_log(tmp_path: Path) -> None:
    """With the actor's path, the crash's text, its traceback, and the trace of the call that did it."""
    async with log_to(tmp_path / "log") as log:
        fragile = await log.runtime.start(creche.child(Fragile))
        with clog.trace("t1"), pytest.raises(creche.OutcomeUnknown):
            await fragile.ask.fail()
        crash, restart = await log.entries()
    assert (crash["level"], crash["msg"], crash["namespace"]) == ("error", "actor crashed", "runtime")
    assert (crash["actor"], crash["incarnation"], crash["trace_id"]) == ("root/fragile", 1, "t1")
    assert crash["error"] == "ZeroDivisionError: a"
    assert "ZeroDivisionError: a\nb" in crash["traceback"]
    assert (restart["level"], restart["restarts"]) == ("warning", 1)


async def test_the_crash_of_the_log_itself_is_in_the_log(tmp_path: Path) -> None:
    """The next incarnation writes what happened to the last one."""
    async with log_to(tmp_path / "log") as log:
        await log.kill()
        crash = (await log.entries())[0]
    assert (crash["actor"], crash["error"]) == ("root/clog", "Killed: killed: test")


async def test_the_end_of_a_failing_tree_is_in_the_log(tmp_path: Path) -> None:
    """When the root gives up, its last words are written before the runtime ends."""
    path = tmp_path / "log"
    with pytest.raises(creche.TreeFailed):
        async with creche.open_runtime("svc", intensity=creche.Intensity(restarts=0)) as runtime:
            await runtime.start(clog.component(clog.Config(output=str(path))))
            fragile = await runtime.start(creche.child(Fragile))
            with pytest.raises(creche.OutcomeUnknown):
                await fragile.ask.fail()
            await trio.sleep_forever()
    assert '"msg":"supervisor gave up"' in path.read_text()


async def test_lines_before_a_system_exit_are_written(tmp_path: Path) -> None:
    """Also when an actor ends the process, what was logged is written."""
    path = tmp_path / "log"
    with pytest.raises(SystemExit):
        async with creche.open_runtime("svc") as runtime:
            await runtime.start(clog.component(clog.Config(output=str(path))))
            fragile = await runtime.start(creche.child(Fragile))
            clog.info("last words")
            await fragile.ask.leave()
    assert '"msg":"last words"' in path.read_text()


async def test_a_low_level_shows_the_lives_of_actors(tmp_path: Path) -> None:
    """At debug every event is a line; at info only trouble is."""
    async with log_to(tmp_path / "log", level="debug") as log:
        await log.runtime.start(creche.child(Fragile))
        lines = [(entry["event"], entry["actor"]) for entry in await log.entries()]
    assert ("Started", "root/fragile") in lines
    assert ("Ready", "root/fragile") in lines
