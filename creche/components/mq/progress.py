"""How far a consumer has come in one partition, and what its tasks wake each other with."""

from __future__ import annotations

from typing import Final

import trio

from .log import TopicPartition


class Progress:
    """One partition, as one incarnation of a consumer sees it.

    `done` is the next offset to handle: everything before it is done, which is all that may be committed. While a
    worker is at the partition (`busy`) nothing else fetches for it or handles it, so its order is kept. A `seek` moves
    `done` and begins another `epoch`; the worker of the former one finds out after the record in hand and leaves the
    partition as it is then.
    """

    def __init__(self, place: TopicPartition, committed: int) -> None:
        self.place: Final = place
        self.done = committed
        self.committed: int | None = committed  # None: what the log knows is out of date, whatever `done` is
        self.busy = False
        self.epoch = 0
        self.failures = 0  # of the record at `done`: those that count
        self.tries = 0  # of the record at `done`: all of them
        self._interrupted = trio.Event()

    def advance(self, epoch: int, offset: int) -> int:
        """The record at `offset` is done. Returns how many offsets that moved: none if the epoch is over."""
        if epoch != self.epoch:
            return 0
        moved = offset + 1 - self.done
        self.done = offset + 1
        self.failures = self.tries = 0
        return moved

    def seek(self, offset: int) -> None:
        """Go on from `offset`."""
        self.epoch += 1
        self.done = offset
        self.committed = None
        self.failures = self.tries = 0
        self.interrupt()

    def is_due(self) -> bool:
        """Whether there is something to commit."""
        return self.committed != self.done

    def failed(self, counts: bool) -> None:
        """The record at `done` was tried in vain."""
        self.tries += 1
        self.failures += counts

    def interrupt(self) -> None:
        """Let the worker look up from its backoff."""
        self._interrupted.set()
        self._interrupted = trio.Event()

    async def back_off(self, delay: float) -> None:
        """Sleep for `delay` seconds, or until interrupted."""
        with trio.move_on_after(delay):
            await self._interrupted.wait()


class Latch:
    """An event that can be cleared: it remembers that it was set until somebody clears it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Wake whoever waits, now or next."""
        self._event.set()

    def clear(self) -> None:
        """Forget that it was set."""
        if self._event.is_set():
            self._event = trio.Event()

    async def wait(self, seconds: float) -> None:
        """Return when it is set, at once if it is, or after `seconds`."""
        with trio.move_on_after(seconds):
            await self._event.wait()
