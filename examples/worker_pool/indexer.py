"""The actors: readers, which are many and know nothing of each other, and the indexer, which sees that all is done.

Nothing that matters is kept in them. What has been done stands in the index, so whoever is killed, the indexer too, is
replaced by one that looks there and goes on. All steps may be repeated, so an unknown outcome is just one more try.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

import creche
from creche import components as c

from .index import TextIndex
from .text import Document, Unreadable, files_in, read_document

T = TypeVar("T")

PAUSES = creche.Backoff(first=0.02, cap=1.0, jitter=0.5, free=0)
CRASHES = 8


class Settings(creche.Config, frozen=True, kw_only=True):
    """The section ``indexer`` of the configuration."""

    suffixes: tuple[str, ...] = (".py", ".md", ".rst", ".txt")
    workers: int = 4
    processes: bool = False  # each worker in a process of its own: where there are cores enough; if not, in a thread


class Progress(msgspec.Struct, frozen=True):
    """How far it is, in files. `failed` tells why those are not in the index."""

    found: int = 0
    kept: int = 0  # were in the index already, unchanged
    done: int = 0
    failed: dict[str, str] = {}
    finished: bool = False


class Reader(creche.Actor):
    """Reads files. The pool has several."""

    async def read(self, path: str) -> Document:
        """Raises `Unreadable`."""
        return await self.context.runtime.run_blocking(read_document, path)


class Indexer(creche.Actor):
    """Brings the index up to date with the folder, once in each of its lives."""

    def __init__(self, folder: Path, settings: Settings, readers: creche.Pool[Reader], db: c.db.Db) -> None:
        self._folder = folder
        self._settings = settings
        self._readers = readers
        self._index = TextIndex(db)
        self._progress = Progress()
        self._finished = trio.Event()

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        self.context.spawn(self._bring_up_to_date)
        yield

    async def progress(self) -> Progress:
        """How far it is."""
        return self._progress

    @creche.message(concurrency=100, on_caller_gone="cancel")
    async def finished(self) -> Progress:
        """The same, when all is done."""
        await self._finished.wait()
        return self._progress

    async def _bring_up_to_date(self) -> None:
        runtime = self.context.runtime
        there = await runtime.run_blocking(files_in, self._folder, self._settings.suffixes)
        known = await again(runtime, lambda: self._index.files_below(self._folder))
        gone = [path for path in known if path not in there]
        await again(runtime, lambda: self._index.forget(gone))
        changed = [path for path, mtime_ns in there.items() if known.get(path) != mtime_ns]
        self._progress = Progress(found=len(there), kept=len(there) - len(changed))
        paths = iter(changed)  # all feeders take from it
        async with trio.open_nursery() as nursery:
            for _ in range(2 * self._settings.workers):  # so that a worker that is free finds something to do
                nursery.start_soon(self._feed, paths)
        self._progress = msgspec.structs.replace(self._progress, finished=True)
        self._finished.set()

    async def _feed(self, paths: Iterator[str]) -> None:
        for path in paths:
            try:
                await self._take_in(path)
            except (Unreadable, creche.OutcomeUnknown) as error:  # the latter: it has crashed its reader each time
                self._fail(path, f"{error} {error.__cause__ or ''}".strip())
            else:
                self._progress = msgspec.structs.replace(self._progress, done=self._progress.done + 1)

    async def _take_in(self, path: str) -> None:
        runtime = self.context.runtime
        document = await again(runtime, lambda: self._readers.ask.read(path))
        await again(runtime, lambda: self._index.save(document))

    def _fail(self, path: str, why: str) -> None:
        self._progress = msgspec.structs.replace(self._progress, failed={**self._progress.failed, path: why})


async def again(runtime: creche.Runtime, attempt: Callable[[], Awaitable[T]]) -> T:
    """Await ``attempt()``, which may be repeated, until it has worked.

    Who is down, was killed, or is restarted with others comes back, so it is waited for. But what has crashed its actor
    `CRASHES` times is given up: its error is raised.
    """
    tries = crashes = 0
    while True:
        try:
            return await attempt()
        except (creche.CallFailed, creche.Unavailable) as error:
            tries += 1
            own_crash = not isinstance(error.__cause__, creche.Killed | None)
            crashes += own_crash and isinstance(error, creche.OutcomeUnknown)
            if crashes == CRASHES or isinstance(error, creche.ActorStopped):
                raise
            pause = getattr(error, "retry_after", None) or 0.0
        await trio.sleep(pause + PAUSES.delay(tries, runtime.random))
