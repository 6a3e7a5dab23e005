"""What stands between the server and the application: the limit on its time, and ASGI's lifespan protocol."""

from __future__ import annotations

import trio

from ...runtime.asgi import ASGIApp, Message, Receive, Scope, Send


def limited(app: ASGIApp, seconds: float) -> ASGIApp:
    """`app` with at most `seconds` for each HTTP request: 504 if it has not begun to answer by then.

    It never sees ASGI's lifespan events: what it needs is started and stopped by the tree that it stands in.
    """

    async def limited_app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _answer_lifespan(receive, send)
            return
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        begun = False

        async def watched_send(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        with trio.move_on_after(seconds) as limit:
            await app(scope, receive, watched_send)
        if limit.cancelled_caught and not begun:
            await _answer_timeout(send)

    return limited_app


async def _answer_lifespan(receive: Receive, send: Send) -> None:
    """Say yes to both of its events, so that the server does not warn of an application that knows none of them."""
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return


async def _answer_timeout(send: Send) -> None:
    body = b'{"error": {"code": "TIMEOUT", "message": "the service took too long"}}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 504, "headers": headers})
    await send({"type": "http.response.body", "body": body})
