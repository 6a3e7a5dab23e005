"""A pytest fixture that takes the log's lines.

Import it in ``conftest.py``::

    from creche.components.clog.testing import captured_logs as captured_logs

Then ``with captured_logs.of(runtime):`` takes those of a runtime; those of code outside of runtimes are taken at once.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .capture import Capture


@pytest.fixture
def captured_logs() -> Iterator[Capture]:
    """A `Capture` for the length of a test."""
    with Capture().outside() as taken:
        yield taken
