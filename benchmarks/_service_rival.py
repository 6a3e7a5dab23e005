"""The handler of the message service as one would write it without actors: what `benchmarks.service` compares with.

What it does: the same route, the same checks of the request, the same check of who may post (against copies of users
and sessions in memory, loaded when they are first needed), the same bounds on the body and on the time, the same ids (a
Snowflake from memory, a UUIDv7, a trace id), the same response with the same headers, the same two rows in one
transaction under the same PRAGMAs, and the same fields in a JSON line for each request. Starlette, SQLAlchemy Core on
`sqlite3` and msgspec are those that the service has.

What it leaves out, each time to its own advantage: nothing is supervised or can be restarted; a request cannot leave a
statement that runs; a lock of another process is waited for in the thread; the copies in memory are in a dictionary
without bounds, whose entries do not age; the Snowflake's worker id is a constant that nobody has reserved; there is no
event, no slow-statement report, no translation of the driver's errors; there are no connections for readers; log lines
go into the file's buffer, where a crash would lose up to 8 KiB of them. Nothing empties the outbox.

It comes in two forms. `Storage` does a whole transaction in one visit to the thread, the fastest that this can be.
`VisitForEach` awaits each statement, as handlers on an asynchronous driver do.
"""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import msgspec
import sqlalchemy as sa
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from creche.components.clog.trace import new_trace_id
from creche.components.db.outbox import INSERT, SCHEMA
from creche.components.http import ASGIApp
from creche.components.mq.message import TRACE_HEADER
from creche.components.uid import uuid7
from examples.message_service import statements
from examples.message_service.distribution import Kind
from examples.message_service.errors import (
    InvalidInput,
    KeyConflict,
    PermissionDenied,
    SessionNotFound,
    TooLarge,
    UserNotFound,
    response_for,
)
from examples.message_service.model import (
    TOPIC,
    Answer,
    SendMessage,
    Session,
    StoredMessage,
    User,
    metadata,
)

from .uid import LockedSnowflake

R = TypeVar("R")

MAX_BODY = 64 * 1024  # bytes
CALL_WITHIN = 20.0  # seconds
_JSON = "application/json"


# --- storage ------------------------------------------------------------------------------------------------------


class Storage:
    """One connection in one thread at a time, set up as the database component sets up its own."""

    def __init__(self, folder: Path) -> None:
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(folder / "service.db")),
            poolclass=sa.NullPool,
            connect_args={"check_same_thread": False},
        )
        self._connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        self._raw = cast("sqlite3.Connection", self._connection.connection.dbapi_connection)
        for pragma in ("journal_mode = WAL", "foreign_keys = ON", "synchronous = NORMAL"):
            self._raw.execute(f"PRAGMA {pragma}")
        for statement in SCHEMA:
            self._raw.execute(statement)
        metadata.create_all(self._connection)
        self._limiter = trio.CapacityLimiter(1)

        self._users: dict[str, User] = {}
        self._sessions: dict[str, Session] = {}

    def close(self) -> None:
        self._connection.close()

    async def accept(self, session: str, key: str, request: SendMessage, row_id: int, trace_id: str) -> Answer:
        """Store a message and its announcement in one transaction, or find the stored answer."""
        return await self._visit(partial(self._accept, session, key, request, row_id, trace_id))

    async def check_may_post(self, user_id: str, session_id: str) -> None:
        """Loads each user and each session once."""
        if user_id not in self._users:
            self._users[user_id] = await self._visit(partial(self._load_user, user_id))
        session = self._sessions.get(session_id)
        if session is None:
            session = self._sessions[session_id] = await self._visit(partial(self._load_session, session_id))
        if session.kind != Kind.WORLD and user_id not in session.members:
            raise PermissionDenied(user_id, session_id)

    def _load_user(self, user_id: str) -> User:
        row = self._connection.execute(statements.USER, {"user": user_id}).first()
        if row is None:
            raise UserNotFound(user_id)
        return User(row.id, row.name)

    def _load_session(self, session_id: str) -> Session:
        rows = self._connection.execute(statements.SESSION, {"session": session_id}).all()
        if not rows:
            raise SessionNotFound(session_id)
        return Session(session_id, rows[0].kind, tuple(row.user_id for row in rows if row.user_id is not None))

    async def _visit(self, fn: Callable[[], R]) -> R:
        return await trio.to_thread.run_sync(fn, limiter=self._limiter)

    def _accept(self, session: str, key: str, request: SendMessage, row_id: int, trace_id: str) -> Answer:
        with self._rolled_back_on_error():
            now = time.time()
            if self._added(session, key, request, row_id, now):
                answer = self._announced(session, request, row_id, now, trace_id)
            else:
                answer = self._found(session, key, request)
            self._commit()
            return answer

    @contextmanager
    def _rolled_back_on_error(self) -> Generator[None]:
        try:
            yield
        except BaseException:
            if self._raw.in_transaction:
                self._raw.execute("ROLLBACK")
            raise

    def _commit(self) -> None:
        self._raw.execute("COMMIT")

    def _added(self, session: str, key: str, request: SendMessage, row_id: int, now: float) -> bool:
        self._raw.execute("BEGIN IMMEDIATE")
        about = {"session_id": session, "user_id": request.user_id, "content": request.content}
        row = {"id": row_id, "request_key": key, "created_at": int(now * 1e6), **about}
        return self._connection.execute(statements.ADD_MESSAGE, row).rowcount > 0

    def _announced(self, session: str, request: SendMessage, row_id: int, now: float, trace_id: str) -> Answer:
        stored = StoredMessage(str(row_id), session, request.user_id, request.content, now)
        headers = json.dumps({TRACE_HEADER: trace_id})
        self._raw.execute(INSERT, (TOPIC, str(row_id).encode(), msgspec.json.encode(stored), headers))
        return Answer(str(row_id))

    def _found(self, session: str, key: str, request: SendMessage) -> Answer:
        before = self._connection.execute(statements.MESSAGE_OF_KEY, {"key": key}).one()
        if (before.session_id, before.user_id, before.content) != (session, request.user_id, request.content):
            raise KeyConflict(key)
        return Answer(str(before.id))


class VisitForEach(Storage):
    """As many visits as ours makes for a transaction whose statements are awaited: BEGIN goes along with the first."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._turn = trio.Lock()

    async def accept(self, session: str, key: str, request: SendMessage, row_id: int, trace_id: str) -> Answer:
        async with self._turn:
            with self._rolled_back_on_error():  # in the loop's thread: it is rare, and nothing measures it
                now = time.time()
                if await self._visit(partial(self._added, session, key, request, row_id, now)):
                    answer = await self._visit(partial(self._announced, session, request, row_id, now, trace_id))
                else:
                    answer = await self._visit(partial(self._found, session, key, request))
                await self._visit(self._commit)
                return answer


# --- HTTP ---------------------------------------------------------------------------------------------------------


class Api:
    """The route that is measured."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._new_id = LockedSnowflake().next

    async def send(self, request: Request) -> Response:
        try:
            return Response(msgspec.json.encode(await self._send(request)), media_type=_JSON)
        except Exception as error:
            status, code, text, _ = response_for(error)
            body = {"error": {"code": code, "message": text}}
            return Response(msgspec.json.encode(body), status, media_type=_JSON)

    async def _send(self, request: Request) -> Answer:
        key = request.headers.get("x-idempotency-key", "")
        if not re.fullmatch(r"[\x21-\x7e]{1,128}", key):
            raise InvalidInput("header X-Idempotency-Key is required: 1 to 128 visible ASCII characters")
        message = decoded(await body_of(request))
        session: str = request.path_params["session"]
        if not re.fullmatch(r"[\w.\-]{1,128}", session):
            raise InvalidInput("session: 1 to 128 letters, digits, '_', '-' or '.'")
        trace_id: str = request.scope["state"]["trace_id"]
        with trio.fail_after(CALL_WITHIN):
            await self._storage.check_may_post(message.user_id, session)
            return await self._storage.accept(session, f"send_message:{key}", message, self._new_id(), trace_id)


async def body_of(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_BODY:
                raise TooLarge(MAX_BODY)
    return bytes(body)


def decoded(body: bytes) -> SendMessage:
    try:
        return msgspec.json.decode(body, type=SendMessage)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"body: {error}", error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("body: not valid JSON", error) from None


def logged(app: ASGIApp, log: BinaryIO) -> ASGIApp:
    """Both ids, in the response's headers, and a line for each request with the fields that ours has."""

    async def traced(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500
        trace_id, request_id = new_trace_id(), str(uuid7())
        headers = [(b"x-trace-id", trace_id.encode()), (b"x-request-id", request_id.encode())]
        scope = {**scope, "state": {"trace_id": trace_id}}

        async def answer(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message["headers"], *headers]}
            await send(message)

        try:
            await app(scope, receive, answer)
        finally:
            log.write(line(scope, status, began, trace_id))

    return traced


def line(scope: Any, status: int, began: float, trace_id: str) -> bytes:
    milliseconds = round((time.perf_counter() - began) * 1000, 3)
    now = time.time()
    written = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
    fields = {"time": written, "level": "info", "msg": "request", "service": "benchmark", "namespace": "http"}
    fields |= {"trace_id": trace_id, "method": scope["method"], "path": scope["path"]}
    return msgspec.json.encode({**fields, "status": status, "duration_ms": milliseconds}) + b"\n"


# --- running it ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def in_process(folder: Path, kind: type[Storage] = Storage) -> AsyncGenerator[ASGIApp]:
    """The ASGI application, without a server."""
    storage = kind(folder)
    try:
        with (folder / "service.log").open("wb") as log:
            routes = [Route("/sessions/{session}/messages", Api(storage).send, methods=["POST"])]
            yield logged(cast("ASGIApp", Starlette(routes=routes)), log)
    finally:
        storage.close()


@asynccontextmanager
async def on_socket(folder: Path) -> AsyncGenerator[str]:
    """The same behind Hypercorn, which the component's server is, too; gives the URL."""
    from hypercorn.config import Config
    from hypercorn.trio import serve  # pyright: ignore[reportUnknownVariableType]

    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.loglevel = "WARNING"
    config.include_server_header = False
    stop = trio.Event()
    async with in_process(folder) as app, trio.open_nursery() as nursery:
        start = partial(cast("Any", serve), app, config, shutdown_trigger=stop.wait)
        (url,) = await nursery.start(start)
        yield url
        stop.set()
