"""Another config at run time: what can change does so at the next line, as a whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

import creche
from creche.components import clog
from tests.components.clog.support import Log, log_to


def changed(log: Log, **values: Any) -> clog.Config:
    return msgspec.structs.replace(log.handle.config, **values)


async def test_a_new_level_holds_from_the_next_line_on(tmp_path: Path) -> None:
    """Down and up again."""
    async with log_to(tmp_path / "log") as log:
        for level in ("debug", "error"):
            clog.debug(f"before {level}")
            await log.handle.apply(changed(log, level=level, levels={"runtime": "critical"}))
            clog.debug(f"after {level}")
        assert [entry["msg"] for entry in await log.entries()] == ["after debug", "before error"]


async def test_a_new_config_outlives_the_actor(tmp_path: Path) -> None:
    """A kill brings back the actor, not the old config."""
    async with log_to(tmp_path / "log") as log:
        await log.handle.apply(changed(log, level="critical"))
        await log.kill()
        clog.error("no")
        clog.critical("yes")
        assert (await log.entry())["msg"] == "yes"


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"output": "stderr"}, "$.output"),
        ({"format": "console"}, "$.format"),
        ({"buffer": 7}, "$.buffer"),
        ({"color": True}, "$.color"),
        ({"capture_logging": False}, "$.capture_logging"),
        ({"rotation": clog.Rotation()}, "$.rotation"),
        ({"level": "loud"}, "$.level"),
        ({"sampling": clog.Sampling(first=0)}, "$.sampling.first"),
    ],
)
async def test_what_is_settled_or_wrong_is_refused_as_a_whole(
    tmp_path: Path, values: dict[str, Any], path: str
) -> None:
    """`ConfigInvalid` names the value; a level that came along does not hold either, and the actor lives."""
    async with log_to(tmp_path / "log") as log:
        before = log.handle.config
        with pytest.raises(creche.ConfigInvalid) as caught:
            await log.handle.apply(changed(log, **{"level": "debug", **values}))
        assert caught.value.path == path
        assert log.handle.config == before
        assert log.runtime.node_of(log.handle).incarnation == 1


async def test_namespaces_have_levels_of_their_own(tmp_path: Path) -> None:
    """The nearest namespace above counts; a name that only begins in the same way is another one."""
    async with log_to(tmp_path / "log", level="warning", levels={"http": "error", "http.auth": "debug"}) as log:
        for name in ("http", "http.client", "http.auth", "http.auth.token", "https", ""):
            clog.Logger(name).debug("debug", mine=name)
            clog.Logger(name).warning("warning", mine=name)
        written = [(entry["mine"], entry["level"]) for entry in await log.entries()]
    assert written == [
        ("http.auth", "debug"),
        ("http.auth", "warning"),
        ("http.auth.token", "debug"),
        ("http.auth.token", "warning"),
        ("https", "warning"),
        ("", "warning"),
    ]


async def test_the_handle_tells_the_config(tmp_path: Path) -> None:
    """Before the start it is `NotStarted`, and after the stop `ActorStopped`."""
    spec = clog.component(clog.Config(output=str(tmp_path / "log"), level="error"))
    with pytest.raises(creche.NotStarted):
        _ = spec.new_handle().config
    async with creche.open_runtime("svc") as runtime:
        handle = await runtime.start(spec)
        assert handle.config.level == "error"
        await runtime.stop(handle)
        with pytest.raises(creche.ActorStopped):
            _ = handle.config
        with pytest.raises(creche.ActorStopped):
            await handle.apply(clog.Config())


async def test_an_apply_that_is_cancelled_changes_all_or_nothing(tmp_path: Path) -> None:
    """At whichever checkpoint: one of the two configs holds, the actor lives, and a second try works."""
    async with log_to(tmp_path / "log") as log:
        old = log.handle.config
        new = changed(log, level="error", redact=("iban",))
        for checkpoints in range(6):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.handle.apply, new)
                for _ in range(checkpoints):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            assert log.handle.config in (old, new)
            await log.handle.apply(old)
        await log.handle.apply(new)
        assert log.handle.config == new
        assert log.runtime.node_of(log.handle).incarnation == 1


async def test_an_apply_over_a_kill_is_whole(tmp_path: Path) -> None:
    """A caller whose actor is killed is told that the outcome is unknown, or it holds; applying again is fine."""
    async with log_to(tmp_path / "log") as log:
        for number in range(20):
            new = changed(log, redact=(f"name{number}",))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(log.kill)
                try:
                    await log.handle.apply(new)
                except creche.OutcomeUnknown:
                    await log.handle.apply(new)
            assert log.handle.config == new
