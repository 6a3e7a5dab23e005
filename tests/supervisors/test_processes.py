"""Actors in processes of their own: real ones, and what becomes of them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import creche
import creche.testing
from creche.runtime.context import carrying
from creche.runtime.errors import StartFailed
from creche.runtime.events import BadStop, Crashed, Unstopped
from creche.runtime.spec import ChildOptions
from creche.supervisors.processes.remote import Reply
from creche.supervisors.processes.wire import Frame, Kind
from tests.cancelling import Strike, everywhere
from tests.core.support import asking, hang_guard, recorded
from tests.pages import ROOT
from tests.supervisors.process_actors import (
    Awkward,
    Batch,
    Closing,
    Heir,
    ReadsBadly,
    Refused,
    Worker,
    crunch,
    divide,
)

FAST = ChildOptions(unwind_grace=0.1, drain=0.1, shutdown=0.5)


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """In place of the usual one: processes take longer on a machine that has much to do."""
    with hang_guard(60):
        yield


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No process, zombies included, and no file descriptor is left."""
    before = descriptors()
    yield
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    assert descriptors() == before


def descriptors() -> int:
    folder = "/proc/self/fd" if Path("/proc/self/fd").exists() else "/dev/fd"
    return len(os.listdir(folder))


class Ear:
    """A named pipe, on which a process says that it has come somewhere."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    async def pid(self) -> int:
        await trio.lowlevel.wait_readable(self._fd)
        return int(os.read(self._fd, 100))

    def close(self) -> None:
        os.close(self._fd)


@pytest.fixture
def ear(tmp_path: Path, nothing_left: None) -> Iterator[Ear]:
    ear = Ear(tmp_path / "ear")
    yield ear
    ear.close()


def kill_and_wait(pid: int) -> None:
    """When this returns the process has ended, and nobody has seen it yet."""
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def end_of(pid: int) -> None:
    """Wait until a process, which is no child of this one, has ended."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    await trio.lowlevel.wait_readable(fd)
    os.close(fd)


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def remote_text(error: BaseException) -> str:
    assert isinstance(error.__cause__, creche.RemoteError)
    return error.__cause__.text


# --- as an actor ----------------------------------------------------------------------------------


async def test_a_process_is_used_as_an_actor_is() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker, 5))
        pid = await handle.ask.pid()
        assert pid != os.getpid()
        assert await handle.ask.add(2) == 7
        assert await handle.call(Worker.add, number=3) == 10
        await handle.cast(Worker.add, 10)
        handle.cast_nowait(Worker.add, 10)
        assert [outcome.unwrap() for outcome in await handle.call_many(Worker.add, [(1,), (2,)])] == [31, 33]
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            await handle.ask.add(nonsense=1)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
        assert await handle.ask.pid() == pid
        assert handle.statistics().handled == 9
    assert not is_there(pid)


async def test_large_values_go_over_whole() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        for size in (0, 65_535, 65_536, 65_537, 3_000_000):
            data = os.urandom(size)
            assert await handle.ask.echo((data, [data])) == (data, [data])
            assert await handle.ask.size(pickle.PickleBuffer(data)) == size
        await runtime.stop(handle)


async def test_answers_come_over_with_their_traceback() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        with pytest.raises(Refused) as refused:
            await handle.ask.refuse()
        assert (refused.value.code, refused.value.message) == (7, "not today")
        assert "process_actors.py" in remote_text(refused.value)
        with pytest.raises(Awkward, match="code 5") as awkward:
            await handle.ask.answer("awkward")
        assert (awkward.value.code, awkward.value.hint) == (5, "turn it")
        assert handle.statistics().restarts == 0


async def test_what_cannot_be_sent_is_refused() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))

        async def refusal_of(fn: Callable[..., Any], *args: Any) -> creche.NotSendable:
            with pytest.raises(creche.NotSendable) as refused:
                await fn(*args)
            return refused.value

        for value in (lambda: 0, handle):
            refused = await refusal_of(handle.ask.echo, value)
            assert (refused.handled, refused.message, refused.path) == (False, "echo", "root/worker")
            assert refused.what == f"argument 1 ({type(value).__name__})"
        unreadable = await refusal_of(handle.ask.echo, ReadsBadly())
        assert not unreadable.handled
        assert "invalid literal for int()" in str(unreadable)
        assert await handle.ask.add() == 1
        assert (await refusal_of(handle.ask.unsendable)).handled
        assert await handle.ask.add() == 3  # it has run
        error = await refusal_of(handle.ask.answer, "unsendable")
        assert error.handled
        assert "Unsendable: holds a lambda" in str(error)
        assert handle.statistics().restarts == 0


async def test_concurrent_messages_are_so_in_a_process() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        outcomes = await handle.call_many(Worker.meet, [(3,)] * 3)
        assert [outcome.unwrap() for outcome in outcomes] == [3, 3, 3]


async def test_serial_messages_cannot_be_left_open_in_a_process() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        for how in ("defer", "stash"):
            with pytest.raises(creche.OutcomeUnknown) as lost:
                await handle.ask.answer_later(how)
            assert str(lost.value.__cause__).startswith(f"{how}: in a process of its own a serial message")


async def test_context_and_deadline_go_over() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        with carrying(trace="abc", here=lambda: 0):
            carried, left = await handle.within(50).ask.context_of_caller()
        assert carried == {"trace": "abc"}
        assert 0 < left < 50
        assert await handle.ask.context_of_caller() == ({}, float("inf"))


# --- its end --------------------------------------------------------------------------------------


async def test_a_crash_in_a_process_is_a_crash() -> None:
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        handle = await runtime.start(creche.process_child(Worker))
        pid = await handle.ask.pid()
        async with trio.open_nursery() as nursery:
            lost = asking(nursery, handle.ask.fail)
            await trio.testing.wait_all_tasks_blocked()
            kept = asking(nursery, handle.ask.add)
        assert (lost.what, kept.value) == ("OutcomeUnknown", 1)
        assert lost.error is not None
        assert isinstance(lost.error.__cause__, KeyError)
        assert "a bug" in remote_text(lost.error.__cause__)
        assert await handle.ask.pid() != pid
        (crash,) = [event for event in seen if isinstance(event, Crashed)]
        assert "process_actors.py" in crash.detail


@pytest.mark.parametrize(
    ("how", "status"), [("exit", 3), ("at once", 4), ("signal", -signal.SIGSEGV)], ids=["exit", "at once", "signal"]
)
async def test_a_process_that_ends_is_a_crash(how: str, status: int) -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        pid = await handle.ask.pid()
        with pytest.raises(creche.OutcomeUnknown) as lost:
            await handle.ask.die(how)
        died = lost.value.__cause__
        assert isinstance(died, creche.ProcessDied)
        assert (died.pid, died.status, died.path) == (pid, status, "root/worker")
        assert ("SIGSEGV" in str(died)) == (status < 0)
        assert await handle.ask.add() == 1


async def test_background_work_and_exit_are_as_in_any_actor() -> None:
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        handle = await runtime.start(creche.process_child(Worker))
        async with handle.monitor() as changes:
            await handle.ask.fail_beside()
            async for change in changes:
                if change.incarnation == 2 and change.what == "up":
                    break
        assert "OSError: beside" in [event.error for event in seen if isinstance(event, Crashed)]
        pid = await handle.ask.pid()
        assert await handle.ask.leave() == "bye"
        assert await handle.ask.pid() != pid
        done = await runtime.start(creche.process_child(Worker).options(restart="transient", name="once"))
        await done.ask.leave()
        assert await done.wait_stopped() is None


async def test_an_idle_process_that_is_killed_loses_nothing() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        async with handle.monitor() as changes:
            os.kill(await handle.ask.pid(), signal.SIGKILL)
            async for change in changes:
                if change.incarnation == 2 and change.what == "up":
                    break
        assert await handle.ask.add() == 1


async def test_only_one_message_is_refused_by_a_dead_process() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        pid = await handle.ask.pid()
        kill_and_wait(pid)
        first, *others = await handle.call_many(Worker.add, [(1,)] * 5)
        with pytest.raises(creche.NotDelivered):
            first.unwrap()
        assert [outcome.unwrap() for outcome in others] == [1, 2, 3, 4]


def test_an_answer_that_has_come_stays_one() -> None:
    reply, answer = Reply(), Frame(Kind.RESULT, 1, [])
    reply.settle(answer)
    reply.settle(None)
    assert reply.frame is answer


async def test_kill_ends_the_process_at_once(ear: Ear) -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker).options(unwind_grace=1e6, shutdown=1e6))
        async with trio.open_nursery() as nursery:
            lost = asking(nursery, handle.ask.block, ear.path)
            kept = asking(nursery, handle.ask.add)
            pid = await ear.pid()
            assert runtime.kill(handle, "enough")
            assert await lost.settled() == "OutcomeUnknown"
        assert lost.error is not None
        assert repr(lost.error.__cause__) == "Killed('killed: enough')"
        assert kept.value == 1
        assert not is_there(pid)


async def test_a_kill_while_it_starts_leaves_no_process() -> None:
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        spec = creche.process_child(Worker, hangs=True).options(restart="temporary")
        starting = asking(nursery, runtime.start, spec)
        while runtime.root.child("worker") is None:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert runtime.kill("root/worker", "too slow")
        assert await starting.settled() == "StartFailed"


async def test_a_process_that_dies_while_it_replies_has_not_replied(ear: Ear) -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        with pytest.raises(creche.OutcomeUnknown) as lost:
            await handle.ask.reply_in_part()
        assert isinstance(lost.value.__cause__, creche.ProcessDied)
        assert await handle.ask.add() == 1


async def test_a_failed_start_says_what_failed_there() -> None:
    async with creche.open_runtime("t") as runtime:
        with pytest.raises(StartFailed) as failed:
            await runtime.start(creche.process_child(Worker, broken=True).options(restart="temporary"))
        assert isinstance(failed.value.__cause__, ValueError)
        assert "no good start" in remote_text(failed.value.__cause__)


# --- cancelling -----------------------------------------------------------------------------------


async def test_a_handler_that_awaits_is_cancelled_in_its_process(ear: Ear) -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        async with trio.open_nursery() as nursery:
            gone = asking(nursery, handle.ask.wait_for_caller, ear.path)
            pid = await ear.pid()
            gone.scope.cancel()
            assert await gone.settled() == "cancelled"
        assert (await handle.ask.pid(), await handle.ask.add()) == (pid, 101)


async def test_a_handler_that_computes_is_killed_after_its_grace(ear: Ear) -> None:
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        # The tenth that is left must do for a kill, or the actor counts as stuck, which refuses what waits.
        handle = await runtime.start(creche.process_child(Worker).options(unwind_grace=3))
        async with trio.open_nursery() as nursery:
            gone = asking(nursery, handle.ask.block_for_caller, ear.path)
            kept = asking(nursery, handle.ask.add)
            pid = await ear.pid()
            gone.scope.cancel()
            assert await gone.settled() == "OutcomeUnknown"
        assert kept.value == 1
        (crash,) = [event.error for event in seen if isinstance(event, Crashed)]
        assert crash.endswith("was killed by SIGKILL (its handler did not end within 2.7 s of being cancelled)")
        assert not is_there(pid)


async def test_callers_leave_a_process_as_they_leave_an_actor(ear: Ear) -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker).with_options(FAST))
        async with trio.open_nursery() as nursery:
            gone = asking(nursery, handle.ask.block, ear.path)
            pid = await ear.pid()
            revoked = asking(nursery, handle.ask.add)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(creche.DeadlineExceeded):
                await handle.within(0.01).ask.add()
            gone.scope.cancel()
            revoked.scope.cancel()
            assert (await gone.settled(), await revoked.settled()) == ("cancelled", "cancelled")
            assert is_there(pid)
        assert handle.statistics().revoked == 2


def test_a_start_that_is_cancelled_anywhere_leaves_nothing() -> None:
    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            end = await strike.cancel(runtime.start, creche.process_child(Worker))
            assert end.what in ("value", "cancelled")

    assert everywhere(scenario, virtual=False)["cancelled"] > 10


def test_a_call_that_is_cancelled_anywhere_leaves_a_good_process() -> None:
    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            handle = await runtime.start(creche.process_child(Worker))
            end = await strike.cancel(handle.ask.echo_for_caller, b"x" * 300_000)
            assert end.what in ("value", "cancelled")
            assert await handle.ask.add() == 1
            assert handle.statistics().restarts == 0

    assert everywhere(scenario, virtual=False)["cancelled"] > 5


@pytest.mark.parametrize("how", ["kill", "crash"])
async def test_the_next_attempt_is_made_by_the_next_process(how: str, tmp_path: Path) -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        before = await handle.ask.pid()
        after = await handle.ask.die_once(how, str(tmp_path / "marker"))
        assert after != before
        assert after == await handle.ask.pid()
        assert handle.statistics().restarts == 1


def test_a_process_may_be_killed_at_any_moment_of_a_call() -> None:
    async def scenario(strike: Strike) -> None:
        async with creche.open_runtime("t") as runtime:
            handle = await runtime.start(creche.process_child(Worker))
            pid = await handle.ask.pid()
            end = await strike.hit(partial(os.kill, pid, signal.SIGKILL), handle.ask.echo, b"x" * 300_000)
            assert end.what in ("value", "OutcomeUnknown", "NotDelivered")
            async with handle.monitor() as changes:
                async for change in changes:
                    if change.what == "up" and (change.incarnation == 2 or not strike.struck):
                        break
            assert await handle.ask.add() == 1

    assert everywhere(scenario, virtual=False)["OutcomeUnknown"] > 3


# --- stopping -------------------------------------------------------------------------------------


async def test_a_process_is_stopped_in_order(ear: Ear, tmp_path: Path) -> None:
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        for badly in (False, True):
            handle = await runtime.start(creche.process_child(Closing, ear.path, badly=badly))
            assert await handle.ask.ping() == "pong"
            await runtime.stop(handle)
            await ear.pid()
        assert [event.error for event in seen if isinstance(event, BadStop)] == ["RemoteError: ValueError: bad end"]


@pytest.mark.parametrize("computes", [True, False], ids=["computes", "awaits"])
async def test_a_stop_does_not_wait_for_ever_for_a_process(ear: Ear, computes: bool) -> None:
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        handle = await runtime.start(creche.process_child(Worker).with_options(FAST))
        async with trio.open_nursery() as nursery:
            lost = asking(nursery, handle.ask.block if computes else handle.ask.wait_there, ear.path)
            pid = await ear.pid()
            await runtime.stop(handle)
            assert await lost.settled() == "OutcomeUnknown"
        assert not is_there(pid)
        assert [event for event in seen if isinstance(event, Unstopped)] == []
        bad = [event.error for event in seen if isinstance(event, BadStop)]
        assert [error.partition("(")[2] for error in bad] == [
            "it did not end within 0.45 s of being cancelled)"
        ] * computes


async def test_signals_for_all_are_left_to_the_program() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        pid = await handle.ask.pid()
        assert os.getsid(pid) == pid  # Ctrl-C at the terminal does not reach it
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
            assert await handle.ask.pid() == pid


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="how else to wait for a process that is no child?")
async def test_what_a_process_has_started_ends_with_it() -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        program = await handle.ask.start_program()
        runtime.kill(handle, "and its family")
        await end_of(program)


PROGRAM = """
import sys, trio, creche
from tests.supervisors.process_actors import Worker

async def main():
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        await handle.ask.block(sys.argv[1])

trio.run(main)
"""


def start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, cwd=ROOT)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="how else to wait for a process that is no child?")
async def test_a_process_ends_with_its_program(ear: Ear) -> None:
    program = start([sys.executable, "-c", PROGRAM, ear.path])
    pid = await ear.pid()
    program.kill()
    program.wait()
    await end_of(pid)


# --- where it is used -----------------------------------------------------------------------------


async def test_a_pool_of_processes() -> None:
    async with creche.open_runtime("t") as runtime:
        spec = creche.process_child(creche.ProcessWorker).options(unwind_grace=0.2)
        pool = await runtime.start(creche.pool("workers", spec, size=2))
        assert await pool.ask.run(crunch, 1000) == crunch(1000)
        with pytest.raises(ZeroDivisionError):
            await pool.ask.run(divide, 1, 0)
        first, second = [outcome.unwrap() for outcome in await pool.broadcast(creche.ProcessWorker.run, os.getpid)]
        assert len({first, second, os.getpid()}) == 3
        with pytest.raises(creche.OutcomeUnknown):
            await pool.ask.run(os._exit, 1)
        assert await pool.ask.run(divide, 6, 3) == 2
        assert pool.statistics().restarts == 1


MAIN = """
import trio
import creche


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


class Mover(creche.Actor):
    async def move(self, point: Point) -> Point:
        assert type(point) is Point
        return Point(point.x + 1)


async def main() -> None:
    async with creche.open_runtime("t") as runtime:
        mover = await runtime.start(creche.process_child(Mover))
        point = await mover.ask.move(Point(1))
        assert type(point) is Point
        print(point.x)


if __name__ == "__main__":
    trio.run(main)
"""


def test_what_a_program_defines_is_found_in_its_processes(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(MAIN)
    for way in (["program.py"], ["-m", "program"]):
        done = subprocess.run([sys.executable, *way], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.stdout, done.stderr) == ("2\n", "")


def test_what_cannot_be_in_a_process_is_refused() -> None:
    class Local(creche.Actor):
        pass

    with pytest.raises(creche.SpecInvalid, match="define it at the top of a module"):
        creche.process_child(Local)
    with pytest.raises(creche.SpecInvalid, match=r"argument 1 \(function\)"):
        creche.process_child(Worker, lambda: 1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(creche.SpecInvalid, match="argument 'broken'"):
        creche.process_child(Worker, broken=creche.Handle("x"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(creche.SpecInvalid, match=r"Batch\.take"):
        creche.process_child(Batch)
    with pytest.raises(creche.SpecInvalid, match="outlive its process"):
        creche.process_child(Heir)


def test_in_a_deterministic_run_it_lives_in_this_process() -> None:
    async def main() -> None:
        async with creche.open_runtime("t") as runtime:
            handle = await runtime.start(creche.process_child(Worker, 3))
            assert (await handle.ask.pid(), await handle.ask.add()) == (os.getpid(), 4)
            data = [1]
            assert await handle.ask.echo(data) is not data
            with pytest.raises(creche.NotSendable) as refused:
                await handle.ask.echo(lambda: 1)
            assert not refused.value.handled
            with pytest.raises(creche.NotSendable) as refused:
                await handle.ask.unsendable()
            assert refused.value.handled
            with pytest.raises(creche.OutcomeUnknown):
                await handle.ask.fail()
            assert await handle.ask.add() == 4

    creche.testing.run(main, seed=1)
