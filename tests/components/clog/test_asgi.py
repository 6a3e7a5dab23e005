"""The ASGI middleware, called as a server would call it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

import creche
from creche.components import clog
from creche.runtime.asgi import ASGIApp, Message, Receive, Scope, Send
from tests.components.clog.support import log_to

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{ID}-00f067aa0ba902b7-01".encode()
Headers = Sequence[tuple[bytes, bytes]]


class Echo(creche.Actor):
    async def trace(self) -> str | None:
        return clog.trace_id()


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that answers with the trace id it sees."""
    body = (clog.trace_id() or "").encode()
    await send({"type": "http.response.start", "status": 201, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


async def request(app: ASGIApp, headers: Headers = (), **scope: object) -> list[Message]:
    """One HTTP request; gives what the application sent."""
    sent: list[Message] = []
    about = {"type": "http", "method": "GET", "path": "/orders/1", "query_string": b"key=s3cret", "headers": headers}

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await clog.asgi_middleware(app)({**about, **scope}, receive, send)
    return sent


def trace_header(messages: list[Message]) -> str:
    (value,) = [value for name, value in messages[0]["headers"] if name == b"x-trace-id"]
    return str(value, "ascii")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([(b"traceparent", PARENT)], ID),
        ([(b"traceparent", PARENT), (b"x-trace-id", b"mine")], ID),
        ([(b"traceparent", b"nonsense"), (b"x-trace-id", b"mine")], "mine"),
        ([(b"x-trace-id", ID.encode())], ID),
        ([(b"x-trace-id", b"a.b_c-1")], "a.b_c-1"),
        ([], None),
        ([(b"x-trace-id", b"two words")], None),
        ([(b"x-trace-id", b"x\r\nset-cookie: a")], None),
        ([(b"x-trace-id", b"x" * 65)], None),
        ([(b"x-trace-id", b"\xff")], None),
        ([(b"x-trace-id", b"a"), (b"x-trace-id", b"b")], None),
        ([(b"traceparent", PARENT), (b"traceparent", PARENT)], None),
    ],
)
async def test_where_the_trace_id_comes_from(headers: Headers, expected: str | None) -> None:
    """A valid traceparent, else a valid X-Trace-ID, else a new one; the application and the client see the same."""
    start, body = await request(hello, headers)
    seen = body["body"].decode()
    assert trace_header([start, body]) == seen
    if expected is None:
        assert re.fullmatch(r"[0-9a-f]{32}", seen)
    else:
        assert seen == expected


async def test_the_trace_travels_from_the_request_to_actors() -> None:
    """What the application calls works under the request's id."""
    async with creche.open_runtime("svc") as runtime:
        echo = await runtime.start(creche.child(Echo))
        seen: list[str | None] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.append(await echo.ask.trace())

        await request(app, [(b"traceparent", PARENT)])
        assert seen == [ID]
        assert clog.trace_id() is None


async def test_each_request_is_one_line(tmp_path: Path, mock_clock: trio.testing.MockClock) -> None:
    """Method, path without its query, status and milliseconds, with the request's trace id."""

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        mock_clock.jump(0.25)
        await hello(scope, receive, send)

    async with log_to(tmp_path / "log") as log:
        await request(slow, [(b"traceparent", PARENT)])
        entry = await log.entry()
    assert "s3cret" not in log.path.read_text()
    expected: dict[str, object] = {"level": "info", "msg": "request", "namespace": "http", "trace_id": ID}
    expected |= {"method": "GET", "path": "/orders/1", "status": 201, "duration_ms": 250.0}
    assert {key: entry.get(key) for key in expected} == expected


async def test_an_application_that_raises_is_a_500(tmp_path: Path) -> None:
    """The error goes on to the server; the line names its type, not its text."""

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("private")

    async with log_to(tmp_path / "log") as log:
        with pytest.raises(ZeroDivisionError):
            await request(broken)
        entry = await log.entry()
    assert (entry["status"], entry["error_type"]) == (500, "ZeroDivisionError")
    assert "private" not in log.path.read_text()


async def test_a_request_that_is_cancelled_has_its_line(tmp_path: Path) -> None:
    """A client that leaves before the answer: no status, and the line says so."""

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep_forever()

    async with log_to(tmp_path / "log") as log:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request, endless)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        entry = await log.entry()
    assert (entry["status"], entry["cancelled"]) == (None, True)


async def test_the_applications_own_trace_header_is_replaced() -> None:
    """The client gets one X-Trace-ID; all other headers and messages pass unchanged."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 204, "headers": ((b"X-Trace-Id", b"x"), (b"a", b"b"))})
        await send({"type": "http.response.body"})

    start, body = await request(app, [(b"x-trace-id", b"mine")])
    assert start["headers"] == [(b"a", b"b"), (b"x-trace-id", b"mine")]
    assert body == {"type": "http.response.body"}


async def test_a_websocket_gets_the_id_and_no_line(tmp_path: Path) -> None:
    """The id is in its context and in the answer to the handshake."""
    seen: list[str | None] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(clog.trace_id())
        await send({"type": "websocket.accept"})

    async with log_to(tmp_path / "log") as log:
        messages = await request(app, [(b"x-trace-id", b"mine")], type="websocket")
        assert await log.entries() == []
    assert seen == ["mine"]
    assert trace_header(messages) == "mine"


async def test_other_scopes_pass_through() -> None:
    """The lifespan protocol is none of its business."""
    seen: list[Scope] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    await request(app, type="lifespan")
    assert [scope["type"] for scope in seen] == ["lifespan"]


async def test_hostile_paths_stay_in_their_line(tmp_path: Path) -> None:
    """A path with line breaks cannot forge an entry."""
    async with log_to(tmp_path / "log", format="console") as log:
        await request(hello, path="/x\n2026-01-02T03:04:05.678Z ERROR    forged")
        await log.handle.flush()
        assert log.path.read_text().count("\n") == 1
