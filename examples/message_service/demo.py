"""``make demo``: the service under a killer, a second process that posts, and an audit from outside.

The last line says what was found; the exit status is 0 only if every message that was answered 2xx is stored once,
published once, counted once and delivered to whom it is for, and the killer has been busy enough to prove something."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import h11
import trio

from .audit import Findings, audit, counted_so_far, delivered_so_far, deliveries_of, receipts_in
from .http_client import HttpClient

SERVER = "examples.message_service.server"
CLIENT = "examples.message_service.client"
STOP_WITHIN = 20.0  # seconds for the service to stop in order


@dataclass(frozen=True)
class Plan:
    """What the demo does. Times in seconds."""

    count: int = 5000
    clients: int = 16
    seed: int = 7
    kill_every: float = 0.08
    restarts_wanted: int = 50
    settle_within: float = 30.0  # for what follows from accepted messages
    server: str = SERVER


@dataclass(frozen=True)
class Result:
    """What came out. `exit_status` is the service's."""

    findings: Findings
    restarts: int
    seconds: float
    exit_status: int

    def line(self) -> str:
        """The demo's last line."""
        f = self.findings
        return (
            f"accepted={f.accepted} stored={f.stored} published={f.published} duplicates={f.duplicates} lost={f.lost} "
            f"restarts={self.restarts} seconds={self.seconds:.1f}"
        )


class ServiceProcess:
    """The first process, and what can be asked of it over HTTP."""

    def __init__(self, process: trio.Process, url: str) -> None:
        self.process = process
        self._client = HttpClient(url)
        self.url = url
        self.restarts = 0
        self.tree_text = ""

    async def look(self) -> None:
        """Fetch the live tree.

        It is served by actors that are being killed, so a look may fail: then the last one stands.
        """
        try:
            with trio.fail_after(2):
                shown = await self._client.request("GET", "/tree", {"Accept": "text/plain"})
                counted = await self._client.request("GET", "/tree", {"Accept": "application/json"})
        except (OSError, trio.BrokenResourceError, trio.TooSlowError, h11.RemoteProtocolError):
            return
        if shown.status == counted.status == 200:
            self.tree_text = shown.body.decode()
            self.restarts = restarts_in(json.loads(counted.body))

    async def stop(self) -> int:
        """End it in order; its exit status."""
        await self._client.close()
        self.process.terminate()
        with trio.move_on_after(STOP_WITHIN):
            return await self.process.wait()
        self.process.kill()
        return await self.process.wait()


def restarts_in(tree: dict[str, object]) -> int:
    """All restarts of a tree as `/tree` gives it."""
    children = tree["children"]
    assert isinstance(children, list)
    return int(str(tree["restarts"])) + sum(restarts_in(child) for child in children)


@asynccontextmanager
async def service_process(plan: Plan, data: Path) -> AsyncGenerator[ServiceProcess]:
    """Start the service on a free port; leaving stops it if it still runs."""
    options = ["--data", str(data), "--kill-every", str(plan.kill_every), "--kill-seed", str(plan.seed)]
    process = await _start([plan.server, *options], stdout=subprocess.PIPE)
    try:
        service = ServiceProcess(process, await _first_line(process))
        yield service
    finally:
        with trio.CancelScope(shield=True):
            if process.poll() is None:
                process.terminate()
                with trio.move_on_after(STOP_WITHIN):
                    await process.wait()
                if process.poll() is None:
                    process.kill()
                    await process.wait()
            if process.stdout is not None:
                await process.stdout.aclose()


async def _start(command: Sequence[str], stdout: int | None = None) -> trio.Process:
    # A session of its own: Ctrl-C reaches this process only, which then stops the others one after the other.
    return await trio.lowlevel.open_process([sys.executable, "-m", *command], stdout=stdout, start_new_session=True)


async def _first_line(process: trio.Process) -> str:
    assert process.stdout is not None
    text = b""
    while not text.endswith(b"\n"):
        chunk = await process.stdout.receive_some(4096)
        if not chunk:
            raise RuntimeError(f"the service ended before it was ready, with exit status {await process.wait()}")
        text += chunk
    return text.decode().strip()


async def post_messages(plan: Plan, url: str, receipts: Path) -> None:
    """Run the second process to its end."""
    options = ["--count", str(plan.count), "--clients", str(plan.clients), "--seed", str(plan.seed)]
    process = await _start([CLIENT, url, "--receipts", str(receipts), *options])
    try:
        status = await process.wait()
    finally:
        if process.poll() is None:
            process.kill()
    if status != 0:
        raise RuntimeError(f"the client failed with exit status {status}")


async def run_demo(plan: Plan, data: Path, say: Callable[[str], None]) -> Result:
    """The whole demo in the folder `data`."""
    receipts = data / "receipts.jsonl"
    began = trio.current_time()
    async with service_process(plan, data) as service:
        say(f"the service runs at {service.url}, data in {data}; seed {plan.seed}, a kill every {plan.kill_every:g} s")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show_progress, plan, service, data, say)
            await post_messages(plan, service.url, receipts)
            await _settle(plan, service, data)
            nursery.cancel_scope.cancel()
        await service.look()
        say(service.tree_text)
        exit_status = await service.stop()
    seconds = trio.current_time() - began
    return Result(audit(data, receipts_in(receipts)), service.restarts, seconds, exit_status)


async def _settle(plan: Plan, service: ServiceProcess, data: Path) -> None:
    """Wait until the consumers have caught up and the killer has done its share.

    The audit says what is missing if they never do.
    """
    wanted = deliveries_of(plan.count)
    with trio.move_on_after(plan.settle_within):
        while (  # noqa: ASYNC110  # another process: there is nothing to wait on but its files
            counted_so_far(data) < plan.count
            or delivered_so_far(data) < wanted
            or service.restarts < plan.restarts_wanted
        ):
            await trio.sleep(0.1)


async def _show_progress(plan: Plan, service: ServiceProcess, data: Path, say: Callable[[str], None]) -> None:
    turn = 0
    while True:
        await service.look()
        accepted = len(receipts_in(data / "receipts.jsonl"))
        say(f"accepted {accepted} of {plan.count}, counted {counted_so_far(data)}, restarts {service.restarts}")
        if turn % 5 == 1:
            say(service.tree_text)
        turn += 1
        await trio.sleep(1)


async def _until_interrupted(plan: Plan, data: Path) -> Result | None:
    """The demo's result; None if a signal came first, in which case both processes have been stopped."""
    result: Result | None = None
    async with trio.open_nursery() as nursery:

        async def watch_signals() -> None:
            with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    nursery.cancel_scope.cancel("interrupted")

        nursery.start_soon(watch_signals)
        result = await run_demo(plan, data, lambda text: print(text, flush=True))
        nursery.cancel_scope.cancel()
    return result


def main() -> int:
    """Run the demo; 0 if the audit holds."""
    plan = _plan()
    data = Path(tempfile.mkdtemp(prefix="creche-demo-"))
    result = trio.run(_until_interrupted, plan, data)
    if result is None:
        print("interrupted; everything has been stopped", flush=True)
        return 130
    for problem in result.findings.problems:
        print(f"PROBLEM {problem}")
    if result.exit_status != 0:
        print(f"PROBLEM the service stopped with exit status {result.exit_status}")
    if result.restarts < plan.restarts_wanted:
        print(f"PROBLEM only {result.restarts} restarts, {plan.restarts_wanted} were wanted")
    print(result.line(), flush=True)
    holds = result.findings.holds and result.findings.accepted >= plan.count
    return 0 if holds and result.exit_status == 0 and result.restarts >= plan.restarts_wanted else 1


def _plan() -> Plan:
    default = Plan()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=default.count, help="messages to post")
    parser.add_argument("--clients", type=int, default=default.clients, help="concurrent clients")
    parser.add_argument("--seed", type=int, default=default.seed, help="of the killer and the client")
    parser.add_argument("--kill-every", type=float, default=default.kill_every, help="mean seconds between kills")
    parser.add_argument("--server", default=default.server, help="module of the service process")
    arguments = parser.parse_args()
    wanted = min(default.restarts_wanted, arguments.count // 10) if arguments.kill_every else 0
    return Plan(
        count=arguments.count,
        clients=arguments.clients,
        seed=arguments.seed,
        kill_every=arguments.kill_every,
        restarts_wanted=wanted,
        server=arguments.server,
    )


if __name__ == "__main__":
    sys.exit(main())
