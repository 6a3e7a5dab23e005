"""The pytest plugin, in a project of its own: what a user writes, and what it finds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CONFTEST = 'pytest_plugins = ["creche.testing.plugin"]\n'
SETTINGS = "[pytest]\ntrio_mode = true\naddopts = -p no:anyio -p no:cacheprovider\n"
ACTORS = """
import threading

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
    KEPT.append(trio.socket.socket())
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
    assert "3 passed, 3 errors" in done.stdout, done.stdout + done.stderr
    for what in ("threads: forgotten", "channels: <", "descriptors: socket:"):
        assert f"has left behind {what}" in done.stdout, done.stdout
