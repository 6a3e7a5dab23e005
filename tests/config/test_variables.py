"""Environment variables: their names, how their texts become values, and slips that must not pass unnoticed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from creche.runtime.config import Config as BaseConfig
from creche.runtime.config import PositiveSeconds, Secret
from tests.config.support import Pool, Settings, configuration, problems_of


class Kinds(BaseConfig, frozen=True, kw_only=True):
    text: str = "x"
    maybe_text: str | None = "x"
    number: int = 0
    fraction: float = 0.0
    flag: bool = False
    maybe: int | None = 5
    seconds: PositiveSeconds | None = 5.0
    texts: tuple[str, ...] = ("x",)
    numbers: list[int] = msgspec.field(default_factory=list)
    delays: list[PositiveSeconds] = msgspec.field(default_factory=list)
    pair: tuple[int, str] = (0, "")
    choices: frozenset[str] = frozenset()
    table: dict[str, int] = msgspec.field(default_factory=dict)
    either: list[str] | str = "x"
    pool: Pool = Pool()


def loaded(field: str, text: str) -> Any:
    variables = {f"CRECHE_KINDS__{field.upper()}": text}
    return getattr(configuration(variables=variables).section("kinds", type=Kinds), field)


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("text", "8000", "8000"),
        ("text", "", ""),
        ("text", " [a, b] ", " [a, b] "),
        ("maybe_text", "null", "null"),
        ("number", "8000", 8000),
        ("number", "-1", -1),
        ("fraction", "1e-3", 0.001),
        ("flag", "true", True),
        ("flag", "0", False),
        ("maybe", "null", None),
        ("maybe", "7", 7),
        ("seconds", "1m30s", 90.0),
        ("seconds", "0.5", 0.5),
        ("seconds", "null", None),
        ("texts", "a, b,c", ("a", "b", "c")),
        ("texts", "", ()),
        ("texts", '["a,b", "c"]', ("a,b", "c")),
        ("numbers", "1,2, 3", [1, 2, 3]),
        ("numbers", "[1, 2]", [1, 2]),
        ("delays", "100ms, 2, 1m", [0.1, 2.0, 60.0]),
        ("delays", '["100ms", 2]', [0.1, 2.0]),
        ("pair", "1,b", (1, "b")),
        ("choices", "a,b,a", frozenset({"a", "b"})),
        ("table", '{"a": 1}', {"a": 1}),
        ("either", "[a,b]", "[a,b]"),
        ("pool", '{"size": 9, "max_age": "1h"}', Pool(size=9, max_age=3600.0)),
    ],
)
def test_a_text_becomes_what_the_type_of_the_field_says(field: str, text: str, value: Any) -> None:
    """Numbers, flags, durations; lists with commas or as JSON; tables as JSON; None as null."""
    assert loaded(field, text) == value


@pytest.mark.parametrize(
    ("field", "text", "complaint"),
    [
        ("number", "b91d7c0e-5a0b-4a3c", "Expected `int`, got `str`"),
        ("number", "", "Expected `int`, got `str`"),
        ("number", "1.5", "Expected `int`"),
        ("flag", "yes", "Expected `bool`, got `str`"),
        ("seconds", "soon", "not a duration"),
        ("seconds", "0s", "Expected `float` > 0.0"),
        ("numbers", "1,x", "Expected `int`, got `str`"),
        ("numbers", "[1,", "not JSON"),
        ("delays", "1s,soon", "not a duration"),
        ("table", "a=1", "Expected `object`, got `str`"),
        ("pool", "5", "Expected `object`"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_with_the_name_of_the_variable(
    field: str, text: str, complaint: str
) -> None:
    """It is never passed over: a service that ignores it runs with a value that nobody chose."""
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")) as caught:
        loaded(field, text)
    assert str(caught.value).startswith(f"CRECHE_KINDS__{field.upper()}: $.kinds.{field} = {text!r}: ")


def test_two_underscores_lead_into_sections() -> None:
    """As deep as they are nested; a whole section may be given as JSON, and a deeper variable wins over it."""
    variables = {
        "CRECHE_DB__POOL__SIZE": "9",
        "CRECHE_DB__POOL": '{"size": 7, "max_age": "1m"}',
        "CRECHE_CACHE": '{"path": "x"}',
        "CRECHE_DEBUG": "true",
    }
    settings = configuration(variables=variables).load(type=Settings)
    assert settings.db.pool == Pool(size=9, max_age=60.0)
    assert (settings.cache.path, settings.debug) == ("x", True)


def test_a_name_that_is_no_word_is_written_with_underscores() -> None:
    """The second of two components of one kind is called ``db-2``."""
    made = configuration(variables={"CRECHE_DB_2__NUMBER": "5"})
    assert made.section("db-2", type=Kinds).number == 5
    made.check()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("CRECHE_DB__PATHH", "$.db.pathh = '***': no such variable; did you mean 'CRECHE_DB__PATH'?"),
        ("CRECHE_DB__POOL__SIZ", "$.db.pool.siz = '***': no such variable; did you mean 'CRECHE_DB__POOL__SIZE'?"),
        ("CRECHE_DB__PATH__X", "$.db.path.x = '***': no such variable; did you mean 'CRECHE_DB__PATH'?"),
        ("CRECHE_DBB__PATH", "$.dbb.path = '***': no such variable; did you mean 'CRECHE_DB__PATH'?"),
        ("CRECHE_SERCER__PORT", "$.sercer.port = '***': no such variable; did you mean 'CRECHE_SERVER__PORT'?"),
        ("CRECHE_QQQ__XYZ", "$.qqq.xyz = '***': no such variable"),
        ("CRECHE_DB_PATH", "$.db_path = '***': write 'CRECHE_DB__PATH'"),
        ("CRECHE_DB_POOL_SIZE", "$.db_pool_size = '***': write 'CRECHE_DB__POOL__SIZE'"),
        ("CRECHE_db__path", "$.db.path = '***': write 'CRECHE_DB__PATH'"),
        ("creche_db__path", "$.db.path = '***': write 'CRECHE_DB__PATH'"),
    ],
)
def test_a_slip_in_the_name_is_refused(name: str, complaint: str) -> None:
    """A mistyped section, a mistyped field, one underscore for two, small letters; the value is not told."""
    assert problems_of(configuration(variables={name: "hunter2"})) == [f"{name}: {complaint}"]


@pytest.mark.parametrize(
    "name", ["CRECHE_ENV", "CRECHE_CONFIG", "CRECHE_CI_SHARD", "CRECHES_DB__PATH", "DB__PATH", "PATH"]
)
def test_other_variables_are_somebody_elses(name: str) -> None:
    """Those of other programs, and those that creche reads itself."""
    assert problems_of(configuration(variables={name: "x"})) == []


def test_the_two_that_creche_reads_itself_are_no_values() -> None:
    """A config may have fields of these names; under another prefix they are variables like others."""

    class Own(BaseConfig, frozen=True, kw_only=True):
        env: str = ""
        config: str = ""

    given = {"CRECHE_ENV": "production", "CRECHE_CONFIG": "x.toml", "ORDERS_ENV": "blue"}
    assert configuration(variables=given).load(type=Own) == Own()
    assert configuration(variables=given, prefix="ORDERS").load(type=Own) == Own(env="blue")


def test_another_prefix_reads_other_variables_only() -> None:
    """So that a process can have settings of its own beside those of its components."""
    made = configuration(variables={"ORDERS_DB__PATH": "x", "CRECHE_NOTHING__OF_ITS": "y"}, prefix="ORDERS")
    assert made.load(type=Settings).db.path == "x"


def test_a_secret_in_a_variable_is_not_told() -> None:
    """Whatever is wrong with it."""

    class Keys(BaseConfig, frozen=True, kw_only=True):
        pin: Secret = ""
        pins_token: list[int] = msgspec.field(default_factory=list)

    made = configuration(variables={"CRECHE_KEYS__PINS_TOKEN": "hunter2,5"})
    with pytest.raises(ValueError, match=r"\$\.keys\.pins_token = '\*\*\*': Expected `int`") as caught:
        made.section("keys", type=Keys)
    assert "hunter2" not in str(caught.value)
