"""The config: its defaults, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import creche
from creche.components import clog
from tests.components.clog.support import log_to


def test_the_defaults_of_development_are_for_people() -> None:
    """Everything, on the console, with sources; colour when it is a terminal."""
    config = clog.default_config("development")
    assert (config.level, config.format, config.output, config.color) == ("debug", "console", "stdout", None)
    assert config.add_source


def test_the_defaults_of_production_are_for_machines() -> None:
    """JSON from info up, without colour and without the cost of sources."""
    config = clog.default_config("production")
    assert (config.level, config.format, config.output, config.color) == ("info", "json", "stdout", False)
    assert not config.add_source


@pytest.mark.parametrize(
    ("values", "path"),
    [
        ({"level": "loud"}, "$.level"),
        ({"format": "xml"}, "$.format"),
        ({"output": ""}, "$.output"),
        ({"buffer": 0}, "$.buffer"),
        ({"redact": ("",)}, "$.redact"),
    ],
)
def test_a_bad_value_is_refused_before_anything_starts(values: dict[str, Any], path: str) -> None:
    """`ConfigInvalid` names the path to the value."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        clog.component(clog.Config(**values))
    assert caught.value.path == path


async def test_an_output_that_cannot_be_opened_fails_the_start(tmp_path: Path) -> None:
    """The start fails with the path, the value and what to do; and the runtime has no log then."""
    async with creche.open_runtime("svc") as runtime:
        with pytest.raises(creche.StartFailed) as caught:
            await runtime.start(clog.component(clog.Config(output=str(tmp_path))))
        cause = caught.value.__cause__
        assert isinstance(cause, creche.ConfigInvalid)
        assert (cause.path, cause.value) == ("$.output", str(tmp_path))
        assert "name a writable file" in cause.reason
        assert runtime.services == {}


async def test_fatal_is_critical(tmp_path: Path) -> None:
    """The level `fatal` is not read as info: only critical lines are written, and nothing exits."""
    async with log_to(tmp_path / "log", level="fatal") as log:
        clog.info("no")
        clog.error("no")
        clog.critical("yes")
        entry = await log.entry()
    assert (entry["level"], entry["msg"]) == ("critical", "yes")


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error", "critical"])
async def test_a_level_lets_through_itself_and_what_is_worse(tmp_path: Path, level: str) -> None:
    """All five functions, against all five levels."""
    names = ["debug", "info", "warning", "error", "critical"]
    async with log_to(tmp_path / "log", level=level) as log:
        for name in names:
            getattr(clog, name)("line", mine=True)
        written = [entry["level"] for entry in await log.entries() if "mine" in entry]
    assert written == names[names.index(level) :]


async def test_the_defaults_follow_the_environment(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a config the component takes those of the app's environment."""
    app = creche.App("svc", env="production")
    app.use(clog.component())
    async with app.open():
        clog.debug("no")
        clog.info("yes")
    assert capfd.readouterr().out.startswith('{"time":')
