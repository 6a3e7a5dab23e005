"""What a test leaves behind: threads, descriptors of sockets and pipes, tasks, and channels that somebody still holds.

Taken twice, before and after: `look_around` and `leaks_since`.
"""

from __future__ import annotations

import gc
import os
import reprlib
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import trio

if sys.platform != "win32":
    import fcntl

_FDS = Path("/proc/self/fd")  # where there is none, descriptors are not looked at
_TRIO_CACHE = "Trio thread"  # Trio keeps threads that are done for a while
# Where the standard library keeps descriptors of helpers that live as long as the process, once they have been asked
# for: module, object, attribute.
_HELPERS = (
    ("multiprocessing.resource_tracker", "_resource_tracker", "_fd"),
    ("multiprocessing.forkserver", "_forkserver", "_forkserver_alive_fd"),
)
_LAST_STEPS = 10  # that a task may need which is just ending
_ENDS = {os.O_RDONLY: ", the end to read from", os.O_WRONLY: ", the end to write to"}

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 60

Descriptor = tuple[int, str]  # its number, and what the system calls it


@dataclass(frozen=True, slots=True)
class Leaks:
    """What there is. `bool()` tells whether there is anything.

    Parameters
    ----------
    threads
        Names, without those that Trio keeps in stock.
    descriptors
        What sockets and pipes are open, as the system names them; with their numbers, and the addresses of a socket.
    channels
        Memory channels that are held open by something, and what waits in them.
    tasks
        Names of tasks, if this was looked for inside of a Trio run.
    """

    threads: tuple[str, ...] = ()
    descriptors: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) for field in fields(self))

    def __str__(self) -> str:
        found = ((field.name, getattr(self, field.name)) for field in fields(self))
        return "; ".join(f"{name}: {', '.join(some)}" for name, some in found if some)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What there was; see `look_around`. Objects are kept, so that none can be taken for a later one of the same id."""

    threads: tuple[threading.Thread, ...]
    descriptors: tuple[Descriptor, ...]
    channels: tuple[Any, ...]
    tasks: tuple[trio.lowlevel.Task, ...]


def look_around(*, channels: bool = True) -> Surroundings:
    """What there is now. `channels=False` leaves out the walk through all objects, some 20 ms for 100,000 of them."""
    return Surroundings(
        tuple(_threads()), tuple(_descriptors()), tuple(_channels()) if channels else (), tuple(_tasks())
    )


def leaks_since(before: Surroundings, *, channels: bool = True) -> Leaks:
    """What there is now and was not before, garbage left out."""
    found = _new_since(before, channels)
    if found.descriptors or found.channels:
        gc.collect()  # they may be held by garbage only; it takes longer than all of the rest, so not each time
        found = _new_since(before, channels)
    return found


async def tasks_since(before: Surroundings) -> tuple[str, ...]:
    """Names of the tasks that are there now and were not before. Those that are about to end are let end."""
    for _ in range(_LAST_STEPS):
        if not _new_tasks(before):
            break
        await trio.lowlevel.checkpoint()
    return _new_tasks(before)


def _new_since(before: Surroundings, channels: bool) -> Leaks:
    known_threads, known_channels = set(map(id, before.threads)), set(map(id, before.channels))
    return Leaks(
        tuple(thread.name for thread in _threads() if id(thread) not in known_threads),
        tuple(_told(*one) for one in _descriptors() if one not in before.descriptors),
        tuple(_with_content(one) for one in (_channels() if channels else ()) if id(one) not in known_channels),
        _new_tasks(before),
    )


def _new_tasks(before: Surroundings) -> tuple[str, ...]:
    known = set(map(id, before.tasks))
    return tuple(task.name for task in _tasks() if id(task) not in known)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.name.startswith(_TRIO_CACHE)]


# --- descriptors ----------------------------------------------------------------------------------


def _descriptors() -> Iterator[Descriptor]:
    if _FDS.is_dir():
        helpers = [getattr(getattr(sys.modules.get(where), name, None), fd, None) for where, name, fd in _HELPERS]
        for name in os.listdir(_FDS):
            try:
                target = os.readlink(_FDS / name)
            except OSError:
                continue  # the one that the listing itself had open
            if target.startswith(("socket:", "pipe:")) and int(name) not in helpers:
                yield int(name), target


def _told(fd: int, target: str) -> str:
    try:
        more = _addresses(fd) if target.startswith("socket:") else _end_of_pipe(fd)
    except OSError:
        more = ""  # it has been closed meanwhile
    return f"{target} (fd {fd}{more})"


def _end_of_pipe(fd: int) -> str:
    return _ENDS.get(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE, "") if sys.platform != "win32" else ""


def _addresses(fd: int) -> str:
    with socket.socket(fileno=os.dup(fd)) as twin:
        local = _address(twin.getsockname())
        try:
            peer = _address(twin.getpeername())
        except OSError:
            peer = ""  # it is not connected
    return (local and f", at {local}") + (peer and f", connected to {peer}")


def _address(address: Any) -> str:
    """As text; empty if it is none: not bound, or a Unix socket without a name."""
    if isinstance(address, tuple):
        host, port = cast("tuple[object, object]", address[:2])
        return f"{host}:{port}" if port else ""
    return os.fsdecode(address).replace("\0", "@") if isinstance(address, bytes) else str(address)


# --- channels and tasks ---------------------------------------------------------------------------


def _channels() -> list[Any]:
    """Those that hold back a value or a task: an end that nobody uses any more is garbage like any other."""
    # By `isinstance` the walk takes twice as long, and there are no subclasses.
    kind: type[Any] = trio.MemoryReceiveChannel
    return [one for one in gc.get_objects() if type(one) is kind and _holds_back(one)]


def _holds_back(channel: trio.MemoryReceiveChannel[Any]) -> bool:
    seen = channel.statistics()
    return bool(seen.current_buffer_used or seen.tasks_waiting_send or seen.tasks_waiting_receive)


def _with_content(channel: trio.MemoryReceiveChannel[Any]) -> str:
    seen = channel.statistics()
    counts = (
        (seen.current_buffer_used, "items"),
        (seen.tasks_waiting_send, "tasks that wait to send"),
        (seen.tasks_waiting_receive, "tasks that wait to receive"),
    )
    what = ", ".join(f"{name}: {count}" for count, name in counts if count)
    items = getattr(getattr(channel, "_state", None), "data", ())  # Trio shows nobody what waits in it
    first = f", the first is {_short.repr(items[0])}" if items else ""
    return f"{channel!r} ({what}{first})"


def _tasks() -> Iterator[trio.lowlevel.Task]:
    if trio.lowlevel.in_trio_run():
        root = trio.lowlevel.current_root_task()
        if root is not None:
            yield from _below(root)


def _below(task: trio.lowlevel.Task) -> Iterator[trio.lowlevel.Task]:
    yield task
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            yield from _below(child)
