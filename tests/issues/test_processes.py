"""Found in review: processes whose end nobody saw, or that did not end, and messages that got lost on their way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio

import creche
import creche.testing
from creche.runtime.events import BadStop, Crashed, DeadLetter, HandlerSlow
from tests.core.support import asking, recorded
from tests.supervisors.process_actors import Fleeting, Worker, block_here, crunch
from tests.supervisors.test_processes import (
    FAST,
    MAIN,
    PROGRAM,
    Ear,
    end_of,
    is_there,
    kill_and_wait,
    start,
)
from tests.supervisors.test_processes import ear as ear
from tests.supervisors.test_processes import no_hang as no_hang
from tests.supervisors.test_processes import nothing_left as nothing_left

HUGE = bytes(2**23)  # more than the kernel takes for somebody who does not read


async def test_a_function_that_is_killed_with_its_caller_leaves_a_worker_behind(ear: Ear) -> None:
    """It declares all errors as answers; the end of its own process is none."""
    async with creche.open_runtime("t") as runtime:
        spec = creche.process_child(creche.ProcessWorker).options(unwind_grace=1)
        worker = await runtime.start(spec)
        async with trio.open_nursery() as nursery:
            gone = asking(nursery, worker.ask.run, block_here, ear.path)
            pid = await ear.pid()
            gone.scope.cancel()
            assert await gone.settled() == "OutcomeUnknown"
        assert isinstance(gone.error and gone.error.__cause__, creche.ProcessDied)
        assert not is_there(pid)
        assert await worker.ask.run(crunch, 10) == crunch(10)


@pytest.mark.parametrize(("how", "what"), [("value", "value"), ("answer", "Refused")])
async def test_what_a_cancelled_handler_says_comes_over(ear: Ear, how: str, what: str) -> None:
    """As from any actor: a value, or a declared error."""
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        async with trio.open_nursery() as nursery:
            reply = asking(nursery, handle.ask.insist, ear.path, how)
            await ear.pid()
            reply.scope.cancel()
            assert await reply.settled() == what
        assert handle.statistics().restarts == 0


# --- a process that does not read -----------------------------------------------------------------


async def test_a_stop_does_not_wait_for_a_process_that_does_not_read(ear: Ear) -> None:
    """A message is on its way into it for ever; it is killed after its `shutdown`."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        handle = await runtime.start(creche.process_child(Worker).with_options(FAST))
        async with trio.open_nursery() as nursery:
            blocking = asking(nursery, handle.ask.block_beside, ear.path, b"")
            pid = await ear.pid()
            waiting = asking(nursery, handle.ask.block_beside, ear.path, HUGE)
            await trio.testing.wait_all_tasks_blocked(0.1)
            with trio.fail_after(20):
                await runtime.stop(handle)
            assert [await reply.settled() for reply in (blocking, waiting)] == ["OutcomeUnknown"] * 2
        assert not is_there(pid)
        assert [event.error.partition("(")[2] for event in seen if isinstance(event, BadStop)] == [
            "it did not end within 0.45 s of being cancelled)"
        ]


async def test_a_caller_of_a_process_that_does_not_read_leaves_after_its_grace(ear: Ear) -> None:
    """Then the process is killed, and another one is there."""
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker).options(unwind_grace=1))
        async with trio.open_nursery() as nursery:
            blocking = asking(nursery, handle.ask.block_beside, ear.path, b"")
            pid = await ear.pid()
            gone = asking(nursery, handle.ask.block_beside, ear.path, HUGE)
            await trio.testing.wait_all_tasks_blocked(0.1)
            gone.scope.cancel()
            with trio.fail_after(20):
                assert [await reply.settled() for reply in (gone, blocking)] == ["OutcomeUnknown"] * 2
        assert not is_there(pid)
        assert await handle.ask.add() == 1


# --- while it is being stopped --------------------------------------------------------------------


async def test_a_kill_during_the_drain_ends_the_process_at_once(ear: Ear) -> None:
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        handle = await runtime.start(creche.process_child(Worker).options(drain=1e6, shutdown=1e6))
        lost = asking(nursery, handle.ask.block, ear.path)
        await ear.pid()
        stopping = asking(nursery, runtime.stop, handle)
        await trio.testing.wait_all_tasks_blocked()
        assert runtime.kill(handle, "at once")
        with trio.fail_after(20):
            assert await stopping.settled() == "value"
        assert await lost.settled() == "OutcomeUnknown"


async def test_a_caller_that_leaves_during_the_drain_takes_its_handler_along(ear: Ear) -> None:
    """What computes is killed after its grace then, too, not when the drain is over."""
    async with creche.open_runtime("t") as runtime, trio.open_nursery() as nursery:
        handle = await runtime.start(creche.process_child(Worker).options(drain=1e6, unwind_grace=1))
        gone = asking(nursery, handle.ask.block_for_caller, ear.path)
        await ear.pid()
        stopping = asking(nursery, runtime.stop, handle)
        await trio.testing.wait_all_tasks_blocked()
        gone.scope.cancel()
        with trio.fail_after(20):
            assert [await reply.settled() for reply in (gone, stopping)] == ["OutcomeUnknown", "value"]


# --- what it leaves behind ------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="how else to wait for a process that is no child?")
@pytest.mark.parametrize("how", ["it dies", "it is stopped"])
async def test_what_a_process_has_started_ends_with_it_however_it_ends(how: str) -> None:
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        program = await handle.ask.start_program()
        try:
            if how == "it dies":
                with pytest.raises(creche.OutcomeUnknown):
                    await handle.ask.die("at once")
            else:
                await runtime.stop(handle)
            with trio.fail_after(10):
                await end_of(program)
        finally:
            with suppress(ProcessLookupError):
                os.kill(program, signal.SIGKILL)


async def test_the_end_of_a_process_is_seen_although_what_it_has_forked_goes_on() -> None:
    """Which holds its side of the connection open."""
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker).with_options(FAST))
        with trio.fail_after(20), pytest.raises(creche.OutcomeUnknown) as lost:
            await handle.ask.fork_and_die()
        assert isinstance(lost.value.__cause__, creche.ProcessDied)
        assert lost.value.__cause__.status == 4
        assert await handle.ask.add() == 1


async def test_what_a_process_has_forked_can_be_told_to_end(ear: Ear) -> None:
    """By SIGTERM, as `multiprocessing` does it."""
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker).with_options(FAST))
        await handle.ask.start_fork(ear.path)
        await ear.pid()
        assert await handle.ask.end_fork() == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="only a thread ends it there")
async def test_a_process_ends_with_its_program_though_it_holds_the_lock_of_python(ear: Ear) -> None:
    program = start([sys.executable, "-c", PROGRAM.replace(".block(", ".hold_the_lock("), ear.path])
    pid = await ear.pid()
    program.kill()
    program.wait()
    try:
        with trio.fail_after(10):
            await end_of(pid)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


# --- messages -------------------------------------------------------------------------------------


async def test_a_cast_that_a_dead_process_cannot_take_is_no_secret() -> None:
    """It is a dead letter, or waits for the next process."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        handle = await runtime.start(creche.process_child(Worker))
        kill_and_wait(await handle.ask.pid())
        handle.cast_nowait(Worker.add)
        while handle.statistics().queued:
            await trio.lowlevel.checkpoint()
        handled = await handle.within(30).ask.add() - 1
        assert [event.reason for event in seen if isinstance(event, DeadLetter)] == ["not_sent"] * (1 - handled)


@pytest.mark.parametrize("message", [Worker.echo, Worker.meet], ids=["serial", "concurrent"])
async def test_a_cast_that_cannot_be_sent_is_a_dead_letter(message: Callable[..., Any]) -> None:
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        handle = await runtime.start(creche.process_child(Worker))
        await handle.cast(message, lambda: 0)
        await trio.testing.wait_all_tasks_blocked()
        assert [event.reason for event in seen if isinstance(event, DeadLetter)] == ["not_sent"]


async def test_who_was_tried_in_a_process_is_not_told_that_it_was_not_delivered(tmp_path: Path) -> None:
    """The first attempt has reached the handler, whatever became of the next one."""
    async with creche.open_runtime("t") as runtime:
        spec = creche.process_child(Fleeting, str(tmp_path / "marker")).options(restart="transient")
        handle = await runtime.start(spec)
        with pytest.raises(creche.OutcomeUnknown) as lost:
            await handle.ask.work()
        assert [type(cause) for cause in lost.value.causes] == [creche.ProcessDied]


async def test_an_actor_in_a_process_knows_which_incarnation_it_is() -> None:
    """Though its process is new."""
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(creche.process_child(Worker))
        assert await handle.ask.life() == 1
        with pytest.raises(creche.OutcomeUnknown):
            await handle.ask.fail()
        assert await handle.ask.life() == 2


def test_a_deterministic_run_refuses_what_processes_refuse() -> None:
    """Errors that cannot be sent, others being copies, and messages that are left open."""

    async def main() -> None:
        async with creche.open_runtime("t") as runtime:
            handle = await runtime.start(creche.process_child(Worker))
            with pytest.raises(creche.NotSendable) as refused:
                await handle.ask.answer("unsendable")
            assert refused.value.handled
            assert "Unsendable: holds a lambda" in str(refused.value)
            with pytest.raises(creche.DomainError, match="not today") as answer:
                await handle.ask.refuse()
            assert isinstance(answer.value.__cause__, creche.RemoteError)
            for how in ("defer", "stash"):
                with trio.fail_after(100), pytest.raises(creche.OutcomeUnknown) as lost:
                    await handle.ask.answer_later(how)
                assert str(lost.value.__cause__).startswith(f"{how}: in a process of its own a serial message")

    creche.testing.run(main, seed=1)


def test_a_process_imports_nothing_from_its_working_directory(tmp_path: Path) -> None:
    """If its program does not."""
    (tmp_path / "program.py").write_text(MAIN)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "queue.py").write_text("raise ImportError")
    command = [sys.executable, str(tmp_path / "program.py")]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2\n", "")


# --- what others do -------------------------------------------------------------------------------


async def test_a_message_with_a_limit_of_its_own_is_timed_in_a_process_too() -> None:
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        handle = await runtime.start(creche.process_child(Worker))
        await handle.ask.dawdle()
        assert [event.message for event in seen if isinstance(event, HandlerSlow)] == ["dawdle"]


@pytest.mark.parametrize("how", ["stop", "exit"])
async def test_a_crash_of_another_actor_in_the_process_is_not_its_own(how: str) -> None:
    """That one has started it there, and has been told."""
    async with creche.open_runtime("t") as runtime:
        seen = recorded(runtime)
        handle = await runtime.start(creche.process_child(Worker).options(restart="transient"))
        await handle.ask.lose_a_helper()
        if how == "stop":
            await runtime.stop(handle)
        else:
            await handle.ask.leave()
        assert await handle.wait_stopped() is None
        assert [event.kind for event in seen if isinstance(event, (BadStop, Crashed))] == []
