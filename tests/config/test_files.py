"""Config files: the formats, the lines of their values, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import creche
from creche.runtime.config_files import read_config_file

ROOT = Path(__file__).parents[2]

TOML = '''\
# the service
debug = true

[db]
path = "orders.db"
note = """
path = 'not a key'
[db.pool]
"""
hosts = [
["path"]
]
pool.size = 5
[db . pool . limits]  # dotted
"max" = 9
[[mq.brokers]]
host = "a"
[[mq.brokers]]
host = "b"
[empty]
'''
YAML = """\
debug: true
db:
  path: orders.db
  pool: &pool
    size: 5
other: {pool: *pool}
mq:
  brokers:
    - host: a
    - host: b
"""


def read(folder: Path, name: str, text: str | bytes) -> tuple[object, dict[str, int]]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    file = read_config_file(str(path))
    return file.data, {".".join(keys): line for keys, line in file.lines.items()}


def refusal(folder: Path, name: str, text: str | bytes) -> str:
    with pytest.raises(creche.ConfigInvalid) as caught:
        read(folder, name, text)
    assert "hunter2" not in str(caught.value)
    return caught.value.reason


def test_toml_with_the_lines_of_its_keys(tmp_path: Path) -> None:
    """Dotted keys and headers count; what only looks like a key inside of a text does not."""
    data, lines = read(tmp_path, "c.toml", TOML)
    assert data == {
        "debug": True,
        "db": {
            "path": "orders.db",
            "note": "path = 'not a key'\n[db.pool]\n",
            "hosts": [["path"]],
            "pool": {"size": 5, "limits": {"max": 9}},
        },
        "mq": {"brokers": [{"host": "a"}, {"host": "b"}]},
        "empty": {},
    }
    assert lines == {
        "debug": 2,
        "db": 4,
        "db.path": 5,
        "db.note": 6,
        "db.hosts": 10,
        "db.pool.size": 13,
        "db.pool.limits": 14,
        "db.pool.limits.max": 15,
        "mq.brokers": 16,
        "empty": 20,
    }


def test_yaml_with_the_lines_of_its_keys(tmp_path: Path) -> None:
    """All of them, those in lists too; what an alias repeats stands where it was written."""
    data, lines = read(tmp_path, "c.yaml", YAML)
    assert data == {
        "debug": True,
        "db": {"path": "orders.db", "pool": {"size": 5}},
        "other": {"pool": {"size": 5}},
        "mq": {"brokers": [{"host": "a"}, {"host": "b"}]},
    }
    assert lines == {
        "debug": 1,
        "db": 2,
        "db.path": 3,
        "db.pool": 4,
        "db.pool.size": 5,
        "other": 6,
        "other.pool": 6,
        "mq": 7,
        "mq.brokers": 8,
        "mq.brokers.0.host": 9,
        "mq.brokers.1.host": 10,
    }


def test_yaml_merges_may_be_overridden(tmp_path: Path) -> None:
    """That is what they are for. What is written in a mapping has its line, what is brought into it has none."""
    text = "db: &db\n  path: a\n  pool: 4\nmq: &mq {path: c, size: 1}\nother:\n  <<: [*db, *mq]\n  path: b\n"
    data, lines = read(tmp_path, "c.yaml", text)
    assert data == {
        "db": {"path": "a", "pool": 4},
        "mq": {"path": "c", "size": 1},
        "other": {"path": "b", "pool": 4, "size": 1},
    }
    assert (lines["db.path"], lines["other"], lines["other.path"]) == (2, 5, 7)
    assert "other.pool" not in lines


def test_json(tmp_path: Path) -> None:
    """Without lines."""
    assert read(tmp_path, "c.json", '{"db": {"path": "x", "limit": null}}') == (
        {"db": {"path": "x", "limit": None}},
        {},
    )


@pytest.mark.parametrize(("name", "text"), [("c.toml", ""), ("c.yml", ""), ("c.yaml", "# only a comment\n")])
def test_an_empty_file_says_nothing(tmp_path: Path, name: str, text: str) -> None:
    """It is valid."""
    assert read(tmp_path, name, text) == ({}, {})


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    assert read(tmp_path, "c.toml", b"\xef\xbb\xbfdebug = true\r\n") == ({"debug": True}, {"debug": 1})


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("c.ini", "", "must end in .toml, .yaml, .yml, .json"),
        ("c.toml", "[db]\npassword = hunter2\n", "not TOML: Invalid value (at line 2, column 12)"),
        ("c.toml", "[db]\nx = 1\nx = 2\n", "not TOML: Cannot overwrite a value"),
        ("c.toml", b"x = '\xff'", "not UTF-8 at byte 5"),
        ("c.json", '{"db": {"password": "hunter2",}}', "not JSON: "),
        ("c.json", '{"db": {"x": 1, "x": 2}}', "a key is there twice: 'x'"),
        ("c.json", "[]", "sections with settings are needed at the top"),
        ("c.yaml", "db:\n  password: 'hunter2\n", "not YAML: found unexpected end of stream (at line 3)"),
        ("c.yaml", "db:\n  x: 1\n  x: 2\n", "a key is there twice: 'x' (at line 2 and after it)"),
        ("c.yaml", "mq:\n- x: 1\n  x: 2\n", "a key is there twice: 'x' (at line 2 and after it)"),
        ("c.yaml", "x: !!python/object:os.system {}", "not YAML: could not determine a constructor for the tag"),
        ("c.yaml", "x: \x00", "not YAML: ReaderError"),
        ("c.yaml", "just a text", "sections with settings are needed at the top"),
        ("c.yaml", "x: 2026-13-01", "not YAML: ValueError"),
    ],
)
def test_what_is_not_of_its_format_is_refused(tmp_path: Path, name: str, text: str | bytes, complaint: str) -> None:
    """With the place, and without quoting the text: it may hold a secret."""
    assert complaint in refusal(tmp_path, name, text)


def test_a_file_that_cannot_be_read_is_refused_with_its_name(tmp_path: Path) -> None:
    """Missing, or a folder."""
    missing, folder = tmp_path / "c.toml", tmp_path / "d.toml"
    folder.mkdir()
    for path, complaint in ((missing, "No such file"), (folder, "Is a directory")):
        with pytest.raises(creche.ConfigInvalid, match=complaint) as caught:
            read_config_file(str(path))
        assert (caught.value.path, caught.value.value) == ("config", str(path))


def test_yaml_names_its_extra_and_is_not_imported_before_it_is_needed(tmp_path: Path) -> None:
    """A service with a TOML file needs no PyYAML."""
    program = """
import sys, creche
from creche.runtime.config_files import read_config_file
read_config_file("c.toml")
assert "yaml" not in sys.modules
sys.modules["yaml"] = None
try:
    read_config_file("c.yaml")
except ImportError as error:
    print(error)
"""
    for name in ("c.toml", "c.yaml"):
        (tmp_path / name).write_text("")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "a config file in YAML needs PyYAML: pip install 'creche[yaml]'\n"
