"""The config: its defaults, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import creche
from creche.components import clog
from tests.components.clog.support import log_to
from tests.pages import programs_on, run_program

ROOT = Path(__file__).parents[3]


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


@pytest.mark.parametrize("package", ["eliot", "orjson"])
async def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """The start fails and says what to install."""
    monkeypatch.setitem(sys.modules, package, None)
    async with creche.open_runtime("svc") as runtime:
        with pytest.raises(creche.StartFailed, match=r"pip install 'creche\[clog\]'"):
            await runtime.start(clog.component())


def test_importing_clog_imports_no_third_party_logging() -> None:
    """A service that only logs through the bootstrap needs neither eliot nor orjson."""
    program = (
        "import sys; from creche.components import clog; clog.info('x'); print({'eliot', 'orjson'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout == "set()\n"


async def test_a_start_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    """At whichever checkpoint it is cancelled: no service, no hook, and a start after it works."""
    spec = clog.component(clog.Config(output=str(tmp_path / "log")))
    async with creche.open_runtime("svc") as runtime:
        for checkpoints in range(8):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(runtime.start, spec)
                    for _ in range(checkpoints):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            for child in runtime.root.children():
                await runtime.stop(child)  # it was ready before the cancel
            assert runtime.services == {}
            assert not runtime.events.on
        handle = await runtime.start(spec)
        clog.info("line")
        await handle.flush()
    assert '"msg":"line"' in (tmp_path / "log").read_text()


async def test_a_file_and_variables_reach_every_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sections inside of the section, durations, and single values by environment variables."""
    file = tmp_path / "service.toml"
    file.write_text(
        """
        [clog]
        output = "service.log"
        format = "json"
        levels = { http = "warning" }
        rotation = { max_age = "30d", compress = true }
        [clog.sampling]
        tick = "500ms"
        """
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CRECHE_CLOG__SAMPLING__FIRST", "5")
    app = creche.App("svc", config=file)
    log = app.use(clog.component())
    async with app.open():
        config = log.config
    assert config.levels == {"http": "warning"}
    assert config.sampling == clog.Sampling(first=5, tick=0.5)
    assert config.rotation == clog.Rotation(max_age=30 * 86400.0, compress=True)


def test_the_page_of_the_component_runs(tmp_path: Path) -> None:
    """The example of docs/components/clog.md prints the line that stands below it."""
    page = "docs/components/clog.md"
    (program,), (shown,) = programs_on(page), programs_on(page, "json")
    first, second = map(json.loads, run_program(program, tmp_path, "-W", "error"))
    assert {**first, "time": None} == {**json.loads(shown), "time": None}
    assert list(first) == list(json.loads(shown))
    assert (second["msg"], second["error_type"]) == ("order failed", "TimeoutError")
