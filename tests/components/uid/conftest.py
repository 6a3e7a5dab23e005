"""The component on each backend, and a place for its state file."""

from __future__ import annotations

from pathlib import Path

import pytest

from creche.components import uid as u


@pytest.fixture(params=["file", "memory"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> u.Config:
    return u.Config(state_path=str(tmp_path / "uid.db") if request.param == "file" else None)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "uid.db")
