"""The message service of the examples, put together for `benchmarks.service`."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

import creche
from creche import components as c
from creche.components.mq.message import Message
from examples.message_service import statements
from examples.message_service.api import build_api
from examples.message_service.app import Settings, build
from examples.message_service.model import TOPIC, Answer, SendMessage, StoredMessage, metadata
from examples.message_service.repository import Repository
from examples.message_service.service import MessageService, answer_before


class AwaitingService(MessageService):
    """The same promises with each statement awaited, one message at a time."""

    @creche.message()
    async def send(self, session_id: str, request_id: str, request: SendMessage) -> Answer:
        await self._check_may_post(request.user_id, session_id)
        message_id = await self._uid.snowflake()
        key = f"send_message:{request_id}"
        answer = await self._db.transact(accept_awaiting, message_id, session_id, key, request)
        self._log.debug("accepted", message_id=answer.message_id, session=session_id)
        return answer


async def accept_awaiting(
    tx: c.db.Transaction, message_id: int, session_id: str, key: str, request: SendMessage
) -> Answer:
    """What the example does in the database's thread."""
    now = time.time()
    about = {"session_id": session_id, "user_id": request.user_id, "content": request.content}
    row = {"id": message_id, "request_key": key, "created_at": int(now * 1e6), **about}
    added = await tx.execute(statements.ADD_MESSAGE, row)
    if not added.rowcount:
        before = await tx.one(statements.MESSAGE_OF_KEY, {"key": key})
        return answer_before(before, key, about)
    stored = StoredMessage(str(message_id), session_id, request.user_id, request.content, now)
    await tx.publish(Message(TOPIC, msgspec.json.encode(stored), key=str(message_id).encode()))
    return Answer(str(message_id))


@asynccontextmanager
async def in_process(folder: Path, kind: type[MessageService] = MessageService) -> AsyncGenerator[c.http.ASGIApp]:
    """The service's ASGI application, without a server.

    Nothing runs that the answer to a request does not need: the outbox is filled, and nobody empties it.
    """
    app, api = assemble(folder, kind)
    async with app.open():
        yield api


@asynccontextmanager
async def on_socket(folder: Path) -> AsyncGenerator[str]:
    """The same behind the component's server; gives the URL."""
    app, api = assemble(folder, MessageService)
    http = app.use(c.http.http_server(c.http.ServerConfig(port=0), api))
    async with app.open():
        host, port = await http.address()
        yield f"http://{host}:{port}"


@asynccontextmanager
async def whole(folder: Path) -> AsyncGenerator[str]:
    """All that the example is, delivery included, as it builds itself; gives the URL."""
    service = build(Settings(folder, port=0))
    async with service.app.open():
        host, port = await service.http.address()
        yield f"http://{host}:{port}"


def assemble(folder: Path, kind: type[MessageService]) -> tuple[creche.App, c.http.ASGIApp]:
    """The components and their configs are those of the example."""
    app = creche.App("benchmark")
    app.use(c.clog.component(c.clog.Config(level="info", format="json", output=str(folder / "service.log"))))
    uid = app.use(c.uid.component(c.uid.Config(state_path=str(folder / "uid.db"))))
    db = app.use(c.db.component(c.db.Config(path=str(folder / "service.db")), metadata=metadata))
    cache = app.use(c.cache.component())
    service = app.use(creche.child(kind, db, uid, Repository(db, cache)).options(name="service"))
    return app, build_api(service, uid)
