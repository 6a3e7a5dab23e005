"""The handle of an HTTP server."""

from __future__ import annotations

from ...runtime.component import ComponentHandle
from .actor import HttpActor, ServerStatistics


class HttpServer(ComponentHandle):
    """Names the server; requests do not pass through it."""

    async def address(self) -> tuple[str, int]:
        """Host and port that the server listens on. Stays the same for the life of the app."""
        return await self._handle(HttpActor).ask.address()

    async def statistics(self) -> ServerStatistics:
        """How many requests are being handled, wait in line, and were refused for having waited too long."""
        return await self._handle(HttpActor).ask.statistics()
