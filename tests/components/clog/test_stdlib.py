"""The bridge to the standard library's logging, in both directions."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import trio

import creche
from creche.components import clog
from creche.components.clog.stdlib import RecordHandler
from tests.components.clog.support import PATIENT, log_to, read

ID = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def library() -> Generator[logging.Logger]:
    """The logger of some library, which reports everything."""
    logger = logging.getLogger("some.library")
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.setLevel(logging.NOTSET)


# --- into the log -----------------------------------------------------------------------------------------------------


async def test_a_record_becomes_a_line(tmp_path: Path, library: logging.Logger) -> None:
    """Its logger is the namespace, `extra` are fields; the line has service, trace and source, and hides secrets."""
    async with log_to(tmp_path / "log", add_source=True) as log:
        with clog.trace(ID):
            library.warning("took %d ms", 7, extra={"table": "orders", "password": "s3cret", "level": "mine"})
        entry = await log.entry()
    assert (entry["level"], entry["msg"], entry["namespace"]) == ("warning", "took 7 ms", "some.library")
    assert (entry["service"], entry["trace_id"], entry["table"]) == ("svc", ID, "orders")
    assert (entry["password"], entry["level_"]) == ("***", "mine")
    assert entry["source"].rpartition(":")[0] == __file__


async def test_a_record_of_an_actor_is_its_line(tmp_path: Path, library: logging.Logger) -> None:
    """From its worker threads too."""

    class Reader(creche.Actor):
        async def read(self) -> None:
            library.info("reading")
            await self.context.runtime.run_blocking(library.info, "in a thread")

    async with log_to(tmp_path / "log") as log:
        reader = await log.runtime.start(creche.child(Reader))
        await reader.ask.read()
        assert [entry["actor"] for entry in await log.entries()] == ["root/reader"] * 2


@pytest.mark.parametrize(
    ("number", "level"), [(5, "debug"), (10, "debug"), (25, "info"), (30, "warning"), (40, "error"), (99, "critical")]
)
async def test_levels_of_the_library(tmp_path: Path, library: logging.Logger, number: int, level: str) -> None:
    """Any number is read as the level at or below it."""
    library.setLevel(1)
    async with log_to(tmp_path / "log", level="debug", levels={"runtime": "critical"}) as log:
        library.log(number, "line")
        assert (await log.entry())["level"] == level


@pytest.mark.parametrize("config", [{"level": "error"}, {"level": "warning", "levels": {"some": "error"}}])
async def test_levels_of_the_log_hold_for_records(
    tmp_path: Path, library: logging.Logger, config: dict[str, Any]
) -> None:
    """Its own, and those of namespaces."""
    async with log_to(tmp_path / "log", **config) as log:
        library.info("no")
        library.warning("no")
        library.error("yes")
        assert (await log.entry())["msg"] == "yes"


async def test_errors_of_records(tmp_path: Path, library: logging.Logger) -> None:
    """`exc_info` is told as `error=` is; arguments that do not fit are told instead of lost."""
    async with log_to(tmp_path / "log") as log:
        try:
            raise KeyError("k")
        except KeyError:
            library.exception("failed", stack_info=True)
        record = library.makeRecord(library.name, logging.ERROR, __file__, 1, "%d things", ("no number",), None)
        for handler in logging.root.handlers:  # pytest's own would raise
            if isinstance(handler, RecordHandler):
                handler.handle(record)
        failed, wrong = await log.entries()
    assert (failed["error"], failed["error_type"]) == ("'k'", "KeyError")
    assert "test_stdlib.py" in failed["traceback"]
    assert "test_stdlib.py" in failed["stack"]
    assert "no number" in wrong["msg"]


async def test_two_runtimes_take_their_own_records(tmp_path: Path, library: logging.Logger) -> None:
    """Each record is in one log: that of the runtime whose task made it."""
    async with log_to(tmp_path / "outer") as outer:

        class Talker(creche.Actor):
            async def talk(self) -> None:
                library.info("outer")

        talker = await outer.runtime.start(creche.child(Talker))
        async with log_to(tmp_path / "inner") as inner:
            library.info("inner")
            await talker.ask.talk()
            assert (await inner.entry())["msg"] == "inner"
        assert (await outer.entry())["msg"] == "outer"


async def test_a_record_of_no_runtime_goes_to_the_first_log(tmp_path: Path, library: logging.Logger) -> None:
    """A thread that a library has started itself is not left out, and its record is written once."""
    async with log_to(tmp_path / "one") as one, log_to(tmp_path / "two") as two:
        thread = threading.Thread(target=library.info, args=("from a thread",))
        thread.start()
        thread.join()
        assert (await one.entry())["msg"] == "from a thread"
        assert await two.entries() == []


async def test_the_root_logger_is_as_it_was(tmp_path: Path) -> None:
    """The handler goes when the log ends; with `capture_logging=False` there is none; levels are never touched."""
    before, level = list(logging.root.handlers), logging.root.level
    for capture in (True, False):
        async with log_to(tmp_path / "log", capture_logging=capture):
            assert len(logging.root.handlers) == len(before) + capture
            assert logging.root.level == level
        assert logging.root.handlers == before


async def test_a_filter_of_the_library_holds(tmp_path: Path, library: logging.Logger) -> None:
    """What a logger's own filter refuses is not written."""
    library.addFilter(lambda record: "no" not in record.getMessage())
    async with log_to(tmp_path / "log") as log:
        library.warning("no")
        library.warning("yes")
        assert (await log.entry())["msg"] == "yes"
    library.filters.clear()


# --- out of the log ---------------------------------------------------------------------------------------------------


class Gatherer(logging.Handler):
    """Keeps records; `before` is called with each."""

    def __init__(self, before: Callable[[logging.LogRecord], object] = lambda _: None) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._before = before

    def emit(self, record: logging.LogRecord) -> None:
        self._before(record)
        self.records.append(record)


async def log_to_logging(handler: logging.Handler, *messages: str) -> clog.Statistics:
    """Write lines into the library's logging, from an actor's namespace, and wait for them."""
    shop = logging.getLogger("shop")
    shop.addHandler(handler)
    shop.setLevel(logging.INFO)
    try:
        with trio.fail_after(PATIENT):
            async with creche.open_runtime("svc") as runtime:
                handle = await runtime.start(clog.component(clog.Config(output="logging", add_source=True)))
                for msg in messages:
                    clog.namespace("shop").warning(msg, item="book", token="s3cret")
                await handle.flush()
                return handle.statistics()
    finally:
        shop.removeHandler(handler)
        shop.setLevel(logging.NOTSET)


async def test_a_line_becomes_a_record() -> None:
    """With the namespace as its logger, level, message, time and source, and the whole line as `clog`."""
    gatherer = Gatherer()
    await log_to_logging(gatherer, "sold 100 %")
    (record,) = gatherer.records
    assert (record.name, record.levelno, record.getMessage()) == ("shop", logging.WARNING, "sold 100 %")
    assert record.pathname == __file__
    line = record.__dict__["clog"]
    assert (line["item"], line["token"], line["service"]) == ("book", "***", "svc")
    assert logging.Formatter("%(asctime)s").format(record)


async def test_a_record_of_the_log_does_not_come_back(tmp_path: Path) -> None:
    """Both directions at once make no circle."""
    async with log_to(tmp_path / "other"):
        counts = await log_to_logging(Gatherer(), "line")
    assert counts.written == 1
    assert read(tmp_path / "other") == []


async def test_a_handler_that_fails_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its error is reported, and the next line goes on."""
    reported: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: reported.append(args.exc_value))

    def refuse(record: logging.LogRecord) -> None:
        if record.msg == "one":
            raise RuntimeError("refused")

    gatherer = Gatherer(refuse)
    await log_to_logging(gatherer, "one", "two")
    assert [record.msg for record in gatherer.records] == ["two"]
    assert [str(error) for error in reported] == ["refused"]


async def test_a_slow_handler_blocks_no_actor() -> None:
    """Handlers run in the writer's thread: while one waits, actors answer."""

    class Actor(creche.Actor):
        async def ping(self) -> str:
            clog.namespace("shop").warning("ping")
            return "pong"

    entered, go = threading.Event(), threading.Event()

    def wait(_record: logging.LogRecord) -> None:
        entered.set()
        assert go.wait(PATIENT)

    shop, slow = logging.getLogger("shop"), Gatherer(wait)
    shop.addHandler(slow)
    try:
        async with creche.open_runtime("svc") as runtime:
            await runtime.start(clog.component(clog.Config(output="logging")))
            actor = await runtime.start(creche.child(Actor))
            await actor.ask.ping()
            while not entered.is_set():
                await trio.lowlevel.checkpoint()
            assert await actor.ask.ping() == "pong"
            assert slow.records == []
            go.set()
    finally:
        shop.removeHandler(slow)
    assert len(slow.records) == 2


def test_the_console_format_makes_no_records() -> None:
    """A record is made from the fields: the config is refused."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        clog.component(clog.Config(output="logging", format="console"))
    assert caught.value.path == "$.format"
