"""How far a consumer has come in one partition: pure, apart from the events that tasks wait for.

Done is what counts for a commit, and only what is contiguously done: everything before `Window.done`. Records behind it
may be done, too, when keys are handled in parallel; they are remembered and cost their place in the window, so what a
consumer holds is bounded although one record hangs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

import trio

from .message import Received, TopicPartition

_NO_END: Final = 2**63  # beyond all offsets

Lane = bytes | int | None  # a key; the offset of a record without one; or the whole partition


class Entry:
    """A record that was fetched, on its way to be done."""

    __slots__ = ("done", "failures", "lane", "record", "size", "tries", "waits", "window")

    def __init__(self, record: Received, window: Window, lane: Lane) -> None:
        self.record: Final = record
        self.size: Final = record.size
        self.window: Final = window
        self.lane: Final = lane
        self.done = False
        self.waits = False  # for its time: it is to be tried again, or not to be tried yet
        self.failures = 0  # those that count, in this topic
        self.tries = 0  # all failures


class Window:
    """What was fetched of a partition from some offset on, and what of it is done.

    Records of one lane are handed out one after another; lanes are keys, or with `by_key` False the whole partition is
    one. An entry that was handed out comes back through `finish`, and then the next one of its lane is handed out.
    """

    def __init__(self, offset: int, *, by_key: bool) -> None:
        self.position = offset  # the next to fetch
        self.size = 0  # bytes
        self.closed: Final = trio.Event()
        self._by_key = by_key
        self._entries: deque[Entry] = deque()  # from the first that is not done
        self._lanes: dict[Lane, deque[Entry]] = {}  # what waits behind the entry that is out

    def __len__(self) -> int:
        """Records held: all from the first that is not done."""
        return len(self._entries)

    @property
    def done(self) -> int:
        """Everything before this offset is done."""
        return self._entries[0].record.offset if self._entries else self.position

    def __iter__(self) -> Iterator[Entry]:
        """What it holds, in order of the offsets."""
        return iter(self._entries)

    def add(self, records: Iterable[Received]) -> list[Entry]:
        """Take what was fetched from `position` on. Returns the entries that may be handled now."""
        out: list[Entry] = []
        for record in records:
            entry = Entry(record, self, self._lane_of(record))
            self._entries.append(entry)
            self.size += entry.size
            self.position = record.offset + 1
            behind = self._lanes.get(entry.lane)
            if behind is None:
                self._lanes[entry.lane] = deque()
                out.append(entry)
            else:
                behind.append(entry)
        return out

    def finish(self, entry: Entry) -> Entry | None:
        """The entry is done. Returns the next one of its lane, which may be handled now."""
        entry.done = True
        while self._entries and self._entries[0].done:
            self.size -= self._entries.popleft().size
        behind = self._lanes[entry.lane]
        if behind:
            return behind.popleft()
        del self._lanes[entry.lane]
        return None

    def _lane_of(self, record: Received) -> Lane:
        if not self._by_key:
            return None
        return record.offset if record.key is None else record.key


class Partition:
    """One that the consumer reads. A seek gives it another window; entries of the former one are stale.

    When it is left, records may be done behind others that have not begun, if keys are handled in parallel. Those that
    were passed over (before `until`) are still handled, so that nothing that is done has to be done again. That ends at
    the first of them that would have to wait: one that fails, is paused, or is not due yet.
    """

    def __init__(self, place: TopicPartition, committed: int, *, by_key: bool) -> None:
        self.place: Final = place
        self.window = Window(committed, by_key=by_key)
        self.committed: int | None = committed  # None: what the log knows is out of date, whatever is done
        self.paused = False
        self.until = _NO_END  # to be released: nothing is begun from this offset on
        self.lost = False  # it is somebody else's
        self.at_end = False  # there was nothing more to fetch
        self.held: list[Entry] = []  # they would be next, but it is paused
        self.scopes: dict[Entry, trio.CancelScope] = {}  # of handlers that run
        self.aside: list[Entry] = []  # on their way to other topics
        self._by_key = by_key
        self._idle: trio.Event | None = None  # made when somebody waits for it

    @property
    def leaving(self) -> bool:
        """Whether it is to be released, or is lost."""
        return self.until != _NO_END

    def counts(self, entry: Entry) -> bool:
        """Whether it still matters what becomes of the entry: it was neither sought away nor lost."""
        return entry.window is self.window and not self.lost

    def may_begin(self, entry: Entry) -> bool:
        """Whether the entry may still be handled."""
        return entry.window is self.window and entry.record.offset < self.until

    def is_hungry(self, records: int, size: int) -> bool:
        """Whether it may hold more, holding not more than so many records and bytes, and nothing old runs any more."""
        if self.at_end or self.paused or self.leaving or len(self.window) > records or self.window.size > size:
            return False
        return all(entry.window is self.window for entry in self.scopes)

    def is_due(self) -> bool:
        """Whether there is something to commit."""
        return self.committed != self.window.done

    def is_idle(self) -> bool:
        """Whether nobody works for it, nor is to. No handler overlaps with one of a former window."""
        passed_over = self.leaving and self.window.done < self.until
        return not self.scopes and not self.aside and not passed_over

    def hold(self, entry: Entry) -> None:
        """The entry would be next, but it is paused."""
        if self.leaving:
            self.end_before(entry)
        else:
            self.held.append(entry)

    def seek(self, offset: int) -> None:
        """Go on from `offset`."""
        self.window.closed.set()
        self.window = Window(offset, by_key=self._by_key)
        self.at_end = False
        self.committed = None
        self.held.clear()
        if self.leaving:
            self.leave_at_once()

    def leave(self) -> None:
        """Begin nothing more but what was passed over. What runs goes on, and counts."""
        begun = [entry.record.offset for entry in self.window if entry.done or entry in self.scopes]
        begun += [entry.record.offset for entry in self.aside if entry.window is self.window]
        waiting = [entry.record.offset for entry in self.window if entry.waits]
        waiting += [entry.record.offset for entry in self.held]
        self.until = min([max(begun, default=-1) + 1, *waiting])
        self.window.closed.set()
        self.held.clear()

    def leave_at_once(self) -> None:
        """Begin nothing more."""
        self.until = 0
        self.window.closed.set()
        self.held.clear()
        self.tell_if_idle()

    def end_before(self, entry: Entry) -> None:
        """It is being left, and the entry would have to wait: begin nothing from there on."""
        if entry.window is self.window:
            self.until = min(self.until, entry.record.offset)
            self.tell_if_idle()

    def lose(self) -> None:
        """Somebody else may be at it already: end what runs."""
        self.leave_at_once()
        self.lost = True
        for scope in self.scopes.values():
            scope.cancel()

    def tell_if_idle(self) -> None:
        """To be called when somebody has ended to work for it, or something is done."""
        if self._idle is not None and self.is_idle():
            idle, self._idle = self._idle, None
            idle.set()

    async def wait_idle(self) -> None:
        """Return when nobody works for it, nor is to."""
        while not self.is_idle():
            if self._idle is None:
                self._idle = trio.Event()
            await self._idle.wait()


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
        """Return when it is set, at once if it is, or after `seconds`; at once, too, if these are over already."""
        if self._event.is_set():
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(max(0.0, seconds)):
            await self._event.wait()
