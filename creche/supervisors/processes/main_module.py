"""What is defined in the program itself, `__main__`, is found in the other process too.

A script is `__main__` in the process that runs it, and something else everywhere else. Where a value names it, the
process imports the script under another name, `MAIN_THERE`, once; so the start of the program must stand under
``if __name__ == "__main__":``. What comes back under that name is `__main__` here. (The "spawn" method of
`multiprocessing` does the same, but always.)
"""

from __future__ import annotations

import importlib
import io
import pickle
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MAIN_THERE = "__creche_main__"
_MARK = b"main__"


class MainFinder(MetaPathFinder, Loader):
    """Part of the import system of the other process: it knows where the program is."""

    def __init__(self, kind: str, where: str) -> None:
        self.kind = kind
        self.where = where

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname == MAIN_THERE else None

    def exec_module(self, module: ModuleType) -> None:
        run = runpy.run_module if self.kind == "module" else runpy.run_path
        module.__dict__.update(run(self.where, run_name=MAIN_THERE))


def where_main_is() -> tuple[str, str] | None:
    """How another process gets at the program: ``("module", name)``, ``("path", file)``; None: it cannot."""
    for finder in sys.meta_path:
        if isinstance(finder, MainFinder):
            return finder.kind, finder.where  # this process was started by the program, in its turn
    main = sys.modules.get("__main__")
    spec: ModuleSpec | None = getattr(main, "__spec__", None)
    if spec is not None:
        return "module", spec.name
    path: str | None = getattr(main, "__file__", None)
    return None if path is None else ("path", path)


def names_main(pickled: bytes | bytearray) -> bool:
    """Whether a pickle may name something of the program."""
    return _MARK in pickled


def unpickler_for_main(pickled: bytes | bytearray, buffers: Sequence[Any]) -> pickle.Unpickler:
    """Reads a pickle in which each side names the program in its own way."""
    return _Unpickler(io.BytesIO(pickled), buffers=buffers)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module_name: str, global_name: str, /) -> Any:
        return super().find_class(_name_here(module_name), global_name)


def _name_here(module_name: str) -> str:
    if module_name not in ("__main__", MAIN_THERE):
        return module_name
    if any(isinstance(finder, MainFinder) for finder in sys.meta_path):
        importlib.import_module(MAIN_THERE)
        return MAIN_THERE
    return "__main__"
