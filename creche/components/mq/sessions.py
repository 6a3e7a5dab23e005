"""Which processes that use a log's file are alive.

Each keeps a file open and locked in a folder beside the log. The operating system gives the lock back when the process
ends, however it ends, so whether one lives is whether its lock can be taken. Where there are no such locks (Windows)
everybody is taken for alive, and only time tells.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_CLOSED = -1


class Session:
    """This process, as the others see it, under an id that no other has. Plain blocking code, but short."""

    def __init__(self, log_path: str, session_id: str) -> None:
        self.id = session_id
        self._folder = Path(log_path + "-sessions")
        self._file = _CLOSED

    def open(self) -> None:
        """Tell the others that this process lives. Idempotent. Raises OSError."""
        if self._file == _CLOSED:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = _open(self._folder / self.id)
            _lock(self._file)  # free: nobody else knows the name yet

    def close(self) -> None:
        """The process uses the log no more. Idempotent."""
        if self._file != _CLOSED:
            (self._folder / self.id).unlink(missing_ok=True)
            os.close(self._file)
            self._file = _CLOSED

    def is_alive(self, session: str) -> bool:
        """Whether the process of another session (or of this one) still uses the log."""
        path = self._folder / session
        if session == self.id or sys.platform == "win32":
            return True
        if not path.exists():
            return False
        try:
            file = _open(path)
        except OSError:
            return True  # another user's, or no descriptor is left: only time can tell
        try:
            if not _lock(file):
                return True
            path.unlink(missing_ok=True)  # nobody will use that id again
            return False
        finally:
            os.close(file)


def _open(path: Path) -> int:
    return os.open(path, os.O_CREAT | os.O_RDWR, 0o600)


def _lock(file: int) -> bool:
    if sys.platform != "win32":
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
