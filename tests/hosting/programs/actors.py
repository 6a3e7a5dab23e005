"""The actor that the programs of this folder call from another event loop, and how they say what they see."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

import creche


def say(*words: object) -> None:
    """One line for the test that runs the program."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


class Greeter(creche.Actor):
    def __init__(self, tell: Callable[[str], object]) -> None:
        self.tell = tell

    @asynccontextmanager
    async def lifespan(self) -> AsyncIterator[None]:
        try:
            yield
        finally:
            say(f"incarnation {self.context.incarnation} has ended")

    async def greet(self, name: str) -> str:
        return f"hello, {name}"

    async def crash(self) -> None:
        raise RuntimeError("a bug in the greeter")

    @creche.message(on_caller_gone="cancel")
    async def ponder(self) -> None:
        self.tell("pondering")
        try:
            await trio.sleep_forever()
        except trio.Cancelled:
            self.tell("cancelled")
            raise
