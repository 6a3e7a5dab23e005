"""What was wrong with the seeds' log, with one test for each defect that would have caught it."""

from __future__ import annotations

import io
import json
import os
import sys
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

import creche
from creche.components import clog
from tests.components.clog.support import log_to


async def test_a_line_before_the_start_does_not_undo_the_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first call made a logger for development, which replaced the configured one: debug lines in colour."""
    clog.info("before")
    async with log_to(tmp_path / "log", level="info", format="json") as log:
        clog.namespace("x").debug("hidden")
        clog.info("shown")
        entry = await log.entry()
    assert (entry["msg"], entry["service"]) == ("shown", "svc")
    assert capsys.readouterr().out == ""


async def test_other_context_is_no_trace_id(tmp_path: Path) -> None:
    """The key in the context was an empty struct, so any other package's value was logged as the trace."""
    theirs: ContextVar[str] = ContextVar("trace_id")
    theirs.set("theirs")
    async with log_to(tmp_path / "log") as log:
        clog.info("line")
        assert "trace_id" not in await log.entry()


async def test_fatal_is_a_level_and_ends_nothing(tmp_path: Path) -> None:
    """`fatal` was valid and then meant `info`; `Fatal` left the process, past everything that was to be closed."""
    async with log_to(tmp_path / "log", level="fatal") as log:
        clog.error("not written")
        clog.critical("written")
        entry = await log.entry()
    assert (entry["level"], entry["msg"]) == ("critical", "written")


async def test_without_a_rotation_nothing_is_set_aside(tmp_path: Path) -> None:
    """No rotation still rotated, with limits that nobody had set, and deleted logs."""
    path = tmp_path / "log"
    async with log_to(path) as log:
        for _ in range(300):
            clog.info("x" * 10_000)
        await log.handle.flush()
    assert path.stat().st_size > 3_000_000
    assert os.listdir(tmp_path) == ["log"]


async def test_a_line_below_the_level_looks_at_nothing(tmp_path: Path) -> None:
    """It copied the fields and cloned the logger before it asked for the level."""

    class Untouchable:
        def __repr__(self) -> str:
            raise AssertionError("it was looked at")

    async with log_to(tmp_path / "log", level="warning") as log:
        clog.logger().bind(a=Untouchable()).debug("hidden", b=Untouchable())
        assert await log.entries() == []


async def test_namespace_fields_and_trace_go_together(tmp_path: Path) -> None:
    """The logger of a context was always the global one: a component's namespace and a trace were either-or."""
    async with log_to(tmp_path / "log") as log:
        logger = clog.namespace("orders").bind(shop=7)
        with clog.trace("t-1"):
            logger.namespace("mail").info("sent", to="ada")
        entry = await log.entry()
    assert entry["namespace"] == "orders.mail"
    assert (entry["trace_id"], entry["shop"], entry["to"]) == ("t-1", 7, "ada")


async def test_a_field_called_namespace_is_kept(tmp_path: Path) -> None:
    """It was dropped without a word."""
    async with log_to(tmp_path / "log") as log:
        clog.info("line", namespace="kube-system")
        assert (await log.entry())["namespace_"] == "kube-system"


def test_there_is_one_spelling_of_each_setting(tmp_path: Path) -> None:
    """`add_source` on one page was `addSource` in the code, and neither was refused."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"clog": {"addSource": True}}))

    class Settings(creche.Config, frozen=True, kw_only=True):
        clog: clog.Config

    with pytest.raises(creche.ConfigInvalid, match="add_source"):
        creche.load_config(str(file), type=Settings)


async def test_the_level_changes_while_it_runs_and_a_bad_config_changes_nothing(tmp_path: Path) -> None:
    """That was promised, and there was no way to do it."""
    async with log_to(tmp_path / "log") as log:
        await log.handle.apply(clog.Config(output=str(log.path), level="debug"))
        with pytest.raises(creche.ConfigInvalid):
            await log.handle.apply(clog.Config(output=str(log.path), buffer=0))
        clog.debug("now")
        assert (await log.entry())["msg"] == "now"


async def test_a_flood_and_secrets_are_kept_out(tmp_path: Path) -> None:
    """There was neither sampling nor redaction."""
    async with log_to(tmp_path / "log", sampling=clog.Sampling(first=2, thereafter=0, tick=1000.0)) as log:
        for _ in range(100):
            clog.info("again", password="hunter2", nested={"Access-Token": "hunter2"})
        entries = await log.entries()
    assert len(entries) == 2
    assert "hunter2" not in log.path.read_text()


async def test_the_last_lines_are_written(tmp_path: Path) -> None:
    """Nothing was flushed at the end."""
    path = tmp_path / "log"
    async with log_to(path):
        for number in range(500):
            clog.info("line", number=number)
    assert len(path.read_text().splitlines()) == 500


async def test_a_value_cannot_forge_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the console a line break in a value began a line of its own."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    clog.warning("login failed", user="eve\n2026-01-01T00:00:00Z INFO login ok user=admin\x1b[2K")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


async def test_who_logs_never_waits_for_the_output(tmp_path: Path) -> None:
    """Each line was written by whoever logged it: a reader that did not read stopped the service."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        async with log_to(fifo, buffer=50) as log:
            for _ in range(20_000):
                clog.info("x" * 1000)
            assert log.handle.dropped > 0
            while log.handle.statistics().buffered:
                try:
                    os.read(reader, 1 << 20)
                except BlockingIOError:
                    pass
                await trio.lowlevel.checkpoint()
    finally:
        os.close(reader)


async def test_fields_of_every_kind(tmp_path: Path) -> None:
    """A function for each type of field; here they are what they are."""
    fields: dict[str, Any] = {"text": "a", "whole": 1, "number": 1.5, "yes": True, "many": ["a", "b"], "raw": b"\x00"}
    async with log_to(tmp_path / "log") as log:
        clog.info("line", **fields, error=ValueError("no"))
        entry = await log.entry()
    assert [entry[name] for name in ("text", "whole", "number", "yes", "many")] == ["a", 1, 1.5, True, ["a", "b"]]
    assert (entry["error"], entry["error_type"]) == ("no", "ValueError")
