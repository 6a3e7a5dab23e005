"""Trio as a guest of Twisted's reactor. A reactor cannot be started twice, so each test is a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def service(which: str) -> list[str]:
    return [sys.executable, "-X", "dev", "-W", "error", "-m", "programs.twisted_service", which]


def run(which: str) -> list[str]:
    """The lines that the program prints; it has to end well and write no errors."""
    done = subprocess.run(
        service(which), cwd=HERE, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_twisted_code_calls_an_actor_and_all_ends_in_order() -> None:
    """A value, a crash and a cancel arrive as Deferreds, outside of Trio tasks; reactor.stop stops the runtime."""
    assert run("call") == [
        "callback in a Trio task: False",
        "hello, world",
        "incarnation 1 has ended",
        "callback in a Trio task: False",
        "OutcomeUnknown because of RuntimeError('a bug in the greeter')",
        "hello, again",
        "the Deferred is cancelled",
        "the handler is cancelled",
        "hello, after it",
        "incarnation 2 has ended",
        "at the end: CancelledError",
        "main has ended with None",
        "the reactor has ended",
    ]


def test_a_signal_to_the_reactor_stops_the_runtime_before_the_reactor() -> None:
    """Twisted's own signal handling reaches the actors: their resources are released before the reactor ends."""
    pipe = subprocess.PIPE
    with subprocess.Popen(service("signal"), cwd=HERE, env=ENVIRONMENT, stdout=pipe, stderr=pipe, text=True) as started:
        try:
            assert started.stdout is not None
            assert started.stdout.readline() == "running\n"
            started.send_signal(signal.SIGTERM)
            out, err = started.communicate(timeout=60)
        finally:
            started.kill()
    assert err == ""
    assert out.splitlines() == ["incarnation 1 has ended", "main has ended with None", "the reactor has ended"]


def test_an_error_of_main_is_the_errback_and_ends_the_calls() -> None:
    """A call under way at the end is cancelled, a later one refused, and a host does not start twice."""
    assert run("main_fails") == [
        "LookupError('a bug in main')",
        "CancelledError",
        "RunFinishedError",
        "a guest starts once: make another one",
        "the reactor has ended",
    ]
