"""The command line: ``creche run module:app``, also as ``python -m creche``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

USAGE_ERROR = 2


@runtime_checkable
class Runnable(Protocol):
    """What ``creche run`` needs of an app."""

    def run_until_complete(self) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        app = load(arguments.app)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        print(f"creche run {arguments.app}: {error}", file=sys.stderr)
        return USAGE_ERROR
    return app.run_until_complete()


def load(target: str) -> Runnable:
    """The app that ``module:attribute`` names; modules are found from the current directory too.

    Raises ValueError, ImportError, AttributeError or TypeError, each with a text that says what is wrong with `target`.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise ValueError("name the app as module:attribute, for instance service.main:app")
    if "" not in sys.path:
        sys.path.insert(0, "")
    app = getattr(importlib.import_module(module_name), attribute)
    if not isinstance(app, Runnable):
        raise TypeError(f"{attribute} is a {type(app).__name__}, not a creche.App")
    return app


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="creche", description="Run and look after creche services.")
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="run an app until it is told to stop")
    run.add_argument("app", help="module:attribute, for instance service.main:app")
    return parser
