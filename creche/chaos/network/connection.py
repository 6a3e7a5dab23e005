"""The I/O of one connection.

Theory of operation
-------------------
Five tasks. For each direction one reads from its source into the line, and waits while too much waits there, which is
what slows a fast sender down; another takes from the line when that is due, and writes to its sink. The fifth, which is
the caller of `run`, watches for the end. All that decides is in `Link`; whoever changes it rings the bell of the line,
or of the link. No await stands between asking the link and waiting for a bell.

The end is always reached in the watching task: it stops the writers first, because to shut a stream down while somebody
writes to it is an error in Trio. Streams are closed by their context managers, however `run` ends.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import NamedTuple, final

import trio

from .faults import Ending, Fault
from .line import Line, Mark
from .link import End, Link
from .sockets import Stream, is_over, on_its_way, probe, reset

CHUNK = 65_536
LINGER = 1.0
"""Seconds for which, after an orderly close, what still arrives is thrown away instead of being answered by a reset."""
PATIENCE = 5.0
"""Seconds for which, before a reset, a peer may take nothing of what is on its way to it."""
_GLANCE = 0.005  # seconds between two looks at what is on its way: a reset is to follow its bytes closely
_LOOK = 1.0  # seconds between two looks whether a peer is there that has nothing to say


class Traffic(NamedTuple):
    """Bytes: passed on to the server, and to the client; swallowed; waiting."""

    upstream: int = 0
    downstream: int = 0
    swallowed: int = 0
    waiting: int = 0

    def plus(self, other: Traffic) -> Traffic:
        """Both together."""
        return Traffic(*(mine + its for mine, its in zip(self, other, strict=True)))


@final
class Bell:
    """Wakes all that wait for it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        """Wake them."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self, until: float) -> None:
        """Wait for the next ring, at most until a time."""
        event = self._event
        with trio.move_on_at(until):
            await event.wait()


@final
class _Flow:
    """One direction."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.fed = Bell()
        self.room = Bell()
        self.passed = 0


@final
class Connection:
    """See above. `buffer` bounds the bytes that wait in each direction, but for one more read."""

    def __init__(self, link: Link, buffer: int) -> None:
        self._link = link
        self._buffer = buffer
        self._upstream = _Flow(link.upstream)
        self._downstream = _Flow(link.downstream)
        self._bell = Bell()
        self._closing = False
        self._reading = 0
        self._dialing = trio.CancelScope()

    def traffic(self) -> Traffic:
        """What has passed so far, and what has not."""
        lines = (self._upstream.line, self._downstream.line)
        return Traffic(
            self._upstream.passed,
            self._downstream.passed,
            sum(line.swallowed for line in lines),
            sum(line.size for line in lines),
        )

    def change(self, faults: Mapping[str, Fault]) -> list[str]:
        """These faults are in force from now on. Returns the names of those that begin to strike."""
        names = self._link.change(faults, trio.current_time())
        self._ring()
        return names

    def cut(self, how: Ending) -> None:
        """End it."""
        self._link.cut(how)
        self._ring()

    async def dialed(self, dial: Callable[[], Awaitable[Stream]]) -> Stream | End:
        """The server, or how the connection is to end before there is one. Raises what `dial` does.

        What is to end from the very beginning is dialed all the same: the server is to see that end, too.
        """
        due = self._link.due()
        with trio.CancelScope(deadline=due if due > trio.current_time() else math.inf) as self._dialing:
            return await dial()
        return self._link.verdict(trio.current_time()) or "reset"

    async def run(self, client: Stream, server: Stream) -> End:
        """Pass bytes on in both directions until the end. Returns how it ended; the streams are closed then."""
        async with client, server, trio.open_nursery() as readers:
            readers.start_soon(self._read, self._upstream, client)
            readers.start_soon(self._read, self._downstream, server)
            async with trio.open_nursery() as writers:
                writers.start_soon(self._write, self._upstream, server)
                writers.start_soon(self._write, self._downstream, client)
                end = await self._watch(client, server)
                writers.cancel_scope.cancel(end)
            await self._finish(end, client, server)
            readers.cancel_scope.cancel(end)
        return end

    # --- the end --------------------------------------------------------------------------------------

    async def _watch(self, client: Stream, server: Stream) -> End:
        left: Stream | None = None
        while (end := self._link.verdict(trio.current_time())) is None:
            if self._link.gone is not None and left is None:
                vanished, left = (server, client) if self._link.gone == "server" else (client, server)
                await reset(vanished)
                probe(left)
            elif left is None:
                await self._bell.wait(self._link.due())
            elif is_over(left):
                self._link.cut("done")
            else:
                await self._bell.wait(min(self._link.due(), trio.current_time() + _LOOK))
        return end

    async def _finish(self, end: End, client: Stream, server: Stream) -> None:
        if end == "reset":
            await self._arrival(client, server)
            await reset(client)
            await reset(server)
        elif end == "close":
            self._closing = True
            self._ring()
            for stream in (client, server):
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await stream.send_eof()
            await self._arrival(client, server)
            by = trio.current_time() + LINGER
            while self._reading and trio.current_time() < by:
                await self._bell.wait(by)

    async def _arrival(self, client: Stream, server: Stream) -> None:
        """Wait until the bytes before a cut or a reset have arrived: that throws away what the kernel still has."""
        left, by = math.inf, 0.0
        while (line := self._link.promised) is not None:
            still_left, now = on_its_way(server if line is self._link.upstream else client), trio.current_time()
            if still_left < left:
                left, by = still_left, now + PATIENCE
            if not left or now >= by:
                break
            await self._bell.wait(min(now + _GLANCE, self._link.due()))
            self._link.verdict(trio.current_time())

    # --- the bytes ------------------------------------------------------------------------------------

    async def _read(self, flow: _Flow, source: Stream) -> None:
        self._reading += 1
        mark = await self._read_to_end(flow, source)
        self._reading -= 1
        if mark is not None:
            self._link.ended(flow.line, mark, trio.current_time())
        self._ring()

    async def _read_to_end(self, flow: _Flow, source: Stream) -> Mark | None:
        """Returns how the stream ended; None if it did so by our own doing."""
        try:
            while True:
                while flow.line.size >= self._buffer and not self._closing:
                    await flow.room.wait(math.inf)
                data = await source.receive_some(CHUNK)
                if not data:
                    return Mark.END
                if not self._closing:
                    flow.line.feed(bytes(data), trio.current_time())
                    flow.fed.ring()
        except trio.BrokenResourceError:
            return Mark.RESET
        except trio.ClosedResourceError:
            return None

    async def _write(self, flow: _Flow, sink: Stream) -> None:
        while self._link.verdict(now := trio.current_time()) is None:
            due = flow.line.due()
            if due > now:
                await flow.fed.wait(due)
            else:
                out = flow.line.take(now)
                flow.room.ring()
                flow.line.in_hand = True
                await self._pass_on(flow, out, sink)
                flow.line.in_hand = False
        self._bell.ring()

    async def _pass_on(self, flow: _Flow, out: bytes | Mark, sink: Stream) -> None:
        try:
            if isinstance(out, Mark):
                if out is Mark.END:
                    await sink.send_eof()
                self._link.passed_on(flow.line, out)
            elif out:
                await sink.send_all(out)
                flow.passed += len(out)
        except trio.BrokenResourceError:
            self._link.lost(flow.line, trio.current_time())
            self._ring()
        except trio.ClosedResourceError:
            flow.line.deaf = True

    def _ring(self) -> None:
        """Everybody looks again."""
        if self._link.verdict(trio.current_time()) is None:
            self._dialing.deadline = self._link.due()
        else:
            self._dialing.cancel("the connection ends")
        for bell in (self._bell, self._upstream.fed, self._upstream.room, self._downstream.fed, self._downstream.room):
            bell.ring()
