"""The flight recorder: silent while all is well, and the last lines of an actor when it crashes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import creche
from creche.components import clog
from creche.components.clog import recorder
from creche.components.clog.recorder import Recorder
from tests.components.clog.support import AT_ONCE, Entry, Log, log_to

ID = "4bf92f3577b34da6a3ce929d0e0e4736"


class Pilot(creche.Actor):
    async def fly(self, *heights: int) -> None:
        for height in heights:
            clog.debug("height", height=height, password="s3cret")

    async def fall(self) -> None:
        raise ValueError("fell")

    async def leave(self) -> None:
        self.context.exit()


async def start(log: Log, name: str = "pilot") -> creche.Handle[Pilot]:
    return await log.runtime.start(creche.child(Pilot).options(name=name, backoff=AT_ONCE, restart="transient"))


async def crash(log: Log, pilot: creche.Handle[Pilot]) -> list[Entry]:
    """The lines that an actor's crash brings, up to that of the crash."""
    with pytest.raises(creche.OutcomeUnknown):
        await pilot.ask.fall()
    entries = await log.entries()
    (place,) = (place for place, entry in enumerate(entries) if entry["msg"] == "actor crashed")
    return entries[: place + 1]


def heights(entries: list[Entry]) -> list[int]:
    return [entry["height"] for entry in entries if entry["msg"] == "height"]


async def test_the_last_lines_are_written_before_the_crash(tmp_path: Path) -> None:
    """The newest so many, oldest first, marked as recorded, with all that a line carries, secrets hidden."""
    async with log_to(tmp_path / "log", flight_recorder=3, levels={"runtime": "info"}) as log:
        pilot = await start(log)
        with clog.trace(ID):
            await pilot.ask.fly(*range(10))
        assert await log.entries() == []
        *lines, crashed = await crash(log, pilot)
    assert heights(lines) == [7, 8, 9]
    assert crashed["level"] == "error"
    for entry in lines:
        assert (entry["recorded"], entry["level"], entry["actor"]) == (True, "debug", "root/pilot")
        assert (entry["trace_id"], entry["password"]) == (ID, "***")


async def test_what_is_recorded_is_as_it_was(tmp_path: Path) -> None:
    """A list that changes after the call is shown as it was at the call."""

    class Keeper(creche.Actor):
        async def fall(self) -> None:
            items = [1]
            clog.debug("items", items=items)
            items.append(2)
            raise ValueError

    async with log_to(tmp_path / "log", flight_recorder=5) as log:
        keeper = await log.runtime.start(creche.child(Keeper).options(backoff=AT_ONCE))
        with pytest.raises(creche.OutcomeUnknown):
            await keeper.ask.fall()
        (line,) = (entry for entry in await log.entries() if entry["msg"] == "items")
    assert line["items"] == [1]


async def test_a_crash_shows_its_own_actors_lines_once(tmp_path: Path) -> None:
    """Nothing of another actor, and nothing of the incarnation before."""
    async with log_to(tmp_path / "log", flight_recorder=5) as log:
        pilot, other = await start(log), await start(log, "other")
        await pilot.ask.fly(1)
        await other.ask.fly(2)
        assert heights(await crash(log, pilot)) == [1]
        with pytest.raises(creche.OutcomeUnknown):
            await pilot.ask.fall()
        assert heights(await log.entries()) == [1]


async def test_what_sampling_leaves_out_is_recorded(tmp_path: Path) -> None:
    """At any level."""
    async with log_to(
        tmp_path / "log", level="debug", flight_recorder=2, sampling=clog.Sampling(first=1, thereafter=0, tick=1000)
    ) as log:
        pilot = await start(log)
        await pilot.ask.fly(1, 2, 3, 4)
        assert heights(await crash(log, pilot)) == [1, 3, 4]


async def test_nothing_is_shown_without_a_crash(tmp_path: Path) -> None:
    """An actor that stops or ends itself, and code outside of actors, leave nothing."""
    async with log_to(tmp_path / "log", flight_recorder=5, levels={"runtime": "critical"}) as log:
        leaver, stopped = await start(log, "leaver"), await start(log, "stopped")
        for pilot in (leaver, stopped):
            await pilot.ask.fly(1)
        await leaver.ask.leave()
        await log.runtime.stop(stopped)
        clog.debug("outside")
    assert (tmp_path / "log").read_bytes() == b""


async def test_an_actor_in_the_place_of_another_begins_with_nothing(tmp_path: Path) -> None:
    """What was recorded under the same path ended with its actor."""
    async with log_to(tmp_path / "log", flight_recorder=5) as log:
        first = await start(log)
        await first.ask.fly(1)
        await log.runtime.stop(first)
        second = await start(log)
        await second.ask.fly(2)
        assert heights(await crash(log, second)) == [2]


async def test_threads_and_background_tasks_are_recorded(tmp_path: Path) -> None:
    """They speak for their actor."""

    class Busy(creche.Actor):
        async def work(self, done: trio.Event) -> None:
            self.context.spawn(self._beside, done)
            await self.context.runtime.run_blocking(clog.debug, "thread")

        async def _beside(self, done: trio.Event) -> None:
            clog.debug("background")
            done.set()

    async with log_to(tmp_path / "log", flight_recorder=50) as log:
        busy = await log.runtime.start(creche.child(Busy).options(backoff=AT_ONCE))
        done = trio.Event()
        await busy.ask.work(done)
        await done.wait()
        log.runtime.kill(busy, "test")
        await trio.testing.wait_all_tasks_blocked()
        messages = [entry["msg"] for entry in await log.entries() if entry.get("recorded")]
    assert {"thread", "background"} <= set(messages)


def test_rings_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In lines for each actor, and in actors: the one that has been kept the longest makes room."""
    monkeypatch.setattr(recorder, "_ACTORS", 2)
    kept = Recorder(2)
    for path in ("a", "b", "c"):
        for number in range(3):
            kept.keep(path, 1, {"n": number})
    assert [kept.take(path, 1) for path in ("a", "b", "c")] == [[], [{"n": 1}, {"n": 2}], [{"n": 1}, {"n": 2}]]


def test_a_new_incarnation_begins_with_nothing() -> None:
    """And a late line of an old one is not shown with it."""
    kept = Recorder(5)
    kept.keep("a", 1, {"n": 1})
    kept.keep("a", 2, {"n": 2})
    assert kept.take("a", 2) == [{"n": 2}]
    kept.keep("a", 2, {"n": 3})
    assert kept.take("a", 3) == []
    assert kept.take("a", 2) == []
