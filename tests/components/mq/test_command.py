"""`creche dlq`: dead letters from a shell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from creche.components import mq as m
from creche.runtime.cli import main

from .support import Failing, Seen, log_at, send

ONCE = m.RetryPolicy(attempts=1)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands read the environment, set variables of it, and may write where they are."""
    for name in ("CRECHE_CONFIG", "CRECHE_ENV"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def with_letters(path: Path, *values: str) -> None:
    """Have a group put these records aside."""

    async def put_aside() -> None:
        failing = Failing({value.encode(): 1 for value in values}, ValueError("no good"))
        async with log_at(path, partitions=1) as (runtime, mq):
            await send(mq, *values)
            consumer = await runtime.start(m.consumer(mq, "g", "t", failing, retry=ONCE))
            while sum((await consumer.lag()).values()):
                await trio.lowlevel.checkpoint()

    trio.run(put_aside)


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_letters_are_listed_without_what_is_in_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where they come from, and what became of them; keys and values only on demand."""
    path = tmp_path / "log"
    with_letters(path, "one", "two")
    assert main(["dlq", "list", "t", "g", "--path", str(path)]) == 0
    first, second = lines(capsys)
    assert (first["topic"], first["offset"], first["original_topic"]) == ("t.dead_letter", 0, "t")
    assert (first["attempts"], first["error_type"], first["error"]) == ("1", "builtins.ValueError", "no good")
    assert second["original_offset"] == "1"
    assert not {"key", "value", "headers"} & set(first)
    assert main(["dlq", "list", "t.dead_letter", "g", "--path", str(path), "--values", "--limit", "1"]) == 0
    (only,) = lines(capsys)
    assert (only["key"], only["value"], only["headers"]["creche-group"]) == ("k", "one", "g")


def test_what_is_no_text_is_told_as_base64(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has no bytes."""
    path = tmp_path / "log"

    async def send_one() -> None:
        async with log_at(path) as (_, mq):
            await mq.send_sync(m.Message("t.dead_letter", b"\xff", None, {"creche-group": "g", "X-Trace-ID": "1"}))

    trio.run(send_one)
    assert main(["dlq", "list", "t", "g", "--path", str(path), "--values"]) == 0
    (only,) = lines(capsys)
    assert (only["key"], only["value_base64"], only["trace_id"]) == (None, "/w==", "1")


def test_letters_are_sent_back_beside_the_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file is that of the service's configuration; each letter goes back once."""
    path = tmp_path / "log"
    with_letters(path, "one", "two", "three")
    config = tmp_path / "service.toml"
    config.write_text(f'[mq]\npath = "{path.as_posix()}"\n')

    async def serve() -> None:
        seen = Seen()
        async with log_at(path, poll_interval=0.01) as (runtime, mq):
            await runtime.start(m.consumer(mq, "g", "t", seen))
            for arguments in (["--limit", "1"], [], []):
                status = await trio.to_thread.run_sync(
                    main, ["dlq", "replay", "t", "g", "--config", str(config), *arguments]
                )
                assert status == 0
            await seen.until_done(3)
            assert seen.values == [b"one", b"two", b"three"]

    trio.run(serve)
    assert capsys.readouterr().out.split() == ["1", "2", "0"]


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["t", "g"], 2, "no file data/mq.sqlite3: name it with --path"),
        (["t", "g", "--config", "bad.toml"], 2, "$.mq.partitions"),
        (["no topic", "g", "--path", "log"], 1, "topic 'no topic'"),
        (["t", "", "--path", "log"], 1, "group ''"),
        (["t", "g", "--path", "bad.toml"], 1, "not a database"),
    ],
)
def test_what_cannot_be_is_told(
    arguments: list[str], status: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is made: no file, no folder."""
    (tmp_path / "bad.toml").write_text("[mq]\npartitions = 0\n" + "#" * 1000)
    with_letters(tmp_path / "log", "one")
    for command in ("list", "replay"):
        assert main(["dlq", command, *arguments]) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"creche dlq {command}: ")
        assert says in err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("limit", ["0", "-1", "some"])
def test_a_limit_is_a_number_from_one_on(limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As the parser says."""
    with pytest.raises(SystemExit) as ended:
        main(["dlq", "list", "t", "g", f"--limit={limit}"])
    assert ended.value.code == 2
    assert "at least 1" in capsys.readouterr().err
