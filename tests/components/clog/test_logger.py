"""What a line carries, whoever writes it and wherever."""

from __future__ import annotations

import linecache
import re
from pathlib import Path

import eliot
import pytest
import trio

import creche
from creche.components import clog
from creche.runtime.context import carrying
from tests.components.clog.support import Entry, log_to

ID = "4bf92f3577b34da6a3ce929d0e0e4736"
AT_IMPORT = clog.namespace("early").bind(made="at import")


class Writer(creche.Actor):
    async def write(self, msg: str) -> None:
        clog.info(msg)

    async def write_in_background(self, done: trio.Event) -> None:
        async def work() -> None:
            clog.info("background")
            done.set()

        self.context.spawn(work)

    async def write_in_thread(self, done: trio.Event) -> None:
        await self.context.runtime.run_blocking(clog.info, "thread")
        done.set()


# --- who, when, on whose behalf ---------------------------------------------------------------------------------------


async def test_a_line_of_the_body_has_time_level_message_and_service(tmp_path: Path) -> None:
    """Outside of actors there is no actor; the runtime's name is the service."""
    async with log_to(tmp_path / "log") as log:
        clog.info("hello", answer=42)
        entry = await log.entry()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert entry == {"level": "info", "msg": "hello", "service": "svc", "answer": 42}


async def test_a_line_of_an_actor_has_its_path_and_incarnation(tmp_path: Path) -> None:
    """Also after a restart: the next incarnation has the next number."""
    async with log_to(tmp_path / "log", level="info") as log:
        writer = await log.runtime.start(creche.child(Writer).options(backoff=creche.Backoff(first=0.0)))
        await writer.ask.write("one")
        log.runtime.kill(writer, "test")
        await writer.ask.write("two")
        lines = {entry["msg"]: entry for entry in await log.entries()}
    assert (lines["one"]["actor"], lines["one"]["incarnation"]) == ("root/writer", 1)
    assert (lines["two"]["actor"], lines["two"]["incarnation"]) == ("root/writer", 2)


async def test_background_tasks_and_threads_write_as_their_actor(tmp_path: Path) -> None:
    """A worker thread finds the log of the runtime it works for, and keeps the trace."""
    async with log_to(tmp_path / "log") as log:
        writer = await log.runtime.start(creche.child(Writer))
        for message in (Writer.write_in_background, Writer.write_in_thread):
            done = trio.Event()
            with clog.trace(ID):
                await writer.call(message, done)
            await done.wait()
        lines = {entry["msg"]: entry for entry in await log.entries()}
    assert lines["background"]["actor"] == lines["thread"]["actor"] == "root/writer"
    assert lines["thread"]["trace_id"] == ID


async def test_trace_id_and_request_id_come_from_the_context(tmp_path: Path) -> None:
    """Both ride along with a call, and are gone with it."""
    async with log_to(tmp_path / "log") as log:
        writer = await log.runtime.start(creche.child(Writer))
        with clog.trace(ID), carrying(request_id="r1"):
            await writer.ask.write("with")
        await writer.ask.write("without")
        with_ids, without = await log.entries()
    assert (with_ids["trace_id"], with_ids["request_id"]) == (ID, "r1")
    assert without["trace_id"] != ID
    assert "request_id" not in without


async def test_two_runtimes_do_not_share_a_log(tmp_path: Path) -> None:
    """Each line goes to the log of the runtime that its task belongs to."""
    async with log_to(tmp_path / "outer") as outer:
        writer = await outer.runtime.start(creche.child(Writer))
        async with log_to(tmp_path / "inner") as inner:
            clog.info("inner body")
            await writer.ask.write("outer actor")
            assert (await inner.entry())["msg"] == "inner body"
        assert (await outer.entry())["msg"] == "outer actor"


# --- namespaces and fields --------------------------------------------------------------------------------------------


async def test_namespaces_chain_and_keep_bound_fields_and_trace(tmp_path: Path) -> None:
    """Namespace, bound fields and trace id come together in one line."""
    async with log_to(tmp_path / "log") as log:
        orders = clog.namespace("orders").bind(shop=7)
        with clog.trace(ID):
            orders.namespace("payment").bind(step=1).info("paid", amount=3)
        entry = await log.entry()
    expected = {"namespace": "orders.payment", "trace_id": ID, "shop": 7, "step": 1, "amount": 3}
    assert {key: entry.get(key) for key in expected} == expected


async def test_binding_makes_a_new_logger(tmp_path: Path) -> None:
    """A logger never changes; the line's own fields win over bound ones."""
    async with log_to(tmp_path / "log") as log:
        base = clog.logger().bind(a=1)
        base.bind(b=2)
        base.info("line", a=3)
        entry = await log.entry()
    assert entry["a"] == 3
    assert "b" not in entry


async def test_a_logger_made_at_import_works(tmp_path: Path) -> None:
    """It finds the log at each line, not when it is made."""
    async with log_to(tmp_path / "log") as log:
        AT_IMPORT.info("line")
        entry = await log.entry()
    assert (entry["namespace"], entry["made"]) == ("early", "at import")


async def test_fields_named_like_clogs_own_keys_are_kept_under_another_name(tmp_path: Path) -> None:
    """Neither replaces the other silently."""
    async with log_to(tmp_path / "log") as log:
        fields: Entry = {"level": "mine", "msg": "m", "time": 0, "namespace": "n", "trace_id": "t", "service": "s"}
        clog.info("line", **fields)
        entry = await log.entry()
    assert (entry["level"], entry["msg"], entry["service"]) == ("info", "line", "svc")
    assert {key: entry[f"{key}_"] for key in fields} == fields


async def test_secrets_are_hidden_in_fields_and_bound_fields(tmp_path: Path) -> None:
    """The default names, at any depth, bound or not; others can be configured."""
    async with log_to(tmp_path / "log", redact=(*clog.default_config("production").redact, "iban")) as log:
        log_in = clog.namespace("auth").bind(access_token="t0p")
        log_in.info("login", user="ann", password="t0p", headers={"Authorization": "t0p"}, IBAN="t0p", secret=["t0p"])
        entry = await log.entry()
    assert "t0p" not in log.path.read_text()
    assert entry["user"] == "ann"
    assert [entry[key] for key in ("access_token", "password", "IBAN", "secret")] == ["***"] * 4
    assert entry["headers"] == {"Authorization": "***"}


async def test_strange_text_is_written_all_the_same(tmp_path: Path) -> None:
    """Lone surrogates, which JSON cannot hold, are escaped; the line says that something was wrong."""
    async with log_to(tmp_path / "log") as log:
        clog.info("bad \ud800", **{"key\ud800": "value \udfff", "good": 1})
        entry = await log.entry()
    assert entry["msg"] == "bad \\ud800"
    assert entry["key\\ud800"] == "value \\udfff"
    assert "log_failure" in entry


async def test_what_is_logged_is_as_it_was(tmp_path: Path) -> None:
    """A list that changes after the call is written as it was at the call."""
    async with log_to(tmp_path / "log") as log:
        items = [1]
        clog.info("line", items=items)
        items.append(2)
        assert (await log.entry())["items"] == [1]


async def test_the_source_is_the_callers_line(tmp_path: Path) -> None:
    """With `add_source` the line names file and line of the call, below `root_path`, also through a logger."""
    here = Path(__file__)
    async with log_to(tmp_path / "log", add_source=True, root_path=str(here.parent)) as log:
        clog.info("one")
        clog.namespace("x").bind(a=1).info("two")
        sources = [entry["source"] for entry in await log.entries()]
    name, line = sources[0].split(":")
    assert name == here.name
    assert 'clog.info("one")' in linecache.getline(__file__, int(line))
    assert sources[1] == f"{name}:{int(line) + 1}"


# --- errors -----------------------------------------------------------------------------------------------------------


async def test_exception_writes_the_exception_being_handled(tmp_path: Path) -> None:
    """At level error, with type, text and traceback, on one line of output."""
    async with log_to(tmp_path / "log") as log:
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            clog.exception("failed", order=1)
        entry = await log.entry()
    assert (entry["level"], entry["msg"], entry["order"]) == ("error", "failed", 1)
    assert (entry["error"], entry["error_type"]) == ("first\nsecond", "ValueError")
    assert "test_logger.py" in entry["traceback"]
    assert len(log.path.read_bytes().splitlines()) == 1


async def test_exception_without_an_exception_is_an_error_line(tmp_path: Path) -> None:
    """Nothing is made up."""
    async with log_to(tmp_path / "log") as log:
        clog.exception("failed")
        entry = await log.entry()
    assert entry["level"] == "error"
    assert "error" not in entry


async def test_an_error_field_is_explained_at_every_level(tmp_path: Path) -> None:
    """`error=exc` gives the three fields; `error="text"` is a plain field."""
    async with log_to(tmp_path / "log") as log:
        clog.warning("retrying", error=ExceptionGroup("both", [OSError("a"), OSError("b")]))
        clog.warning("retrying", error="text")
        group, text = await log.entries()
    assert group["error_type"] == "ExceptionGroup"
    assert "OSError: a" in group["traceback"]
    assert "OSError: b" in group["traceback"]
    assert (text["error"], text.get("error_type")) == ("text", None)


async def test_critical_does_not_exit(tmp_path: Path) -> None:
    """The line is written and the code goes on."""
    async with log_to(tmp_path / "log") as log:
        clog.critical("it is bad")
        assert (await log.entry())["level"] == "critical"


# --- eliot ------------------------------------------------------------------------------------------------------------


async def test_eliot_actions_are_written_into_the_log(tmp_path: Path) -> None:
    """A logger is an eliot logger; lines inside of an action stand in its tree, with all that lines carry."""
    async with log_to(tmp_path / "log") as log:
        orders = clog.namespace("orders").bind(shop=7)
        with clog.trace(ID), pytest.raises(KeyError), eliot.start_action(orders, "pay", amount=3):
            clog.info("inside")
            raise KeyError("k")
        start, inside, end = await log.entries()
    assert [start["task_level"], inside["task_level"], end["task_level"]] == [[1], [2], [3]]
    assert start["task_uuid"] == inside["task_uuid"] == end["task_uuid"]
    assert (start["msg"], start["action_status"], start["shop"], start["trace_id"]) == ("pay", "started", 7, ID)
    assert (end["level"], end["action_status"], end["exception"]) == ("error", "failed", "builtins.KeyError")


async def test_nothing_of_eliot_is_global(tmp_path: Path) -> None:
    """What others do with eliot's own global destinations does not mix with the log, in either direction."""
    elsewhere: list[Entry] = []
    eliot.add_destinations(elsewhere.append)
    try:
        async with log_to(tmp_path / "log") as log:
            clog.info("ours")
            eliot.log_message("theirs")
            assert (await log.entry())["msg"] == "ours"
    finally:
        eliot.remove_destination(elsewhere.append)
    assert [message["message_type"] for message in elsewhere] == ["theirs"]


# --- before, outside of and after a component -------------------------------------------------------------------------


def test_outside_of_runtimes_warnings_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """In the console format, at once, without what is below a warning; secrets and control characters as ever."""
    clog.info("no")
    clog.namespace("x").bind(a=1).warning("yes\n", password="s3cret")
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"\S+Z WARNING  \[x\] yes\\n a=1 password=\*\*\*\n", err)


async def test_before_and_after_the_component_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a runtime without clog the line names the service; with it the line goes there and nowhere else."""
    async with creche.open_runtime("svc") as runtime:
        clog.error("before")
        handle = await runtime.start(clog.component(clog.Config(output=str(tmp_path / "log"))))
        clog.error("during")
        await runtime.stop(handle)
        clog.error("after")
    err = capsys.readouterr().err.splitlines()
    assert [line.split(maxsplit=2)[2] for line in err] == ["before service=svc", "after service=svc"]
    assert '"msg":"during"' in (tmp_path / "log").read_text()


async def test_no_call_ever_replaces_the_configured_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines before the start, other runtimes and restarts leave level, format and output as they were configured."""
    clog.debug("early")
    async with log_to(tmp_path / "log") as log:
        clog.debug("no")
        clog.info("one")
        async with creche.open_runtime("other"):
            clog.logger().debug("no")
        await log.kill()
        clog.debug("no")
        clog.info("two")
        messages = [entry["msg"] for entry in await log.entries() if entry.get("namespace") != "runtime"]
    assert messages == ["one", "two"]
    assert capsys.readouterr() == ("", "")


async def test_without_standard_error_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without a console can log, into the void."""
    monkeypatch.setattr("sys.stderr", None)
    clog.error("nobody hears")


async def test_one_runtime_has_one_log(tmp_path: Path) -> None:
    """A second one is refused, and the first goes on."""
    async with log_to(tmp_path / "log") as log:
        with pytest.raises(creche.StartFailed, match="one log"):
            await log.runtime.start(clog.component(clog.Config(), name="second"))
        clog.info("line")
        assert "line" in [entry["msg"] for entry in await log.entries()]
