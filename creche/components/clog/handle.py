"""The handle of the log itself. Lines are written with loggers, not with it."""

from __future__ import annotations

from ...runtime.component import ComponentHandle
from ...runtime.errors import ActorStopped
from .logger import SERVICE
from .outlet import Outlet, Statistics
from .sink import Sink


class Clog(ComponentHandle):
    """Tells how the log is doing."""

    async def flush(self) -> None:
        """Wait until every line accepted so far has been handed to the operating system (not: to the disk).

        Sends no message, so a crash of the clog actor only makes it take longer. Leaves at once when
        cancelled.

        Raises
        ------
        OutputFailed
            The output refuses lines at the moment. They stay in the buffer and are tried again.
        ActorStopped
            The component has ended.
        """
        if not await self._outlet().flush():
            raise ActorStopped(self.path)

    @property
    def dropped(self) -> int:
        """Lines dropped since the start because the buffer was full. Raises `NotStarted`, `ActorStopped`."""
        return self._outlet().statistics().dropped

    def statistics(self) -> Statistics:
        """What has become of the lines so far. Raises `NotStarted`, `ActorStopped`."""
        return self._outlet().statistics()

    def _outlet(self) -> Outlet:
        node = self._running()
        sink = node.runtime.services.get(SERVICE)
        if not isinstance(sink, Sink):
            raise ActorStopped(node.path)
        return sink.outlet
