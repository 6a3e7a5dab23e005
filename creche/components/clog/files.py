"""Outputs that are files of the operating system.

A write to a pipe or a terminal blocks for as long as its reader likes, and a thread in it cannot be
cancelled. So such an output is asked first whether it takes anything, and then gets no more than it must take
whole: POSIX lets a pipe that is writable take PIPE_BUF bytes. (A second process that writes to the same pipe
may be quicker; then the write blocks until that reader has read.) A regular file is always ready.
"""

from __future__ import annotations

import os
import select
import stat
from pathlib import Path


class Plain:
    """An output that has nothing to tidy."""

    untidy = False

    def tidy(self) -> None:
        """See `Output`."""


class File(Plain):
    """A file descriptor of any kind."""

    def __init__(self, fd: int, *, owned: bool) -> None:
        self._fd = fd
        self._owned = owned
        self._always_ready = stat.S_ISREG(os.fstat(fd).st_mode)
        self.terminal = os.isatty(fd)

    def write(self, data: memoryview, patience: float) -> int:
        """See `Output`."""
        if self._always_ready:
            return os.write(self._fd, data)
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        if not poll.poll(patience * 1000):
            return 0
        try:
            return os.write(self._fd, data[: select.PIPE_BUF])
        except BlockingIOError:  # somebody made it non-blocking, and somebody else was quicker
            return 0

    def close(self) -> None:
        """See `Output`."""
        if self._owned:
            os.close(self._fd)


def open_file(path: Path) -> File:
    """Open a file for appending; its folder is made when it is missing. Raises OSError."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    return File(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644), owned=True)
