"""The command line: ``creche run module:app`` and ``creche config check``, also as ``python -m creche``.

Commands of the houses above, such as ``creche proxy``, are found by name: the runtime imports none of them.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType
from typing import Protocol, runtime_checkable

from .config import Config
from .config_sources import ENV_VARIABLE, FILE_VARIABLE
from .configuration import Configuration, read_configuration
from .errors import ConfigInvalid, CrecheError

CONFIG_INVALID = 1
USAGE_ERROR = 2
COMMANDS_ABOVE = {
    "chaos": ("creche.chaos.command", "let faults strike an app or a scenario, and see what holds"),
    "dlq": ("creche.components.mq.command", "look at dead letters and send them back"),
    "proxy": ("creche.chaos.network.command", "a TCP proxy with faults"),
}
"""{name: (module, help)}. The module is imported if the command is given; its `fill` completes the parser."""


@runtime_checkable
class Runnable(Protocol):
    """What the commands need of an app."""

    configuration: Configuration

    def run_until_complete(self) -> int: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    given = sys.argv[1:] if argv is None else argv
    arguments = _parser(given).parse_args(given)
    for variable, option in ((FILE_VARIABLE, "config"), (ENV_VARIABLE, "env")):
        if getattr(arguments, option, None) is not None:
            os.environ[variable] = getattr(
                arguments, option
            )  # the app reads them when it is made, which is when it is imported
    status: int = arguments.command(arguments)
    return status


def load(target: str) -> Runnable:
    """The app that ``module:attribute`` names; modules are found from the current directory too.

    Raises ValueError, ImportError, AttributeError or TypeError, each with a text that says what is wrong with `target`.
    """
    module_name, colon, attribute = target.partition(":")
    if not colon or not module_name or not attribute:
        raise ValueError("name the app as module:attribute, for instance service.main:app")
    if "" not in sys.path:
        sys.path.insert(0, "")
    app = getattr(imported(module_name), attribute)
    if not isinstance(app, Runnable):
        raise TypeError(f"{attribute} is a {type(app).__name__}, not a creche.App")
    return app


def imported(name: str) -> ModuleType:
    """A module of an author. Raises ImportError, with the place, whatever goes wrong in it, or creche's own errors."""
    try:
        return importlib.import_module(name)
    except (CrecheError, ModuleNotFoundError):
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = "" if isinstance(error, SyntaxError) else f", in {place.filename}, line {place.lineno}"
        raise ImportError(f"{name} cannot be imported: {type(error).__name__}: {error}{where}") from error


# --- commands -------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    try:
        app = _load_with_options(arguments)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return _complain(f"creche run {arguments.app}", error, USAGE_ERROR)
    return app.run_until_complete()


def _check_config(arguments: argparse.Namespace) -> int:
    """Status 0: all is well, and here it is; 1: it is not; 2: there is nothing to check."""
    try:
        configuration = _checked_alone() if arguments.app is None else _load_with_options(arguments).configuration
        configuration.check()
    except ConfigInvalid as invalid:
        print(invalid, file=sys.stderr)
        return CONFIG_INVALID
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        return _complain("creche config check", error, USAGE_ERROR)
    print(f"# environment: {configuration.env}")
    print(configuration)
    return 0


def _load_with_options(arguments: argparse.Namespace) -> Runnable:
    app = load(arguments.app)
    for option, asked, taken in (
        ("--config", arguments.config, app.configuration.path),
        ("--env", arguments.env, app.configuration.env),
    ):
        if asked not in (None, taken):
            raise ValueError(f"{option} {asked}: the code of the app chooses {taken}")
    return app


def _checked_alone() -> Configuration:
    """The configuration without an app: as if it had each component of creche's own that is configured."""
    configuration = read_configuration()
    if configuration.path is None:
        raise ValueError("name an app as module:attribute, a file with --config, or both")
    known = _known_sections()
    for section, kind in known.items():
        if configuration.has(section):
            configuration.config(section, kind)
    configuration.check([*known])
    return configuration


def _known_sections() -> dict[str, type[Config]]:
    """Found by name, as apps are: the runtime imports no component."""
    components = importlib.import_module("creche.components")
    packages = {name: package for name, package in vars(components).items() if hasattr(package, "Config")}
    return {"server": components.http.ServerConfig, **{name: packages[name].Config for name in packages}}


def _complain(command: str, error: Exception, status: int) -> int:
    print(f"{command}: {error}", file=sys.stderr)
    return status


# --- arguments ------------------------------------------------------------------------------------


def _parser(given: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="creche", description="Run and look after creche services.")
    commands = parser.add_subparsers(required=True, metavar="command")
    run = commands.add_parser("run", help="run an app until it is told to stop")
    run.add_argument("app", help="module:attribute, for instance service.main:app")
    add_options(run)
    run.set_defaults(command=_run)
    config = commands.add_parser("config", help="look at the configuration").add_subparsers(
        required=True, metavar="command"
    )
    check = config.add_parser("check", help="check it, and print each value with its origin; starts nothing")
    check.add_argument("app", nargs="?", help="module:attribute; without, the components' sections are checked")
    add_options(check)
    check.set_defaults(command=_check_config)
    for name, (module, text) in COMMANDS_ABOVE.items():
        above = commands.add_parser(name, help=text)
        if name in given:
            importlib.import_module(module).fill(above)
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """What a command takes that reads the configuration: `main` puts it where that is looked for."""
    parser.add_argument("--config", metavar="FILE", help=f"the config file, as with {FILE_VARIABLE}")
    parser.add_argument("--env", help=f"development or production, as with {ENV_VARIABLE}")
