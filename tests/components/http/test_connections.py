"""What clients do to a connection harms no other one, and holds nothing up. Over real connections on loopback."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

import creche
from creche.components.http import HttpServer, ServerConfig, http_server
from creche.components.http.app import limited
from creche.components.http.serving import Connection
from creche.runtime.asgi import ASGIApp, Message, Receive, Scope, Send

MORE_THAN_THE_KERNEL_HOLDS = b"x" * 32_000_000
UPGRADE_TO_HTTP2 = (
    b"GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: %b\r\n\r\n"
)
WEBSOCKET = (
    b"GET /websocket HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%b\r\n%b"
)
SETTINGS, HEADERS = 4, 1  # types of frames
END_STREAM_AND_HEADERS = 5


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def http2(settings: bytes, headers: bytes) -> bytes:
    """A connection with prior knowledge, and its first request."""
    opening = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, settings)
    return opening + frame(HEADERS, END_STREAM_AND_HEADERS, 1, headers)


MALFORMED = {
    "settings that are no base64": UPGRADE_TO_HTTP2 % b"zzz",
    "settings that are no frame": UPGRADE_TO_HTTP2 % b"AAAA",
    "CONNECT without a path": http2(b"", b"\x02\7CONNECT\x41\x01h"),
    "a protocol that is no ASCII": WEBSOCKET % (b"Sec-WebSocket-Protocol: \xff\r\n", b""),
    "an extension that is no ASCII": WEBSOCKET % (b"Sec-WebSocket-Extensions: permessage-deflate; x=\xff\r\n", b""),
    "a frame before the handshake": WEBSOCKET % (b"", b"\x81\x05hello"),
}


class Application:
    """Answers when told to, ``/`` with little, ``/much`` with more than the kernel holds; takes WebSockets."""

    def __init__(self) -> None:
        self.answering = trio.Event()
        self.go_on = trio.Event()
        self.ended = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.accept"})
            return
        try:
            body = MORE_THAN_THE_KERNEL_HOLDS if scope["path"] == "/much" else b"answer"
            await send({"type": "http.response.start", "status": 200, "headers": []})
            self.answering.set()
            if not self.go_on.is_set():  # no checkpoint then: whoever has seen `answering` finds it writing
                await self.go_on.wait()
            await send({"type": "http.response.body", "body": body})
        finally:
            self.ended.set()


@asynccontextmanager
async def serving(app: ASGIApp, config: ServerConfig) -> AsyncGenerator[tuple[creche.Runtime, HttpServer, int]]:
    async with creche.open_runtime("test") as runtime:
        server = await runtime.start(http_server(config, app))
        _, port = await server.address()
        yield runtime, server, port


@asynccontextmanager
async def connected(port: int, request: bytes) -> AsyncGenerator[trio.SocketStream]:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        yield stream


def asking(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n" % path


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("request_bytes", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_request_ends_its_own_connection_only(
    request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted and warned of once, and another client's open request is answered."""
    app = Application()
    with trio.fail_after(5):
        async with (
            serving(app, ServerConfig(port=0)) as (runtime, server, port),
            connected(port, asking(b"/")) as other,
        ):
            await app.answering.wait()
            async with connected(port, request_bytes) as malformed:
                await read_all(malformed)
            app.go_on.set()
            assert b"answer" in await read_all(other)
            assert runtime.tree().find("root/http").restarts == 0
            assert (await server.statistics()).broken == 1
    warned = [record for record in caplog.records if "error in its protocol" in record.getMessage()]
    assert [record.levelno for record in warned] == [logging.WARNING]


async def test_a_client_that_never_reads_has_the_time_for_one_request() -> None:
    app = Application()
    app.go_on.set()
    with trio.fail_after(5):
        async with serving(app, ServerConfig(port=0, write_timeout=0.2)) as (_, server, port):
            async with connected(port, asking(b"/much")) as stream:
                await app.ended.wait()
                assert (await server.statistics()).running == 0
                assert len(await read_all(stream)) < len(MORE_THAN_THE_KERNEL_HOLDS)


async def test_a_client_that_never_reads_holds_up_no_kill() -> None:
    app = Application()
    app.go_on.set()
    with trio.fail_after(5):
        async with serving(app, ServerConfig(port=0)) as (runtime, _, port), connected(port, asking(b"/much")):
            await app.answering.wait()
            runtime.kill("root/http", "test")
            async with connected(port, asking(b"/")) as other:
                assert b"answer" in await read_all(other)
            assert runtime.tree().find("root/http").restarts == 1


async def test_a_client_that_never_reads_has_the_time_to_drain_at_a_stop() -> None:
    """And no more: a second later the runtime would have enforced it."""
    app = Application()
    app.go_on.set()
    with trio.fail_after(5):
        async with serving(app, ServerConfig(port=0, drain=0.05)) as (runtime, _, port):
            async with connected(port, asking(b"/much")):
                await app.answering.wait()
                with trio.fail_after(1):
                    await runtime.stop("root/http")
                assert app.ended.is_set()


async def test_a_stop_does_not_wait_for_connections_without_a_request() -> None:
    app = Application()
    app.go_on.set()
    with trio.fail_after(5):
        async with serving(app, ServerConfig(port=0, drain=60, idle_timeout=60)) as (runtime, _, port):
            async with connected(port, b"GET / HTTP/1.1\r\nHost: test\r\n\r\n") as stream:
                answer = b""
                while b"answer" not in answer:
                    answer += await stream.receive_some()
                await runtime.stop("root/http")


async def test_an_http2_client_that_leaves_before_the_end_of_its_answer_frees_its_place() -> None:
    """Hypercorn goes on waiting for it to take the rest."""
    takes_nothing = b"\0\4\0\0\0\0"  # INITIAL_WINDOW_SIZE
    get = b"\x82\x84\x86\x41\x01h"
    app = Application()
    app.go_on.set()
    with trio.fail_after(5):
        async with serving(app, ServerConfig(port=0)) as (_, server, port):
            async with connected(port, http2(takes_nothing, get)):
                await app.answering.wait()
            await app.ended.wait()
            assert (await server.statistics()).running == 0


@pytest.mark.parametrize(("kind", "until"), [("http", 5), ("websocket", 3 + 60)])
async def test_a_write_ends_with_its_request(autojump_clock: MockClock, kind: str, until: float) -> None:
    """Or, if that has no limit, after a time of its own. The connection is closed then."""
    ours, theirs = socket.socketpair()
    connection = Connection(trio.SocketStream(trio.socket.from_stdlib_socket(ours)), 60)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(3)
        with trio.fail_after(1000, shield=True), pytest.raises(trio.BrokenResourceError):  # as Hypercorn shields
            await connection.send_all(MORE_THAN_THE_KERNEL_HOLDS)

    async def receive() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError(message)

    with theirs, ours:
        await limited(application, 5)({"type": kind}, receive, send)
        assert trio.current_time() == pytest.approx(until)
        assert ours.fileno() == -1
