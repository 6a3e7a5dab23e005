"""The request id of an HTTP request, as ASGI middleware."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from uuid import UUID

from ...runtime.asgi import with_header
from ...runtime.context import carrying
from .uuid7 import is_uuid7

if TYPE_CHECKING:
    from ...runtime.asgi import ASGIApp, Message, Receive, Scope, Send

_HEADER = b"x-request-id"
_STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})


def with_request_id(app: ASGIApp, new_id: Callable[[], UUID]) -> ASGIApp:
    """See `Uid.asgi_middleware`. `new_id` makes the ids of requests that bring none, or no valid one."""

    async def app_with_request_id(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await app(scope, receive, send)
            return
        request_id = valid_request_id(scope["headers"]) or str(new_id())

        async def echoing_send(message: Message) -> None:
            if message["type"] in _STARTS:
                message = with_header(message, _HEADER, request_id.encode())
            await send(message)

        with carrying(request_id=request_id):
            await app(scope, receive, echoing_send)

    return app_with_request_id


def valid_request_id(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The one request id among `headers`, if there is just one and it is a UUIDv7."""
    found = [value.decode("latin-1") for name, value in headers if name.lower() == _HEADER]
    return found[0] if len(found) == 1 and is_uuid7(found[0]) else None
