"""The examples on the hosting page run as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pages import programs_on, run_program

EXAMPLES = dict(zip(("twisted", "asyncio"), programs_on("docs/hosting.md"), strict=True))


@pytest.mark.parametrize("source", EXAMPLES.values(), ids=EXAMPLES)
def test_the_examples_greet(source: str, tmp_path: Path) -> None:
    assert run_program(source, tmp_path) == ["Hello, world"]
