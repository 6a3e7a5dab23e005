"""Where lines go. Blocking code, for worker threads, that never blocks for longer than it was told to.

A write to a pipe or a terminal blocks for as long as its reader likes, and a thread in it cannot be
cancelled. So such an output is asked first whether it takes anything, and then gets no more than it must take
whole: POSIX lets a pipe that is writable take PIPE_BUF bytes. (A second process that writes to the same pipe
may be quicker; then the write blocks until that reader has read.) A regular file is always ready.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from pathlib import Path
from typing import Protocol, TextIO

from ...runtime.errors import ConfigInvalid


class Output(Protocol):
    """Takes bytes."""

    terminal: bool

    def write(self, data: memoryview, patience: float) -> int:
        """Write some of `data` and return how many bytes; 0 if none were taken within `patience` seconds.

        Raises OSError.
        """
        ...

    def close(self) -> None:
        """Let go of it. Standard streams stay open: they are the process's."""


class File:
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


class Stream:
    """A standard stream that has been replaced by something without a descriptor, as test runners and notebooks do."""

    terminal = False

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, data: memoryview, patience: float) -> int:
        """See `Output`. Lines come whole, so the bytes can be decoded."""
        try:
            self._stream.write(bytes(data).decode("utf-8"))
            self._stream.flush()
        except ValueError as closed:
            raise OSError(str(closed)) from closed
        return len(data)

    def close(self) -> None:
        """See `Output`."""


def open_output(name: str) -> Output:
    """Open what ``Config.output`` names. Raises `ConfigInvalid` when that cannot be written to."""
    try:
        if name == "stdout":
            return _standard(sys.stdout)
        return _standard(sys.stderr) if name == "stderr" else _file(Path(name))
    except (OSError, ValueError) as error:
        reason = f"cannot be opened for writing ({error}): name a writable file, or 'stdout' or 'stderr'"
        raise ConfigInvalid("$.output", name, reason) from error


def _standard(stream: TextIO | None) -> Output:
    if stream is None:
        raise ValueError("the process has none")
    try:
        fd = stream.fileno()
    except OSError:  # io.UnsupportedOperation
        return Stream(stream)
    stream.flush()  # what was printed before stands before
    return File(fd, owned=False)


def _file(path: Path) -> Output:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    return File(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644), owned=True)
