"""Lines that wait to be written: bounded, filled from any thread, emptied by one writer.

Theory of operation
-------------------
Whoever logs only appends to a deque under a lock that nobody holds for longer than that; the writer takes
lines out in order. Lines come from Trio's thread and from worker threads, so the lock is one of threads. It
is re-entrant because a finalizer that logs may run at any allocation, also while this very thread holds the
lock.

When the buffer is full the newest line is dropped, and counted: what is already accepted stays accepted. The
writer, when it takes lines and so makes room, has the number reported in a line of its own, which stands
exactly where the gap is.

The writer parks in `wait_for_lines`, for the first line or for more of them; between its look at the deque and
its parking nothing can be missed, because both happen under the lock. Waking from another thread goes through
Trio's token.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

import trio


class Buffer:
    """See above. Made inside a Trio run. `write` and `flush` make it the binary file that eliot writes to."""

    def __init__(self, limit: int, report_dropped: Callable[[int], None]) -> None:
        self._limit = limit
        self._report_dropped = report_dropped  # writes a line into this buffer
        self._lock = threading.RLock()
        self._lines: deque[bytes] = deque()  # guarded by the lock, as everything below
        self._idle: trio.Event | None = None  # the writer waits
        self._enough = 1  # for so many lines
        self._unreported = 0
        self.accepted = 0
        self.dropped = 0
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.get_ident()

    def __len__(self) -> int:
        return len(self._lines)

    def write(self, line: bytes) -> None:
        """Accept one whole line, or drop and count it. Never blocks."""
        if not line:  # eliot asks with an empty write whether a file takes bytes
            return
        with self._lock:
            if len(self._lines) >= self._limit:
                self.dropped += 1
                self._unreported += 1
                return
            self._lines.append(line)
            self.accepted += 1
            if self._idle is None or len(self._lines) < self._enough:
                return
            idle, self._idle = self._idle, None
        self._wake(idle)

    def flush(self) -> None:
        """Part of the binary file; the writer decides when."""

    def take(self, most: int) -> list[bytes]:
        """Take out up to `most` lines, oldest first."""
        with self._lock:
            lines = [self._lines.popleft() for _ in range(min(most, len(self._lines)))]
            unreported, self._unreported = self._unreported, 0
            if unreported:
                self._report_dropped(unreported)  # nobody can take the room first: the lock is held
        return lines

    async def wait_for_lines(self, enough: int = 1) -> None:
        """Park until there are so many lines, or half of what has room, or until `hurry`.

        For one task, in Trio's thread.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._lock:
            self._enough = max(1, min(enough, self._limit // 2))
            if len(self._lines) >= self._enough:
                return
            self._idle = idle = trio.Event()
        await idle.wait()

    def hurry(self) -> None:
        """The writer has waited for long enough."""
        with self._lock:
            idle, self._idle = self._idle, None
        if idle is not None:
            self._wake(idle)

    def _wake(self, idle: trio.Event) -> None:
        if threading.get_ident() == self._thread:
            idle.set()
            return
        try:
            self._token.run_sync_soon(idle.set)
        except trio.RunFinishedError:
            pass
