"""The HTTP API.

    PUT  /users                        body {"users": [{"user_id", "name"}, ...]} -> {"saved": n}
    PUT  /sessions/{session}           body {"kind": "single" | "group" | "world", "members": [...]} -> the session
    POST /sessions/{session}/messages  body {"user_id", "content"}, header X-Idempotency-Key
                                       -> {"message_id", "success"}
    GET  /sessions/{session}/messages  ?after=<id>&limit=<n> -> {"messages": [...]}
    GET  /sessions/{session}/count     -> {"count": n}
    GET  /messages/{message}           -> the message
    GET  /users/{user}/inbox           ?after=<id>&limit=<n> -> {"messages": [...]}
    GET  /health/live, /health/ready   the process runs; the whole tree has started and takes work
    GET  /tree                         the supervision tree, as text or (Accept: application/json) as JSON
    GET  /stats                        -> {"tasks": n}: how many tasks live in the process

Each response carries X-Trace-ID and X-Request-ID. An error is ``{"error": {"code", "message"}}``; what caused it stays
in the log."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
import trio
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

import creche
from creche import components as c

from .errors import InvalidInput, TooLarge, response_for
from .model import SaveSession, SaveUsers, SendMessage, Session
from .service import MessageService

MAX_BODY = 64 * 1024  # bytes
CALL_WITHIN = 20.0  # seconds for one request in all
MAX_PAGE = 500
MAX_ID = 2**63 - 1

T = TypeVar("T")

Endpoint = Callable[[Request], Awaitable[Response]]


def build_api(service: creche.Handle[MessageService], uid: c.uid.Uid) -> c.http.ASGIApp:
    """The ASGI application."""
    api = _Api(service)
    routes = [
        Route("/users", _answering(api.save_users), methods=["PUT"]),
        Route("/users/{user}/inbox", _answering(api.inbox), methods=["GET"]),
        Route("/sessions/{session}", _answering(api.save_session), methods=["PUT"]),
        Route("/sessions/{session}/messages", _answering(api.send), methods=["POST"]),
        Route("/sessions/{session}/messages", _answering(api.history), methods=["GET"]),
        Route("/sessions/{session}/count", _answering(api.count), methods=["GET"]),
        Route("/messages/{message}", _answering(api.message), methods=["GET"]),
        Route("/health/live", _answering(api.live), methods=["GET"]),
        Route("/health/ready", _answering(api.ready), methods=["GET"]),
        Route("/tree", _answering(api.tree), methods=["GET"]),
        Route("/stats", _answering(api.stats), methods=["GET"]),
    ]
    application = Starlette(routes=routes, exception_handlers={HTTPException: _not_routed})
    return c.clog.asgi_middleware(uid.asgi_middleware(application))


class _Api:
    def __init__(self, service: creche.Handle[MessageService]) -> None:
        self._service = service

    @property
    def _ask(self) -> MessageService:
        return self._service.within(CALL_WITHIN).ask

    async def save_users(self, request: Request) -> Response:
        users = _decode(await _body(request), SaveUsers).users
        await self._ask.save_users(users)
        return _json({"saved": len(users)})

    async def save_session(self, request: Request) -> Response:
        wanted = _decode(await _body(request), SaveSession)
        session = Session(_name(request, "session"), wanted.kind, tuple(sorted(wanted.members)))
        await self._ask.save_session(session)
        return _json(session)

    async def send(self, request: Request) -> Response:
        key = _idempotency_key(request)
        message = _decode(await _body(request), SendMessage)
        return _json(await self._ask.send(_name(request, "session"), key, message))

    async def history(self, request: Request) -> Response:
        return _json({"messages": await self._ask.history(_name(request, "session"), *_page(request))})

    async def inbox(self, request: Request) -> Response:
        return _json({"messages": await self._ask.inbox(_name(request, "user"), *_page(request))})

    async def message(self, request: Request) -> Response:
        message_id = _whole_number("message", request.path_params["message"], MAX_ID)
        return _json(await self._ask.message(message_id))

    async def count(self, request: Request) -> Response:
        return _json({"count": await self._ask.count(_name(request, "session"))})

    async def live(self, request: Request) -> Response:
        return _json({"status": "live"})

    async def ready(self, request: Request) -> Response:
        is_ready = _runtime().ready
        return _json({"status": "ready" if is_ready else "not ready"}, 200 if is_ready else 503)

    async def tree(self, request: Request) -> Response:
        tree = _runtime().tree()
        return _json(tree) if "json" in request.headers.get("accept", "") else PlainTextResponse(f"{tree}\n")

    async def stats(self, request: Request) -> Response:
        return _json({"tasks": trio.lowlevel.current_statistics().tasks_living})


# --- what comes in --------------------------------------------------------------------------------


def _runtime() -> creche.Runtime:
    runtime = creche.current_runtime()
    assert runtime is not None
    return runtime


def _name(request: Request, what: str) -> str:
    name: str = request.path_params[what]
    if not re.fullmatch(r"[\w.\-]{1,128}", name):
        raise InvalidInput(f"{what}: 1 to 128 letters, digits, '_', '-' or '.'")
    return name


def _idempotency_key(request: Request) -> str:
    key = request.headers.get("x-idempotency-key", "")
    if not re.fullmatch(r"[\x21-\x7e]{1,128}", key):
        raise InvalidInput("header X-Idempotency-Key is required: 1 to 128 visible ASCII characters")
    return key


def _page(request: Request) -> tuple[int, int]:
    query = request.query_params
    return (
        _whole_number("after", query.get("after", "0"), MAX_ID),
        _whole_number("limit", query.get("limit", "50"), MAX_PAGE),
    )


def _whole_number(what: str, text: str, most: int) -> int:
    if not re.fullmatch(r"\d{1,19}", text) or int(text) > most:
        raise InvalidInput(f"{what}: a whole number from 0 to {most}, not {text[:40]!r}")
    return int(text)


async def _body(request: Request) -> bytes:
    body = bytearray()
    async with aclosing(request.stream()) as chunks:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_BODY:
                raise TooLarge(MAX_BODY)
    return bytes(body)


def _decode(body: bytes, type: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=type)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"body: {error}", error) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput("body: not valid JSON", error) from None


# --- what goes out --------------------------------------------------------------------------------


def _answering(endpoint: Endpoint) -> Endpoint:
    """`endpoint` with every error turned into a response. What a client must not see goes to the log."""
    log = c.clog.namespace("api")

    async def answer(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientDisconnect:
            raise
        except Exception as error:
            status, code, text, retry_after = response_for(error)
            if status >= 500:
                log.warning("request failed", error=error, status=status, path=request.url.path)
            headers = {} if retry_after is None else {"Retry-After": str(max(1, round(retry_after)))}
            return _error(status, code, text, headers)

    return answer


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(
        error.status_code, "NOT_FOUND" if error.status_code == 404 else "NOT_ALLOWED", error.detail, error.headers
    )


def _error(status: int, code: str, text: str, headers: Any = None) -> Response:
    return _json({"error": {"code": code, "message": text}}, status, headers)


def _json(value: object, status: int = 200, headers: Any = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")
