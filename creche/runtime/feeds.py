"""A stream of news to a reader who may be slow: a memory channel whose sender never waits."""

from __future__ import annotations

from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Feed(Generic[T]):
    """An ordinary memory channel for its reader. When it is full the oldest value makes room for the new one.

    So a slow reader holds up nobody and costs no more than `room` values; he misses what is old, never what is latest.
    """

    __slots__ = ("_own", "_send", "reader")

    def __init__(self, room: int) -> None:
        # A second receiving end of our own: to take out the oldest, and so that a reader who closes his breaks nothing.
        self._send, self._own = trio.open_memory_channel[T](room)
        self.reader = self._own.clone()

    @property
    def has_unread(self) -> bool:
        """Whether something that was put has not been taken yet."""
        return self._own.statistics().current_buffer_used > 0

    def put(self, value: T) -> None:
        """Add the latest."""
        try:
            self._send.send_nowait(value)
        except trio.WouldBlock:
            self._own.receive_nowait()
            self._send.send_nowait(value)

    def end(self) -> None:
        """There will be no more: the reader gets what is left, and then the end of the channel."""
        self._send.close()

    def close(self) -> None:
        """The reader has gone."""
        self._send.close()
        self._own.close()
        self.reader.close()
