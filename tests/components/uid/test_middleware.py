"""The request id: taken, made, bound and echoed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from creche.components import uid as u
from creche.runtime.context import baggage

GIVEN = "0190163d-8694-739b-aea5-966c26f8ad91"

Headers = Sequence[tuple[bytes, bytes]]


class Exchange:
    """One call of an application: what it saw, and what it sent."""

    def __init__(self, kind: str = "http", response_headers: Headers = ()) -> None:
        self.kind = kind
        self.response_headers = response_headers
        self.seen: object = None
        self.sent: list[Any] = []

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen = baggage().get("request_id")
        start = {"http": "http.response.start", "websocket": "websocket.accept"}.get(
            self.kind, "lifespan.startup.complete"
        )
        message = {"type": start, "headers": self.response_headers} if self.response_headers else {"type": start}
        await send(message)
        await send({"type": f"{self.kind}.something"})

    async def send(self, message: Any) -> None:
        self.sent.append(message)

    async def receive(self) -> Any:
        raise AssertionError("nothing is received here")

    async def run(self, headers: Headers) -> list[bytes]:
        """Call it through the middleware; the values of the response's X-Request-ID."""
        scope = {"type": self.kind, "headers": headers}
        await u.Uid("uid").asgi_middleware(self.app)(scope, self.receive, self.send)
        return [value for name, value in self.sent[0].get("headers", ()) if name.lower() == b"x-request-id"]


@pytest.mark.parametrize("name", [b"x-request-id", b"X-Request-ID"])
async def test_a_valid_id_is_taken(name: bytes) -> None:
    """A UUIDv7 of the client's is the request's, in the baggage and in the response."""
    exchange = Exchange()
    assert await exchange.run([(b"host", b"x"), (name, GIVEN.encode())]) == [GIVEN.encode()]
    assert exchange.seen == GIVEN


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        ["no id"],
        [GIVEN.upper()],
        [GIVEN + "\n"],
        ["b9a5d8c3-3a4b-4f2f-9d39-1d8d6d1b7f10"],  # version 4
        [GIVEN, "0190163d-8694-739b-aea5-966c26f8ad92"],
        ["\xff\xfe"],
    ],
)
async def test_anything_else_is_replaced(values: list[str]) -> None:
    """Without an id, with a bad one or with two, the request gets a new one, and never the client's text."""
    exchange = Exchange()
    [echoed] = await exchange.run([(b"x-request-id", value.encode("latin-1")) for value in values])
    assert u.is_uuid7(echoed.decode())
    assert exchange.seen == echoed.decode()
    assert echoed.decode() not in values


async def test_each_request_has_its_own() -> None:
    """Two requests without an id get two."""
    assert await Exchange().run([]) != await Exchange().run([])


async def test_the_response_has_just_one() -> None:
    """An id that the application sets is replaced, its other headers stay, and so do other messages."""
    exchange = Exchange(response_headers=[(b"X-Request-Id", b"mine"), (b"content-type", b"text/plain")])
    assert await exchange.run([(b"x-request-id", GIVEN.encode())]) == [GIVEN.encode()]
    assert exchange.sent[0]["headers"][0] == (b"content-type", b"text/plain")
    assert exchange.sent[1] == {"type": "http.something"}
    assert exchange.response_headers[0] == (b"X-Request-Id", b"mine")


async def test_websockets_have_one_too() -> None:
    """The answer to the handshake carries it."""
    exchange = Exchange("websocket")
    assert await exchange.run([(b"x-request-id", GIVEN.encode())]) == [GIVEN.encode()]
    assert exchange.seen == GIVEN


async def test_lifespan_passes_through() -> None:
    """What is no request gets no id."""
    exchange = Exchange("lifespan")
    assert await exchange.run([]) == []
    assert exchange.seen is None
    assert exchange.sent[0] == {"type": "lifespan.startup.complete"}


async def test_the_id_is_unbound_afterwards() -> None:
    """After the request nothing of it stays in the task."""
    await Exchange().run([])
    assert "request_id" not in baggage()
