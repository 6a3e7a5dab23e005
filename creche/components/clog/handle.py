"""The handle of the log itself. Lines are written with loggers, not with it."""

from __future__ import annotations

from ...runtime.component import ComponentHandle
from ...runtime.config import validated
from ...runtime.errors import ActorStopped
from .actor import ClogActor
from .config import Config
from .logger import SERVICE
from .outlet import Statistics
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
        if not await self._sink().outlet.flush():
            raise ActorStopped(self.path)

    async def apply(self, config: Config) -> None:
        """Let another config hold, as a whole, from the next line on; it outlives restarts of the actor.

        Level, levels, sampling, redaction, sources, tracebacks and the flight recorder can change. A caller that is
        cancelled leaves at once, and the config may hold or not; applying it again does no harm.

        Raises
        ------
        ConfigInvalid
            A value is wrong, or is one that is settled when the component starts. Nothing has changed.
        CallFailed
            The actor stays down or has stopped.
        """
        await self._handle(ClogActor).ask.take_config(validated(config))

    @property
    def config(self) -> Config:
        """The config that holds at this moment. Raises `NotStarted`, `ActorStopped`."""
        return self._sink().config

    @property
    def dropped(self) -> int:
        """Lines dropped since the start because the buffer was full. Raises `NotStarted`, `ActorStopped`."""
        return self.statistics().dropped

    def statistics(self) -> Statistics:
        """What has become of the lines so far. Raises `NotStarted`, `ActorStopped`."""
        return self._sink().statistics()

    def _sink(self) -> Sink:
        node = self._running()
        sink = node.runtime.services.get(SERVICE)
        if not isinstance(sink, Sink):
            raise ActorStopped(node.path)
        return sink
