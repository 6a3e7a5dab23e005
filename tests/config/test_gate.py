"""The gate that every config goes through: all errors at once, with their paths, and without secrets."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

import creche
from creche import components as c
from creche.runtime.config import Config, Seconds, Secret, default_config, from_builtins, validated


class Bulk(Config, frozen=True, kw_only=True):
    count: Annotated[int, Meta(ge=1)] = 500
    age: Seconds = 1.0

    def check(self) -> None:
        if self.age > self.count:
            raise creche.ConfigInvalid("$.age", self.age, "must not be more than count")


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    rate: Annotated[float, Meta(gt=0)]
    per: Seconds = 1.0


class Search(Config, frozen=True, kw_only=True):
    address: str
    password: Secret = ""
    api_key: Annotated[str, Meta(pattern="^k-")] = "k-"
    bulk: Bulk = Bulk()
    spare: Bulk | None = None
    rules: dict[str, Rule] = msgspec.field(default_factory=dict)
    steps: list[Seconds] = msgspec.field(default_factory=list)
    batches: tuple[Bulk, ...] = ()

    def check(self) -> None:
        if self.password == "hunter2":
            raise creche.ConfigInvalid("$.password", self.password, f"{self.password} is everybody's")


def problems_of(data: Any, kind: type[Config] = Search) -> list[tuple[str, object]]:
    """The paths and values of all that is wrong."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        from_builtins(data, kind)
    assert "hunter2" not in str(caught.value)
    return [(problem.path, problem.value) for problem in caught.value.problems]


def test_durations_are_read_wherever_they_stand() -> None:
    """In sections, lists and tables of structs."""
    data = {
        "address": "x",
        "bulk": {"age": "2m"},
        "spare": {"age": "3s"},
        "rules": {"send": {"rate": 5, "per": "1h"}},
        "steps": ["100ms", 2],
        "batches": [{"age": "4s"}],
    }
    search = from_builtins(data, Search)
    assert (search.bulk.age, search.spare) == (120.0, Bulk(age=3.0))
    assert (search.rules["send"].per, search.steps, search.batches[0].age) == (3600.0, [0.1, 2.0], 4.0)


def test_all_that_is_wrong_is_told_at_once() -> None:
    """One error for each value, in the order of the fields, unknown ones first."""
    data = {
        "adress": "x",
        "api_key": 5,
        "bulk": {"count": 0, "age": "soon"},
        "rules": {"a": {"rate": -1}, "b": {"rate": 1, "burst": 2}},
        "steps": [1, "2 s"],
        "batches": [{}, {"count": "one"}],
    }
    assert problems_of(data) == [
        ("$.adress", "***"),
        ("$.address", None),
        ("$.api_key", "***"),
        ("$.bulk.count", 0),
        ("$.bulk.age", "soon"),
        ("$.rules.a.rate", -1),
        ("$.rules.b.burst", "***"),
        ("$.steps[1]", "2 s"),
        ("$.batches[1].count", "one"),
    ]


def test_the_error_speaks_of_the_first_and_shows_all() -> None:
    """Its fields are those of the first problem, its text has a line for each."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        from_builtins({"address": 1, "steps": 2}, Search)
    assert (caught.value.path, caught.value.value) == ("$.address", 1)
    assert str(caught.value).splitlines() == [
        "$.address = 1: Expected `str`, got `int`",
        "$.steps = 2: Expected `array`, got `int`",
    ]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        ({"address": "x", "pasword": ""}, "no such setting; did you mean 'password'?"),
        ({"address": "x", "qqq": 1}, "no such setting; there are address, password, "),
        ({"address": "x", "bulk": {"cuont": 1}}, "no such setting; did you mean 'count'?"),
    ],
)
def test_an_unknown_key_is_refused_with_what_was_probably_meant(data: Any, complaint: str) -> None:
    """Or with what there is."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        from_builtins(data, Search)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("data", [None, 5, "text", [1]])
def test_a_section_has_to_be_one(data: Any) -> None:
    """A plain value in the place of a section is told as such."""
    assert [path for path, _ in problems_of({"address": "x", "bulk": data})] == ["$.bulk"]
    assert [path for path, _ in problems_of(data)] == ["$"]


def test_rules_across_fields_hold_in_inner_configs_too() -> None:
    """`check` of each config in the tree is called, in lists as well; the paths begin at the top."""
    broken = {"count": 1, "age": 2}
    data = {"address": "x", "password": "hunter2", "bulk": broken, "spare": broken, "batches": [{}, broken]}
    assert problems_of(data) == [("$.bulk.age", 2.0), ("$.spare.age", 2.0), ("$.batches[1].age", 2.0)]


class Pin(Config, frozen=True, kw_only=True):
    pin: Secret = ""

    def check(self) -> None:
        if self.pin:
            raise creche.ConfigInvalid("$.pin", self.pin, "too well known")


class Safe(Config, frozen=True, kw_only=True):
    pins: dict[str, Pin] = msgspec.field(default_factory=dict)
    more: list[Pin] = msgspec.field(default_factory=list)
    headers: dict[str, str] = msgspec.field(default_factory=dict)

    def check(self) -> None:
        for name, value in self.headers.items():
            raise creche.ConfigInvalid(f"$.headers.{name}", value, "not of use here")


def test_a_rule_about_a_marked_field_tells_no_secret() -> None:
    """Though nothing but its type says so, in tables and lists as well."""
    data = {"pins": {"a": {"pin": "hunter2"}}, "more": [{}, {"pin": "hunter2"}]}
    assert problems_of(data, Safe) == [("$.pins.a.pin", "***"), ("$.more[1].pin", "***")]
    assert problems_of({"headers": {"x-api-key": "hunter2"}}, Safe) == [("$.headers.x-api-key", "***")]


class Pairs(Config, frozen=True, kw_only=True):
    pair: tuple[Seconds, str]


def test_each_place_of_a_pair_has_its_own_type() -> None:
    """What is a duration in the first is a text in the second."""
    assert from_builtins({"pair": [1, "2s"]}, Pairs).pair == (1.0, "2s")


class Between(Config, frozen=True, kw_only=True):
    low: int = 0
    high: int = 1
    inner: Between | None = None

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low must not be more than high")


def test_what_a_struct_refuses_when_it_is_made_is_told_with_its_path() -> None:
    """A `__post_init__` speaks of the section as a whole."""
    assert problems_of({"low": 2}, Between) == [("$", "{...}")]
    assert problems_of({"inner": {"low": 2}}, Between) == [("$.inner", "{...}")]


def test_rules_are_asked_only_when_all_types_are_right() -> None:
    """`check` never sees a value that its field would not take."""
    assert problems_of({"address": "x", "bulk": {"count": "1", "age": 2}}) == [("$.bulk.count", "1")]


@pytest.mark.parametrize(
    ("data", "path"),
    [
        ({"address": "x", "password": {"value": "hunter2"}}, "$.password"),
        ({"address": "x", "password": ["hunter2"]}, "$.password"),
        ({"address": "x", "password": "hunter2"}, "$.password"),
        ({"address": "x", "api_key": "hunter2"}, "$.api_key"),
        ({"address": "x", "passwd": "hunter2"}, "$.passwd"),
        ({"address": {"url": "hunter2"}}, "$.address"),
        ({"address": ["http://me:hunter2@host"]}, "$.address"),
    ],
)
def test_no_error_tells_a_secret(data: Any, path: str) -> None:
    """Neither its text nor its fields: whether the type, the name, the rule or the author's own reason is about it."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        from_builtins(data, Search)
    assert caught.value.path == path
    assert "hunter2" not in f"{caught.value} {caught.value!r} {caught.value.value!r} {caught.value.reason}"


def test_the_repr_of_a_config_tells_no_secret() -> None:
    """It says whether one is set; credentials in URLs are masked."""
    search = Search(address="http://me:hunter2@host", password="hunter2", api_key="", bulk=Bulk(count=7))
    text = repr(search)
    assert "hunter2" not in text
    assert text.startswith("Search(address='http://***@host', password='***', api_key='', bulk=Bulk(count=7, ")


def test_configs_made_in_code_go_through_the_same_gate() -> None:
    """msgspec checks nothing when a struct is made in Python; `validated` does."""
    with pytest.raises(creche.ConfigInvalid) as caught:
        validated(Search(address="x", bulk=Bulk(count=-1), steps=[-1.0], api_key="x"))
    assert [problem.path for problem in caught.value.problems] == ["$.api_key", "$.bulk.count"]
    valid = Search(address="x", steps=[1.0])
    assert validated(valid) == valid


@pytest.mark.parametrize("env", ["development", "production"])
@pytest.mark.parametrize(
    ("kind", "defaults"),
    [
        (c.clog.Config, c.clog.default_config),
        (c.cache.Config, c.cache.default_config),
        (c.db.Config, c.db.default_config),
        (c.mq.Config, c.mq.default_config),
        (c.uid.Config, c.uid.default_config),
        (c.http.ServerConfig, c.http.default_config),
    ],
)
def test_defaults_of_every_environment_pass_their_own_checks(kind: type[Config], defaults: Any, env: Any) -> None:
    """And loading starts from the very defaults that `default_config` tells."""
    assert validated(defaults(env)) == defaults(env) == default_config(kind, env)
