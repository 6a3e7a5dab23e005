"""The watchdog: a thread that notices when nothing comes to a checkpoint."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import trio
from trio.testing import MockClock

import creche
import creche.testing
from creche.runtime.events import Event, LoopStalled
from tests.core.support import Probe, hang_guard, settle
from tests.pages import ROOT

STALL = 0.05


class Reports:
    """Takes the reports; who blocks waits for one, so that no test is slower than the watchdog."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.came = threading.Event()

    def __call__(self, text: str) -> None:
        self.texts.append(text)
        self.came.set()

    def block(self) -> None:
        """Until it has been noticed."""
        assert self.came.wait(10)
        self.came.clear()


def watched(report: Callable[[str], object], stall_after: float = STALL) -> creche.Watchdog:
    return creche.Watchdog(stall_after=stall_after, report=report)


def stalls(runtime: creche.Runtime) -> trio.MemoryReceiveChannel[LoopStalled]:
    """The events of stalls from now on."""
    sends, receives = trio.open_memory_channel[LoopStalled](10)

    def hook(event: Event) -> None:
        if isinstance(event, LoopStalled):
            sends.send_nowait(event)

    runtime.events.subscribe(hook)
    return receives


def dogs() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("creche watchdog")]


@pytest.mark.parametrize("where", ["handler", "nursery", "concurrent", "background", "cast", "body"])
async def test_a_stalled_loop_is_told_with_the_actor_and_its_stack(where: str) -> None:
    """At once to the report, and as an event when the loop has come back."""
    reports = Reports()
    with hang_guard():
        async with creche.open_runtime("test", watchdog=watched(reports)) as runtime:
            told = stalls(runtime)

            async def compute(_: object = None) -> None:
                reports.block()

            class Busy(Probe):
                async def work(self) -> None:
                    await compute()

                async def work_in_a_nursery(self) -> None:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(compute)

                @creche.message(concurrency=2)
                async def work_beside(self) -> None:
                    await compute()

                async def work_in_the_background(self) -> None:
                    self.context.spawn(compute)

            busy = await runtime.start(creche.child(Busy))
            await runtime.start(creche.child(Probe))
            match where:
                case "handler":
                    await busy.ask.work()
                case "nursery":
                    await busy.ask.work_in_a_nursery()
                case "concurrent":
                    await busy.ask.work_beside()
                case "background":
                    await busy.ask.work_in_the_background()
                case "cast":
                    await busy.cast(Busy.work)
                case _:
                    await compute()
            stalled = await told.receive()
        message = {"nursery": "work_in_a_nursery", "concurrent": "work_beside", "background": ""}.get(where, "work")
        in_actor = where != "body"
        assert (stalled.path, stalled.incarnation) == (("root/busy", 1) if in_actor else ("", 0))
        assert stalled.message == (message if in_actor else "")
        assert stalled.seconds >= STALL
        assert "in compute\n" in stalled.stack
        assert len(reports.texts) == 1
        assert ("in root/busy" in reports.texts[0]) == in_actor


async def test_a_stall_is_told_each_time() -> None:
    """The watchdog goes on."""
    reports = Reports()
    with hang_guard():
        async with creche.open_runtime("test", watchdog=watched(reports)) as runtime:
            told = stalls(runtime)
            for _ in range(3):
                reports.block()
                assert (await told.receive()).path == ""


async def test_a_stall_is_printed_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """To standard error, from the watchdog's thread: the writer of the log may stand still as well."""
    with hang_guard():
        async with creche.open_runtime("test", watchdog=creche.Watchdog(stall_after=STALL)):
            printed = ""
            while "creche: the event loop stands still" not in printed:
                threading.Event().wait(STALL)  # blocks the loop
                printed += capsys.readouterr().err


async def test_a_report_that_fails_is_told_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """On `sys.unraisablehook`."""
    unraised: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hooked: unraised.append(hooked.exc_value))
    blocked = threading.Event()

    def fail(_: str) -> None:
        blocked.set()
        raise ValueError("no report")

    with hang_guard():
        async with creche.open_runtime("test", watchdog=watched(fail)) as runtime:
            told = stalls(runtime)
            assert blocked.wait(10)
            await told.receive()
    assert [str(error) for error in unraised] == ["no report"]


async def test_virtual_time_is_no_stall(autojump_clock: MockClock) -> None:
    """However far it jumps: real time counts."""
    reports = Reports()
    async with creche.open_runtime("test", watchdog=watched(reports, 5.0)) as runtime:
        probe = await runtime.start(creche.child(Probe))
        for _ in range(100):
            await trio.sleep(1000)
            await probe.ask.add()
    assert reports.texts == []


SUSPENDED = """
import signal, sys, threading, trio, creche

async def main():
    texts = []
    async with creche.open_runtime("test", watchdog=creche.Watchdog(stall_after=0.2, report=texts.append)):
        await trio.sleep(0.3)
        print("up", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        await trio.sleep(0.5)
    print(texts)

trio.run(main)
"""


@pytest.mark.skipif(os.name != "posix", reason="stops a process by a signal")
def test_a_process_that_was_suspended_is_no_stall() -> None:
    """It has used no processor in all that time."""
    child = subprocess.Popen(
        [sys.executable, "-c", SUSPENDED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        child.send_signal(signal.SIGSTOP)
        threading.Event().wait(1.0)
        child.send_signal(signal.SIGCONT)
        assert child.communicate("go on\n", timeout=30)[0] == "[]\n"


GUEST = """
import asyncio, threading, trio, creche
from creche.runtime.hosting import AsyncioHost

noticed = threading.Event()

def host_code_that_blocks():
    print("noticed", noticed.wait(10))

async def main():
    def report(text):
        print("host_code_that_blocks" in text)
        noticed.set()

    async with creche.open_runtime("test", watchdog=creche.Watchdog(stall_after=0.1, report=report)) as runtime:
        told = trio.Event()
        runtime.events.subscribe(lambda event: told.set() if event.kind == "LoopStalled" else None)
        asyncio.get_running_loop().call_soon(host_code_that_blocks)
        await told.wait()
    print("threads", sum("creche" in thread.name for thread in threading.enumerate()))

async def host():
    await AsyncioHost().run(main)

asyncio.run(host())
"""


def test_the_watchdog_watches_the_host_of_a_guest_run() -> None:
    """It is one thread: what blocks there blocks the actors, too."""
    done = subprocess.run(
        [sys.executable, "-c", GUEST],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.splitlines(), done.stderr) == (["True", "noticed True", "threads 0"], "")


async def test_the_watchdog_ends_with_its_runtime() -> None:
    """However it ends; no thread is left."""
    reports = Reports()
    before = dogs()
    async with creche.open_runtime("test", watchdog=watched(reports, 100)):
        assert dogs() == [*before, "creche watchdog of test"]
    assert dogs() == before
    with pytest.raises(ValueError, match="from the body"):
        async with creche.open_runtime("test", watchdog=watched(reports, 100)):
            raise ValueError("from the body")
    assert dogs() == before
    with trio.move_on_after(0.01):
        async with creche.open_runtime("test", watchdog=watched(reports, 100)):
            await trio.sleep_forever()
    assert dogs() == before


def test_a_deterministic_run_has_no_watchdog() -> None:
    """It has no threads."""

    async def main() -> list[str]:
        async with creche.open_runtime("test", watchdog=creche.Watchdog()):
            await settle()
            return dogs()

    before = dogs()
    assert creche.testing.run(main, seed=1) == before


async def test_an_app_has_a_watchdog_by_default() -> None:
    """And none if it says so."""
    before = dogs()
    async with creche.App("watched").open():
        assert len(dogs()) == len(before) + 1
    async with creche.App("unwatched", watchdog=None).open():
        assert dogs() == before


def test_wrong_watchdogs_are_refused() -> None:
    """`SpecInvalid` before anything has started."""
    for seconds in (0, -1, float("inf"), float("nan")):
        with pytest.raises(creche.SpecInvalid):
            creche.Watchdog(stall_after=seconds)
    with pytest.raises(creche.SpecInvalid):
        creche.Watchdog(report="stderr")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(creche.SpecInvalid):
        creche.open_runtime("test", watchdog=5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(creche.SpecInvalid):
        creche.App("test", watchdog=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
