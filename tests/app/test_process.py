"""An app as a process: signals, the watchdog and honest exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = Path(__file__).parent / "programs"
ROOT = Path(__file__).parents[2]


@contextmanager
def process(target: str) -> Iterator[subprocess.Popen[str]]:
    """`creche run services:<target>` as a process, ended with the block."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "creche", "run", f"services:{target}"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=PROGRAMS, env=environment, stdout=pipe, stderr=pipe, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def wait_until_running(started: subprocess.Popen[str]) -> None:
    assert started.stdout is not None
    assert started.stdout.readline() == "running\n"


def finish(started: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = started.communicate(timeout=30)
    return started.returncode, out, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_the_app_in_order_with_status_0(number: signal.Signals) -> None:
    with process("quiet") as started:
        wait_until_running(started)
        started.send_signal(number)
        assert finish(started) == (0, "", "")


def test_the_app_ends_with_status_0_when_its_body_returns() -> None:
    with process("returns") as started:
        status, out, err = finish(started)
    assert (status, err) == (0, "")
    assert "worker  [running]" in out


def test_a_tree_that_gives_up_ends_the_process_with_status_1_and_the_chain_of_causes() -> None:
    with process("crashes") as started:
        status, _, err = finish(started)
    assert status == 1
    *lines, place = err.splitlines()
    assert lines == [
        "service: the tree has failed",
        "└─ root gave up: more than 0 restarts in 60 s",
        "   └─ root/service gave up once: more than 0 restarts in 60 s",
        "      └─ root/service/worker crashed once: RuntimeError: a bug in the worker",
    ]
    assert re.fullmatch(r" {9}└─ at .*\.py:\d+, in crash", place)


def test_an_error_of_the_body_ends_the_process_with_status_1_and_its_traceback() -> None:
    with process("raises") as started:
        status, _, err = finish(started)
    assert status == 1
    assert "raise_in_the_body" in err
    assert "ValueError: a bug in the body" in err


def test_a_system_exit_in_a_handler_ends_the_process_with_its_status() -> None:
    with process("exits") as started:
        assert finish(started)[0] == 7


def test_a_wrong_spec_ends_the_process_with_status_2_before_anything_has_started() -> None:
    with process("misused") as started:
        status, out, err = finish(started)
    assert (status, out) == (2, "")
    assert "siblings need different names" in err


def test_an_actor_that_swallows_its_cancellation_is_shown_by_the_watchdog_and_the_process_ends_with_status_3() -> None:
    with process("stubborn") as started:
        wait_until_running(started)
        started.terminate()
        status, _, err = finish(started)
    assert status == 3
    assert "did not stop in order" in err
    assert "root/service/worker [stopping]" in err
    assert "in swallow_cancels" in err


def test_the_watchdog_looks_after_the_stop_that_an_error_of_the_body_brings_about() -> None:
    with process("stubborn_too") as started:
        status, _, err = finish(started)
    assert status == 3
    assert "in swallow_cancels" in err


def test_a_signal_ends_a_start_that_takes_long_with_status_0() -> None:
    with process("slow") as started:
        wait_until_running(started)
        started.terminate()
        assert finish(started) == (0, "", "")


def test_a_second_signal_ends_the_process_at_once_with_status_3() -> None:
    with process("patient") as started:
        wait_until_running(started)
        started.terminate()
        while started.poll() is None:  # the first must have been seen before a second one counts as such
            try:
                started.wait(0.2)
            except subprocess.TimeoutExpired:
                started.terminate()
        status, _, err = finish(started)
    assert status == 3
    assert "did not stop in order" in err


@pytest.mark.parametrize(
    ("target", "complaint"),
    [("nothing", "no app of the name nothing"), ("Worker", "not a creche.App")],
)
def test_a_target_that_is_no_app_is_refused_with_status_2(target: str, complaint: str) -> None:
    with process(target) as started:
        status, _, err = finish(started)
    assert status == 2
    assert complaint in err
