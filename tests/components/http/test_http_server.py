"""The HTTP server actor, over real connections on loopback."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio

import creche
from creche.components.http import ASGIApp, ServerConfig, http_server
from creche.runtime.asgi import Receive, Scope, Send

Connection = tuple[trio.SocketStream, bytes]
REQUEST = b"GET /%b HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"


class Application:
    """Answers ``/`` at once and ``/slow`` when told to; crashes on ``/bug``."""

    def __init__(self) -> None:
        self.entered = trio.Event()
        self.go_on = trio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] != "lifespan"
        if scope["path"] == "/bug":
            raise RuntimeError("a bug in the application")
        if scope["path"] == "/slow":
            self.entered.set()
            await self.go_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"answer"})


@asynccontextmanager
async def serving(app: ASGIApp, config: ServerConfig | None = None) -> AsyncGenerator[tuple[creche.Runtime, int]]:
    """A runtime that serves `app`, and the port."""
    async with creche.open_runtime("test") as runtime:
        server = await runtime.start(http_server(config or ServerConfig(port=0), app))
        _, port = await server.address()
        yield runtime, port


async def get(port: int, path: bytes = b"") -> bytes:
    """The whole response to one request on a connection of its own."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        await stream.send_all(REQUEST % path)
        return await read_all(stream)


async def read_all(stream: trio.SocketStream) -> bytes:
    return b"".join([chunk async for chunk in stream])


async def test_it_serves_an_asgi_application() -> None:
    async with serving(Application()) as (_, port):
        assert b"200" in await get(port)


async def test_starts_and_stops_say_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """An application that knows nothing of ASGI's lifespan is nothing to warn of, at no start and no restart."""
    async with serving(Application()) as (runtime, port):
        runtime.kill("root/http", "test")
        assert b"200" in await get(port)
        assert runtime.tree().find("root/http").restarts == 1
    assert [record.getMessage() for record in caplog.records if "hypercorn" in record.name] == []


async def test_an_application_never_sees_the_lifespan_events() -> None:
    """What it needs is started by the tree; so one that does handle them is not started twice."""
    seen: list[str] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with serving(application) as (_, port):
        assert b" 204 " in await get(port)
    assert seen == ["http"]


async def test_a_connection_made_while_the_actor_is_down_is_served_by_the_next_incarnation() -> None:
    app = Application()
    async with creche.open_runtime("test") as runtime:
        spec = http_server(ServerConfig(port=0), app).options(backoff=creche.Backoff(first=0.2, jitter=0, free=0))
        server = await runtime.start(spec)
        _, port = await server.address()
        with trio.move_on_after(5) as limit:
            runtime.kill(server, "test")
            while runtime.tree().find("root/http").state != "down":
                await trio.lowlevel.checkpoint()
            assert b"answer" in await get(port)  # the kernel has accepted it meanwhile
        assert not limit.cancelled_caught
        assert runtime.tree().find("root/http").restarts == 1
        assert await server.address() == ("127.0.0.1", port)


async def test_a_kill_drops_open_connections_and_nothing_else() -> None:
    app = Application()
    async with serving(app) as (runtime, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(REQUEST % b"slow")
            await app.entered.wait()
            runtime.kill("root/http", "test")
            with pytest.raises(trio.BrokenResourceError):
                assert await read_all(stream) == b""
                raise trio.BrokenResourceError  # an orderly end of file is a drop too
        assert b"answer" in await get(port)


async def test_a_stop_lets_open_requests_finish_and_takes_no_new_ones() -> None:
    app = Application()
    replies: list[bytes] = []
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            replies.append(await get(port, b"slow"))

        async with serving(app) as (runtime, port):
            nursery.start_soon(ask)
            await app.entered.wait()
            nursery.start_soon(runtime.stop, "root/http")
            while runtime.tree().find("root/http").state != "stopping":
                await trio.lowlevel.checkpoint()
            app.go_on.set()
    assert b"answer" in replies[0]
    with pytest.raises(OSError):  # noqa: PT011  # whichever way the platform refuses
        await get(port)


async def test_a_bug_in_the_application_answers_500_and_crashes_no_actor(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(Application()) as (runtime, port):
        assert b" 500 " in await get(port, b"bug")
        assert runtime.tree().find("root/http").restarts == 0


async def test_an_application_that_takes_too_long_is_answered_for_with_504() -> None:
    async with serving(Application(), ServerConfig(port=0, write_timeout=0.05)) as (_, port):
        assert b" 504 " in await get(port, b"slow")


async def test_a_port_that_is_taken_fails_the_start_and_names_the_address() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with creche.open_runtime("test") as runtime:
            with pytest.raises(creche.StartFailed, match=f"127.0.0.1:{port}"):
                await runtime.start(http_server(ServerConfig(port=port), Application()))
            assert not runtime.tree().children


def test_a_port_out_of_range_is_refused_before_anything_starts() -> None:
    with pytest.raises(creche.ConfigInvalid, match=r"\$\.port = 70000"):
        http_server(ServerConfig(port=70000), Application())


@pytest.mark.parametrize("checkpoints", range(0, 40, 4))
async def test_a_start_that_is_cancelled_frees_the_address(checkpoints: int) -> None:
    """Wherever it is cancelled: the same address can be had at once, and the next server answers there."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with creche.open_runtime("test") as runtime:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(runtime.start, http_server(ServerConfig(port=port), Application()))
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        for started in runtime.tree().children:  # before the cancel came
            await runtime.stop(started.path)
        await runtime.start(http_server(ServerConfig(port=port), Application(), name="next"))
        assert b"200" in await get(port)


@pytest.mark.parametrize("checkpoints", range(6))
async def test_asking_for_the_address_can_be_cancelled(checkpoints: int) -> None:
    """The server goes on, and the next question is answered."""
    async with creche.open_runtime("test") as runtime:
        server = await runtime.start(http_server(ServerConfig(port=0), Application()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.address)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        _, port = await server.address()
        assert b"200" in await get(port)


async def test_a_client_that_leaves_cancels_what_its_request_waits_for() -> None:
    """As any caller that goes."""
    entered, left = trio.Event(), trio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        entered.set()
        try:
            await trio.sleep_forever()
        finally:
            left.set()

    async with serving(application) as (_, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(REQUEST % b"")
            await entered.wait()
        with trio.fail_after(5):
            await left.wait()


async def test_the_time_for_reading_is_not_that_for_answering() -> None:
    """A client that waits for a slow answer has nothing to send; its connection serves the next request."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/slow":
            await trio.sleep(1.2)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": scope["path"][1:].encode()})

    async with serving(application, ServerConfig(port=0, read_timeout=0.1)) as (_, port):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            with trio.fail_after(5):
                for path in (b"slow", b"next"):
                    await stream.send_all(b"GET /%b HTTP/1.1\r\nHost: test\r\n\r\n" % path)
                    answer = b""
                    while not answer.endswith(path):
                        answer += await stream.receive_some()
                        assert answer


def test_the_time_to_drain_is_there_for_the_lifespan() -> None:
    """Open requests are drained while it is left, so its exit may take as long."""
    options = http_server(ServerConfig(drain=20), Application()).child_options
    assert options.shutdown > 20
    assert options.drain > 20
