"""The demo's second process: posts real text with concurrent clients and retries, and writes down what was accepted.

Each message has one idempotency key for all its tries. The file of receipts is the outside record that the audit
compares with: one line of JSON per message that was answered 2xx."""

from __future__ import annotations

import argparse
import ast
import random
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import h11
import msgspec
import trio

from .crowd import SESSIONS, USERS, poster_of, session_of
from .http_client import Client, HttpClient, Reply
from .model import SaveSession, SaveUsers, SendMessage

BROKEN = (OSError, trio.BrokenResourceError, h11.RemoteProtocolError, trio.TooSlowError)


class Request(NamedTuple):
    """What `HttpClient.request` takes."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Receipt(msgspec.Struct, frozen=True):
    """What the client knows about one accepted message. `tries` counts the requests that it took."""

    key: str
    session_id: str
    message_id: str
    content: str
    tries: int


def lines_of_text(count: int) -> list[str]:
    """`count` lines out of the docstrings of the standard library, in a fixed order.

    Raises ValueError if there are not that many.
    """
    lines: list[str] = []
    for line in _docstring_lines(Path(sysconfig.get_path("stdlib"))):
        lines.append(line)
        if len(lines) == count:
            return lines
    raise ValueError(f"the standard library's docstrings have only {len(lines)} lines, {count} were asked for")


def _docstring_lines(stdlib: Path) -> Iterator[str]:
    for file in sorted(stdlib.glob("*.py")):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                for line in (ast.get_docstring(node) or "").splitlines():
                    if len(line.strip()) >= 20:
                        yield line.strip()


class Poster:
    """Makes users and sessions, then posts lines until there are none left; each until it is answered 2xx."""

    def __init__(self, connect: Callable[[], Client], write: Callable[[Receipt], object], seed: int) -> None:
        self._connect = connect
        self._write = write
        self._random = random.Random(seed)

    async def set_up(self) -> None:
        """Make all users and sessions."""
        client = self._connect()
        await self._until_accepted(client, "PUT", "/users", {}, SaveUsers(list(USERS)))
        for session in SESSIONS:
            body = SaveSession(session.kind, session.members)
            await self._until_accepted(client, "PUT", f"/sessions/{session.session_id}", {}, body)
        await client.close()

    async def post(self, numbered: Iterator[tuple[int, str]], clients: int) -> None:
        """Post lines, each of which has a number, with so many clients at once."""
        async with trio.open_nursery() as nursery:
            for _ in range(clients):
                nursery.start_soon(self._post_from, numbered)

    async def _post_from(self, numbered: Iterator[tuple[int, str]]) -> None:
        client = self._connect()
        for number, line in numbered:
            self._write(await self.post_one(client, number, line))
        await client.close()

    async def post_one(self, client: Client, number: int, line: str) -> Receipt:
        """Post one line, again and again until it is accepted."""
        key, session = f"demo-{number}", session_of(number).session_id
        path, headers = f"/sessions/{session}/messages", {"X-Idempotency-Key": key}
        reply, tries = await self._until_accepted(client, "POST", path, headers, SendMessage(poster_of(number), line))
        answer = msgspec.json.decode(reply.body, type=dict[str, object])
        return Receipt(key, session, str(answer["message_id"]), line, tries)

    async def _until_accepted(
        self, client: Client, method: str, path: str, headers: dict[str, str], body: msgspec.Struct
    ) -> tuple[Reply, int]:
        """The 2xx, and how many requests it took."""
        request = Request(method, path, {"Content-Type": "application/json", **headers}, msgspec.json.encode(body))
        tries = 0
        while True:
            tries += 1
            reply = await self._try(client, request)
            if reply is not None and 200 <= reply.status < 300:
                return reply, tries
            if reply is not None and reply.status < 500:
                raise RuntimeError(f"refused for good: {reply.status} {reply.body.decode()}")
            await trio.sleep(self._random.uniform(0.01, 0.05) * min(tries, 10))

    async def _try(self, client: Client, request: Request) -> Reply | None:
        """One request; None if it broke. One in fifty is sent twice, as an impatient client would."""
        try:
            with trio.fail_after(5):
                if self._random.random() < 0.02:
                    await client.request(*request)
                return await client.request(*request)
        except BROKEN:
            return None


async def _run(arguments: argparse.Namespace, receipts: IO[bytes]) -> None:
    def write(receipt: Receipt) -> None:
        receipts.write(msgspec.json.encode(receipt) + b"\n")

    poster = Poster(lambda: HttpClient(arguments.url), write, arguments.seed)
    await poster.set_up()
    await poster.post(iter(enumerate(lines_of_text(arguments.count))), arguments.clients)


def main() -> int:
    """Post as told; 0 when all were accepted."""
    parser = argparse.ArgumentParser(prog="message_client")
    parser.add_argument("url")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--receipts", type=Path, required=True)
    arguments = parser.parse_args()
    with arguments.receipts.open("wb", buffering=0) as receipts:
        try:
            trio.run(_run, arguments, receipts)
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
