"""An app and its configuration: each component takes its section, and nothing starts while anything is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import creche
from creche import components as c
from creche.runtime.asgi import Receive, Scope, Send
from creche.runtime.config import Config, Seconds
from creche.runtime.config_sources import Origin
from creche.supervisors.spec import SupervisorSpec
from tests.config.support import write

pytestmark = pytest.mark.usefixtures("in_folder")


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Components write to the current folder by default."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Limits(Config, frozen=True, kw_only=True):
    kill_every: Seconds = 3.0


async def web(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("nobody asks it")  # pragma: no cover


def values_of(app: creche.App, section: str) -> dict[str, Any]:
    """The settings of a section."""
    found = {setting.path: setting.value for setting in app.configuration.settings()}
    return {path.removeprefix(f"{section}."): value for path, value in found.items() if path.startswith(f"{section}.")}


def problems_of(app: creche.App) -> list[str]:
    with pytest.raises(creche.ConfigInvalid) as caught:
        app.open()
    return [f"{problem.origin}: {problem.path}" for problem in caught.value.problems]


def files_in(folder: Path) -> list[str]:
    """The databases and config files."""
    return sorted(path.name for path in folder.iterdir() if path.suffix in (".db", ".toml"))


async def test_components_take_their_sections(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the defaults of the environment; by their names, also those that other kits use; variables win."""
    write(in_folder, '[database]\npath = "orders.db"\n[mq]\npath = "orders-mq.db"\npartitions = 7\n')
    monkeypatch.setenv("CRECHE_MQ__PATH", "mq.db")
    app = creche.App("orders", config="config.toml", env="production")
    app.use(c.db.component())
    app.use(c.mq.component())
    async with app.open():
        assert files_in(in_folder) == ["config.toml", "mq.db", "orders.db"]
    assert (values_of(app, "db")["synchronous"], values_of(app, "mq")["partitions"]) == ("FULL", 7)
    assert app.configuration.origin("mq.path") == Origin("variable", "CRECHE_MQ__PATH")


async def test_the_file_may_be_named_by_the_environment(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For an app whose code names none."""
    monkeypatch.setenv("CRECHE_CONFIG", write(in_folder, '[db]\npath = "named.db"\n'))
    app = creche.App("orders")
    app.use(c.db.component())
    async with app.open():
        assert (in_folder / "named.db").exists()


async def test_variables_need_no_file(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container is configured by them alone."""
    monkeypatch.setenv("CRECHE_DB__PATH", "from-variable.db")
    app = creche.App("orders")
    app.use(c.db.component())
    async with app.open():
        assert (in_folder / "from-variable.db").exists()


async def test_a_handle_is_made_from_the_configuration_too(in_folder: Path) -> None:
    """The handle of uid reads ids by the layout of its section."""
    write(in_folder, "[uid]\nworker_bits = 4\nsequence_bits = 18\nmax_worker_id = 15\n")
    app = creche.App("orders", config="config.toml")
    uid = app.use(c.uid.component())
    async with app.open():
        assert 0 <= uid.parse(await uid.snowflake()).worker_id <= 15
        assert uid.parse(5 << 18).worker_id == 5


def test_options_given_in_code_hold_for_what_the_configuration_makes(in_folder: Path) -> None:
    """What the component derives from its config follows the section; what the code chose does not, even if equal."""
    write(in_folder, "[server]\ndrain = 9\n[patient]\ndrain = 9\n")
    app = creche.App("orders", config="config.toml")
    app.use(c.http.http_server(None, web))
    app.use(c.http.http_server(None, web, name="patient").options(drain=4.0, mailbox=7))
    edge = next(layer for layer in app.spec().children if layer.default_name() == "edge")
    assert isinstance(edge, SupervisorSpec)
    derived, chosen = (child.child_options for child in edge.children)
    assert (derived.drain, chosen.drain, chosen.mailbox) == (10.0, 4.0, 7)


async def test_the_http_server_reads_the_section_server(in_folder: Path) -> None:
    """With the names that the section has elsewhere; a server of another name has a section of that name."""
    text = '[server]\nhost = "127.0.0.1"\nport = 0\nread_timeout = "30s"\nwrite_timeout = "1m"\n'
    text += "[admin]\nport = 0\n[public]\nport = 0\n[http-2]\nport = 0\n"
    app = creche.App("orders", config=write(in_folder, text))
    http = app.use(c.http.http_server(None, web))
    app.use(c.http.http_server(None, web, name="admin"))
    app.use(c.http.http_server(None, web).options(name="public"))
    app.use(c.http.http_server(None, web))
    async with app.open():
        assert (await http.address())[0] == "127.0.0.1"
    server = values_of(app, "server")
    assert (server["read_timeout"], server["write_timeout"], values_of(app, "admin")["port"]) == (30.0, 60.0, 0)


def test_each_component_of_a_kind_has_its_own_section(in_folder: Path) -> None:
    """By its name, whether it is given to it, chosen as an option, or numbered by the app."""
    text = '[db]\npath = "a"\n[db-2]\npath = "b"\n[users]\npath = "c"\n[orders]\npath = "d"\n'
    app = creche.App("orders", config=write(in_folder, text))
    for spec in (
        c.db.component(),
        c.db.component(),
        c.db.component(name="users"),
        c.db.component().options(name="orders"),
    ):
        app.use(spec)
    app.spec()
    sections = ("db", "db-2", "users", "orders")
    assert [values_of(app, section)["path"] for section in sections] == ["a", "b", "c", "d"]


def test_an_app_has_sections_of_its_own(in_folder: Path) -> None:
    """Typed, checked, and known when what nobody reads is refused."""
    app = creche.App("orders", config=write(in_folder, '[limits]\nkill_every = "1m"\n'))
    with pytest.raises(creche.ConfigInvalid, match="no such name"):
        app.spec()
    assert app.section("limits", type=Limits).kill_every == 60.0
    app.spec()


def test_a_child_without_a_config_takes_no_section(in_folder: Path) -> None:
    """A consumer may be called as a section of the service's own."""

    async def handle(message: c.mq.Received) -> None:
        raise AssertionError("nothing is sent")  # pragma: no cover

    app = creche.App("orders", config=write(in_folder, '[mail]\nkill_every = "1m"\n'))
    mq = app.use(c.mq.component())
    app.use(c.mq.consumer(mq, "mail", ["mails"], handle).options(name="mail"))
    assert app.section("mail", type=Limits).kill_every == 60.0
    app.spec()


def test_what_is_wrong_in_a_section_of_its_own_is_raised_at_once(in_folder: Path) -> None:
    """Its values are needed there."""
    app = creche.App("orders", config=write(in_folder, '[limits]\nkill_every = "often"\n'))
    with pytest.raises(creche.ConfigInvalid, match=r"config\.toml:2: \$\.limits\.kill_every"):
        app.section("limits", type=Limits)


async def test_all_that_is_wrong_is_told_before_anything_starts(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all components, with what nobody reads."""
    text = '[db]\npath = ":memory:"\n[mq]\npartitions = 0\npath = ""\n[uid]\nlease_ttl = "1s"\n[clogg]\n'
    write(in_folder, text, "c.toml")
    monkeypatch.setenv("CRECHE_UID__TOLERANCE", "30s")
    app = creche.App("orders", config="c.toml")
    for spec in (c.clog.component(), c.uid.component(), c.db.component(), c.mq.component()):
        app.use(spec)
    assert problems_of(app) == [
        "c.toml:7: $.uid.lease_ttl",
        "c.toml:2: $.db.path",
        "c.toml:4: $.mq.partitions",
        "c.toml:8: $.clogg",
    ]
    assert files_in(in_folder) == ["c.toml"]


def test_a_config_in_code_and_a_section_are_one_too_many(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither wins in silence; a variable is as ambiguous as a section, and so is a section under another name."""
    monkeypatch.setenv("CRECHE_UID__TOLERANCE", "2s")
    write(in_folder, '[database]\npath = "x"\n[uid]\n', "c.toml")
    app = creche.App("orders", config="c.toml")
    app.use(c.db.component(c.db.Config(path="orders.db")))
    app.use(c.uid.component(c.uid.Config()))
    assert problems_of(app) == ["c.toml:1: $.db", "c.toml:3: $.uid", "CRECHE_UID__TOLERANCE: $.uid"]


async def test_a_config_in_code_needs_no_section(in_folder: Path) -> None:
    """It stands as it is, in every environment, and its values say that they come from the code."""
    app = creche.App("orders", config=write(in_folder, ""), env="production")
    app.use(c.db.component(c.db.Config(path="orders.db")))
    async with app.open():
        assert (in_folder / "orders.db").exists()
    assert app.configuration.origin("db.path") == Origin("code")
    assert values_of(app, "db")["synchronous"] == "NORMAL"


async def test_an_override_is_not_ambiguous(in_folder: Path) -> None:
    """A test replaces a component, and its config, of an app whose file has a section for it."""
    app = creche.App("orders", config=write(in_folder, '[db]\npath = "orders.db"\n'))
    db = app.use(c.db.component())
    app.override(db, c.db.component(c.db.Config(path="fake.db")))
    async with app.open():
        assert files_in(in_folder) == ["config.toml", "fake.db"]
    assert app.configuration.origin("db.path") == Origin("code")
    app.override(db, c.db.component())
    async with app.open():
        assert (in_folder / "orders.db").exists()
    assert app.configuration.origin("db.path").kind == "file"


async def test_an_override_may_resolve_what_is_ambiguous(in_folder: Path) -> None:
    """The config in code is replaced by the section."""
    app = creche.App("orders", config=write(in_folder, '[db]\npath = "orders.db"\n'))
    db = app.use(c.db.component(c.db.Config(path="code.db")))
    app.override(db, c.db.component())
    async with app.open():
        assert files_in(in_folder) == ["config.toml", "orders.db"]


def test_an_app_does_not_begin_without_its_file(in_folder: Path) -> None:
    """Defaults in the place of a file that is not there would be a surprise."""
    with pytest.raises(creche.ConfigInvalid, match=r"config = 'nowhere\.toml': cannot be read: No such file"):
        creche.App("orders", config="nowhere.toml")
