"""The houses stand one upon the other, and nothing imports upwards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "creche"
BELOW = {
    "runtime": {"runtime"},
    "supervisors": {"runtime", "supervisors"},
    "components": {"runtime", "supervisors", "components"},
    "testing": {"runtime", "supervisors", "testing"},
    "chaos": {"runtime", "supervisors", "testing", "chaos"},
}
"""What each may import. Testing and chaos stand beside the components: they disturb them, and know none."""


def imports_of(file: Path) -> Iterator[str]:
    """The houses that a module imports from, also those under ``TYPE_CHECKING`` and inside functions."""
    package = ("creche", *file.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "creche":
                yield parts[1] if len(parts) > 1 else "creche"


def test_every_house_is_known() -> None:
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == BELOW.keys()


@pytest.mark.parametrize("house", BELOW)
def test_nothing_imports_upwards(house: str) -> None:
    wrong = {
        f"{file.relative_to(PACKAGE)} imports creche.{name}"
        for file in (PACKAGE / house).rglob("*.py")
        for name in imports_of(file)
        if name not in BELOW[house]
    }
    assert sorted(wrong) == []
