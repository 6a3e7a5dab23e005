"""The backends that the contract is tested on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from creche import Runtime
from creche.components import db as component

from . import support


class Backend:
    """A way to a database that is empty but for the tables of `support`, and what differs between backends."""

    endless: sa.TextClause

    def running(self, **values: Any) -> AbstractAsyncContextManager[tuple[Runtime, component.Db]]:
        """A runtime with the database in it; again, with what was stored, when it is entered again."""
        raise NotImplementedError


class SqliteBackend(Backend):
    endless = support.ENDLESS

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @asynccontextmanager
    async def running(self, **values: Any) -> AsyncGenerator[tuple[Runtime, component.Db]]:
        async with support.running(self._folder, **values) as it:
            yield it


@pytest.fixture(params=["sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """Each backend in turn."""
    return {"sqlite": SqliteBackend}[request.param](tmp_path)
