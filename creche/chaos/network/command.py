"""``creche proxy``: a proxy for the shell and for tests in other languages.

What it is told, and what it answers, are lines of JSON on standard input and output; see `control`. Neither the end of
the input nor that of whoever reads the output is the end of the proxy: that is a SIGINT or a SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast, final

import msgspec
import trio

from ...runtime.component import ComponentSpec
from ...runtime.config_fields import parse_duration
from ...runtime.errors import CrecheError, StartFailed
from ...supervisors.opening import open_runtime
from .control import answer
from .faults import DIRECTIONS, AnyFault, Corrupt, Cut, Fault, HalfOpen, Latency, Rate, Reset, Slicer, SlowClose
from .handle import TcpProxy, tcp_proxy
from .port import Address

T = TypeVar("T")
Given = tuple[Fault, frozenset[str]]
"""A fault, and the names of the fields that were given with it."""

_FAILED = 1
_USAGE_ERROR = 2
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]i?)?B?(?:/s)?")
_UNITS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


def fill(parser: argparse.ArgumentParser) -> None:
    """Give the command its options."""
    parser.description = (
        "Pass TCP connections on to a server, with faults. Lines of JSON on standard input change them."
    )
    parser.add_argument("--upstream", required=True, type=_option(address), metavar="HOST:PORT", help="the server")
    parser.add_argument("--listen", default=("127.0.0.1", 0), type=_option(address), metavar="HOST:PORT")
    parser.add_argument("--seed", type=int, help="for all that is drawn")
    parser.add_argument("--direction", default="both", choices=DIRECTIONS, help="of the faults that follow as options")
    parser.add_argument(
        "--toxicity",
        default=1.0,
        type=_option(probability),
        metavar="P",
        help="the probability that a connection is struck by a fault, for each of those that follow as options",
    )
    for option, kind, read, metavar, text in _FAULTS:
        made = partial(_made, kind, read)
        parser.add_argument(option, action=_AddFault, type=_option(made), metavar=metavar, help=text)
    parser.add_argument("--jitter", type=_option(parse_duration), metavar="TIME", help="of each latency, either way")
    parser.add_argument(
        "--fault",
        action=_AddFault,
        type=_option(fault),
        metavar="JSON",
        help='any other, for instance \'{"kind": "half_open", "gone": "server"}\'',
    )
    parser.set_defaults(command=run, faults=())


def run(arguments: argparse.Namespace) -> int:
    """Serve until told to stop; returns the exit status."""
    try:
        spec = tcp_proxy(arguments.upstream, listen=arguments.listen, faults=_faults(arguments), seed=arguments.seed)
    except ValueError as error:
        print(f"creche proxy: {error}", file=sys.stderr)
        return _USAGE_ERROR
    try:
        trio.run(partial(_serve, spec, arguments.upstream))
    except StartFailed as failed:
        print(f"creche proxy: {failed.__cause__ or failed}", file=sys.stderr)
        return _FAILED
    return 0


async def _serve(spec: ComponentSpec[TcpProxy], upstream: Address) -> None:
    async with open_runtime("proxy") as runtime:
        proxy = await runtime.start(spec)
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            _say({"listening": await proxy.address(), "upstream": upstream})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_obey, proxy)
                await anext(signals)
                nursery.cancel_scope.cancel("told to stop")


async def _obey(proxy: TcpProxy) -> None:
    async for line in _lines():
        if line.strip():
            try:
                _say({"ok": await answer(line, proxy)})
            except (CrecheError, msgspec.DecodeError, OSError) as error:  # OSError: it cannot listen again
                _say({"error": str(error)})


async def _lines() -> AsyncGenerator[bytes]:
    """Those of standard input, read in a thread that is left behind at the end: nothing can end a read of a terminal.

    Not by `sys.stdin`, whose lock such a thread would hold.
    """
    if sys.stdin is None:  # it is closed, so its number may be that of something else by now
        return
    rest = b""
    while data := await trio.to_thread.run_sync(os.read, 0, 65_536, abandon_on_cancel=True):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line
    yield rest


def _say(what: object) -> None:
    try:
        print(msgspec.json.encode(what).decode(), flush=True)
    except BrokenPipeError:  # as in `creche proxy … | head -1`
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# --- options --------------------------------------------------------------------------------------


def address(text: str) -> Address:
    """``"127.0.0.1:6379"`` or ``"[::1]:6379"``. Raises ValueError."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(f"{text!r}: write host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


def size(text: str) -> float:
    """``"1.5MB"``, ``"64KiB/s"``, ``"100"``: bytes. Raises ValueError."""
    match = _SIZE.fullmatch(text.replace("K", "k"))
    if match is None:
        raise ValueError(f"{text!r}: write bytes, or a number with kB, MB, GB, KiB, MiB or GiB")
    return float(match[1]) * _UNITS[match[2] or ""]


def probability(text: str) -> float:
    """``"0.5"``. Raises ValueError."""
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text!r}: write a number from 0 to 1")
    return value


def fault(text: str) -> Given:
    """A fault in JSON. Raises ValueError."""
    made: Fault = msgspec.json.decode(text, type=AnyFault)
    return made, frozenset(msgspec.json.decode(text, type=dict[str, object]))


def _made(kind: Callable[[Any], Fault], read: Callable[[str], Any], text: str) -> Given:
    return kind(read(text)), frozenset()


def _option(read: Callable[[str], T]) -> Callable[[str], T]:
    """For argparse, which shows the text of no other errors."""

    def checked(text: str) -> T:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked


_FAULTS: tuple[tuple[str, Callable[[Any], Fault], Callable[[str], Any], str, str], ...] = (
    ("--latency", Latency, parse_duration, "TIME", "bytes arrive later: 100ms"),
    ("--rate", Rate, size, "SIZE", "bytes per second: 1MB/s"),
    ("--corrupt", Corrupt, float, "P", "flip a bit in each byte with this probability"),
    ("--slice", Slicer, int, "BYTES", "pass bytes in pieces of this size"),
    ("--slow-close", SlowClose, parse_duration, "TIME", "pass the end of a stream on later"),
    ("--cut-after", Cut, lambda text: int(size(text)), "SIZE", "reset each connection after so many bytes"),
    ("--reset-after", Reset, parse_duration, "TIME", "reset each connection after so long"),
)


@final
class _AddFault(argparse.Action):
    """One more fault. What it does not say itself it has from the options before it."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        made, given = cast("Given", values)
        directed = not isinstance(made, (Reset, HalfOpen))
        common = {"toxicity", "direction"} if directed else {"toxicity"}
        holding = {name: getattr(namespace, name) for name in common - given}
        namespace.faults = (*namespace.faults, msgspec.structs.replace(made, **holding))


def _faults(arguments: argparse.Namespace) -> tuple[Fault, ...]:
    """Raises ValueError."""
    faults: tuple[Fault, ...] = arguments.faults
    if arguments.jitter is None:
        return faults
    if not any(isinstance(fault, Latency) for fault in faults):
        raise ValueError("--jitter needs a --latency that it is of")
    return tuple(_with_jitter(fault, arguments.jitter) for fault in faults)


def _with_jitter(fault: Fault, jitter: float) -> Fault:
    if isinstance(fault, Latency) and not fault.jitter:
        return msgspec.structs.replace(fault, jitter=jitter)
    return fault
