"""What the seeds promise of every component, and what was wrong in all of them: one contract for whatever there is."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio

import creche
from creche import components
from creche.components import clog, db, mq, uid
from creche.runtime.component import ComponentHandle
from tests.components.uid.support import rows

NAMES = [module.name for module in pkgutil.iter_modules(components.__path__) if module.ispkg]
ROOT = Path(__file__).resolve().parents[2]
# The page's parts in the order of the skeleton; a page may have more, between and behind them.
SKELETON = ("About", "Use", "Defaults", "Events", "Failure modes", "Anti-patterns")
# Of the edge, where the names are those of the thing that is served.
HANDLES = {"http": "HttpServer"}
CONFIGS = {"http": "ServerConfig"}
MAKERS = {"http": "http_server"}


@pytest.fixture(params=NAMES)
def component(request: pytest.FixtureRequest) -> ModuleType:
    """The package of each component."""
    return importlib.import_module(f"creche.components.{request.param}")


def name_of(component: ModuleType) -> str:
    return component.__name__.rpartition(".")[2]


# --- the provider pattern ---------------------------------------------------------------------------------------------


def test_every_component_has_the_same_names(component: ModuleType) -> None:
    """Config, default_config, component, and the handle that is called as the component is; in each package."""
    name = name_of(component)
    handle = HANDLES.get(name, name.capitalize())
    for wanted in (CONFIGS.get(name, "Config"), MAKERS.get(name, "component"), handle, "default_config"):
        assert hasattr(component, wanted), wanted
    assert issubclass(getattr(component, handle), ComponentHandle)


@pytest.mark.parametrize("env", ["development", "production"])
def test_every_component_has_defaults_for_both_environments(component: ModuleType, env: str) -> None:
    """They pass their own checks, and a component without a config takes them."""
    kind = getattr(component, CONFIGS.get(name_of(component), "Config"))
    defaults = component.default_config(env)
    assert isinstance(defaults, kind)
    assert kind.for_environment(env) == defaults
    defaults.check()


def test_configs_are_data(component: ModuleType) -> None:
    """Frozen, by keyword, printable without secrets, and apart from what is injected: no field holds a handle."""
    kind = getattr(component, CONFIGS.get(name_of(component), "Config"))
    config = kind()
    field = kind.__struct_fields__[0]
    with pytest.raises(AttributeError):
        setattr(config, field, None)
    with pytest.raises(TypeError):
        kind("by position")
    json.dumps({name: str(getattr(config, name)) for name in kind.__struct_fields__})
    assert not [name for name in kind.__struct_fields__ if isinstance(getattr(config, name), ComponentHandle)]


def test_what_is_wrong_is_refused_with_its_place(component: ModuleType) -> None:
    """Unknown keys too, in a file and in code; before anything has started."""
    kind = getattr(component, CONFIGS.get(name_of(component), "Config"))
    with pytest.raises(TypeError, match="no_such_setting"):
        kind(no_such_setting=1)


def test_no_handle_sets_single_settings(component: ModuleType) -> None:
    """A setting is changed in the configuration, whole and checked; not by setters that no file knows of."""
    handle = getattr(component, HANDLES.get(name_of(component), name_of(component).capitalize()))
    methods = [name for name, _ in inspect.getmembers(handle, inspect.isfunction) if not name.startswith("_")]
    assert [name for name in methods if re.match(r"(set|add|remove)_(level|rule|config|option|limit)", name)] == []


def test_every_component_has_its_page_in_one_skeleton(component: ModuleType) -> None:
    """So that who knows one page finds his way in all."""
    name = name_of(component)
    text = (ROOT / "docs" / "components" / f"{name}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {name} — ")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    found = [part for heading in headings for part in SKELETON if heading.startswith(part)]
    assert found == list(SKELETON)
    assert "```python" in text


def test_every_setting_stands_on_the_page(component: ModuleType) -> None:
    """With its default; a setting that nobody can find is none."""
    name = name_of(component)
    kind = getattr(component, CONFIGS.get(name, "Config"))
    text = (ROOT / "docs" / "components" / f"{name}.md").read_text(encoding="utf-8")
    assert [field for field in kind.__struct_fields__ if f"`{field}`" not in text] == []


# --- life and end -----------------------------------------------------------------------------------------------------


def specs(folder: Path) -> dict[str, Any]:
    """A component of each kind that needs no more than a folder."""
    return {
        "clog": clog.component(clog.Config(output=str(folder / "log"))),
        "uid": uid.component(uid.Config(state_path=str(folder / "uid.db"))),
        "db": db.component(db.Config(path=str(folder / "db.sqlite3"))),
        "mq": mq.component(mq.Config(path=str(folder / "mq.sqlite3"))),
    }


@pytest.mark.parametrize("name", ["clog", "uid", "db", "mq"])
async def test_a_stop_may_be_repeated_and_its_handle_says_so(name: str, tmp_path: Path) -> None:
    """`Close` twice is one `Close`; a handle that outlives it says that the component has stopped."""
    async with creche.open_runtime("t") as runtime:
        handle = await runtime.start(specs(tmp_path)[name])
        await runtime.stop(handle)
        await runtime.stop(handle)
        assert runtime.tree().children == ()


async def test_a_start_that_fails_closes_what_was_open(tmp_path: Path) -> None:
    """The seeds left the first N - 1 open when the Nth failed: here the worker id is free, and the log is whole."""
    app = creche.App("orders")
    made = specs(tmp_path)
    app.use(made["clog"])
    app.use(made["uid"])
    app.use(db.component(db.Config(path=str(tmp_path / "no" / "folder" / "db"), create=False)))
    with pytest.raises(creche.TreeFailed):
        async with app.open():
            raise AssertionError("it has started")
    assert '"level":"error"' in (tmp_path / "log").read_text()
    assert [(worker, owner) for worker, owner, _ in rows(str(tmp_path / "uid.db"))] == [(0, "")]


async def test_an_exit_closes_everything(tmp_path: Path) -> None:
    """`Fatal` left the process past every `Close`: nothing was flushed, no id given back."""
    app = creche.App("orders")
    made = specs(tmp_path)
    app.use(made["clog"])
    ids = app.use(made["uid"])
    with pytest.raises(SystemExit) as caught:
        async with app.open():
            await ids.snowflake()
            clog.critical("giving up")
            raise SystemExit(3)
    assert caught.value.code == 3
    assert '"msg":"giving up"' in (tmp_path / "log").read_text()
    assert [(worker, owner) for worker, owner, _ in rows(str(tmp_path / "uid.db"))] == [(0, "")]


async def test_the_log_ends_last(tmp_path: Path) -> None:
    """It was opened first and never flushed; what the others say while they stop was lost."""

    class Talks(creche.Actor):
        def __init__(self, ids: uid.Uid) -> None:
            self._ids = ids

        async def work(self) -> None:
            await trio.sleep(0.05)
            clog.info("done", number=await self._ids.snowflake())

    app = creche.App("orders")
    made = specs(tmp_path)
    app.use(made["clog"])
    ids = app.use(made["uid"])
    talks = app.use(creche.child(Talks, ids))
    async with app.open():
        for _ in range(3):
            talks.cast_nowait(Talks.work)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["msg"] for line in lines if line["msg"] == "done"] == ["done"] * 3


async def test_readiness_ends_before_the_work_does(tmp_path: Path) -> None:
    """A balancer went on sending to a service that was closing its parts."""
    seen: list[bool] = []

    class Looks(creche.Actor):
        async def work(self) -> None:
            await trio.sleep(0.05)
            runtime = creche.current_runtime()
            assert runtime is not None
            seen.append(runtime.ready)

    app = creche.App("orders")
    looks = app.use(creche.child(Looks))
    async with app.open() as running:
        seen.append(running.runtime.ready)
        looks.cast_nowait(Looks.work)
    assert seen == [True, False]


# --- the seeds' own configuration file --------------------------------------------------------------------------------

SEEDS_FILE = """
server:
  host: 127.0.0.1
  port: 8080
  read_timeout: 30s
  write_timeout: 1m
database:
  path: orders.db
redis:
  default_ttl: 1h
kafka:
  partitions: 6
logging:
  level: warn
  format: json
"""


class Settings(creche.Config, frozen=True, kw_only=True):
    server: creche.ServerConfig
    db: db.Config
    cache: components.cache.Config
    mq: mq.Config
    clog: clog.Config


def test_the_seeds_file_is_read_as_it_stands(tmp_path: Path) -> None:
    """Its sections under their old names, with durations as texts."""
    path = tmp_path / "config.yaml"
    path.write_text(SEEDS_FILE)
    settings = creche.load_config(str(path), type=Settings)
    assert (settings.server.read_timeout, settings.server.write_timeout) == (30.0, 60.0)
    assert (settings.db.path, settings.cache.default_ttl, settings.mq.partitions) == ("orders.db", 3600.0, 6)
    assert settings.clog.level == "warn"


@pytest.mark.parametrize(
    ("section", "values", "complaint"),
    [
        ("database", {"paht": "orders.db"}, "path"),
        ("server", {"read_timeout": "thirty"}, "read_timeout"),
        ("logging", {"outputPaths": ["stdout"]}, "outputPaths"),
        ("server", {"port": 99_999}, "port"),
    ],
)
def test_what_the_seeds_passed_over_is_refused(
    tmp_path: Path, section: str, values: dict[str, Any], complaint: str
) -> None:
    """Keys that match nothing, durations that are none, values out of range: all were taken without a word."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({section: values}))
    with pytest.raises(creche.ConfigInvalid, match=complaint):
        creche.load_config(str(path), type=Settings)


def test_a_password_in_the_file_is_told_nowhere(tmp_path: Path) -> None:
    """One stood in the repository, and in every error that showed the configuration."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"database": {"password": "hunter2"}}))
    with pytest.raises(creche.ConfigInvalid) as caught:
        creche.load_config(str(path), type=Settings)
    assert "hunter2" not in str(caught.value)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There was no way to change a value without changing the file; and each value tells where it comes from."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"database": {"path": "a.db"}, "kafka": {"partitions": 2}}))
    monkeypatch.setenv("CRECHE_DB__PATH", "b.db")
    configuration = creche.read_configuration(str(path))
    settings = configuration.load(type=Settings)
    assert (settings.db.path, settings.mq.partitions) == ("b.db", 2)
    assert "CRECHE_DB__PATH" in str(configuration.origin("db.path"))
    assert "config.json" in str(configuration.origin("mq.partitions"))
