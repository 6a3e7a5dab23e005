"""The clog actor: owns the sink, and writes its lines from a background task.

It has no messages. Lines do not pass through it, or a log line would cost a call, and a crash of the log
would fail its callers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio

from ...runtime.actor import Actor
from ...runtime.backoff import Backoff
from .config import Config
from .errors import OutputFailed
from .sink import Sink

# An output that takes nothing is looked at again after so many seconds; a kill waits as long at most.
PATIENCE = 0.2
RETRY = Backoff(first=0.1, cap=5.0, free=0)


class ClogActor(Actor):
    """See above."""

    def __init__(self, config: Config) -> None:
        self._config = config

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        sink = self.context.keep("sink", self._new_sink, Sink.close)
        await sink.open()
        self.context.spawn(self._write, sink)
        yield
        # Not reached after a crash: then the next incarnation goes on with what is left.
        try:
            await sink.outlet.flush()
        except OutputFailed:
            pass  # `close` tries once more, and says what is lost

    def _new_sink(self) -> Sink:
        return Sink(self.context.runtime, self._config, self.context.path)

    async def _write(self, sink: Sink) -> None:
        failures = 0
        while True:
            await sink.outlet.wait_for_lines()
            failures = await self._push(sink, failures)

    async def _push(self, sink: Sink, failures: int) -> int:
        """Push one batch. Returns how many pushes in a row have failed."""
        try:
            await sink.push(PATIENCE)
        except OSError as error:
            delay = RETRY.delay(failures + 1, self.context.runtime.random)
            sink.failed(error, delay)
            await trio.sleep(delay)
            return failures + 1
        return 0
