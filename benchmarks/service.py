"""The message service against the same handler without actors: ``python -m benchmarks.service``.

Theory of operation
-------------------
So many clients post messages, each one after the other, to an ASGI application in their own process and event loop:
without sockets, so that neither a server nor a client blurs the comparison, and for some rows over a socket, where the
client's share is in both figures. Each probe starts with files that hold nothing but users and sessions, and posts a
few messages that do not count. Then it counts what is stored, announced and logged: a contender that did less than it
should is an error.

Threads and the disk are part of it, so everything is timed with the wall clock. The rate of a round is all its requests
over its time; p50 and p99 are of the single requests of that round. All contenders have their turn in each round, in
an order shuffled anew, and a row is the median of the rounds' ratios. See `_service_rival` for what the rival does and
leaves out, `_service_ours` for what is measured of ours.

Rows ``rate`` are requests per second, ours over theirs: higher is better, and the goal is at least 0.8. The others are
microseconds: lower is better.

The rows, by what they compare:

``example``    the example's handler as it is, with a rival that does what it does: a transaction is one visit to the
               thread. Ours that wait together share a COMMIT; the rival's are one by one.
``awaiting``   each statement is awaited, on both sides; ours takes one message at a time.
``socket``     as ``example``, over Hypercorn and a socket. The clients share the processor with the server.
``deliver``    all of the example over a socket: its relay, its log and its consumers deliver the messages meanwhile, in
               several more transactions for each. The rival is that of ``socket``, which delivers nothing. No goal.
"""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio

from creche.components.http import ASGIApp
from examples.message_service.database import make_database
from examples.message_service.distribution import Kind
from examples.message_service.http_client import HttpClient
from examples.message_service.model import Session, User

from . import _harness as harness
from . import _service_ours as ours
from . import _service_rival as rival
from ._harness import Probe, Row, Size

CROWDS = (1, 16, 64)  # clients at once
SHARE = 20  # of the harness' operations: a request is dear
WARM_UP = 10  # requests that do not count
MEMBERS = ("ada", "bob")
BODY = msgspec.json.encode({"user_id": "ada", "content": "Text of the usual length of a line in a conversation. " * 2})

Post = Callable[[str], Awaitable[int]]  # post a message with this key; the status
Serving = Callable[[Path], AbstractAsyncContextManager[ASGIApp]]
Listening = Callable[[Path], AbstractAsyncContextManager[str]]


# --- clients --------------------------------------------------------------------------------------------------


def posting_to(app: ASGIApp, client: int) -> Post:
    """A client in the same event loop."""
    path = f"/sessions/session-{client}/messages"
    base: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }

    async def post(key: str) -> int:
        bodies, status = [BODY], 0

        async def receive() -> dict[str, Any]:
            if not bodies:
                await trio.sleep_forever()  # the client waits for its answer, and does not leave
            return {"type": "http.request", "body": bodies.pop(), "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        headers = [(b"host", b"localhost"), (b"x-idempotency-key", key.encode())]
        await app({**base, "headers": headers}, receive, send)
        return status

    return post


async def in_turn(post: Post, client: int, requests: range, took: list[float]) -> None:
    """One client's requests."""
    for number in requests:
        began = time.perf_counter()
        status = await post(f"{client}-{number}")
        took.append(time.perf_counter() - began)
        if status != 200:
            raise RuntimeError(f"request {number} of client {client} was answered {status}, not 200")


async def crowd(posts: Sequence[Post], requests: int) -> list[float]:
    """Requests per second, and the 50th and 99th percentile of what each took, in microseconds."""
    each = max(requests // len(posts), 5)
    await in_turn(posts[0], 0, range(-WARM_UP, 0), [])
    took: list[float] = []
    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for client, post in enumerate(posts):
            nursery.start_soon(in_turn, post, client, range(each), took)
    rate = len(took) / (time.perf_counter() - began)
    return [rate, statistics.median(took) * 1e6, harness.percentile(took, 0.99) * 1e6]


# --- probes ---------------------------------------------------------------------------------------------------


async def measured_in_process(serving: Serving, folder: Path, clients: int, requests: int) -> list[float]:
    async with serving(folder) as app:
        return await crowd([posting_to(app, client) for client in range(clients)], requests)


async def measured_on_socket(listening: Listening, folder: Path, clients: int, requests: int) -> list[float]:
    async with listening(folder) as url:
        connections = [HttpClient(url) for _ in range(clients)]
        figures = await crowd([posting_by(connection, n) for n, connection in enumerate(connections)], requests)
        for connection in connections:
            await connection.close()
        return figures


def posting_by(connection: HttpClient, client: int) -> Post:
    """A client with a connection that it keeps."""

    async def post(key: str) -> int:
        path = f"/sessions/session-{client}/messages"
        return (await connection.request("POST", path, {"X-Idempotency-Key": key}, BODY)).status

    return post


def prepare(folder: Path) -> None:
    """Who posts, and where."""
    sessions = [Session(f"session-{client}", Kind.SINGLE, MEMBERS) for client in range(max(CROWDS))]
    make_database(folder / "service.db", [User(name, name) for name in MEMBERS], sessions)


def check(folder: Path, clients: int, requests: int, *, delivered: bool) -> None:
    """Everything that was accepted is stored, announced and logged; else the figures mean nothing."""
    wanted = max(requests // clients, 5) * clients + WARM_UP
    with closing(sqlite3.connect(folder / "service.db")) as database:
        (stored,) = database.execute("SELECT count(*) FROM messages").fetchone()
        (announced,) = database.execute("SELECT coalesce(max(seq), 0) FROM sqlite_sequence").fetchone()
        (waiting,) = database.execute("SELECT count(*) FROM creche_outbox").fetchone()
    lines = [msgspec.json.decode(line) for line in (folder / "service.log").read_bytes().splitlines()]
    logged = sum(line["msg"] == "request" and line["status"] == 200 for line in lines)
    found = {"stored": stored, "announced": announced, "logged": logged}
    if not delivered:
        found["waiting"] = waiting
    if set(found.values()) != {wanted}:
        raise RuntimeError(f"{wanted} messages were accepted, but: {found}")


def probe(name: str, clients: int, measured: Callable[[Path, int, int], Awaitable[list[float]]]) -> Probe:
    def run(size: Size) -> list[float]:
        requests = size.share(SHARE)
        with tempfile.TemporaryDirectory() as folder:
            prepare(Path(folder))
            figures = trio.run(measured, Path(folder), clients, requests)
            check(Path(folder), clients, requests, delivered=name == "delivering")
            return figures

    return Probe((f"{name}_rate_c{clients}", f"{name}_p50_c{clients}", f"{name}_p99_c{clients}"), run)


IN_PROCESS: dict[str, Serving] = {
    "example": ours.in_process,
    "awaiting": partial(ours.in_process, kind=ours.AwaitingService),
    "rival": rival.in_process,
    "rival_awaiting": partial(rival.in_process, kind=rival.VisitForEach),
}
ON_SOCKET: dict[str, Listening] = {
    "example_socket": ours.on_socket,
    "delivering": ours.whole,
    "rival_socket": rival.on_socket,
}


def probes() -> list[Probe]:
    return [
        *(
            probe(name, clients, partial(measured_in_process, serving))
            for name, serving in IN_PROCESS.items()
            for clients in CROWDS
        ),
        *(
            probe(name, clients, partial(measured_on_socket, listening))
            for name, listening in ON_SOCKET.items()
            for clients in CROWDS
        ),
    ]


# --- rows -----------------------------------------------------------------------------------------------------

GOAL = 0.8  # ours in requests per second over theirs
COMPARED = {
    "example": ("example", "rival", GOAL, "the example vs its handler without actors"),
    "awaiting": ("awaiting", "rival_awaiting", GOAL, "each statement awaited, vs the same without actors"),
    "socket": ("example_socket", "rival_socket", GOAL, "the example vs its handler without actors, over a socket"),
    "deliver": ("delivering", "rival_socket", None, "all of the example, delivering, vs the same, which does not"),
}


def rows() -> list[Row]:
    return [
        Row(f"{name}_{figure}_c{clients}", f"{over}_{figure}_c{clients}", f"{under}_{figure}_c{clients}", *rest)
        for name, (over, under, goal, text) in COMPARED.items()
        for clients in CROWDS
        for figure, rest in (
            ("rate", (goal, f"{text}, {clients} at once, requests/s")),
            ("p50", (None, "the same, median latency, us")),
            ("p99", (None, "the same, 99th percentile, us")),
        )
    ]


@dataclasses.dataclass(frozen=True, slots=True)
class AtLeast(harness.Result):
    """Of a rate, the goal is the least."""

    @property
    def met(self) -> bool | None:
        return None if self.row.goal is None else self.value >= self.row.goal


def at_least(result: harness.Result | harness.Blank) -> harness.Result | harness.Blank:
    if isinstance(result, harness.Blank) or result.row.goal is None:
        return result
    return AtLeast(result.row, result.value, result.spread, result.over, result.under)


def run(wanted: Sequence[Row], size: Size) -> list[harness.Result | harness.Blank]:
    """Measure what the rows need."""
    return [at_least(result) for result in harness.evaluate(probes(), wanted, size)]


def main(arguments: Sequence[str] | None = None) -> None:
    logging.getLogger("hypercorn.error").disabled = True  # it tells where it listens
    harness.command("service", "the message service", rows(), run, arguments)


if __name__ == "__main__":
    main()
