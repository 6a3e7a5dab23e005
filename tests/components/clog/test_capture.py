"""Taking the log's lines in a test."""

from __future__ import annotations

from pathlib import Path

import pytest

import creche
from creche.components import clog
from creche.components.clog.testing import captured_logs as captured_logs
from tests.components.clog.support import AT_ONCE, log_to


class Shop(creche.Actor):
    async def sell(self, item: str) -> None:
        clog.namespace("shop").info("sold", item=item, token="s3cret")

    async def burn(self) -> None:
        raise ValueError("fire")


async def test_lines_of_actors_are_taken() -> None:
    """In the runtime that is open around the block, with all that they carry, and nothing is written."""
    async with creche.open_runtime("svc") as runtime:
        shop = await runtime.start(creche.child(Shop))
        with clog.capture() as log:
            await shop.ask.sell("book")
        await shop.ask.sell("pen")
    (line,) = log.find("sold", item="book")
    assert (line["actor"], line["namespace"], line["service"], line["token"]) == ("root/shop", "shop", "svc", "***")
    assert log.find(item="pen") == []


async def test_events_are_taken_too() -> None:
    """A crash can be asserted on."""
    async with creche.open_runtime("svc") as runtime:
        shop = await runtime.start(creche.child(Shop).options(backoff=AT_ONCE))
        with clog.capture(runtime, level="error") as log:
            with pytest.raises(creche.OutcomeUnknown):
                await shop.ask.burn()
        assert not runtime.events.on
    assert log.messages == ["actor crashed"]
    assert log.lines[0]["error"] == "ValueError: fire"


async def test_a_running_log_gets_none_of_it_and_comes_back(tmp_path: Path) -> None:
    """Inside the block its lines are taken, after it they are written again."""
    async with log_to(tmp_path / "log") as log:
        clog.info("before")
        with clog.capture() as captured:
            clog.info("inside")
        clog.info("after")
        assert [entry["msg"] for entry in await log.entries()] == ["before", "after"]
    assert captured.find("inside")


async def test_a_log_that_ends_inside_the_block_stays_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing brings it back: later lines go to standard error, as they always do after the end."""
    async with creche.open_runtime("svc") as runtime:
        handle = await runtime.start(clog.component(clog.Config(output=str(tmp_path / "log"))))
        with clog.capture(runtime):
            await runtime.stop(handle)
        clog.warning("later")
        assert runtime.services == {}
    assert "later" in capsys.readouterr().err


def test_without_a_runtime_the_lines_of_the_task_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    """From the level that was asked for; standard error stays empty."""
    with clog.capture(level="info") as log:
        clog.debug("no")
        clog.namespace("x").bind(a=1).info("yes")
    clog.error("outside")
    assert log.messages == ["yes"]
    assert capsys.readouterr().err.count("\n") == 1


async def test_the_fixture(captured_logs: clog.Capture, capsys: pytest.CaptureFixture[str]) -> None:
    """It takes lines outside of runtimes at once, and those of a runtime when it is told which."""
    clog.warning("outside")
    async with creche.open_runtime("svc") as runtime:
        with captured_logs.of(runtime):
            shop = await runtime.start(creche.child(Shop))
            await shop.ask.sell("book")
    assert captured_logs.find("sold", item="book")
    assert captured_logs.find("outside")
    captured_logs.clear()
    assert captured_logs.messages == []
    assert capsys.readouterr().err == ""
