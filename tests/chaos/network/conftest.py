"""No test here may hang the run, or leave a socket open."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from tests.core.support import hang_guard


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    with hang_guard(30.0):
        yield


@pytest.fixture(autouse=True)
def nothing_left_open(no_hang: None) -> Iterator[None]:
    before = _open_files()
    yield
    gc.collect()  # a socket that nobody has closed warns, which is an error
    assert _open_files() == before


def _open_files() -> int:
    return len(os.listdir("/dev/fd"))
