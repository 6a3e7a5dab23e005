"""The service under chaos, in memory: its ASGI application, its embedded backends, virtual time, no socket.

``python -m examples.message_service.chaos --seeds 1000`` explores plans, and says how many seeds it did a minute. What
must hold, whatever strikes: each message that was answered 2xx is stored once, published once, counted once and
delivered to whom it is for; all tries of one message got one answer; each call of each actor had one outcome; and when
the chaos is over the service is healthy again within a time that the backoffs bound.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import creche
from creche import chaos
from creche import components as c
from creche.runtime.component import ComponentSpec

from .app import Parts, Service, Settings, build
from .audit import audit
from .client import Poster, Receipt
from .crowd import FRIENDS, SESSIONS
from .database import make_database
from .http_client import Reply
from .model import User

MESSAGES, CLIENTS = 10, 4
# A session for everybody, one of a pair, one of a group; the one of 501 members would take its time.
CHOSEN = (0, 2, 3)
HEALTHY_WITHIN = 10.0  # seconds: the longest backoff, and what the consumers need to take up again
# Faults come fast, for the whole of it takes some seconds. Each layer, and each actor but the edge's, may be hit.
# Ids are refused for as long as the clock is behind, so it does not step far.
RECIPE = chaos.Recipe(lasting=0.8, every=0.05, longest_hang=5.0, longest_step=3.0, never=("root/edge*",))


class NoServer(creche.Actor):
    """Stands in for the HTTP server: requests come by another way."""

    async def address(self) -> tuple[str, int]:
        """Where it would listen."""
        return ("in-memory", 0)


class AsgiClient:
    """Sends requests to an ASGI application. See `http_client.Client`."""

    def __init__(self, application: c.http.ASGIApp) -> None:
        self._application = application

    async def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Reply:
        """Let the application answer a request."""
        target, _, query = path.partition("?")
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(message)

        raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope: dict[str, Any] = {"type": "http", "method": method, "path": target, "query_string": query.encode()}
        await self._application({**scope, "headers": raw}, receive, send)
        answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return Reply(sent[0]["status"], answered, b"".join(part["body"] for part in sent[1:]))

    async def close(self) -> None:
        """There is no connection."""


async def scenario(world: chaos.World, parts: Parts | None = None) -> None:
    """Post messages under the plan; then everything must be there once."""
    receipts: list[Receipt] = []
    service, stage = world.shared(in_memory, parts)
    data = stage.set_up()
    async with service.app.open() as opened:
        runtime = opened.runtime
        poster = Poster(lambda: AsgiClient(service.api), receipts.append, world.seed)
        world.always("one answer for all tries", lambda: len({r.key for r in receipts}) == len(receipts))
        async with world.unleashed(runtime):
            await poster.post(numbered(), CLIENTS)
        await world.eventually("healthy again", lambda: chaos.healthy(runtime), within=HEALTHY_WITHIN, every=0.1)
        await world.eventually(
            "accepted: stored, published, counted, delivered once",
            lambda: settled(data, receipts),
            within=HEALTHY_WITHIN,
        )
    settled(data, receipts)  # also after the stop


def numbered() -> Iterator[tuple[int, str]]:
    """The messages, one for each of the chosen sessions in turn."""
    rounds = (number + turn * len(SESSIONS) for turn in range(MESSAGES) for number in CHOSEN)
    return ((number, f"message {number}") for number in islice(rounds, MESSAGES))


@contextmanager
def in_memory(parts: Parts | None) -> Iterator[tuple[Service, Stage]]:
    """The service without its server, and the folder of its data."""
    with folder_in_memory() as folder:
        stage = Stage(folder)
        service = build(Settings(stage.data, under_fire=True, log_level="critical", readers=1), parts)
        no_server = ComponentSpec("http", creche.child(NoServer), c.http.HttpServer, layer="edge")
        service.app.override(service.http, no_server)
        yield service, stage


class Stage:
    """The folder of the service's data, which begins with the same in each run: who there is, and in which sessions."""

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        self._template = folder / "template.db"
        users = [User(name, name.title()) for name in FRIENDS]
        make_database(self._template, users, [SESSIONS[number] for number in CHOSEN])

    def set_up(self) -> Path:
        """Remove what a former run has left, and return the folder."""
        shutil.rmtree(self.data, ignore_errors=True)
        self.data.mkdir()
        shutil.copyfile(self._template, self.data / "service.db")
        return self.data


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """A new folder, in memory where the system has such a place."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="creche-chaos-", dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def settled(data: Path, receipts: list[Receipt]) -> bool:
    """All that follows from the accepted messages has been done. Raises AssertionError, with what has not."""
    findings = audit(data, receipts)
    assert findings.holds, findings
    return True


def main() -> int:
    """Explore; 0 if all held."""
    parser = argparse.ArgumentParser(prog="message_service.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    arguments = parser.parse_args()
    report = chaos.explore(scenario, range(arguments.first, arguments.first + arguments.seeds), recipe=RECIPE)
    for finding in report.findings:
        print(finding)
    print(f"seeds={report.runs} violated={len(report.findings)} seeds_per_minute={report.per_minute:.0f}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
