"""Where lines go. Blocking code, for worker threads, that never blocks for longer than it was told to.

See `files` for how a pipe that nobody reads blocks nobody.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TextIO

from ...runtime.errors import ConfigInvalid
from .config import Rotation
from .files import File, Plain, open_file
from .rotation import RotatingFile
from .stdlib import RecordOutput


class Output(Protocol):
    """Takes bytes."""

    @property
    def terminal(self) -> bool: ...

    @property
    def untidy(self) -> bool: ...  # whether there is something to `tidy`

    def write(self, data: memoryview, patience: float) -> int:
        """Write some of `data` and return how many bytes; 0 if none were taken within `patience` seconds.

        Raises OSError.
        """
        ...

    def tidy(self) -> None:
        """One short step of what is to be done besides writing. Raises OSError, and then waits for another reason."""

    def close(self) -> None:
        """Let go of it. Standard streams stay open: they are the process's."""


class Stream(Plain):
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


def open_output(name: str, rotation: Rotation | None, clock: Callable[[], float]) -> Output:
    """Open what ``Config.output`` names. Raises `ConfigInvalid` when that cannot be written to.

    `clock` gives seconds since the epoch, for the names and ages of backups.
    """
    try:
        if name == "stdout":
            return _standard(sys.stdout)
        if name == "stderr":
            return _standard(sys.stderr)
        if name == "logging":
            return RecordOutput()
        return open_file(Path(name)) if rotation is None else RotatingFile(Path(name), rotation, clock)
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
