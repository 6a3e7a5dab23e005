"""Which requests are let in: in virtual time, without a network."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

import creche
from creche.components.http import ServerConfig, default_config, http_server
from creche.components.http.admission import Gate, admitted
from creche.runtime.asgi import ASGIApp, Message, Receive, Scope, Send
from tests.cancelling import Strike, everywhere

RULE = creche.Admission(target=1, interval=5)
HTTP: Scope = {"type": "http", "path": "/"}


def sleepy(seconds: float) -> ASGIApp:
    """Answers after a while."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await trio.sleep(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    return application


async def nothing() -> Message:
    raise AssertionError("the body of a request that nobody reads")


async def request(app: ASGIApp) -> Message:
    """The head of the response."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await app(HTTP, nothing, send)
    return sent[0]


async def test_so_many_requests_at_once(autojump_clock: MockClock) -> None:
    """The others wait in line, in order of arrival; a burst is refused nothing."""
    gate = Gate(2, RULE, lambda waited: None)
    app, ended = admitted(sleepy(1), gate), []

    async def ask(number: int) -> None:
        assert (await request(app))["status"] == 200
        ended.append((number, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for number in range(6):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
        assert (gate.running, gate.waiting) == (2, 4)
    assert [{number for number, _ in ended[place : place + 2]} for place in (0, 2, 4)] == [{0, 1}, {2, 3}, {4, 5}]
    assert round(ended[-1][1]) == 3
    assert (gate.running, gate.waiting, gate.shed) == (0, 0, 0)


async def test_overload_is_answered_503(autojump_clock: MockClock) -> None:
    """With the time to wait; the others are served in time, and no place is ever idle."""
    told: list[float] = []
    gate = Gate(1, RULE, told.append)
    app = admitted(sleepy(0.5), gate)
    served: list[float] = []
    refused: list[dict[bytes, bytes]] = []

    async def ask() -> None:
        start = trio.current_time()
        head = await request(app)
        if head["status"] == 200:
            served.append(trio.current_time() - start)
        else:
            assert head["status"] == 503
            refused.append(dict(head["headers"]))

    async with trio.open_nursery() as nursery:
        for _ in range(200):  # twice as many as can be done
            nursery.start_soon(ask)
            await trio.sleep(0.25)
    assert len(refused) == gate.shed == len(told) > 50
    assert len(served) > 95
    assert max(served[30:]) <= 1 + 2 * 0.5
    assert all(int(headers[b"retry-after"]) >= 2 for headers in refused)
    assert (gate.running, gate.waiting) == (0, 0)


def test_a_place_is_given_back_wherever_the_request_is_cancelled() -> None:
    """In line, in the moment when it is let in, and while it is handled."""

    async def scenario(strike: Strike) -> None:
        gate = Gate(1, RULE, lambda waited: None)
        app = admitted(sleepy(0.1), gate)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(request, app)
            await trio.testing.wait_all_tasks_blocked()
            end = await strike.cancel(request, app)
            assert end.what in ("value", "cancelled")
        assert (gate.running, gate.waiting) == (0, 0)
        assert (await request(app))["status"] == 200

    everywhere(scenario)


async def test_a_server_counts_its_requests() -> None:
    """And takes its limits from its config."""
    config = ServerConfig(port=0, requests=3)
    assert default_config("production").wait_target == 1
    async with creche.open_runtime("test") as runtime:
        server = await runtime.start(http_server(config, sleepy(0)))
        now = await server.statistics()
        assert (now.running, now.waiting, now.shed) == (0, 0, 0)
    with pytest.raises(creche.ConfigInvalid):
        http_server(ServerConfig(requests=0), sleepy(0))


async def test_a_line_that_everybody_has_left_was_empty(autojump_clock: MockClock) -> None:
    """Then no queue stands any more, and the next burst is refused nothing."""
    gate = Gate(1, RULE, lambda waited: None)
    leaving = trio.CancelScope()

    async def leave_the_line() -> None:
        with leaving:
            await gate.enter()

    await gate.enter()
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(gate.enter)
        await trio.sleep(7)
        nursery.start_soon(gate.enter)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(leave_the_line)
        await trio.testing.wait_all_tasks_blocked()
        gate.leave()
        assert (gate.running, gate.waiting, gate.shed) == (1, 1, 3)
        leaving.cancel()
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            nursery.start_soon(gate.enter)
        await trio.sleep(2)
        gate.leave()
        assert (gate.running, gate.waiting, gate.shed) == (1, 1, 3)
        gate.leave()
