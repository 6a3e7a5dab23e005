"""The pytest plugin, in a project of its own: what a user writes, and what it finds."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CONFTEST = 'pytest_plugins = ["creche.testing.plugin"]\n'
SETTINGS = "[pytest]\ntrio_mode = true\naddopts = -p no:anyio -p no:cacheprovider\n"
ACTORS = """
import os
import socket
import threading
from contextlib import asynccontextmanager
from multiprocessing import shared_memory

import pytest
import trio

import creche
from creche import events, testing


class Counter(creche.Actor):
    def __init__(self):
        self.count = 0

    async def add(self, by=1):
        self.count += by
        return self.count
"""
GOOD = """
async def test_a_crash_at_the_nth_message(runtime, faults, recorder):
    counter = await runtime.start(creche.child(Counter))
    faults.crash_at(counter, 3, Counter.add)
    assert [await counter.ask.add(), await counter.ask.add()] == [1, 2]
    with testing.expect_outcome_unknown(testing.FaultInjected):
        await counter.ask.add()
    assert await counter.ask.add() == 1
    assert len(recorder.of(events.Crashed)) == 1
    assert (await recorder.wait_for(events.Ready, counter.path, count=2)).incarnation == 2


async def test_time_is_virtual(runtime, faults):
    counter = await runtime.start(creche.child(Counter))
    faults.delay(counter, 3600)
    with testing.expect_deadline_exceeded(delivered=True):
        await counter.within(60).ask.add()
    assert isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock)


async def test_a_clock_of_the_tests_own_is_taken(runtime, mock_clock):
    assert trio.lowlevel.current_clock() is mock_clock


async def test_what_hangs_is_let_go_at_the_end(runtime, faults):
    counter = await runtime.start(creche.child(Counter))
    faults.hang(counter)
    await counter.cast(Counter.add)
    await trio.testing.wait_all_tasks_blocked()


async def test_a_start_that_is_refused(runtime, faults):
    faults.refuse_start("root/counter")
    with pytest.raises(creche.StartFailed):
        await runtime.start(creche.child(Counter))


@testing.seeds(3)
async def test_each_seed_is_a_test(seed):
    async with creche.open_runtime("r") as runtime:
        counter = await runtime.start(creche.child(Counter))
        assert await counter.ask.add(seed) == seed
"""
LEAKY = """
async def test_a_thread(runtime):
    threading.Thread(target=threading.Event().wait, daemon=True, name="forgotten").start()


KEPT = []


async def test_a_channel(runtime):
    send, receive = trio.open_memory_channel(1)
    send.send_nowait("nobody reads this")
    KEPT.append(receive)


async def test_a_socket(runtime):
    KEPT.extend(await trio.open_tcp_listeners(0, host="127.0.0.1"))


async def test_a_pipe(runtime):
    KEPT.extend(os.pipe())


async def test_a_task(runtime):
    trio.lowlevel.spawn_system_task(trio.sleep_forever, name="leaked-task")


async def test_a_task_of_a_test_that_fails(runtime):
    trio.lowlevel.spawn_system_task(trio.sleep_forever, name="left-by-a-failure")
    assert False, "its own failure"
"""
NO_LEAKS = """
async def test_what_only_the_traceback_of_a_failure_keeps(runtime):
    send, receive = trio.open_memory_channel(1)
    await send.send("kept")
    held = socket.socket()
    assert False, "its own failure"


async def test_helpers_of_the_standard_library(runtime):
    memory = shared_memory.SharedMemory(create=True, size=10)
    memory.close()
    memory.unlink()


@pytest.fixture
async def background():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep_forever)
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.fixture
async def system_task():
    ended = trio.Event()
    trio.lowlevel.spawn_system_task(ended.wait)
    yield
    ended.set()


async def test_tasks_of_fixtures(background, runtime, system_task, nursery):
    background.start_soon(trio.sleep_forever)
    nursery.start_soon(trio.sleep_forever)


async def test_a_task_that_has_just_been_told_to_end(runtime):
    ended = trio.Event()
    trio.lowlevel.spawn_system_task(ended.wait)
    ended.set()


async def test_garbage_in_a_circle(runtime):
    send, receive = trio.open_memory_channel(1)
    await send.send(receive)
"""
APP = """
app = creche.App("shop")
counter = app.use(creche.child(Counter))


@pytest.fixture
def creche_opening():
    return app.open


async def test_an_app(runtime, faults, recorder):
    assert runtime.name == "shop"
    assert await counter.ask.add() == 1
    faults.crash_at(counter, 2)
    assert await counter.ask.add() == 2
    with testing.expect_outcome_unknown(testing.FaultInjected):
        await counter.ask.add()
    assert len(recorder.of(events.Crashed, counter.path)) == 1


async def test_the_app_again_and_what_it_leaves_behind(runtime):
    assert await counter.ask.add() == 1
    trio.lowlevel.spawn_system_task(trio.sleep_forever, name="leaked-task")


class TestLate:
    @pytest.fixture
    def creche_opening(self):
        @asynccontextmanager
        async def opening():
            async with app.open() as running:
                yield running

        return opening

    async def test_an_opening_that_makes_the_runtime_too_late(self, runtime):
        pass


class TestInRealTime:
    @pytest.fixture
    def real_time(self):
        return trio.testing.MockClock(rate=1)

    async def test_a_thread_takes_no_time_of_others(self, runtime, real_time):
        with trio.fail_after(3600):
            await trio.to_thread.run_sync(threading.Event().wait, 0.01)
        assert trio.current_time() < 60
"""
OTHERS = """
@pytest.fixture
def runtime():
    return "something else"


def test_a_plain_function_with_a_runtime_of_its_own(runtime):
    assert runtime == "something else"
"""


def pytest_in(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "pytest.ini").write_text(SETTINGS)
    (folder / "test_mine.py").write_text(ACTORS + tests)
    command = [sys.executable, "-m", "pytest", "-q", str(folder)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_a_project_adopts_it_with_one_line(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, GOOD)
    assert "8 passed" in done.stdout, done.stdout + done.stderr


def test_a_runtime_of_the_projects_own_is_left_alone(tmp_path: Path) -> None:
    """One line must not break the tests that are there already."""
    done = pytest_in(tmp_path, OTHERS)
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_leaks_are_found(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, LEAKY)
    assert "1 failed, 5 passed, 6 errors" in done.stdout, done.stdout + done.stderr
    for what in (
        r"threads: forgotten\n",
        r"channels: <receive channel at .*> \(items: 1, the first is 'nobody reads this'\)\n",
        r"descriptors: socket:\[\d+\] \(fd \d+, at 127.0.0.1:\d+\)\n",
        r"descriptors: pipe:(\[\d+\]) \(fd \d+, the end to read from\), pipe:\1 \(fd \d+, the end to write to\)\n",
        r"tasks: leaked-task\n",
        r"tasks: left-by-a-failure\n",
    ):
        assert re.search(f"the test has left behind {what}", done.stdout), done.stdout


def test_what_is_no_leak(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, NO_LEAKS)
    assert "1 failed, 4 passed" in done.stdout, done.stdout + done.stderr
    assert "error" not in done.stdout.splitlines()[-1], done.stdout


def test_an_app_is_tested_as_a_runtime_is(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, APP)
    assert "1 failed, 3 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "the test has left behind tasks: leaked-task" in done.stdout, done.stdout
    assert "it must make the runtime when called, as app.open does" in done.stdout, done.stdout
