"""Which requests are let in: so many at once, the others in line, and none that has waited too long under overload.

Theory of operation
-------------------
A request that finds all places taken waits in line, first come, first served. Whoever leaves lets in the next ones
(`_let_in`), and that is where the rule of `Admission` is applied, as it is in worker pools.
A place is taken for a request that waits in the step in which it is let in, so a request that is cancelled in that very
moment has to give it back. Nothing here awaits between looking and changing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from math import ceil

import trio

from ...runtime.asgi import ASGIApp, Receive, Scope, Send
from ...supervisors.pools.admission import Admission, Admitting


class _Ticket:
    """A request in line."""

    __slots__ = ("came", "refused_after", "turn")

    def __init__(self, came: float) -> None:
        self.came = came
        self.turn = trio.Event()  # let in, or refused
        self.refused_after: float | None = None


class Gate:
    """See above. `shed` is told of each request that is refused: for how many seconds it has waited."""

    def __init__(self, places: int, admission: Admission, shed: Callable[[float], object]) -> None:
        self._places = places
        self._admitting = Admitting(admission)
        self._shed = shed
        self._line: dict[_Ticket, None] = {}  # in order
        self.running = 0
        self.shed = 0

    @property
    def waiting(self) -> int:
        """Requests in line."""
        return len(self._line)

    async def enter(self) -> float | None:
        """Take a place, or wait for one. Returns None, or for how long the request has waited if it is refused."""
        if self.running < self._places and not self._line:
            self.running += 1
            return None
        ticket = _Ticket(trio.current_time())
        self._line[ticket] = None
        try:
            await ticket.turn.wait()
        except BaseException:
            if not ticket.turn.is_set():
                del self._line[ticket]
                if not self._line:
                    self._admitting.emptied()
            elif ticket.refused_after is None:
                self.leave()
            raise
        return ticket.refused_after

    def leave(self) -> None:
        """Give a place back."""
        self.running -= 1
        while self._line and self.running < self._places:
            self._let_in(next(iter(self._line)))

    def _let_in(self, ticket: _Ticket) -> None:
        del self._line[ticket]
        now = trio.current_time()
        if not self._line:
            self._admitting.emptied()
        elif self._admitting.too_old(now - ticket.came, now):
            ticket.refused_after = now - ticket.came
            self.shed += 1
            self._shed(ticket.refused_after)
        if ticket.refused_after is None:
            self.running += 1
        ticket.turn.set()

    @contextmanager
    def place(self) -> Generator[None]:
        """Give it back at the end of the block."""
        try:
            yield
        finally:
            self.leave()


def admitted(app: ASGIApp, gate: Gate) -> ASGIApp:
    """`app` behind a gate for its HTTP requests: 503 with ``Retry-After`` for those that are refused."""

    async def admitted_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        refused_after = await gate.enter()
        if refused_after is not None:
            await _answer_overload(send, refused_after)
            return
        with gate.place():
            await app(scope, receive, send)

    return admitted_app


async def _answer_overload(send: Send, waited: float) -> None:
    body = b'{"error": {"code": "OVERLOAD", "message": "the service has too much to do"}}'
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"retry-after", str(ceil(waited)).encode()),
    ]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
