"""The backends that the contract is tested against."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator

import pytest
import trio

from creche.components.cache import Cache
from tests.core.support import hang_guard

from .support import BACKENDS, Backend, Opened


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    with hang_guard(30.0):
        yield


@pytest.fixture(params=sorted(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    return BACKENDS[request.param]


@pytest.fixture
def clock(backend: Backend) -> trio.abc.Clock | None:
    """A test that lets time pass asks for it, for pytest-trio looks for a clock among a test's own arguments."""
    return backend.clock()


@pytest.fixture
async def opened(backend: Backend) -> AsyncGenerator[Opened]:
    async with backend.opened() as opened:
        yield opened


@pytest.fixture
async def cache(opened: Opened) -> Cache:
    return opened.cache
