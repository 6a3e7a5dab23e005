"""Found by reading the pages: a process that ended otherwise than its documentation says."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import creche
from creche.runtime.cli import main


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [(None, 0, ""), (0, 0, ""), (7, 7, ""), ("out of paper", 1, "out of paper\n")],
    ids=["nothing", "zero", "a number", "a text"],
)
def test_an_app_obeys_a_system_exit_as_python_does(
    code: int | str | None, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`sys.exit()` without a status ends in order, and a text is told."""

    async def leave(running: creche.Running) -> None:
        sys.exit(code)

    assert creche.App("exits").run_until_complete(leave) == status
    assert capsys.readouterr().err == said


def test_dead_letters_without_the_extra_that_reads_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A complaint and status 2, as for every configuration that cannot be read, and no traceback."""
    file = tmp_path / "service.yaml"
    file.write_text("mq:\n  path: log.sqlite3\n", encoding="utf-8")
    monkeypatch.setenv("CRECHE_CONFIG", "")  # the command sets it: so it is put back
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert main(["dlq", "list", "topic", "group", "--config", str(file)]) == 2
    assert capsys.readouterr().err == (
        "creche dlq list: a config file in YAML needs PyYAML: pip install 'creche[yaml]'\n"
    )
