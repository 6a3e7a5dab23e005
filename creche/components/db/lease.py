"""What one incarnation of the db actor lends to its handles: the lines for its connections."""

from __future__ import annotations

from typing import final

import trio

from ...runtime.deadlines import Deadlines
from .errors import TransactionNested
from .line import Line, Turn


@final
class DbLease:
    """The writer's line, and that of the readers, which is the same one if there are no readers.

    Parameters
    ----------
    epoch
        The incarnation's number.
    path
        The actor's path, for errors.
    readers
        How many connections there are that only read.
    deadlines, transaction_timeout
        The runtime's, and after how many seconds a transaction is taken away.
    """

    def __init__(self, epoch: int, path: str, readers: int, deadlines: Deadlines, transaction_timeout: float) -> None:
        self.epoch = epoch
        self.path = path
        self.deadlines = deadlines
        self.transaction_timeout = transaction_timeout
        self.writer = Line(path)
        self.reader = Line(path) if readers else self.writer
        self.outbox_changed = trio.Event()

    def __repr__(self) -> str:
        state = "revoked" if self.writer.closed else "valid"
        return f"<DbLease {self.path}#{self.epoch} {state}, {len(self.writer)} waiting>"

    @property
    def accepting(self) -> bool:
        """Whether new work may join the lines."""
        return self.writer.accepting

    def check_not_nested(self) -> None:
        """Raise `TransactionNested` if this very task has the open transaction."""
        turn: Turn | None = self.writer.turn
        if turn is not None and turn.task is trio.lowlevel.current_task():
            raise TransactionNested(self.path)

    def announce(self) -> None:
        """Messages have been committed to the outbox: wake the relay."""
        changed, self.outbox_changed = self.outbox_changed, trio.Event()
        changed.set()

    async def drain(self) -> None:
        """Take no new work, and wait until what there is has been done."""
        await self.writer.drain()
        await self.reader.drain()

    def close(self) -> None:
        """Nobody is taken any more."""
        self.writer.close()
        self.reader.close()

    def revoke(self) -> None:
        """See `creche.runtime.context.Lease`."""
        self.close()
        self.writer.dissolve()
        self.reader.dissolve()
        self.announce()
