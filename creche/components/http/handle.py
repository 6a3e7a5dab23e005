"""The handle of an HTTP server."""

from __future__ import annotations

from ...runtime.component import ComponentHandle
from .actor import HttpActor


class HttpServer(ComponentHandle):
    """Names the server; requests do not pass through it."""

    async def address(self) -> tuple[str, int]:
        """Host and port that the server listens on. Stays the same for the life of the app."""
        return await self._handle(HttpActor).ask.address()
