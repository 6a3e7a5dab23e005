"""The message service without a socket: requests go to its ASGI application."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

import creche
from creche.runtime.asgi import Message
from examples.message_service.app import Service, Settings, build
from examples.message_service.model import Session, User


class Client:
    """Requests with JSON bodies, answered with status and JSON."""

    def __init__(self, service: Service, runtime: creche.Runtime) -> None:
        self.service = service
        self.runtime = runtime

    async def request(
        self, method: str, target: str, body: object = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any]:
        path, _, query = target.partition("?")
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": b"" if body is None else json.dumps(body).encode()}

        async def send(message: Message) -> None:
            sent.append(message)

        raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": raw}
        await self.service.api(scope, receive, send)
        return sent[0]["status"], json.loads(b"".join(part["body"] for part in sent[1:]))

    async def get(self, target: str) -> tuple[int, Any]:
        return await self.request("GET", target)

    async def put(self, target: str, body: object) -> tuple[int, Any]:
        return await self.request("PUT", target, body)

    async def post(self, session: str, user: str, key: str = "k1", content: str = "Hello.") -> tuple[int, Any]:
        body = {"user_id": user, "content": content}
        return await self.request("POST", f"/sessions/{session}/messages", body, {"X-Idempotency-Key": key})

    async def inbox(self, user: str) -> list[str]:
        """The texts in somebody's inbox."""
        status, page = await self.get(f"/users/{user}/inbox")
        assert status == 200, page
        return [message["content"] for message in page["messages"]]

    async def wait_for_inbox(self, user: str, texts: list[str]) -> None:
        with trio.fail_after(20):
            while await self.inbox(user) != texts:
                await trio.lowlevel.checkpoint()

    async def define(self, session_id: str, kind: str, *members: str) -> None:
        """Make users and a session of them."""
        if members:
            await self.service.repository.save_users([User(name, name.title()) for name in members])
        await self.service.repository.save_session(Session(session_id, kind, tuple(sorted(members))))


@asynccontextmanager
async def running_service(data: Path) -> AsyncGenerator[Client]:
    """The whole service; it also listens on a free port, which nobody uses."""
    service = build(Settings(data, port=0))
    async with service.app.open() as running:
        yield Client(service, running.runtime)
