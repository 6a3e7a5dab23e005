"""ASGI's shapes, for what serves applications and what wraps them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


def with_header(message: Message, name: bytes, value: bytes) -> Message:
    """A copy of a message that begins an answer, with one header (lower-case `name`) in place of any of that name."""
    others = [(known, text) for known, text in message.get("headers") or () if known.lower() != name]
    return {**message, "headers": [*others, (name, value)]}
