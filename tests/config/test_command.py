"""``creche config check``, and ``creche run`` with a configuration that is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.config.support import write

ROOT = Path(__file__).parents[2]

SERVICE = """\
import creche
from creche import components as c
from creche.runtime.config import Config, Secret


class Mail(Config, frozen=True, kw_only=True):
    password: Secret = ""


app = creche.App("orders")
app.use(c.uid.component(c.uid.Config()))
app.use(c.db.component())
app.section("mail", type=Mail)


@app.main
async def serve(running: creche.Running) -> None:
    print("running")


fixed = creche.App("orders", config="config.toml", env="development")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """With a service and its config file."""
    write(tmp_path, SERVICE, "service.py")
    write(tmp_path, '[db]\npath = "orders.db"\n[mail]\npassword = "hunter2"\n')
    write(tmp_path, '[db]\npathh = "x"\nslow_after = 0\n[mail]\n[mial]\n', "bad.toml")
    return tmp_path


def creche_in(folder: Path, *arguments: str, **variables: str) -> tuple[int, list[str], list[str]]:
    """Exit status, output and errors of the command."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("CRECHE_")}
    done = subprocess.run(
        [sys.executable, "-m", "creche", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "hunter2" not in done.stdout + done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


def test_a_valid_configuration_is_printed_with_its_origins(folder: Path) -> None:
    """Status 0; secrets masked; the values of configs in code too; and nothing is started."""
    options = ("--config", "config.toml", "--env", "production")
    status, out, err = creche_in(folder, "config", "check", "service:app", *options, CRECHE_DB__SLOW_AFTER="250ms")
    assert (status, err) == (0, [])
    assert out[0] == "# environment: production"
    assert out[out.index('db.backend = "sqlite"  # default') :] == [
        'db.backend = "sqlite"  # default',
        'db.path = "orders.db"  # config.toml:2',
        'db.synchronous = "FULL"  # default',
        "db.create = true  # default",
        "db.pool_size = 4  # default",
        "db.busy_timeout = 5.0  # default",
        "db.transaction_timeout = 30.0  # default",
        "db.slow_after = 0.25  # CRECHE_DB__SLOW_AFTER",
        'mail.password = "***"  # config.toml:4',
    ]
    assert "uid.max_worker_id = 1023  # code" in out
    assert not (folder / "orders.db").exists()


def test_what_is_wrong_is_printed_with_status_1(folder: Path) -> None:
    """All of it, one a line, to standard error."""
    status, out, err = creche_in(folder, "config", "check", "service:app", CRECHE_CONFIG="bad.toml")
    assert (status, out) == (1, [])
    assert err == [
        "bad.toml:2: $.db.pathh = '***': no such setting; did you mean 'path'?",
        "bad.toml:3: $.db.slow_after = 0: Expected `float` > 0.0",
        "bad.toml:5: $.mial = '***': no such name; did you mean 'mail'?",
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("service:app", "--config", "nowhere.toml"), "CRECHE_CONFIG: config = 'nowhere.toml': cannot be read"),
        (("service:app", "--env", "prod"), "CRECHE_ENV: env = 'prod': use 'development' or 'production'"),
    ],
)
def test_a_file_or_an_environment_that_is_not_there_is_wrong_too(
    folder: Path, arguments: tuple[str, ...], complaint: str
) -> None:
    """Status 1: it is the configuration that is wrong, not the command."""
    status, _, err = creche_in(folder, "config", "check", *arguments)
    assert status == 1
    assert err[0].startswith(complaint)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "name an app as module:attribute, a file with --config, or both"),
        (("service",), "name the app as module:attribute"),
        (("nowhere:app",), "No module named 'nowhere'"),
        (("service:nothing",), "no attribute 'nothing'"),
        (("service:Mail",), "not a creche.App"),
        (("service:fixed", "--config", "bad.toml"), "--config bad.toml: the code of the app chooses config.toml"),
        (("service:app", "--envv", "x"), "unrecognized arguments"),
    ],
)
def test_a_command_that_makes_no_sense_has_status_2(folder: Path, arguments: tuple[str, ...], complaint: str) -> None:
    """With what is wrong in it."""
    status, _, err = creche_in(folder, "config", "check", *arguments)
    assert status == 2
    assert complaint in err[-1]


def test_without_an_app_the_sections_of_the_components_are_checked(folder: Path) -> None:
    """Those that are there, by their other names too; what belongs to a service cannot be known then."""
    write(folder, '[database]\npath = "x"\n[server]\nport = 1\n[logging]\nlevel = "info"\n', "components.toml")
    status, out, err = creche_in(folder, "config", "check", "--config", "components.toml")
    assert (status, err) == (0, [])
    assert {line.partition(".")[0] for line in out[1:]} == {"db", "server", "clog"}
    assert 'db.path = "x"  # components.toml:2' in out
    status, _, err = creche_in(folder, "config", "check", "--config", "bad.toml")
    assert status == 1
    assert len(err) == 4
    assert "bad.toml:4: $.mail = '***': no such name; there are db, server, " in err[2]


def test_run_takes_the_same_options(folder: Path) -> None:
    """It starts with what they name."""
    status, out, err = creche_in(folder, "run", "service:app", "--config", "config.toml")
    assert (status, out, err) == (0, ["running"], [])
    assert (folder / "orders.db").exists()


def test_run_with_a_configuration_that_is_wrong_starts_nothing(folder: Path) -> None:
    """Status 2, as for every misuse: a restart of the process will not help."""
    status, out, err = creche_in(folder, "run", "service:app", "--config", "bad.toml")
    assert (status, out) == (2, [])
    assert err == [
        "orders: bad.toml:2: $.db.pathh = '***': no such setting; did you mean 'path'?",
        "bad.toml:3: $.db.slow_after = 0: Expected `float` > 0.0",
        "bad.toml:5: $.mial = '***': no such name; did you mean 'mail'?",
    ]
    assert not (folder / "db.sqlite3").exists()
