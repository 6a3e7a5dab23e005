"""What stands between the server and the application: the limits on its time, and who waits for it."""

from __future__ import annotations

from contextvars import ContextVar
from math import inf

import trio

from ...runtime.asgi import ASGIApp, Message, Receive, Scope, Send

request_deadline: ContextVar[float] = ContextVar("request_deadline", default=inf)
"""When the application's time for this request is over: the server shields its writes from the cancellation."""

_END_OF_ANSWER = 1.0  # seconds for the end of an answer whose client is said to have left


def limited(app: ASGIApp, seconds: float) -> ASGIApp:
    """`app` with at most `seconds` for each HTTP request: 504 if it has not begun to answer by then."""

    async def limited_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun = False

        async def watched_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        with trio.move_on_after(seconds) as limit:
            outer = request_deadline.set(limit.deadline)
            try:
                await app(scope, receive, watched_send)
            finally:
                request_deadline.reset(outer)
        if limit.cancelled_caught and not begun:
            await _answer(send, 504, b"the service took too long")

    return limited_app


def attended(app: ASGIApp, patience: float) -> ASGIApp:
    """`app` for as long as somebody waits for it: a client that leaves before it has its answer cancels the request.

    So does one that lets `patience` seconds pass until the next bytes of its request come, with 408. Servers tell of
    clients that have left by a message that few applications wait for.
    """

    async def attended_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await _Exchange(receive, send, patience).run(app, scope)
        else:
            await app(scope, receive, send)

    return attended_app


class _Exchange:
    """One request, read ahead by one message, and its answer. The price is a nursery and a task for each."""

    def __init__(self, receive: Receive, send: Send, patience: float) -> None:
        self._receive = receive
        self._send = send
        self._patience = patience
        self._ahead, self._messages = trio.open_memory_channel[Message](1)
        self._request = trio.CancelScope()
        self._end_of_answer = trio.CancelScope()
        self._begun = self._answered = self._client_left = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        failure: Exception | None = None
        with self._request:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_ahead)
                try:
                    await app(scope, self._messages.receive, self._watched_send)
                except Exception as error:
                    failure = error  # raised below: the nursery would wrap it
                nursery.cancel_scope.cancel()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure
        if self._request.cancelled_caught and not (self._client_left or self._begun):
            await _answer(self._send, 408, b"the request did not come in time")

    async def _watched_send(self, message: Message) -> None:
        self._begun = True
        if self._answered or message["type"] != "http.response.body" or message.get("more_body", False):
            await self._send(message)
            return
        self._answered = True  # what comes after it is nobody's to cancel
        self._request.deadline = inf
        with self._end_of_answer:
            await self._send(message)

    async def _read_ahead(self) -> None:
        more = True
        while True:
            if more and not self._answered:
                self._request.deadline = trio.current_time() + self._patience
            message = await self._receive()
            self._request.deadline = inf
            if message["type"] == "http.disconnect" and not self._answered:
                self._client_left = True
                self._request.cancel("the client has left")
                return
            if message["type"] == "http.disconnect":
                # Comes with the end of each answer too, and then nothing is left to wait for. Over HTTP/2 Hypercorn
                # would wait forever for a client that has left to take the rest.
                self._end_of_answer.deadline = trio.current_time() + _END_OF_ANSWER
            more = message.get("more_body", False)
            try:
                self._ahead.send_nowait(message)
            except trio.WouldBlock:
                await self._ahead.send(message)


async def _answer(send: Send, status: int, message: bytes) -> None:
    body = b'{"error": {"code": "TIMEOUT", "message": "%b"}}' % message
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
