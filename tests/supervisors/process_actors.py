"""Actors of other processes, for the tests. They are imported there, so they stand in a module of their own."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

import creche
from creche.runtime.context import baggage


class Refused(creche.DomainError):
    pass


class Awkward(Exception):
    """Its constructor takes other arguments than it hands on."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"code {code}")
        self.code = code
        self.hint = hint


class Unsendable(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lambda")
        self.fn = lambda: None


class DiesInPickling:
    """Half of a reply is on its way when the process ends."""

    def __reduce__(self) -> Any:
        os.write(_connection(), b"\x11\0\0\0\1\0\0")
        os._exit(5)


def _connection() -> int:
    return int(sys.argv[1])


class ReadsBadly:
    """Can be pickled, and not be read again."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


def tell(where: str) -> None:
    """The number of this process, to whoever reads the named pipe."""
    Path(where).write_text(f"{os.getpid()}\n")


def marked(marker: str) -> bool:
    """Whether this has been called before, in whatever process."""
    before = Path(marker).exists()
    Path(marker).touch()
    return before


def compute_for_ever() -> None:
    """As far as Trio can see."""
    time.sleep(1e6)


def block_here(started: str) -> None:
    tell(started)
    compute_for_ever()


def start_program() -> int:
    return subprocess.Popen(["sleep", "1000"]).pid


class Worker(creche.Actor):
    def __init__(self, start: int = 0, *, broken: bool = False, hangs: bool = False) -> None:
        if broken:
            raise ValueError("no good start")
        if hangs:
            compute_for_ever()
        self.count = start
        self.met = trio.Event()

    async def pid(self) -> int:
        return os.getpid()

    async def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    async def echo(self, value: Any) -> Any:
        return value

    @creche.message(on_caller_gone="cancel")
    async def echo_for_caller(self, value: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return value

    async def size(self, value: Any) -> int:
        return len(value)

    async def refuse(self) -> None:
        raise Refused(7, "not today")

    @creche.message(raises=(Awkward, Unsendable))
    async def answer(self, kind: str) -> None:
        raise Awkward(5, hint="turn it") if kind == "awkward" else Unsendable

    async def fail(self) -> None:
        raise KeyError("a bug")

    async def unsendable(self) -> Any:
        self.count += 1
        return lambda: None

    async def die(self, how: str) -> None:
        if how == "exit":
            sys.exit(3)
        if how == "at once":
            os._exit(4)
        os.kill(os.getpid(), signal.SIGSEGV)

    @creche.message(idempotent=True)
    async def die_once(self, how: str, marker: str) -> int:
        """The first attempt takes the process with it, or is a crash."""
        if not marked(marker):
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError("a bug")
        return os.getpid()

    async def block(self, started: str) -> None:
        """Computes, or would: it never comes to a checkpoint."""
        tell(started)
        compute_for_ever()

    @creche.message(on_caller_gone="cancel")
    async def block_for_caller(self, started: str) -> None:
        tell(started)
        compute_for_ever()

    @creche.message(on_caller_gone="cancel")
    async def wait_for_caller(self, started: str) -> None:
        tell(started)
        try:
            await trio.sleep_forever()
        finally:
            self.count += 100

    async def wait_there(self, started: str) -> None:
        tell(started)
        await trio.sleep_forever()

    @creche.message(concurrency=2, on_caller_gone="cancel")
    async def block_beside(self, started: str, _value: bytes) -> None:
        tell(started)
        compute_for_ever()

    @creche.message(on_caller_gone="cancel")
    async def insist(self, started: str, how: str) -> str:
        """It is cancelled, and has something to say all the same."""
        tell(started)
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            if how == "answer":
                raise Refused(8, "too late") from None
            return "done"

    @creche.message(concurrency=4)
    async def meet(self, number: int) -> int:
        self.count += 1
        if self.count == number:
            self.met.set()
        await self.met.wait()
        return self.count

    async def context_of_caller(self) -> tuple[dict[str, object], float]:
        return dict(baggage()), creche.current_deadline() - trio.current_time()

    async def answer_later(self, how: str) -> None:
        if how == "stash":
            self.context.stash()
        self.context.defer()

    async def leave(self) -> str:
        self.context.exit()
        return "bye"

    async def fail_beside(self) -> None:
        async def beside() -> None:
            raise OSError("beside")

        self.context.spawn(beside)

    async def reply_in_part(self) -> DiesInPickling:
        return DiesInPickling()

    async def start_program(self) -> int:
        return start_program()

    async def fork_and_die(self) -> None:
        if not os.fork():
            compute_for_ever()
        os._exit(4)

    async def start_fork(self, started: str) -> None:
        self.fork = multiprocessing.get_context("fork").Process(target=block_here, args=(started,))
        self.fork.start()

    async def end_fork(self) -> int | None:
        self.fork.terminate()
        self.fork.join(5)
        return self.fork.exitcode

    async def hold_the_lock(self, started: str) -> None:
        """Compute without ever letting go of Python's lock."""
        tell(started)
        re.match("(a+)+$", "a" * 100 + "b")

    @creche.message(slow_after=0.05)
    async def dawdle(self) -> None:
        await trio.sleep(0.5)

    async def lose_a_helper(self) -> None:
        helper = await self.context.runtime.start(creche.child(Helper))
        with suppress(creche.OutcomeUnknown):
            await helper.ask.fail()

    async def life(self) -> int:
        return self.context.incarnation


class Helper(creche.Actor):
    async def fail(self) -> None:
        raise KeyError("a bug of somebody else")


class Closing(creche.Actor):
    """Notes its end in a file."""

    def __init__(self, path: str, *, badly: bool = False) -> None:
        self._path = path
        self._badly = badly

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        yield
        tell(self._path)
        if self._badly:
            raise ValueError("bad end")

    async def ping(self) -> str:
        return "pong"


class Fleeting(creche.Actor):
    """Its process is killed by its first message. Then it leaves as soon as it is there."""

    def __init__(self, marker: str) -> None:
        self._marker = marker
        if Path(marker).exists():
            self.context.exit()

    @creche.message(idempotent=True)
    async def work(self) -> None:
        marked(self._marker)
        os.kill(os.getpid(), signal.SIGKILL)


class Batch(creche.Actor):
    @creche.batched(limit=3)
    async def take(self, items: Sequence[creche.BatchItem[int, int]]) -> None:
        for item in items:
            item.reply(item.value)


class Heir(creche.Actor):
    def handover(self) -> object:
        return None


def crunch(number: int) -> int:
    return sum(range(number))


def divide(number: int, by: int) -> float:
    return number / by
