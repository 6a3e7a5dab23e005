"""No test in here may hang the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.support import hang_guard


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    with hang_guard():
        yield
