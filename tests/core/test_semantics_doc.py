"""docs/semantics.md and the tests say the same: every promise has its test."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "semantics.md"


def promises() -> list[str]:
    """The names of the lines, in order."""
    return re.findall(r"^- \*\*([a-z0-9-]+)\*\*: ", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def names_of_tests() -> Counter[str]:
    """The names of all test functions of the core, the supervisors and found bugs, without `test_`."""
    found: Counter[str] = Counter()
    for folder in ("core", "supervisors", "issues"):
        for path in (ROOT / "tests" / folder).glob("test_*.py"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test_"):
                    found[node.name.removeprefix("test_")] += 1
    return found


def test_every_promise_has_its_test() -> None:
    """For each named line of the page there is exactly one test of that name."""
    found = names_of_tests()
    assert {name: found[name.replace("-", "_")] for name in promises()} == dict.fromkeys(promises(), 1)


def test_promises_are_named_once() -> None:
    """No two lines have one name, and every line of a list is a promise."""
    names = promises()
    assert len(names) > 100
    assert [name for name, times in Counter(names).items() if times > 1] == []
    assert len(names) == len(re.findall(r"^- ", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
