"""The way of the lines to the output: nothing accepted is lost, whoever dies and whatever blocks."""

from __future__ import annotations

import json
import os
import select
from collections import defaultdict
from pathlib import Path

import pytest
import trio
import trio.testing

import creche
import creche.testing
from creche.components import clog
from tests.components.clog.support import PATIENT, log_to, read

CHUNK = 65536  # bytes per read


class Chatty(creche.Actor):
    """Logs numbered lines, yielding often."""

    async def chat(self, lines: int) -> None:
        for number in range(lines):
            clog.info("line", number=number, padding="x" * 100)
            if number % 10 == 0:
                await trio.lowlevel.checkpoint()

    async def ping(self) -> str:
        return "pong"


class Fifo:
    """A pipe with a name, and its reading end."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self._path = path
        self.reopen()

    def reopen(self) -> None:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)

    def close(self) -> None:
        os.close(self._fd)

    async def fills(self) -> None:
        """Wait until nothing can be written to it."""
        fd = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        poll = select.poll()
        poll.register(fd, select.POLLOUT)
        while poll.poll(0):
            await trio.lowlevel.checkpoint()
        os.close(fd)

    async def lines(self, count: int) -> list[bytes]:
        """The next `count` lines."""
        data = b""
        while data.count(b"\n") < count:
            await trio.lowlevel.wait_readable(self._fd)
            data += os.read(self._fd, CHUNK)
        return data.splitlines()


# --- batches ----------------------------------------------------------------------------------------------------------


def test_a_lone_line_is_written_at_once_and_those_that_follow_it_gather(tmp_path: Path) -> None:
    """A visit to the thread for each of them would cost more than they do; who flushes does not wait for more."""

    async def main() -> list[int]:
        written: list[int] = []
        async with log_to(tmp_path / "log") as log:
            await log.handle.flush()
            await trio.sleep(1.0)
            before = log.handle.statistics().written
            for number in range(5):
                clog.info("line", number=number)
                await trio.sleep(0.002)
                written.append(log.handle.statistics().written - before)
            await trio.sleep(0.02)
            written.append(log.handle.statistics().written - before)
            clog.info("line", number=5)
            flushed_at = trio.current_time()
            await log.handle.flush()
            assert trio.current_time() - flushed_at < 0.005
        return written

    assert creche.testing.run(main, blocking=lambda _: 0.0005) == [1, 1, 1, 1, 1, 5]


# --- kills ------------------------------------------------------------------------------------------------------------


async def test_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    """Every accepted line is written once, whole and in order, however often the clog actor is killed."""
    writers, lines, kills = 4, 1000, 40
    async with log_to(tmp_path / "log", buffer=100_000) as log:
        chatters = [await log.runtime.start(creche.child(Chatty).options(name=f"w{n}")) for n in range(writers)]
        async with trio.open_nursery() as nursery:
            for chatter in chatters:
                nursery.start_soon(chatter.ask.chat, lines)
            for _ in range(kills):
                await log.kill()
        entries = await log.entries()
        counts = log.handle.statistics()
        tree = str(log.runtime.tree())
    numbers: dict[str, list[int]] = defaultdict(list)
    for entry in entries:
        if entry["msg"] == "line":
            numbers[entry["actor"]].append(entry["number"])
    assert numbers == {f"root/w{n}": list(range(lines)) for n in range(writers)}
    assert sum(entry["msg"] == "actor crashed" for entry in entries) == kills
    assert (counts.accepted, counts.buffered, counts.dropped) == (counts.written, 0, 0), tree


async def test_a_kill_in_the_middle_of_a_write_tears_no_line(tmp_path: Path) -> None:
    """With a batch half in the pipe, the next incarnation goes on at the next byte."""
    count = 2000
    fifo = Fifo(tmp_path / "fifo")
    async with log_to(tmp_path / "fifo", level="info") as log:
        chatter = await log.runtime.start(creche.child(Chatty))
        await chatter.ask.chat(count)
        await fifo.fills()
        assert log.handle.statistics().written < count
        await log.kill()
        lines = await fifo.lines(count + 2)  # and what the kill had to say
        await log.handle.flush()
    fifo.close()
    path = tmp_path / "log"
    path.write_bytes(b"\n".join(lines))
    assert [entry["number"] for entry in read(path) if entry["msg"] == "line"] == list(range(count))


async def test_a_blocked_pipe_blocks_nobody(tmp_path: Path) -> None:
    """While the reader of the output does not read, actors answer and lines are accepted."""
    fifo = Fifo(tmp_path / "fifo")
    async with log_to(tmp_path / "fifo") as log:
        chatter = await log.runtime.start(creche.child(Chatty))
        await chatter.ask.chat(1000)
        await fifo.fills()
        accepted = log.handle.statistics().accepted
        assert await chatter.ask.ping() == "pong"
        clog.info("one more")
        assert log.handle.statistics().accepted == accepted + 1
        with trio.move_on_after(0.01) as scope:
            await log.handle.flush()
        assert scope.cancelled_caught
        assert len(await fifo.lines(1001)) == 1001
        await log.handle.flush()
    fifo.close()


# --- overflow ---------------------------------------------------------------------------------------------------------


async def test_overflow_is_counted_and_reported_in_the_log(tmp_path: Path) -> None:
    """The oldest lines stay, the newest are dropped, and a line at the gap says how many."""
    async with log_to(tmp_path / "log", buffer=10) as log:
        for number in range(100):
            clog.info("line", number=number)  # without a checkpoint: nobody can write meanwhile
        assert log.handle.dropped == 90
        await log.handle.flush()
        clog.info("after")
        *lines, report, after = await log.entries()
        counts = log.handle.statistics()
    assert [entry["number"] for entry in lines] == list(range(10))
    assert (report["level"], report["msg"], report["dropped"]) == ("warning", "log lines dropped", 90)
    assert after["msg"] == "after"
    assert counts == clog.Statistics(accepted=12, written=12, buffered=0, dropped=90, sampled=0, failure=None)


# --- flush and stop ---------------------------------------------------------------------------------------------------


async def test_flush_waits_for_what_was_accepted(tmp_path: Path) -> None:
    """When it returns, the lines are in the file."""
    async with log_to(tmp_path / "log") as log:
        for number in range(5000):
            clog.info("line", number=number)
        assert len(await log.entries()) == 5000


async def test_flush_survives_a_kill(tmp_path: Path) -> None:
    """A crash of the clog actor only makes it take longer."""
    async with log_to(tmp_path / "log") as log, trio.open_nursery() as nursery:
        clog.info("line")
        nursery.start_soon(log.handle.flush)
        await log.kill()
        assert "line" in [entry["msg"] for entry in await log.entries()]


class Talkative(creche.Actor):
    """Logs once more when it has ended."""

    def __init__(self) -> None:
        self.context.keep("goodbye", lambda: None, lambda _: clog.info("goodbye"))


async def test_a_stop_writes_everything(tmp_path: Path) -> None:
    """Lines logged just before the runtime ends are in the file, those of actors in their last moments included."""
    async with log_to(tmp_path / "log") as log:
        await log.runtime.start(creche.child(Talkative))
        for number in range(3000):
            clog.info("line", number=number)
    messages = [entry["msg"] for entry in read(tmp_path / "log")]
    assert messages.count("line") == 3000
    assert messages[-1] == "goodbye"


async def test_a_stop_waits_for_a_slow_reader(tmp_path: Path) -> None:
    """More than a pipe holds is written while the runtime stops, as long as somebody reads."""
    fifo = Fifo(tmp_path / "fifo")
    read_lines: list[bytes] = []

    async def reader() -> None:
        read_lines.extend(await fifo.lines(2000))

    with trio.fail_after(PATIENT):
        async with trio.open_nursery() as nursery:
            async with log_to(tmp_path / "fifo"):
                for number in range(2000):
                    clog.info("line", number=number, padding="x" * 100)
                await fifo.fills()
                nursery.start_soon(reader)
    assert [json.loads(line)["number"] for line in read_lines] == list(range(2000))
    fifo.close()


async def test_lines_after_the_last_push_are_written_at_the_end(tmp_path: Path) -> None:
    """When a tree fails, actors get their end after the clog actor's task: what is said then is written too."""
    path = tmp_path / "log"
    log, chatty = clog.component(clog.Config(output=str(path))), creche.child(Chatty)
    root = creche.supervisor("root", log, chatty, intensity=creche.Intensity(restarts=0))
    with pytest.raises(creche.TreeFailed):
        async with creche.open_runtime("svc", root=root) as runtime:
            assert runtime.kill("root/chatty", "test")
            await trio.sleep_forever()
    last = read(path)[-1]
    assert (last["msg"], last["actor"]) == ("actor stopped by a failure", "root/chatty")


async def test_after_the_end_nothing_of_it_is_left(tmp_path: Path) -> None:
    """No event hook, no service; and another clog can be started in its place."""
    async with creche.open_runtime("svc") as runtime:
        for name in ("one", "two"):
            handle = await runtime.start(clog.component(clog.Config(output=str(tmp_path / name))))
            clog.info(name)
            await runtime.stop(handle)
            assert not runtime.events.on
            assert runtime.services == {}
    assert [read(tmp_path / name)[0]["msg"] for name in ("one", "two")] == ["one", "two"]


async def test_the_handle_after_the_end(tmp_path: Path) -> None:
    """Before the start it is `NotStarted`, after the stop `ActorStopped`."""
    spec = clog.component(clog.Config(output=str(tmp_path / "log")))
    with pytest.raises(creche.NotStarted):
        _ = spec.new_handle().dropped
    async with creche.open_runtime("svc") as runtime:
        handle = await runtime.start(spec)
        await runtime.stop(handle)
        with pytest.raises(creche.ActorStopped):
            await handle.flush()
        with pytest.raises(creche.ActorStopped):
            handle.statistics()


async def test_a_stop_with_a_blocked_pipe_ends_and_says_what_is_lost(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stop keeps to its limits, standard error tells the number of lines, and whoever flushes is told."""
    fifo = Fifo(tmp_path / "fifo")
    spec = clog.component(clog.Config(output=str(tmp_path / "fifo"))).options(drain=0.01, shutdown=5.0)

    async def flush() -> None:
        with pytest.raises(creche.ActorStopped):
            await handle.flush()

    with trio.fail_after(PATIENT):
        async with trio.open_nursery() as nursery:
            async with creche.open_runtime("svc") as runtime:
                handle = await runtime.start(spec)
                for _ in range(1000):
                    clog.info("line", padding="x" * 200)
                await fifo.fills()
                nursery.start_soon(flush)
                await trio.testing.wait_all_tasks_blocked()
    err = capsys.readouterr().err
    assert "log lines lost" in err
    assert 'reason="it takes nothing"' in err
    assert " lines=1000" in err
    assert runtime.unstopped == []
    fifo.close()


# --- outputs ----------------------------------------------------------------------------------------------------------


async def test_nothing_is_ever_deleted(tmp_path: Path) -> None:
    """Without rotation a file only grows: old content and neighbours stay, whatever their names and ages."""
    path = tmp_path / "logs" / "deep" / "service.log"
    async with log_to(path):
        clog.info("first run")
    neighbours = [path.with_name(name) for name in ("service.log.1", "service-2001-01-01T00-00-00.000.log.gz")]
    for neighbour in neighbours:
        neighbour.write_text("old")
        os.utime(neighbour, (0, 0))
    async with log_to(path):
        clog.info("second run")
    assert [entry["msg"] for entry in read(path)] == ["first run", "second run"]
    assert [neighbour.read_text() for neighbour in neighbours] == ["old", "old"]


@pytest.mark.parametrize("name", ["stdout", "stderr"])
async def test_standard_streams(capfd: pytest.CaptureFixture[str], name: str) -> None:
    """Lines go to the descriptor of the stream named, and to no other."""
    async with creche.open_runtime("svc") as runtime:
        handle = await runtime.start(clog.component(clog.Config(output=name)))
        clog.info("line")
        await handle.flush()
        texts = capfd.readouterr()
        assert '"msg":"line"' in getattr(texts, name.removeprefix("std"))
        assert "".join(texts).count("\n") == 1
    os.fstat(1 if name == "stdout" else 2)  # still open


async def test_a_replaced_standard_stream(capsys: pytest.CaptureFixture[str]) -> None:
    """A `sys.stdout` without a descriptor is written to as it is."""
    async with creche.open_runtime("svc") as runtime:
        handle = await runtime.start(clog.component(clog.Config(format="console")))
        clog.info("grüße")
        await handle.flush()
        assert capsys.readouterr().out.endswith("INFO     grüße service=svc\n")


@pytest.mark.parametrize(("color", "coloured"), [(None, False), (False, False), (True, True)])
async def test_colour_is_for_terminals_or_on_demand(tmp_path: Path, color: bool | None, coloured: bool) -> None:
    """A file gets colour only when it is asked for."""
    async with log_to(tmp_path / "log", format="console", color=color) as log:
        clog.info("line")
        await log.handle.flush()
        assert (b"\x1b[" in log.path.read_bytes()) is coloured


async def test_a_terminal_gets_colour() -> None:
    """A pseudo-terminal as output switches it on."""
    leader, follower = os.openpty()
    async with creche.open_runtime("svc") as runtime:
        handle = await runtime.start(clog.component(clog.Config(format="console", output=os.ttyname(follower))))
        clog.info("line")
        await handle.flush()
        assert "\x1b[32mINFO" in os.read(leader, 1000).decode()
    os.close(leader)
    os.close(follower)


async def failure_of(handle: clog.Clog) -> float:
    """In how many seconds a failing output is tried again."""
    with pytest.raises(clog.OutputFailed) as caught:
        await handle.flush()
    return caught.value.retry_after or 0.0


async def test_an_output_that_fails_is_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While a pipe has no reader lines wait and `flush` says why; when it has one again they are written, in order."""
    fifo = Fifo(tmp_path / "fifo")
    async with log_to(tmp_path / "fifo") as log:
        clog.info("one")
        assert len(await fifo.lines(1)) == 1
        fifo.close()
        clog.info("two")
        first = await failure_of(log.handle)
        while await failure_of(log.handle) < first * 1.5:  # it has failed again, and waits for longer
            await trio.lowlevel.checkpoint()
        clog.info("three")
        failure = log.handle.statistics().failure
        assert failure is not None
        assert "Broken pipe" in failure
        fifo.reopen()
        two, three = await fifo.lines(2)
        assert b"two" in two
        assert b"three" in three
        await log.handle.flush()
        assert log.handle.statistics().failure is None
    fifo.close()
    err = capsys.readouterr().err
    assert err.count("log output failed") == 1
    assert "log lines lost" not in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
async def test_a_full_disk_crashes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """The service goes on and stops in order; standard error says what happened and what is lost."""
    async with creche.open_runtime("svc") as runtime:
        handle = await runtime.start(clog.component(clog.Config(output="/dev/full")))
        clog.info("line")
        with pytest.raises(clog.OutputFailed, match="No space left"):
            await handle.flush()
        assert runtime.node_of(handle).incarnation == 1
    err = capsys.readouterr().err
    assert "log output failed" in err
    assert "log lines lost" in err
    assert err.count("No space left") == 2


@pytest.mark.parametrize("checkpoints", range(8))
async def test_a_flush_that_is_cancelled_loses_nothing(tmp_path: Path, checkpoints: int) -> None:
    """Wherever it is cancelled it leaves at once, the lines are written all the same, and the next flush works."""
    async with log_to(tmp_path / "log") as log:
        clog.info("line")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(log.handle.flush)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert [entry["msg"] for entry in await log.entries()] == ["line"]
