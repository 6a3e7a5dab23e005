"""From the buffer to the output, accounted for byte by byte.

Theory of operation
-------------------
`push` moves lines from the buffer to `_pending`, and these to the output. It runs in a worker thread and may
end at any point, by an OSError or because the output takes nothing; the next push goes on at that byte. So a
kill of whoever pushes loses, doubles and tears no line. It never runs twice at once: the clog actor's
background task awaits it; that has ended when the lifespan is left, which writes the rest, and before the next
incarnation begins.

`_progress` is set and replaced after each push and at the end; `flush` waits for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from .buffer import Buffer
from .errors import OutputFailed
from .output import Output

_BATCH = 1024  # lines per push: a thread hop costs as much as some fifty lines


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counts since the component was started, in lines. ``accepted == written + buffered``.

    `dropped` found no room in the buffer, `sampled` were left out by sampling. `failure` says why the output refuses
    lines at the moment, or is None.
    """

    accepted: int
    written: int
    buffered: int
    dropped: int
    sampled: int
    failure: str | None


class Outlet:
    """See above. Made inside a Trio run; everything but `push` is for Trio's thread."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._output: Output | None = None
        self._pending = memoryview(b"")
        self._pending_lines = 0
        self._written = 0
        self._closed = False
        self._flushing = 0  # how many wait in `flush`
        self._progress = trio.Event()
        self.failure: OutputFailed | None = None

    @property
    def output(self) -> Output | None:
        """Where lines go, once it is open."""
        return self._output

    def attach(self, output: Output) -> None:
        """Write to `output` from now on. It is closed with the outlet."""
        self._output = output

    # --- writing --------------------------------------------------------------------------------

    async def wait_for_lines(self) -> None:
        """Park until there is something to write."""
        if not self._pending:
            await self._buffer.wait_for_lines()

    async def let_gather(self, seconds: float) -> None:
        """Park for so long, or until there is a batch of lines, or somebody waits for them to be written."""
        if not self._pending and not self._flushing:
            with trio.move_on_after(seconds):
                await self._buffer.wait_for_lines(_BATCH)

    def push(self, patience: float) -> bool:
        """Write one batch. Blocking, for a worker thread.

        False: the output took nothing for `patience` seconds, and the rest is pending. Raises OSError.
        """
        assert self._output is not None
        if not self._pending:
            self._load()
        while self._pending:
            taken = self._output.write(self._pending, patience)
            if not taken:
                return False
            self._pending = self._pending[taken:]
        self._written, self._pending_lines = self._written + self._pending_lines, 0
        return True

    @property
    def untidy(self) -> bool:
        """Whether `tidy` has something to do."""
        return self._output is not None and self._output.untidy

    def tidy(self) -> None:
        """One short step of that. Blocking, for a worker thread. Raises OSError."""
        assert self._output is not None
        self._output.tidy()

    def _load(self) -> None:
        lines = self._buffer.take(_BATCH)
        self._pending_lines = len(lines)
        self._pending = memoryview(b"".join(lines))

    def push_ready(self) -> None:
        """Write what the output takes at once, in this thread: for ends, when nothing can be awaited any more."""
        try:
            while self.left and self._output is not None and self.push(0.0):
                pass
        except OSError as error:
            self.failed(OutputFailed("log output", str(error)))

    def progressed(self) -> None:
        """A push has succeeded: tell whoever waits."""
        self.failure = None
        self._tell()

    def failed(self, failure: OutputFailed) -> None:
        """A push has failed: tell whoever waits."""
        self.failure = failure
        self._tell()

    def close(self) -> None:
        """The end. What has not been written by now never will be."""
        self._closed = True
        if self._output is not None:
            self._output.close()
        self._tell()

    def _tell(self) -> None:
        progress, self._progress = self._progress, trio.Event()
        progress.set()

    # --- asking ---------------------------------------------------------------------------------

    @property
    def left(self) -> int:
        """Lines that are accepted and not written."""
        return self._pending_lines + len(self._buffer)

    def statistics(self, sampled: int) -> Statistics:
        """See `Statistics`."""
        failure = None if self.failure is None else self.failure.reason
        return Statistics(self._buffer.accepted, self._written, self.left, self._buffer.dropped, sampled, failure)

    async def flush(self) -> bool:
        """Wait until everything accepted so far is written. False: it never will be. Raises `OutputFailed`."""
        mark = self._buffer.accepted
        await trio.lowlevel.checkpoint()
        self._flushing += 1
        self._buffer.hurry()
        try:
            return await self._written_up_to(mark)
        finally:
            self._flushing -= 1

    async def _written_up_to(self, mark: int) -> bool:
        while self._written < mark:
            if self.failure is not None:
                raise OutputFailed(self.failure.name, self.failure.reason, self.failure.retry_after)
            if self._closed:
                return False
            await self._progress.wait()
        return True
