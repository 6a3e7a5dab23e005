"""``creche dlq list`` and ``creche dlq replay``: dead letters from a shell, beside the service or without it."""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import trio

from ...runtime.cli import add_options
from ...runtime.configuration import read_configuration
from ...runtime.errors import ConfigInvalid, CrecheError
from ...supervisors.opening import open_runtime
from . import component
from .config import Config
from .handle import Mq
from .letters import about_failure
from .message import TRACE_HEADER, Received

FAILED = 1
USAGE_ERROR = 2


def fill(parser: argparse.ArgumentParser) -> None:
    """Add the commands to the parser of ``creche dlq``."""
    commands = parser.add_subparsers(required=True, metavar="command")
    show = commands.add_parser("list", help="print a group's letters, oldest first, as one JSON object a line")
    _add_arguments(show, limit=100)
    show.add_argument("--values", action="store_true", help="with keys, values and all headers, whatever is in them")
    show.set_defaults(command=_list)
    replay = commands.add_parser("replay", help="send a group's letters back, for its consumers only; prints how many")
    _add_arguments(replay, limit=None)
    replay.set_defaults(command=_replay)


def _add_arguments(parser: argparse.ArgumentParser, limit: int | None) -> None:
    parser.add_argument("topic", help="the topic of the letters, or the one that the records were sent to")
    parser.add_argument("group", help="the consumer group that put them aside")
    parser.add_argument("--limit", type=_positive, default=limit, help=f"at most so many (default: {limit or 'all'})")
    parser.add_argument("--path", help="the log's file; default: that of the section mq of the configuration")
    add_options(parser)


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: use a number of at least 1")
    return int(text)


# --- commands ---------------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    async def show(mq: Mq) -> None:
        for letter in await mq.dead_letters.list(arguments.topic, arguments.group, limit=arguments.limit):
            print(json.dumps(_described(letter, values=arguments.values), ensure_ascii=False))

    return _run("list", arguments, show)


def _replay(arguments: argparse.Namespace) -> int:
    async def replay(mq: Mq) -> None:
        print(await mq.dead_letters.replay(arguments.topic, arguments.group, limit=arguments.limit))

    return _run("replay", arguments, replay)


def _run(command: str, arguments: argparse.Namespace, fn: Callable[[Mq], Awaitable[None]]) -> int:
    try:
        config = _config(arguments.path)
    except (ConfigInvalid, FileNotFoundError, ImportError) as error:
        return _complain(command, error, USAGE_ERROR)
    try:
        trio.run(_with_log, config, fn)
    except CrecheError as error:
        return _complain(command, error, FAILED)
    return 0


def _config(path: str | None) -> Config:
    """The service's, so that what the log does beside, such as retention, it does as told."""
    config = read_configuration().section("mq", type=Config)
    if path is not None:
        config = msgspec.structs.replace(config, path=path)
    if not Path(config.path).is_file():  # it would be made
        raise FileNotFoundError(f"no file {config.path}: name it with --path, or the service's configuration")
    return config


async def _with_log(config: Config, fn: Callable[[Mq], Awaitable[None]]) -> None:
    async with open_runtime("dlq") as runtime:
        await fn(await runtime.start(component(config)))


def _complain(command: str, error: Exception, status: int) -> int:
    print(f"creche dlq {command}: {error}", file=sys.stderr)
    return status


# --- what is printed --------------------------------------------------------------------------------------------------


def _described(letter: Received, *, values: bool) -> dict[str, Any]:
    about: dict[str, Any] = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "time": datetime.fromtimestamp(letter.time, UTC).isoformat(timespec="milliseconds"),
        **about_failure(letter),
    }
    if TRACE_HEADER in letter.headers:
        about["trace_id"] = letter.headers[TRACE_HEADER]
    if values:
        about |= {"headers": letter.headers, **_named("key", letter.key), **_named("value", letter.value)}
    return about


def _named(name: str, data: bytes | None) -> dict[str, str | None]:
    """Bytes as text if they are text."""
    try:
        return {name: None if data is None else data.decode()}
    except UnicodeDecodeError:
        assert data is not None
        return {f"{name}_base64": b64encode(data).decode()}
