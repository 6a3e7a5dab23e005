"""The cost of a log line, against structlog and the standard library: ``python -m benchmarks.clog``.

All write JSON lines with the same fields into a file on disk. ``clog`` is what the caller pays; the writing is done by
another thread. ``clog_all`` is all that the process pays until the lines are with the system, which is what the others
do on the spot. structlog is set up as its page on performance says. It is needed for this benchmark only: pip install
structlog.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import trio

import creche
from creche.components import clog

from . import _harness as harness
from ._harness import Missing, Probe, Row, Size, Stopwatch

Write = Callable[[int], object]

_CHUNK = 1000  # lines between two flushes


def chunks(lines: int) -> Sequence[range]:
    return [range(start, min(start + _CHUNK, lines)) for start in range(0, lines, _CHUNK)]


# --- ours -----------------------------------------------------------------------------------------------------


class Writer(creche.Actor):
    """Logs from inside an actor, as most code does."""

    async def write(self, numbers: range, write: Write) -> float:
        with Stopwatch() as watch:
            for number in numbers:
                write(number)
        return watch.elapsed


def simple(number: int) -> None:
    _LOG.info("order placed", order_id=number, item="book", price=9.99)


def source_of_errors(number: int) -> None:
    _LOG.info("order failed", error=_ERROR, order_id=number)


def filtered(number: int) -> None:
    _LOG.debug("order placed", order_id=number, item="book", price=9.99)


_LOG = clog.namespace("orders")
_ERROR = ValueError("no book")


async def ours(path: Path, write: Write, config: dict[str, Any], whole: bool, lines: int) -> float:
    async with creche.open_runtime("benchmark") as runtime:
        settings = clog.Config(**{"output": str(path), "levels": {}, "capture_logging": False, **config})
        handle = await runtime.start(clog.component(settings))
        writer = await runtime.start(creche.child(Writer))
        with clog.trace():
            caller, began = 0.0, time.process_time()
            for numbers in chunks(lines):
                caller += await writer.ask.write(numbers, write)
                await handle.flush()
            everything = (time.process_time() - began) * 1e6
        assert handle.dropped == 0
    return (everything if whole else caller) / lines


def of_ours(figure: str, write: Write = simple, *, whole: bool = False, **config: Any) -> Probe:
    def run(size: Size) -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            return [trio.run(ours, Path(folder) / "log", write, config, whole, size.operations)]

    return Probe((figure,), run)


# --- the others -----------------------------------------------------------------------------------------------


def timed(lines: int, write: Write) -> float:
    with Stopwatch() as watch:
        for number in range(lines):
            write(number)
    return watch.elapsed / lines


def of_structlog(figure: str, *, level: str = "info") -> Probe:
    def run(size: Size) -> list[float]:
        with tempfile.TemporaryFile("wb") as file:
            log = structlog_logger(file)
            write = log.info if level == "info" else log.debug
            return [
                timed(size.operations, lambda number: write("order placed", order_id=number, item="book", price=9.99))
            ]

    return Probe((figure,), run)


def structlog_logger(file: BinaryIO) -> Any:
    try:
        orjson: Any = import_module("orjson")
        structlog: Any = import_module("structlog")
    except ImportError:
        raise Missing("structlog is not installed: pip install structlog") from None
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(trace_id="4bf92f3577b34da6a3ce929d0e0e4736", actor="root/writer")
    return structlog.wrap_logger(
        structlog.BytesLogger(file),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=True,
    ).bind(namespace="orders")


class JsonFormatter(logging.Formatter):
    """What services write that want JSON lines from the standard library."""

    _USUAL = frozenset(logging.makeLogRecord({}).__dict__)

    def format(self, record: logging.LogRecord) -> str:
        import orjson

        extra = {key: value for key, value in record.__dict__.items() if key not in self._USUAL}
        line = {"time": self.formatTime(record), "level": record.levelname, "msg": record.getMessage()}
        return orjson.dumps({**line, "namespace": record.name, **extra}).decode()


@contextmanager
def stdlib_logger(file: TextIO, formatter: logging.Formatter) -> Generator[logging.Logger]:
    logger = logging.getLogger("benchmark.orders")
    handler = logging.StreamHandler(file)
    handler.setFormatter(formatter)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield logger
    finally:
        logger.removeHandler(handler)


def of_stdlib(figure: str, formatter: logging.Formatter, *, level: int = logging.INFO) -> Probe:
    def run(size: Size) -> list[float]:
        with tempfile.TemporaryFile("w") as file, stdlib_logger(file, formatter) as logger:
            extra = {"item": "book", "price": 9.99, "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736"}
            write = partial(logger.log, level, "order placed")
            return [timed(size.operations, lambda number: write(extra={**extra, "order_id": number}))]

    return Probe((figure,), run)


PROBES = [
    of_ours("clog"),
    of_ours("clog_all", whole=True),
    of_ours("clog_console", format="console", color=False),
    of_ours("clog_source", add_source=True),
    of_ours("clog_sampled", sampling=clog.Sampling(first=1_000_000)),
    of_ours("clog_suppressed", sampling=clog.Sampling(first=1, thereafter=0, tick=1000)),
    of_ours("clog_recorded", filtered, flight_recorder=100),
    of_ours("clog_filtered", filtered),
    of_ours("clog_error", source_of_errors),
    of_structlog("structlog"),
    of_structlog("structlog_filtered", level="debug"),
    of_stdlib("stdlib_json", JsonFormatter()),
    of_stdlib("stdlib_text", logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s")),
    of_stdlib("stdlib_filtered", JsonFormatter(), level=logging.DEBUG),
]
ROWS = [
    Row("clog/structlog", "clog", "structlog", None, "a JSON line, what the caller pays"),
    Row("clog/stdlib_json", "clog", "stdlib_json", None, "the same"),
    Row("clog/stdlib_text", "clog", "stdlib_text", None, "the same vs a text line without its fields"),
    Row("clog_all/structlog", "clog_all", "structlog", None, "a JSON line, with the writer's thread and flushes"),
    Row("clog_all/stdlib_json", "clog_all", "stdlib_json", None, "the same"),
    Row("filtered/structlog", "clog_filtered", "structlog_filtered", None, "a line below the level"),
    Row("filtered/stdlib", "clog_filtered", "stdlib_filtered", None, "the same"),
    Row("console/json", "clog_console", "clog", None, "a line for people, in JSON lines"),
    Row("source/clog", "clog_source", "clog", None, "with add_source, in lines without"),
    Row("sampled/clog", "clog_sampled", "clog", None, "a line that sampling lets through"),
    Row("suppressed/clog", "clog_suppressed", "clog", None, "one that it leaves out"),
    Row("recorded/clog", "clog_recorded", "clog", None, "one that only the flight recorder keeps"),
    Row("error/clog", "clog_error", "clog", None, "one with an error"),
]


def main(arguments: Sequence[str] | None = None) -> None:
    harness.command("clog", "a log line", ROWS, partial(harness.evaluate, PROBES), arguments)


if __name__ == "__main__":
    main()
