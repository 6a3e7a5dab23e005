"""An ASGI middleware: a trace id for each request, and a line. Pure ASGI, for any framework."""

from __future__ import annotations

from collections.abc import Iterable

import trio

from ...runtime.asgi import ASGIApp, Message, Receive, Scope, Send, with_header
from ...runtime.context import carrying
from .logger import logger
from .trace import TRACE_ID, from_traceparent, is_trace_id, new_trace_id

Headers = Iterable[tuple[bytes, bytes]]

_TRACEPARENT = b"traceparent"
_X_TRACE_ID = b"x-trace-id"
_ANSWERS = ("http.response.start", "websocket.accept")
_log = logger().namespace("http")


def asgi_middleware(app: ASGIApp) -> ASGIApp:
    """Give every request a trace id, and write one line about it when it is done.

    The id is that of a valid ``traceparent``, else a valid ``X-Trace-ID`` (1 to 64 letters, digits, ``.``,
    ``_``, ``-``), else a new one. It holds for all that is done in the request's task, is carried along by
    calls to actors, and is answered as ``X-Trace-ID``. WebSockets get the id but no line. The line, at
    `info`, has the method, the path without its query, the status and the duration in milliseconds.
    """

    async def traced(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        trace_id = incoming_trace_id(scope["headers"])
        exchange = _Exchange(scope, trace_id, send)
        with carrying(**{TRACE_ID: trace_id}):
            await exchange.run(app, receive)

    return traced


def incoming_trace_id(headers: Headers) -> str:
    """The trace id that a request's ASGI headers (lower-case names) ask for, or a new one."""
    parents, ids = _values(headers, _TRACEPARENT), _values(headers, _X_TRACE_ID)
    inherited = from_traceparent(parents[0]) if len(parents) == 1 else None
    if inherited is not None:
        return inherited
    if len(ids) == 1 and is_trace_id(ids[0]):
        return ids[0]
    return new_trace_id()


def _values(headers: Headers, wanted: bytes) -> list[str]:
    return [value.decode("latin-1").strip() for name, value in headers if name == wanted]


class _Exchange:
    """One request and what is answered to it."""

    def __init__(self, scope: Scope, trace_id: str, send: Send) -> None:
        self._scope = scope
        self._trace_id = trace_id.encode("ascii")
        self._send = send
        self._status: int | None = None
        self._began = trio.current_time()

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        try:
            await app(self._scope, receive, self._answer)
        except Exception as error:
            self._finished(self._status or 500, error_type=type(error).__name__)
            raise
        except BaseException:  # the client left, or the server stops
            self._finished(self._status, cancelled=True)
            raise
        self._finished(self._status)

    async def _answer(self, message: Message) -> None:
        if message["type"] in _ANSWERS:
            self._status = message.get("status")
            message = with_header(message, _X_TRACE_ID, self._trace_id)
        await self._send(message)

    def _finished(self, status: int | None, **more: object) -> None:
        if self._scope["type"] == "http":
            milliseconds = round((trio.current_time() - self._began) * 1000, 3)
            _log.info(
                "request",
                method=self._scope["method"],
                path=self._scope["path"],
                status=status,
                duration_ms=milliseconds,
                **more,
            )
