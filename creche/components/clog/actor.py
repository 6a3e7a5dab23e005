"""The clog actor: owns the sink, and writes its lines from a background task.

Lines do not pass through it, or a log line would cost a call, and a crash of the log would fail its callers. Its one
message brings another config.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from ...runtime.actor import Actor, message
from ...runtime.backoff import Backoff
from ...runtime.errors import ConfigInvalid
from .config import Config
from .sink import Sink

# An output that takes nothing is looked at again after so many seconds; a kill waits as long at most.
PATIENCE = 0.2
# After a batch lines gather for so many seconds: a visit to the thread costs as much as some fifty lines.
GATHER = 0.01
RETRY = Backoff(first=0.1, cap=5.0, free=0)


class ClogActor(Actor):
    """See above. `clock` gives seconds since the epoch."""

    def __init__(self, config: Config, clock: Callable[[], float] | None = None) -> None:
        self._config = config
        self._clock = clock or self.context.runtime.wall_clock

    @asynccontextmanager
    async def lifespan(self) -> AsyncGenerator[None]:
        self._sink = sink = self.context.keep("sink", self._new_sink, Sink.close)
        await sink.open()
        self.context.spawn(self._write, sink)
        yield
        # The writer has ended by now. Not reached after a crash: then the next incarnation goes on with what is left.
        await self._write_the_rest(sink)

    @message(raises=ConfigInvalid)
    async def take_config(self, config: Config) -> None:
        """Let another config hold from the next line on. Sets it as a whole, so it may be sent twice."""
        self._sink.apply(config)

    def _new_sink(self) -> Sink:
        return Sink(self.context.runtime, self._config, self.context.path, self._clock)

    async def _write(self, sink: Sink) -> None:
        failures = 0
        while True:
            if sink.outlet.untidy:
                await sink.tidy()
            if sink.outlet.left or not sink.outlet.untidy:
                await sink.outlet.wait_for_lines()
                failures = await self._push(sink, failures)
                await sink.outlet.let_gather(GATHER)

    async def _write_the_rest(self, sink: Sink) -> None:
        """Until the time of the stop is up. After a failure `Sink.close` tries once more, and says what is lost."""
        try:
            while sink.outlet.left:
                await sink.push(PATIENCE)
        except OSError as error:
            sink.failed(error, 0.0)

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
