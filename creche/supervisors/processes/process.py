"""The operating system's side of it: start a process that runs `creche.worker`, kill it, and leave no trace of it.

Theory of operation
-------------------
* The process is made by executing Python anew, never by a fork that goes on in the copied memory: locks that other
  threads held at that moment would be held for ever.
* It gets two descriptors and nothing else: one end of a socket pair for frames, and the reading end of a pipe to which
  nobody ever writes. When this process ends, in whatever way, the kernel closes the other end, which ends the process
  at once, also in the middle of a computation: see `child`.
* It leads a session of its own. So Ctrl-C at the terminal reaches this process alone, whose orderly stop then ends the
  others; and whatever the process itself has started ends with it, killed in the step in which the process is reaped:
  later its number may belong to somebody else.
* `open_process` gives no process away without having killed and reaped it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager, suppress

import trio

from .link import Link

# Modules are found over there where they are here, from the first one on: creche itself need not be installed, and what
# lies in the working directory is nobody's business.
BEGINNING = "import sys; sys.path[:] = sys.argv[4:]; from creche.worker import main; main()"
EXIT_WAIT = 1.0  # seconds that a process has between its last word and its end, so that its own status can be told


class Process:
    """A process, and the connection to it."""

    def __init__(self, process: trio.Process, link: Link) -> None:
        self._process = process
        self._reaped = False
        self.link = link
        self.pid: int = process.pid
        self.status: int | None = None  # once it is reaped

    def kill(self) -> None:
        """Kill it, and whatever it has started in its session. Idempotent."""
        if not self._reaped:
            with suppress(ProcessLookupError, PermissionError):  # macOS forbids it for one that has just ended
                os.killpg(self.pid, signal.SIGKILL)

    async def wait(self) -> int:
        """Wait for its end, and reap it. Returns its exit status, or minus the signal that killed it."""
        self.status = await self._process.wait()
        self.kill()  # what it has left behind
        self._reaped = True
        return self.status

    async def end(self) -> int:
        """It is about to end by itself: wait for that a little, else kill it."""
        with trio.move_on_after(EXIT_WAIT):
            return await self.wait()
        self.kill()
        return await self.wait()


@asynccontextmanager
async def open_process(version: str) -> AsyncGenerator[Process]:
    """A process for the length of a block. It is killed, if it is still there, and reaped at the end, always."""
    with ExitStack() as ours, ExitStack() as theirs:
        here, there = socket.socketpair()
        ours.callback(here.close)
        theirs.callback(there.close)
        reader, writer = os.pipe()
        ours.callback(os.close, writer)
        theirs.callback(os.close, reader)
        link = Link(here)
        ours.callback(link.close)
        descriptors = (there.fileno(), reader)
        command = [sys.executable, "-c", BEGINNING, *map(str, descriptors), version, *sys.path]
        started = await trio.lowlevel.open_process(
            command, stdin=subprocess.DEVNULL, pass_fds=descriptors, start_new_session=True
        )
        process = Process(started, link)
        theirs.close()
        try:
            yield process
        finally:
            with trio.CancelScope(shield=True):
                process.kill()
                await process.wait()
