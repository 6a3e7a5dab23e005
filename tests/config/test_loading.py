"""The whole configuration: which source wins, other names of sections, and where each value comes from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import creche
from creche import components as c
from creche.runtime.config import Config, Secret
from creche.runtime.config_sources import Origin
from creche.runtime.configuration import load_config, read_configuration
from tests.config.support import NO_VARIABLES, Pool, Settings, Store, configuration, problems_of, write

TEXT = """\
name = "orders"

[database]
path = "orders.db"
timeout = "1m30s"
pool.size = 7

[redis]
hosts = ["a", "b"]

[server]
port = 9000
read_timeout = "30s"
"""


def test_a_file_over_the_defaults_of_the_environment_and_variables_over_both(tmp_path: Path) -> None:
    """Sections are merged field by field."""
    variables = {"CRECHE_DB__TIMEOUT": "24h", "CRECHE_ENV": "production", "CRECHE_CACHE__POOL__MAX_AGE": "1h"}
    settings = load_config(write(tmp_path, TEXT), type=Settings, variables=variables)
    assert settings == Settings(
        name="orders",
        db=Store(path="orders.db", timeout=86400.0, mode="safe", pool=Pool(size=7)),
        cache=Store(hosts=("a", "b"), mode="safe", pool=Pool(size=20, max_age=3600.0)),
        server=creche.ServerConfig(host="0.0.0.0", port=9000, read_timeout=30.0),
    )


FILE_VALUES = st.fixed_dictionaries(
    {},
    optional={
        "path": st.sampled_from(["a", "b"]),
        "mode": st.sampled_from(["fast", "safe"]),
        "timeout": st.sampled_from(["1s", 2, 3.5]),
        "pool": st.fixed_dictionaries({}, optional={"size": st.integers(1, 9), "max_age": st.just("1h")}),
        "hosts": st.lists(st.sampled_from(["x", "y"])),
    },
)
VARIABLES = st.fixed_dictionaries(
    {},
    optional={
        "CRECHE_DB__PATH": st.just("v"),
        "CRECHE_DB__MODE": st.just("safe"),
        "CRECHE_DB__TIMEOUT": st.just("9s"),
        "CRECHE_DB__POOL__SIZE": st.just("8"),
        "CRECHE_DB__HOSTS": st.just("h,i"),
    },
)
MEANT: dict[str, Any] = {"v": "v", "safe": "safe", "9s": 9.0, "8": 8, "h,i": ["h", "i"], "1s": 1.0, "1h": 3600.0}


@given(FILE_VALUES, VARIABLES, st.sampled_from(["development", "production"]))
def test_every_value_is_that_of_its_origin(data: dict[str, Any], variables: dict[str, str], env: Any) -> None:
    """For each value alone: the variable's if there is one, else the file's, else the environment's default."""
    made = configuration({"db": data}, variables, env)
    made.section("db", type=Store)
    defaults = configuration(env=env)
    defaults.section("db", type=Store)
    default_of = {setting.path: setting.value for setting in defaults.settings()}
    for setting in made.settings():
        keys = setting.path.split(".")
        name = "CRECHE_" + "__".join(keys).upper()
        in_file: Any = {"db": data}
        for key in keys:
            in_file = in_file.get(key, {})
        if name in variables:
            assert (setting.origin, setting.value) == (Origin("variable", name), MEANT[variables[name]])
        elif in_file not in ({}, []) or keys[-1] in data:
            expected = in_file if isinstance(in_file, list) else MEANT.get(in_file, in_file)
            assert (setting.origin, setting.value) == (Origin("file", "c.toml", 1), expected)
        else:
            assert (setting.origin, setting.value) == (Origin("default"), default_of[setting.path])


def test_lists_and_tables_are_replaced_as_a_whole() -> None:
    """What a file says is all that is in them."""
    data = {"db": {"hosts": ["a"], "limits": {"x": 1}}}
    settings = configuration(data, {"CRECHE_DB__LIMITS": '{"y": 2}'}).load(type=Settings)
    assert (settings.db.hosts, settings.db.limits) == (("a",), {"y": 2})


def test_a_default_that_a_field_gives_a_section_stands_in_every_environment() -> None:
    """It is the author's choice; a section without one takes the defaults of its type in the environment."""

    class Whole(Config, frozen=True, kw_only=True):
        chosen: Store = Store(path="chosen.db")
        open: Store

    whole = configuration(env="production").load(type=Whole)
    assert (whole.chosen.mode, whole.chosen.path, whole.open.mode) == ("fast", "chosen.db", "safe")


class Account(Config, frozen=True, kw_only=True):
    url: str
    user: str = ""


def test_a_value_without_a_default_is_asked_for() -> None:
    """With its path, and the section that lacks it."""

    class Whole(Config, frozen=True, kw_only=True):
        account: Account

    with pytest.raises(creche.ConfigInvalid) as caught:
        configuration({"account": {"user": "x"}}).load(type=Whole)
    assert str(caught.value) == "c.toml:1: $.account.url = None: a value is required"
    variables = {"CRECHE_ACCOUNT__URL": "http://x"}
    assert configuration(variables=variables).load(type=Whole).account.url == "http://x"


# --- other names of sections ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alias", "section"),
    [
        ("database", "db"),
        ("redis", "cache"),
        ("kafka", "mq"),
        ("etcd", "coord"),
        ("logging", "clog"),
        ("tracing", "metrics"),
    ],
)
def test_what_other_kits_call_a_section_is_understood(alias: str, section: str) -> None:
    """In the file and in variables; values and errors speak of the section by its own name."""
    made = configuration({alias: {"path": "x"}}, {f"CRECHE_{alias.upper()}__MODE": "safe"})
    store = made.section(section, type=Store)
    made.check()
    assert (store.path, store.mode) == ("x", "safe")
    assert str(made.origin(f"{section}.path")) == "c.toml:1"
    assert str(made.origin(f"{section}.mode")) == f"CRECHE_{alias.upper()}__MODE"


def test_a_section_under_two_names_is_refused() -> None:
    """In one source; a file and a variable may name it differently."""
    assert problems_of(configuration({"db": {}, "database": {}})) == [
        "c.toml:2: $.database = '***': another name for 'db', which is there too: keep one of the two"
    ]
    variables = {"CRECHE_DB__PATH": "x", "CRECHE_DATABASE__MODE": "safe"}
    assert problems_of(configuration(variables=variables)) == [
        "CRECHE_DATABASE__MODE: $.database.mode = '***': "
        "DATABASE is another name for DB, which is there too: keep one of the two"
    ]
    assert problems_of(configuration({"database": {}}, {"CRECHE_DB__PATH": "x"})) == []


def test_a_section_that_is_called_so_is_no_other_name() -> None:
    """The service's own section ``redis`` is not that of its cache."""

    class Whole(Config, frozen=True, kw_only=True):
        cache: Store
        redis: Store

    whole = configuration({"redis": {"path": "r"}}, {"CRECHE_REDIS__MODE": "safe"}).load(type=Whole)
    assert (whole.redis.path, whole.redis.mode) == ("r", "safe")
    assert (whole.cache.path, whole.cache.mode) == ("store.db", "fast")


def test_two_that_would_read_one_section_are_told() -> None:
    """Whichever of the two is asked for first."""
    for order in (("cache", "redis"), ("redis", "cache")):
        made = configuration({"redis": {}})
        for section in order:
            made.section(section, type=Store)
        with pytest.raises(creche.ConfigInvalid, match=r"both 'redis' and 'cache'.*\[cache\]"):
            made.check()


# --- what is wrong --------------------------------------------------------------------------------


def test_all_that_is_wrong_is_told_with_its_place(tmp_path: Path) -> None:
    """In all sections and all sources, each with the line of the file or the name of the variable."""
    text = """\
nmae = "x"
[db]
timeout = "soon"
password = "hunter2"
pasword = "hunter2"
[cache]
pool.size = 0
[redus]
path = "x"
[server]
port = 90000
"""
    variables = {"CRECHE_CACHE__MODE": "safest", "CRECHE_DB__PATHS": "hunter2"}
    path = write(tmp_path, text)
    assert problems_of(read_configuration(path, variables=variables)) == [
        "CRECHE_DB__PATHS: $.db.paths = '***': no such variable; did you mean 'CRECHE_DB__PATH'?",
        "CRECHE_CACHE__MODE: $.cache.mode = 'safest': Invalid enum value 'safest'",
        f"{path}:5: $.db.pasword = '***': no such setting; did you mean 'password'?",
        f"{path}:3: $.db.timeout = 'soon': not a duration: "
        "write seconds, or a number with ms, s, m, h or d such as '30s' or '1m30s'",
        f"{path}:7: $.cache.pool.size = 0: Expected `int` >= 1",
        f"{path}:11: $.server.port = 90000: Expected `int` <= 65535",
        f"{path}:1: $.nmae = '***': no such name; did you mean 'name'?",
        f"{path}:8: $.redus = '***': no such name; there are db, cache, server, name, debug",
    ]


def test_keys_in_another_spelling_are_not_passed_over() -> None:
    """A file written for another kit sets nothing in silence; it says what the setting is called here."""
    made = configuration({"logging": {"addSource": True, "outputPaths": ["stdout"], "level": "info"}})
    with pytest.raises(creche.ConfigInvalid) as caught:
        made.section("clog", type=c.clog.Config)
    assert [problem.reason for problem in caught.value.problems] == [
        "no such setting; did you mean 'add_source'?",
        "no such setting; did you mean 'output'?",
    ]


def test_a_rule_across_fields_is_told_with_the_place_of_the_value() -> None:
    """Where the value comes from is looked up by the path that the rule names."""
    made = configuration({"cache": {}, "db": {"timeout": "2h"}}, {"CRECHE_DB__POOL__MAX_AGE": "1h"})
    assert problems_of(made) == ["CRECHE_DB__POOL__MAX_AGE: $.db.pool.max_age = 3600.0: must be at least the timeout"]


def test_a_config_can_be_wrong_without_a_file() -> None:
    """Then the problem has no origin."""
    made = configuration(variables={"CRECHE_DB__POOL__MAX_AGE": "1s", "CRECHE_DB__TIMEOUT": "1s"})
    assert problems_of(made) == []
    with pytest.raises(creche.ConfigInvalid) as caught:
        configuration(variables={"CRECHE_DB__PATH": "x"}).section("db", type=Wrong)
    assert (caught.value.path, caught.value.origin) == ("$.db.size", None)


class Wrong(Config, frozen=True, kw_only=True):
    """Its own default does not fit."""

    path: str = ""
    size: int = 5

    def check(self) -> None:
        raise creche.ConfigInvalid("$.size", self.size, "five is right out")


# --- origins --------------------------------------------------------------------------------------


def test_each_value_tells_where_it_comes_from(tmp_path: Path) -> None:
    """Default, file with its line, or variable; printed as lines."""
    path = write(tmp_path, TEXT)
    made = read_configuration(path, variables={"CRECHE_DB__POOL__MAX_AGE": "1h", "CRECHE_DB__PASSWORD": "hunter2"})
    made.load(type=Settings)
    assert made.origin("db.path") == Origin("file", path, 4)
    assert made.origin("db.pool.size") == Origin("file", path, 6)
    assert made.origin("db.pool.max_age") == Origin("variable", "CRECHE_DB__POOL__MAX_AGE")
    assert made.origin("db.mode") == Origin("default")
    lines = str(made).splitlines()
    assert lines[:7] == [
        f'db.path = "orders.db"  # {path}:4',
        'db.mode = "fast"  # default',
        f"db.timeout = 90.0  # {path}:5",
        'db.password = "***"  # CRECHE_DB__PASSWORD',
        f"db.pool.size = 7  # {path}:6",
        "db.pool.max_age = 3600.0  # CRECHE_DB__POOL__MAX_AGE",
        'db.hosts = ["localhost"]  # default',
    ]
    assert lines[-2:] == [f'name = "orders"  # {path}:1', "debug = false  # default"]
    assert "hunter2" not in f"{made} {made.settings()}"


def test_asking_for_a_value_that_is_not_there_says_what_there_is() -> None:
    """As any other mistyped name."""
    made = configuration({})
    made.section("db", type=Pool)
    with pytest.raises(LookupError, match=r"db\.sise: no such setting; did you mean 'db\.size'"):
        made.origin("db.sise")


def test_a_secret_shows_only_whether_it_is_set() -> None:
    """By its type, by its name, in a table by the name of its key, in an URL as its credentials."""

    class Keys(Config, frozen=True, kw_only=True):
        pin: Secret = ""
        tokens: tuple[Secret, ...] = ()
        empty: Secret | None = None
        headers: dict[str, str] = msgspec.field(default_factory=dict)
        urls: list[str] = msgspec.field(default_factory=list)

    data = {
        "pin": "hunter2",
        "tokens": ["hunter2"],
        "headers": {"x-api-key": "hunter2", "accept": "*"},
        "urls": ["http://me:hunter2@host"],
    }
    made = configuration({"keys": data})
    made.section("keys", type=Keys)
    assert {setting.path: setting.value for setting in made.settings()} == {
        "keys.pin": "***",
        "keys.tokens": "***",
        "keys.empty": None,
        "keys.headers": {"x-api-key": "***", "accept": "*"},
        "keys.urls": ["http://***@host"],
    }


# --- the environment and the file -----------------------------------------------------------------


def test_the_environment_is_development_unless_it_is_said_otherwise() -> None:
    """By the argument, else by the variable."""
    assert read_configuration(variables={}).env == "development"
    assert read_configuration(variables={"CRECHE_ENV": ""}).env == "development"
    assert read_configuration(variables={"CRECHE_ENV": "production"}).env == "production"
    assert read_configuration(env="development", variables={"CRECHE_ENV": "production"}).env == "development"


@pytest.mark.parametrize("name", ["prod", "dev", "staging", "Production"])
def test_an_environment_that_is_neither_of_the_two_is_refused(name: str) -> None:
    """Taken for development, as elsewhere, it would run production with the settings of a laptop."""
    with pytest.raises(creche.ConfigInvalid, match="use 'development' or 'production'") as caught:
        read_configuration(variables={"CRECHE_ENV": name})
    assert (caught.value.origin, caught.value.value) == ("CRECHE_ENV", name)


def test_the_file_is_that_of_the_argument_or_of_the_variable(tmp_path: Path) -> None:
    """The argument wins; a path object will do."""
    first, second = write(tmp_path, TEXT), write(tmp_path, "", "other.toml")
    variables = {"CRECHE_CONFIG": first}
    assert read_configuration(variables=variables).path == first
    assert read_configuration(Path(second), variables=variables).path == second
    assert read_configuration(variables={"CRECHE_CONFIG": ""}).path is None
    with pytest.raises(creche.ConfigInvalid, match="No such file") as caught:
        read_configuration(variables={"CRECHE_CONFIG": first + ".toml"})
    assert caught.value.origin == "CRECHE_CONFIG"


def test_the_variables_of_the_process_are_read_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the argument `variables`."""
    monkeypatch.setenv("CRECHE_NAME", "from the process")
    settings = load_config(write(tmp_path, TEXT), type=Settings)
    assert settings.name == "from the process"
    assert load_config(write(tmp_path, TEXT), type=Settings, variables=NO_VARIABLES).name == "orders"
    assert os.environ["CRECHE_NAME"] == "from the process"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.toml", 'name = "orders"\n[logging]\nlevel = "warn"\n[server]\nread_timeout = "24h"\n'),
        ("c.yaml", "name: orders\nlogging: {level: warn}\nserver:\n  read_timeout: 24h\n"),
        ("c.json", '{"name": "orders", "logging": {"level": "warn"}, "server": {"read_timeout": "24h"}}'),
    ],
)
def test_all_formats_give_the_same(tmp_path: Path, name: str, text: str) -> None:
    """With other names and durations."""

    class Whole(Config, frozen=True, kw_only=True):
        name: str = ""
        clog: c.clog.Config
        server: creche.ServerConfig

    whole = load_config(write(tmp_path, text, name), type=Whole, variables=NO_VARIABLES)
    assert (whole.name, whole.clog.level, whole.clog.format, whole.server.read_timeout) == (
        "orders",
        "warn",
        "console",
        86400.0,
    )
