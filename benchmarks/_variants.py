"""The same measurements on a changed copy of the package: what would it cost, or gain, if the code were different?

A copy is made in a scratch folder, under another name, and `_ours` is made anew on top of it. The package itself is not
touched, and both run in one process, in turns.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import creche

from . import _ours

PACKAGE = Path(creche.__file__).parent


class HooksAbsent(ast.NodeTransformer):
    """``if ...events.on:`` becomes ``if False:``, which Python compiles to nothing."""

    name = "hooks_absent"

    def __init__(self) -> None:
        self.changed = 0

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        hub = node.value
        if node.attr == "on" and isinstance(hub, ast.Attribute) and hub.attr == "events":
            self.changed += 1
            return ast.copy_location(ast.Constant(False), node)
        return self.generic_visit(node)


class OneByOne(ast.NodeTransformer):
    """One message for each wake."""

    name = "one_by_one"

    def __init__(self) -> None:
        self.changed = 0

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        if any(isinstance(target, ast.Name) and target.id == "BATCH" for target in node.targets):
            self.changed += 1
            node.value = ast.copy_location(ast.Constant(1), node.value)
        return node


class Workbench:
    """Makes each variant on first use, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._variants: dict[str, ModuleType] = {}

    def ours(self, change: type[HooksAbsent | OneByOne]) -> ModuleType:
        """`_ours` on a copy of the package with this change."""
        if change.name not in self._variants:
            self._variants[change.name] = self._make(change())
        return self._variants[change.name]

    def _make(self, change: HooksAbsent | OneByOne) -> ModuleType:
        package = f"creche_{change.name}"
        for source in PACKAGE.rglob("*.py"):
            target = self._folder / package / source.relative_to(PACKAGE)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(ast.unparse(change.visit(ast.parse(source.read_text()))))
        if not change.changed:
            raise RuntimeError(f"{type(change).__name__} found nothing to change: the package has moved on, follow it")
        renamed = re.sub(r"^(import creche)$", rf"import {package} as creche", _source_of_ours(), flags=re.MULTILINE)
        (self._folder / f"ours_{change.name}.py").write_text(renamed)
        if str(self._folder) not in sys.path:
            sys.path.insert(0, str(self._folder))
        return importlib.import_module(f"ours_{change.name}")


def _source_of_ours() -> str:
    return Path(_ours.__file__).read_text()
