"""Who waits for a request: clients that leave, and clients that do not go on. In virtual time, without a network."""

from __future__ import annotations

import math

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import creche
from creche.components.http.admission import Gate, admitted
from creche.components.http.app import attended
from creche.runtime.asgi import ASGIApp, Message, Receive, Scope, Send

HTTP: Scope = {"type": "http", "path": "/"}


class Client:
    """What the server knows of one: what it has sent so far, and what it was answered."""

    def __init__(self) -> None:
        self._sent, self._messages = trio.open_memory_channel[Message](math.inf)
        self.answer: list[Message] = []
        self.takes_the_end = True  # of its answer

    def sends(self, body: bytes = b"", *, more: bool = False) -> None:
        self._sent.send_nowait({"type": "http.request", "body": body, "more_body": more})

    def leaves(self) -> None:
        self._sent.send_nowait({"type": "http.disconnect"})

    async def ask(self, app: ASGIApp) -> None:
        async def send(message: Message) -> None:
            self.answer.append(message)
            if message["type"] == "http.response.body" and not self.takes_the_end:
                await trio.sleep_forever()

        await app(HTTP, self._messages.receive, send)

    async def asks_and_leaves(self, app: ASGIApp) -> None:
        """When nothing goes on without it."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.ask, app)
            await wait_all_tasks_blocked()
            self.leaves()

    @property
    def status(self) -> int:
        return int(self.answer[0]["status"])


async def answer(send: Send, body: bytes = b"") -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


class Slow:
    """An application that takes its time, and then answers; or does not."""

    def __init__(self, seconds: float = math.inf, *, answers_first: bool = False) -> None:
        self.seconds = seconds
        self.answers_first = answers_first
        self.ended = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if self.answers_first:
                await answer(send)
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.ended = "cancelled"
            raise
        self.ended = "done"
        if not self.answers_first:
            await answer(send)


async def test_a_client_that_leaves_cancels_its_request(autojump_clock: MockClock) -> None:
    app, client = Slow(), Client()
    client.sends()
    await client.asks_and_leaves(attended(app, 30))
    assert (app.ended, client.answer) == ("cancelled", [])


async def test_what_comes_after_the_answer_goes_on(autojump_clock: MockClock) -> None:
    """Servers tell of the end of an exchange as of a client that leaves."""
    app, client = Slow(5, answers_first=True), Client()
    client.sends()
    await client.asks_and_leaves(attended(app, 30))
    assert (app.ended, client.status) == ("done", 200)


async def test_the_end_of_an_answer_does_not_wait_for_a_client_that_has_left(autojump_clock: MockClock) -> None:
    """Some servers would. What comes after the answer goes on all the same."""
    app, client = Slow(5, answers_first=True), Client()
    client.takes_the_end = False
    client.sends()
    await client.asks_and_leaves(attended(app, 30))
    assert (app.ended, client.status) == ("done", 200)
    assert trio.current_time() == pytest.approx(1 + 5)


async def test_a_client_that_leaves_the_line_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Its place in line is free at once."""
    gate = Gate(1, creche.Admission(), lambda waited: None)
    app, client = attended(admitted(Slow(), gate), 30), Client()
    await gate.enter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, app)
        await wait_all_tasks_blocked()
        assert gate.waiting == 1
        client.leaves()
    assert (gate.running, gate.waiting) == (1, 0)


@pytest.mark.parametrize(("more", "until"), [(False, 30), (True, 50)])
async def test_a_request_that_does_not_go_on_is_answered_408(
    autojump_clock: MockClock, more: bool, until: float
) -> None:
    """So many seconds after its head, or after what came last of its body."""
    app, client = Slow(), Client()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.ask, attended(app, 30))
        await trio.sleep(20)
        if more:
            client.sends(b"half", more=True)
    assert (app.ended, client.status) == ("cancelled", 408)
    assert trio.current_time() == pytest.approx(until)


async def test_an_application_may_take_longer_than_its_clients(autojump_clock: MockClock) -> None:
    app, client = Slow(100), Client()
    client.sends()
    await client.ask(attended(app, 30))
    assert (app.ended, client.status) == ("done", 200)


async def test_the_application_gets_the_request_as_it_comes(autojump_clock: MockClock) -> None:
    """Its body in order, and that the client is gone once it has been answered."""
    told: list[object] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        told.extend([(await receive())["body"] for _ in range(3)])
        await answer(send)
        told.append((await receive())["type"])

    client = Client()
    for part in (b"a", b"b"):
        client.sends(part, more=True)
    client.sends(b"c")
    await client.asks_and_leaves(attended(application, 30))
    assert told == [b"a", b"b", b"c", "http.disconnect"]


async def test_an_error_of_the_application_comes_out_as_itself(autojump_clock: MockClock) -> None:
    """In no group."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError("a bug")

    with pytest.raises(LookupError, match="a bug"):
        await Client().ask(attended(application, 30))
