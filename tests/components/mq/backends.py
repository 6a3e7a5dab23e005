"""The backends that the contract is run against.

A backend opens a runtime with a log in it, which is empty at first; opened again on the same folder it has the same
data. Of its config the contract sets only what every backend knows: `partitions`, `commit_every`, `offset_reset` and
`max_message_bytes`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import trio

import creche
from creche.components import mq as m

from .support import AT_ONCE, LIMIT, MANY_RESTARTS


class Backend(Protocol):
    """Opens a log on the data in a folder."""

    def __call__(self, folder: Path, **config: Any) -> AbstractAsyncContextManager[tuple[creche.Runtime, m.Mq]]: ...


@asynccontextmanager
async def sqlite(folder: Path, **config: Any) -> AsyncGenerator[tuple[creche.Runtime, m.Mq]]:
    """The embedded one: a file in the folder."""
    with trio.fail_after(LIMIT):
        async with creche.open_runtime("contract", intensity=MANY_RESTARTS, seed=1) as runtime:
            spec = m.component(m.Config(path=str(folder / "log"), **config)).options(backoff=AT_ONCE)
            yield runtime, await runtime.start(spec)


BACKENDS: dict[str, Backend] = {"sqlite": sqlite}
