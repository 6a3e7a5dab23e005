"""What a test leaves behind: threads, descriptors of sockets and pipes, tasks, and channels that somebody still holds.

Taken twice, before and after: `look_around` and `leaks_since`.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import trio

_FDS = Path("/proc/self/fd")  # where there is none, descriptors are not looked at
_TRIO_CACHE = "Trio thread"  # Trio keeps threads that are done for a while


@dataclass(frozen=True, slots=True)
class Leaks:
    """What there is. `bool()` tells whether there is anything.

    Parameters
    ----------
    threads
        Names, without those that Trio keeps in stock.
    descriptors
        What sockets and pipes are open, as the system names them.
    channels
        Memory channels that are held open by something.
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
    descriptors: tuple[str, ...]
    channels: tuple[Any, ...]
    tasks: tuple[trio.lowlevel.Task, ...]


def look_around(*, channels: bool = True) -> Surroundings:
    """What there is now. `channels=False` leaves out the walk through all objects, which takes some milliseconds."""
    return Surroundings(
        tuple(_threads()), tuple(_descriptors()), tuple(_channels()) if channels else (), tuple(_tasks())
    )


def leaks_since(before: Surroundings, *, channels: bool = True) -> Leaks:
    """What there is now and was not before."""
    if channels:
        gc.collect()
    known_threads, known_tasks = set(map(id, before.threads)), set(map(id, before.tasks))
    known_channels = set(map(id, before.channels))
    return Leaks(
        tuple(thread.name for thread in _threads() if id(thread) not in known_threads),
        tuple(name for name in _descriptors() if name not in before.descriptors),
        tuple(repr(one) for one in (_channels() if channels else ()) if id(one) not in known_channels),
        tuple(task.name for task in _tasks() if id(task) not in known_tasks),
    )


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.name.startswith(_TRIO_CACHE)]


def _descriptors() -> Iterator[str]:
    if _FDS.is_dir():
        for name in os.listdir(_FDS):
            try:
                target = os.readlink(_FDS / name)
            except OSError:
                continue  # the one that the listing itself had open
            if target.startswith(("socket:", "pipe:")):
                yield target


def _channels() -> Iterator[Any]:
    """Those that hold back a value or a task: an end that nobody uses any more is garbage like any other."""
    for one in gc.get_objects():
        if isinstance(one, trio.MemoryReceiveChannel):
            seen = one.statistics()
            if seen.current_buffer_used or seen.tasks_waiting_send or seen.tasks_waiting_receive:
                yield one


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
